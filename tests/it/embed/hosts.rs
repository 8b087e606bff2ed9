//! Several hosts in one process, and how they go.

use std::collections::BTreeSet;
use std::process::Command;

use oarlock_host::{App, Host, HostConfig};

use super::{Embedded, ask, name, until, web};

#[tokio::test]
async fn two_hosts_have_nothing_in_common() {
    let (one, two) = (Embedded::new(), Embedded::new());
    let first = one
        .serving(web("shop", "handler-p2", "").config("OF", "one"))
        .await;
    let second = two
        .serving(web("shop", "handler-p2", "").config("OF", "two"))
        .await;
    assert!(ask(&first, "/env").await.text().contains("OF=one\n"));
    assert!(ask(&second, "/env").await.text().contains("OF=two\n"));
    assert_eq!(ask(&first, "/log").await.text(), "logged");
    one.logged("shop", "web.1", "a line").await;
    assert!(!two.log("shop", "web.1").contains(&"a line".to_owned()));
    let both = (
        one.host
            .listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap(),
        two.host
            .listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap(),
    );
    assert_ne!(both.0, both.1);
    one.host.shutdown().await;
    ask(&first, "/").await.assert_refused("H18");
    assert_eq!(ask(&second, "/").await.text(), "hello");
    two.host.shutdown().await;
}

/// The names of this process's threads that a host starts.
fn threads() -> BTreeSet<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| {
            let id = task.ok()?.file_name().into_string().ok()?;
            let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok()?;
            name.starts_with("oarlock")
                .then(|| format!("{id} {}", name.trim()))
        })
        .collect()
}

/// One host's life, from its start to its end.
fn live(end: &str) {
    let hello = oarlock_tests::repository().join("runtime/host/doc/hello.wat");
    let hello = wat::parse_file(hello).unwrap();
    let data = tempfile::tempdir().unwrap();
    let before = threads();
    futures::executor::block_on(async {
        let host = Host::start(HostConfig::new(data.path())).unwrap();
        let app = App::from_manifest("app = \"shop\"\n[processes]\nweb = \"web.wasm\"\n");
        host.add(app.component("web.wasm", hello)).await.unwrap();
        let service = host.service(&name("shop"));
        assert_eq!(ask(&service, "/").await.text(), "Hello from WebAssembly");
        assert!(threads().len() > before.len());
        if end == "shutdown" {
            host.shutdown().await;
            // Joined, so there is nothing to wait for. The engine's ticker ends with the last clone.
            let left = threads();
            for joined in ["oarlock-core", "oarlock-control", "oarlock-logs"] {
                assert!(!left.iter().any(|name| name.contains(joined)), "{left:?}");
            }
        }
        drop(host);
        ask(&service, "/").await.assert_refused("H18");
    });
}

/// In a process of its own, where there are no other hosts: see below.
#[test]
#[ignore = "run by another test in a process of its own"]
fn alone() {
    let environment = std::env::vars_os().collect::<Vec<_>>();
    let end = std::env::var("OARLOCK_TEST_END").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // wasmtime's compiler keeps a pool of threads for all engines of a process, as many as there are cores. They have
    // no names, and so the system calls them as it calls the thread that first compiled.
    let compilers = std::thread::available_parallelism().unwrap().get();
    live(&end);
    let only_compilers = || threads().len() <= compilers;
    runtime.block_on(until("only the compilers are left", only_compilers));
    let kept = threads();
    live(&end);
    runtime.block_on(until("no other thread is left", || threads() == kept));
    assert_eq!(std::env::vars_os().collect::<Vec<_>>(), environment);
    // No handler is set for any of the signals that end a process or tell it of its children.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    for signal in [1, 2, 3, 10, 12, 15, 17] {
        assert_eq!(caught & (1 << (signal - 1)), 0, "signal {signal} is caught");
    }
}

#[test]
fn a_host_ends_its_threads_with_and_without_a_shutdown_and_leaves_the_process_as_it_was() {
    for end in ["shutdown", "drop"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["embed::hosts::alone", "--exact", "--ignored"])
            .env("OARLOCK_TEST_END", end)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{end}: {text}"
        );
    }
}

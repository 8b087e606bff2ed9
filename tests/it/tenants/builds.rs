//! What the host does for a tenant before his app runs: it builds in a fence or not at all, and compiles in a child.

use std::time::{Duration, Instant};

use oarlock_tests::app::{Launch, PATIENCE};
use oarlock_tests::apps::{Apps, get, running};
use oarlock_tests::need_program;

use crate::binary;

/// An app whose build is `script`; a component lies there already.
pub(super) fn tenant(apps: &Apps, app: &str, script: &str) {
    apps.add(
        app,
        "[processes]\nweb = \"web.wasm\"\n[build]\ncommand = \"sh build.sh\"\n",
    );
    apps.put_guest(&format!("{app}/web.wasm"), "hello-p2");
    apps.write(&format!("{app}/build.sh"), script);
}

pub(super) fn building(apps: &Apps, policy: &str) -> Launch {
    need_program("bwrap", "bubblewrap");
    let mut launch = apps.serve(binary()).args(&["--build"]);
    launch.command.env("SECRET_OF_THE_HOST", "environment");
    apps.write("policy.toml", policy);
    launch.command.arg("--policy").arg(apps.path("policy.toml"));
    launch
}

/// Whether a process was started with this argument.
pub(super) fn runs(argument: &str) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| {
            line.split(|byte| *byte == 0)
                .any(|word| word == argument.as_bytes())
        })
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn serve_takes_components_as_they_are() {
    let apps = Apps::new();
    tenant(&apps, "ada", "touch built");
    let host = apps.start(binary(), &["ada"]).await;
    assert_eq!(get(&host, "ada", "/").await.status, 200);
    assert!(!apps.path("ada/built").exists(), "its build was run");
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn a_fenced_build_sees_its_own_folder_and_nothing_else() {
    let apps = Apps::new();
    tenant(&apps, "ada", "echo made > made");
    apps.write("ada/.env", "A=secret-of-ada");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = apps.path("").display().to_string();
    let script = format!(
        "exec > report 2>&1\n\
         echo own: $(cat build.sh | head -n 1)\n\
         cat {folder}/ada/.env ../ada/.env\n\
         ls -la {folder} {folder}/.oarlock /root /home /work /tmp /srv /var\n\
         env\n\
         cat /proc/1/environ | tr '\\0' '\\n'\n\
         cat /proc/[0-9]*/cmdline | tr '\\0' ' '\n\
         cat /proc/net/dev\n\
         bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' && echo CONNECTED\n\
         touch /usr/bin/mine && echo WROTE-SYSTEM\n\
         touch /mine && echo WROTE-ROOT\n\
         unshare -U true && echo MADE-NAMESPACE\n\
         echo kept >> $HOME/cache\n\
         wc -l < $HOME/cache > runs\n"
    );
    tenant(&apps, "eve", &script);
    let host = running(building(&apps, ""), &["ada", "eve"]).await;
    assert_eq!(get(&host, "eve", "/").await.status, 200);
    assert!(apps.path("ada/made").exists(), "ada is built as well");
    let report = std::fs::read_to_string(apps.path("eve/report")).unwrap();
    assert!(report.contains("own: exec > report"), "{report}");
    for secret in [
        "secret-of-ada",
        "SECRET_OF_THE_HOST",
        "state.db",
        "control.sock",
        "policy.toml",
        "serve",
        "eth0",
        "CONNECTED",
        "WROTE-SYSTEM",
        "WROTE-ROOT",
        "MADE-NAMESPACE",
    ] {
        assert!(!report.contains(secret), "{secret} in {report}");
    }
    assert_eq!(host.interrupt().await, Some(0));

    // Its cache is its own, and kept. What ran before serves while it is built.
    let host = running(building(&apps, ""), &["ada", "eve"]).await;
    let runs = || std::fs::read_to_string(apps.path("eve/runs")).unwrap();
    until("it is built again", || runs().trim() == "2").await;
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn a_build_is_bounded_and_ended_whole() {
    let apps = Apps::new();
    tenant(&apps, "ada", "true");
    tenant(&apps, "slow", "setsid sleep 6101.25 & sleep 6101.25");
    tenant(
        &apps,
        "many",
        "i=0; while [ $i -lt 200 ]; do sleep 6102.25 & i=$((i+1)); done; wait",
    );
    tenant(
        &apps,
        "full",
        "i=0; while [ $i -lt 40 ]; do head -c 4000000 /dev/zero > f$i; i=$((i+1)); done; sleep 6103.25",
    );
    let policy = "[build]\ntimeout = \"20s\"\nprocesses = 100\ndisk = \"64 MiB\"\n";
    let host = running(building(&apps, policy), &["ada"]).await;
    for (app, key) in [
        ("slow", "[build] timeout"),
        ("many", "[build] processes"),
        ("full", "[build] disk"),
    ] {
        let line = host.output.wait_for(&format!("! error: {app}: ")).await;
        assert!(line.contains(key), "{line}");
    }
    until("all that the builds started has ended", || {
        !["6101.25", "6102.25", "6103.25"].into_iter().any(runs)
    })
    .await;
    assert_eq!(get(&host, "ada", "/").await.status, 200);
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn a_killed_host_leaves_no_fenced_build_behind() {
    let apps = Apps::new();
    tenant(&apps, "ada", "setsid sleep 6104.25 & sleep 6104.25");
    let host = building(&apps, "").spawn();
    until("the build runs", || runs("6104.25")).await;
    rustix::process::kill_process(host.pid(), rustix::process::Signal::KILL).unwrap();
    until("the build has ended", || !runs("6104.25")).await;
}

#[tokio::test]
async fn the_start_says_in_one_line_how_builds_are_held_to_their_bounds() {
    let apps = Apps::new();
    tenant(&apps, "ada", "true");
    let host = running(building(&apps, ""), &["ada"]).await;
    let line = host.output.wait_for("Fencing each build").await;
    // Which of the two is this machine's matter.
    let none = line.contains("no control group is delegated: ")
        && line.contains("; rlimits hold for each process alone");
    assert!(
        none || line.contains("in a control group of its own below /"),
        "{line}"
    );
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn without_bubblewrap_builds_are_refused_by_name() {
    let apps = Apps::new();
    tenant(&apps, "ada", "touch built");
    let mut launch = apps.serve(binary()).args(&["--build"]);
    launch.command.env("PATH", "/nowhere");
    let mut host = launch.spawn();
    host.output.wait_for("apt-get install bubblewrap").await;
    assert_eq!(host.wait().await, Some(1));
    assert!(!apps.path("ada/built").exists());
}

/// A command whose one function is small to send and very dear to compile: thousands of locals that change in thousands
/// of branches.
fn bomb() -> Vec<u8> {
    let locals = 4_000_u32;
    let mut at = 1_u32;
    let mut next = || {
        at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (at >> 8) % locals
    };
    let steps: String = (0..60_000)
        .map(|_| {
            let (a, b) = (next(), next());
            format!("(if (i64.eqz (local.get {a})) (then (local.set {a} (local.get {b}))))")
        })
        .collect();
    wat::parse_str(format!(
        r#"(component
            (core module $main (func (export "run") (result i32) (local {}) {steps} (i32.const 0)))
            (core instance $main (instantiate $main))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $command (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $command)))"#,
        "i64 ".repeat(locals as usize)
    ))
    .unwrap()
}

#[tokio::test]
async fn a_component_that_is_dear_to_compile_is_refused_by_the_setting() {
    let apps = Apps::new();
    apps.add("ada", "[processes]\nweb = \"web.wasm\"\n");
    apps.put_guest("ada/web.wasm", "hello-p2");
    // Its code is cached, so that it needs none of what the policies below allow.
    let host = apps.start(binary(), &["ada"]).await;
    assert_eq!(host.interrupt().await, Some(0));
    apps.add("bomb", "[processes]\nworker = \"bomb.wasm\"\n");
    std::fs::write(apps.path("bomb/bomb.wasm"), bomb()).unwrap();
    for (key, policy) in [
        ("[compile] cpu", "[compile]\ncpu = \"1s\"\n"),
        ("[compile] memory", "[compile]\nmemory = \"16 MiB\"\n"),
        ("[compile] memory", "[compile]\nmemory = \"100 MiB\"\n"),
        ("[compile] deadline", "[compile]\ndeadline = \"1s\"\n"),
    ] {
        apps.write("policy.toml", policy);
        let mut launch = apps.serve(binary());
        launch.command.arg("--policy").arg(apps.path("policy.toml"));
        let host = running(launch, &["ada"]).await;
        let line = host.output.wait_for("! error: bomb: ").await;
        assert!(line.contains(key), "{line}");
        assert_eq!(get(&host, "ada", "/").await.status, 200);
        assert_eq!(host.interrupt().await, Some(0));
    }
}

//! What clients and guests can do to the host with nothing: over the real binary.

use std::time::{Duration, Instant};

use oarlock_tests::app::{App, Launch, PATIENCE, Running};
use oarlock_tests::apps::{self, Apps};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::binary;

/// More memory than this is no coincidence: without a bound the host takes 100 MiB a second.
const GROWTH_MIB: u64 = 48;

/// A process's resident memory.
fn resident_mib(running: &Running) -> u64 {
    let path = format!("/proc/{}/status", running.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib >> 10
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

/// `GET /empty` on four streams of one connection, without a word on their answers.
fn requests(host: &str) -> Vec<u8> {
    let mut block = b"\x82\x86\x04\x06/empty\x41".to_vec();
    block.push(u8::try_from(host.len()).unwrap());
    block.extend(host.as_bytes());
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for stream in [1, 3, 5, 7] {
        bytes.extend(frame(1, 5, stream, &block));
    }
    bytes
}

/// The host's memory stays what it is although a guest writes empty frames for as long as it can, to a client that reads
/// nothing; and the guest is cut off after `idle_timeout`, whatever it writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_frames_fill_no_memory_and_are_no_progress() {
    for (guest, isolation) in [
        ("empty-p2", "request"),
        ("empty-p2", "dyno"),
        ("handler-p3", "dyno"),
    ] {
        let manifest = format!(
            "app = \"empty\"\n[processes]\nweb = \"web.wasm\"\n[limits.web]\nidle_timeout = \"3s\"\nisolation = \"{isolation}\"\n"
        );
        let app = App::new(&manifest).guest("web.wasm", guest);
        let running = app.up(binary()).start().await;
        assert_eq!(running.get("/").await.status, 200);
        let before = resident_mib(&running);
        let mut stream = TcpStream::connect(running.address()).await.unwrap();
        stream
            .write_all(&requests("empty.localhost"))
            .await
            .unwrap();
        let mut most = before;
        let until = Instant::now() + Duration::from_millis(2_500);
        while Instant::now() < until {
            most = most.max(resident_mib(&running));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(
            most < before + GROWTH_MIB,
            "{guest} {isolation}: from {before} to {most} MiB"
        );
        running.output.wait_for("code=H15").await;
        drop(stream);

        let mut stream = TcpStream::connect(running.address()).await.unwrap();
        let request = b"GET /empty HTTP/1.1\r\nHost: empty.localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut all = Vec::new();
        let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all));
        let _ = reading.await.expect("H15 never comes");
        let text = String::from_utf8_lossy(&all);
        assert!(text.ends_with("1\r\nx\r\n"), "{guest} {isolation}: {text}");
    }
}

/// Makes `launch` run with these limits on open files.
fn with_files(apps: &Apps, soft: &str, hard: u32) -> Launch {
    let mut launch = apps.serve(binary());
    let mut shell = tokio::process::Command::new("sh");
    let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
    shell.args(["-c", &script]).arg(binary());
    let as_it_was = launch.command.as_std();
    shell
        .args(as_it_was.get_args())
        .envs(
            as_it_was
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(apps.path(""))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    launch.command = shell;
    launch
}

fn three_hundred() -> (Apps, Vec<String>) {
    let apps = Apps::new();
    let names: Vec<String> = (0..300).map(|nth| format!("app{nth}")).collect();
    for name in &names {
        apps.add(
            name,
            "[processes]\nweb = \"web.wasm\"\n[addons]\ndb = \"kv\"\n",
        );
        apps.put_guest(&format!("{name}/web.wasm"), "empty-p2");
    }
    (apps, names)
}

/// The soft limit of the shell does not matter; where the hard one is as low, the host says what it means, and starts
/// them all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_apps_start_with_few_files() {
    for (hard, says) in [(4_096, "2032"), (1_024, "496")] {
        let (apps, names) = three_hundred();
        let mut running = with_files(&apps, "1024", hard).spawn();
        let said = running.output.wait_for("open files at most").await;
        assert!(
            said.contains(&format!("{hard} open files"))
                && said.contains(&format!("so {says} connections")),
            "{said}"
        );
        running.ready().await;
        for name in &names {
            let says = format!("at http://{name}.localhost:");
            running.output.wait_for(&says).await;
        }
        for name in &names {
            assert_eq!(apps::get(&running, name, "/").await.status, 200, "{name}");
        }
        // The logs are closed when nothing has been written for a while.
        let folder = format!("/proc/{}/fd", running.pid().as_raw_nonzero());
        let limit = tokio::time::Instant::now() + PATIENCE;
        loop {
            let files = std::fs::read_dir(&folder).unwrap().count();
            if files < 512 {
                break;
            }
            let late = tokio::time::Instant::now() > limit;
            assert!(!late, "{files} files are open: clients have no room");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// An address has a bound of its own, which the policy sets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_bounds_the_connections_of_an_address() {
    let app = App::new("app = \"bounded\"\n[processes]\nweb = \"web.wasm\"\n")
        .guest("web.wasm", "empty-p2");
    app.write(
        "policy.toml",
        "[connections]\nper_address = 3\nhead_timeout = \"1s\"\n",
    );
    let running = app
        .up(binary())
        .args(&["--policy", "policy.toml"])
        .start()
        .await;
    let request = b"GET / HTTP/1.1\r\nHost: bounded.localhost\r\n\r\n";
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(running.address()).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 1_000];
        assert!(stream.read(&mut answer).await.unwrap() > 0);
        kept.push(stream);
    }
    let mut refused = TcpStream::connect(running.address()).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, refused.read(&mut [0; 10])).await;
    assert!(matches!(closed.expect("it is not closed"), Ok(0) | Err(_)));
    running.output.wait_for("`per_address`").await;
    kept.clear();
    // A head that does not come, and one that is not finished.
    for bytes in [&b""[..], b"GET / HT"] {
        let mut half = loop {
            let mut stream = TcpStream::connect(running.address()).await.unwrap();
            if stream.write_all(bytes).await.is_ok() {
                break stream;
            }
        };
        let closed = tokio::time::timeout(PATIENCE, half.read(&mut [0; 10])).await;
        assert!(matches!(closed.expect("it is not closed"), Ok(0) | Err(_)));
    }
    assert_eq!(apps::get(&running, "bounded", "/").await.status, 200);
}

//! The `external` add-on over real servers and the real binary: each process reaches its own server,
//! and a binding that leaves the manifest takes its connections with it.

use std::process::Stdio;

use oarlock_tests::app::{App, Launch};
use oarlock_tests::servers::{Postgres, Redis};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::until;
use crate::binary;

/// The manifest: with or without the worker's add-on.
fn manifest(redis: &Redis, postgres: &Postgres, jobs: bool) -> String {
    let (binding, url, worker) = if jobs {
        (
            "jobs = { plan = \"external\", url_from = \"JOBS_URL\", processes = [\"worker\", \"hold\"] }",
            redis.url(),
            format!("redis.wasm 1000000 {}", postgres.address()),
        )
    } else {
        ("", redis.url(), "hold.wasm stdin".to_owned())
    };
    format!(
        r#"
        [processes]
        web = "web.wasm"
        worker = "{worker}"
        redis = "redis.wasm"
        hold = "net.wasm"
        probe = "hold.wasm"
        [scale]
        redis = 0
        hold = 0
        probe = 0
        [addons]
        db = {{ plan = "external", url_from = "DB_URL", processes = ["web"] }}
        {binding}
        [config]
        DB_URL = "{}"
        JOBS_URL = "{url}"
        [limits.default]
        stop_grace = "1s"
        "#,
        postgres.url()
    )
}

#[tokio::test]
async fn processes_reach_their_own_server_until_its_binding_is_gone() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let app = App::new(&manifest(&redis, &postgres, true))
        .guest("web.wasm", "pg-web")
        .guest("redis.wasm", "redis-worker")
        .guest("net.wasm", "net-probe")
        .guest("hold.wasm", "probe-p2");
    let mut up = app.up(binary());
    up.command.arg("--watch");
    let host = up.start().await;
    let redis_at = redis.address().to_string();

    // Each its own, over published clients.
    for n in 0..20 {
        redis.command(&["RPUSH", "jobs", &format!("job {n}")]);
    }
    until("20 answers", async || {
        redis.command(&["LLEN", "answers"]) == ":20"
    })
    .await;
    assert_eq!(host.get("/").await.text(), "visit 1");
    assert_eq!(host.get("/").await.text(), "visit 2");

    // And nothing else: the denial is in the log with the line that would allow it.
    let denied = format!("{}: PermissionDenied", postgres.address());
    host.output.wait_for(&denied).await;
    assert_eq!(
        host.get(&format!("/?{redis_at}")).await.text(),
        "PermissionDenied"
    );
    for (dyno, address) in [("worker.1", postgres.address()), ("web.1", redis.address())] {
        let line = host
            .output
            .wait_for(&format!("TCP connection to {address} denied"))
            .await;
        assert!(line.contains(&format!("oarlock[{dyno}]")), "{line}");
        assert!(
            line.contains(&format!("add \"{address}\" to `allow` in `[network]`")),
            "{line}"
        );
        // In `up` the line alone would do it.
        assert!(!line.contains("private_networks"), "{line}");
    }

    // A one-off dyno outlives its release, but not its binding.
    let mut launch =
        Launch::new(binary(), app.path()).args(&["run", "hold", "--", "hold", &redis_at]);
    launch.command.stdin(Stdio::null());
    let mut held = launch.command.spawn().unwrap();
    let mut lines = BufReader::new(held.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "connected");
    assert_eq!(redis.clients(), 2, "the worker's and the one-off's");
    assert_eq!(
        host.oarlock(&["config", "set", "UNRELATED=1"]).await.code,
        0
    );
    until("the old worker's end", async || redis.clients() == 2).await;
    assert!(
        held.try_wait().unwrap().is_none(),
        "an unrelated release ends nothing of it"
    );

    app.write(
        "oarlock.toml",
        &format!("app = \"test\"\n{}", manifest(&redis, &postgres, false)),
    );
    host.output.wait_for("test v3").await;
    until("the end of the binding's connections", async || {
        redis.clients() == 0
    })
    .await;
    let line = lines.next_line().await.unwrap().unwrap();
    // Cut, which is no clean end; WASI 0.2 does not tell std more.
    assert!(line.starts_with("error "), "{line}");
    assert!(held.wait().await.unwrap().success());

    // The URL is a plain config var now, and opens nothing.
    for args in [
        vec!["run", "redis", "--", "1", &redis_at],
        vec!["run", "redis", "--", "1"],
    ] {
        let done = host.oarlock(&args).await;
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stdout.contains("cannot connect"), "{done:?}");
    }
    let probe = ["run", "probe", "--", "connect", &redis_at];
    assert_eq!(
        host.oarlock(&probe).await.stdout.trim(),
        "error: PermissionDenied"
    );
    // What is still bound still serves.
    assert_eq!(host.get("/").await.text(), "visit 3");
    assert_eq!(redis.clients(), 0);

    let log = host.oarlock(&["logs", "-n", "10000"]).await.stdout;
    assert!(!log.contains("opensesame"), "{log}");
    assert_eq!(host.interrupt().await, Some(0));
}

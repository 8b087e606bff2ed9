//! The `external` add-on against real servers, through published clients.

use http::Request;
use http_body_util::{BodyExt, Empty};
use oarlock_host::addons::Binding;
use oarlock_sandbox::{Body, Exit, Output, Stdin};
use oarlock_spec::manifest::Addon;
use oarlock_tests::servers::{Postgres, Redis};

use crate::bench::{App, addon, program, run, sandbox, sandbox_of};

fn for_process(process: &str) -> Addon {
    Addon {
        processes: Some(vec![process.parse().unwrap()]),
        ..addon("external")
    }
}

async fn get(
    binding: &Binding,
    env: &std::collections::BTreeMap<String, String>,
    path: &str,
) -> (String, String) {
    let (sandbox, log) = sandbox("pg-web", binding, env);
    let body = Body::new(Empty::new().map_err(|never: std::convert::Infallible| match never {}));
    let request = Request::get(format!("http://test.localhost{path}"))
        .body(body)
        .unwrap();
    let answer = sandbox.call(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), log.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_the_redis_crate_reaches_its_server_and_nothing_else() {
    let (redis, other) = (Redis::start(), Redis::start());
    let data = tempfile::tempdir().unwrap();
    let app = App::new(data.path());
    let (url, addons) = (redis.url(), [("jobs", for_process("worker"))]);
    let config = [("JOBS_URL", url.as_str())];
    let (worker, env) = app.release(&addons, &config, "worker").await;
    for i in 0..20 {
        redis.command(&["RPUSH", "jobs", &format!("job {i}")]);
    }
    let forbidden = other.address().to_string();
    let (exit, log) = run("redis-worker", &["20", &forbidden], &worker, &env).await;
    assert_eq!(exit, Exit::Code(0), "{log}");
    assert!(
        log.contains("20 jobs done") && log.contains(&format!("{forbidden}: PermissionDenied")),
        "{log}"
    );
    assert_eq!(redis.command(&["LLEN", "answers"]), ":20");
    assert!(!log.contains("opensesame"), "{log}");

    // The web has neither the variable nor the socket.
    let (web, env) = app.release(&addons, &config, "web").await;
    let (exit, log) = run(
        "redis-worker",
        &["1", &redis.address().to_string()],
        &web,
        &env,
    )
    .await;
    assert_eq!(exit, Exit::Code(1), "{log}");
    assert!(
        log.contains("PermissionDenied") && log.contains("no JOBS_URL"),
        "{log}"
    );

    // Nor has anyone in the release after the add-on was removed; the config var alone opens nothing.
    let (worker, env) = app.release(&[], &config, "worker").await;
    let (exit, log) = run(
        "redis-worker",
        &["1", &redis.address().to_string()],
        &worker,
        &env,
    )
    .await;
    assert_eq!(exit, Exit::Code(1), "{log}");
    assert!(
        log.contains("PermissionDenied") && log.contains("cannot connect"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tokio_worker_reaches_its_server_by_name_until_it_is_told_to_stop() {
    let redis = Redis::start();
    let data = tempfile::tempdir().unwrap();
    let url = redis.url().replace("127.0.0.1", "localhost");
    let config = [("JOBS_URL", url.as_str())];
    let (worker, env) = App::new(data.path())
        .release(&[("jobs", for_process("worker"))], &config, "worker")
        .await;
    let (sandbox, log) = sandbox_of(&program("redis-tokio"), &worker, &env);
    let names = ["example.com:80", "no port"].map(str::to_owned);
    let run = sandbox.run(Stdin::OpenUntilStop, Output::Log, &names);
    let handle = run.handle();
    let run = tokio::spawn(run.wait());
    let patience = std::time::Duration::from_secs(60);
    let answered = async {
        while !log.text().contains("ready") {
            assert!(!run.is_finished(), "{}", log.text());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        for i in 0..5 {
            redis.command(&["RPUSH", "jobs", &format!("job {i}")]);
        }
        while redis.command(&["LLEN", "answers"]) != ":5" {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let answered = tokio::time::timeout(patience, answered).await;
    assert!(answered.is_ok(), "{}", log.text());

    // It waits for its next job, which never comes.
    handle.stop();
    let exit = tokio::time::timeout(patience, run).await.expect("it ends");
    let log = log.text();
    assert_eq!(exit.unwrap(), Exit::Code(0), "{log}");
    for line in [
        "example.com:80: PermissionDenied: example.com: not permitted",
        "no port: InvalidInput: `no port` is no host and port",
        "5 jobs done",
    ] {
        assert!(log.contains(line), "{line:?} is not in {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_handler_with_tokio_postgres_reaches_its_server_and_nothing_else() {
    let (postgres, other) = (Postgres::start(), Redis::start());
    let data = tempfile::tempdir().unwrap();
    let app = App::new(data.path());
    let (url, addons) = (postgres.url(), [("db", for_process("web"))]);
    let config = [("DB_URL", url.as_str())];
    let (web, env) = app.release(&addons, &config, "web").await;
    for visit in 1..=3 {
        let (answer, log) = get(&web, &env, "/").await;
        assert_eq!(answer, format!("visit {visit}"), "{log}");
    }
    let (answer, log) = get(&web, &env, &format!("/?{}", other.address())).await;
    assert_eq!(answer, "PermissionDenied", "{log}");

    // Removed from the manifest: the next release reaches it no longer.
    let (web, env) = app.release(&[], &config, "web").await;
    let (answer, log) = get(&web, &env, "/").await;
    assert!(answer.starts_with("failed:"), "{answer} {log}");
    let (answer, log) = get(&web, &env, &format!("/?{}", postgres.address())).await;
    assert_eq!(answer, "PermissionDenied", "{log}");
}

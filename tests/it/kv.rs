//! `wasi:keyvalue` for real guests of both drafts, over the `kv` add-on.

use oarlock_sandbox::Exit;

use crate::bench::{App, addon, run};

#[track_caller]
fn is_ok((exit, log): (Exit, String)) -> String {
    assert_eq!(exit, Exit::Code(0), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_drafts_do_what_they_promise() {
    for guest in ["kv-draft", "kv-draft2"] {
        for scenario in ["basics", "pages"] {
            let data = tempfile::tempdir().unwrap();
            let (binding, env) = App::new(data.path())
                .release(&[("store", addon("kv"))], &[], "worker")
                .await;
            assert_eq!(
                is_ok(run(guest, &[scenario], &binding, &env).await),
                "ok",
                "{guest} {scenario}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dynos_of_both_drafts_share_counters_and_lose_no_count() {
    let data = tempfile::tempdir().unwrap();
    let app = App::new(data.path());
    let (binding, env) = app.release(&[("store", addon("kv"))], &[], "worker").await;
    let dynos = ["kv-draft", "kv-draft2", "kv-draft", "kv-draft2"].map(|guest| {
        let (binding, env) = (binding.clone(), env.clone());
        tokio::spawn(async move { run(guest, &["count", "25"], &binding, &env).await })
    });
    for dyno in dynos {
        is_ok(dyno.await.unwrap());
    }
    let log = is_ok(run("kv-draft", &["get", "store", "count"], &binding, &env).await);
    assert_eq!(log, r#"Some("100")"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_processs_own_add_ons_open() {
    let data = tempfile::tempdir().unwrap();
    let app = App::new(data.path());
    let mut private = addon("kv");
    private.processes = Some(vec!["worker".parse().unwrap()]);
    let addons = [("private", private), ("store", addon("kv"))];
    let (web, env) = app.release(&addons, &[], "web").await;
    let (worker, _) = app.release(&addons, &[], "worker").await;
    for guest in ["kv-draft", "kv-draft2"] {
        assert_eq!(
            is_ok(run(guest, &["open", "default"], &web, &env).await),
            "Ok(())"
        );
        assert_eq!(
            is_ok(run(guest, &["open", "private"], &worker, &env).await),
            "Ok(())"
        );
        for (binding, name) in [(&web, "private"), (&worker, "default"), (&worker, "other")] {
            let log = is_ok(run(guest, &["open", name], binding, &env).await);
            assert!(log.contains("Err(Error::AccessDenied)"), "{log}");
            assert!(
                log.contains(&format!("oarlock: wasi:keyvalue open(\"{name}\") denied")),
                "{log}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apps_do_not_share_and_a_removed_add_on_is_gone_and_comes_back() {
    let (mine, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (app, other) = (App::new(mine.path()), App::new(theirs.path()));
    let with = [("store", addon("kv"))];
    let (binding, env) = app.release(&with, &[], "web").await;
    is_ok(run("kv-draft", &["set", "store", "k", "mine"], &binding, &env).await);
    let (binding, env) = other.release(&with, &[], "web").await;
    assert_eq!(
        is_ok(run("kv-draft", &["get", "store", "k"], &binding, &env).await),
        "None"
    );
    let (binding, env) = app.release(&[], &[], "web").await;
    let log = is_ok(run("kv-draft", &["open", "store"], &binding, &env).await);
    assert!(
        log.contains("AccessDenied") && log.contains("this process has no kv add-on"),
        "{log}"
    );
    let (binding, env) = app.release(&with, &[], "web").await;
    assert_eq!(
        is_ok(run("kv-draft", &["get", "store", "k"], &binding, &env).await),
        r#"Some("mine")"#
    );
}

//! Two apps under `serve --apps`: what one must not see of the other, and how commands find the right one.

use oarlock_spec::codes::exit;
use oarlock_tests::app::{Running, oarlock};
use oarlock_tests::apps::{Apps, get, running};

use super::until;
use crate::binary;

/// A web process that shows its environment, a worker that keeps a file in `/tmp`, and components for
/// one-off dynos that try what they are told to.
fn tenant(apps: &Apps, name: &str, more: &str) {
    let manifest = format!(
        r#"
        [processes]
        web = "web.wasm"
        worker = "probe.wasm keep /tmp/kept {name}"
        probe = "probe.wasm"
        net = "net.wasm"
        kv = "kv.wasm"
        [scale]
        probe = 0
        net = 0
        kv = 0
        [addons]
        store = "kv"
        [config]
        SECRET = "secret of {name}"
        [files]
        include = ["static/**"]
        {more}"#
    );
    apps.add(name, &manifest);
    apps.write(
        &format!("{name}/static/file.txt"),
        &format!("file of {name}"),
    );
    for (path, guest) in [
        ("web.wasm", "formation-web"),
        ("probe.wasm", "probe-p2"),
        ("net.wasm", "net-probe"),
        ("kv.wasm", "kv-draft"),
    ] {
        apps.put_guest(&format!("{name}/{path}"), guest);
    }
}

/// What a one-off dyno of an app prints.
async fn one_off(running: &Running, app: &str, process: &str, args: &[&str]) -> String {
    let mut all = vec!["run", "--app", app, process, "--"];
    all.extend(args);
    let done = running.oarlock(&all).await;
    assert_eq!(done.code, 0, "{all:?}: {done:?}");
    done.stdout.trim().to_owned()
}

async fn webs(running: &Running, app: &str) -> usize {
    let done = running.oarlock(&["ps", "--app", app, "--json"]).await;
    let rows: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    let web = |row: &&serde_json::Value| row["process"] == "web" && row["state"] == "up";
    rows.iter().filter(web).count()
}

#[tokio::test]
async fn an_app_sees_nothing_of_its_neighbour() {
    let apps = Apps::new();
    for name in ["ada", "bob"] {
        tenant(&apps, name, "");
    }
    let host = apps.start(binary(), &["ada", "bob"]).await;
    host.output.wait_for("/tmp/kept is kept by ada").await;

    // Environment: its own config, and nothing of the host's or the neighbour's.
    let env = get(&host, "ada", "/env").await;
    let mut names: Vec<_> = env
        .text()
        .lines()
        .map(|line| line.split_once('=').unwrap().0)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["DYNO", "OARLOCK_APP", "OARLOCK_RELEASE", "SECRET"],
        "{}",
        env.text()
    );
    assert!(env.text().contains("SECRET=secret of ada\n"));
    let env = get(&host, "bob", "/env").await;
    assert!(env.text().contains("SECRET=secret of bob\n"));
    assert!(!env.text().contains("ada"), "{}", env.text());

    // Files: its own at /app, read-only; no way up, no other dyno's /tmp.
    let read = async |path: &str| one_off(&host, "bob", "probe", &["read", path]).await;
    assert_eq!(read("/app/static/file.txt").await, "file of bob");
    let theirs = apps.path("ada").join("static/file.txt");
    for path in [
        "/app/../../ada/static/file.txt",
        "/app/static/../../../../../../../../etc/passwd",
        "/tmp/../../../ada/tmp",
        "/tmp/kept",
        "../ada/static/file.txt",
        "/etc/passwd",
        theirs.to_str().unwrap(),
    ] {
        let text = read(path).await;
        assert!(text.starts_with("error: "), "{path}: {text}");
    }
    for path in ["/", "/app/..", "/tmp/.."] {
        let text = one_off(&host, "bob", "probe", &["list", path]).await;
        assert!(text.starts_with("error: "), "{path}: {text}");
    }
    let write = async |path: &str| one_off(&host, "bob", "probe", &["write", path, "x"]).await;
    assert_eq!(write("/tmp/mine").await, "x");
    for path in ["/app/static/new", "/app/static/file.txt", "/tmp/../x", "/x"] {
        let text = write(path).await;
        assert!(text.starts_with("error: "), "{path}: {text}");
    }

    // kv: the same add-on name is another database.
    let kv = async |app: &str, args: &[&str]| one_off(&host, app, "kv", args).await;
    kv("ada", &["set", "store", "k", "of ada"]).await;
    assert_eq!(kv("bob", &["get", "store", "k"]).await, "None");
    kv("bob", &["set", "store", "k", "of bob"]).await;
    assert_eq!(kv("ada", &["get", "store", "k"]).await, r#"Some("of ada")"#);
    for name in ["ada", "ada/store", "../ada/store"] {
        assert!(
            kv("bob", &["open", name]).await.contains("AccessDenied"),
            "{name}"
        );
    }

    // Ports: neither the host's listener nor any other on loopback, and no listening but for itself.
    let port = host.address().port();
    for address in [
        format!("127.0.0.1:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("0.0.0.0:{port}"),
        format!("localhost:{port}"),
        format!("ada.localhost:{port}"),
        "127.0.0.1:22".to_owned(),
        "[::1]:22".to_owned(),
        "169.254.169.254:80".to_owned(),
    ] {
        let text = one_off(&host, "bob", "probe", &["connect", &address]).await;
        assert!(text.starts_with("error: "), "{address}: {text}");
    }
    for address in ["127.0.0.2:0", "0.0.0.0:8080"] {
        let text = one_off(&host, "bob", "net", &["bind", address]).await;
        assert_eq!(text, "error PermissionDenied", "{address}");
    }
    let text = one_off(&host, "bob", "net", &["bind", "127.0.0.1:8080"]).await;
    assert_eq!(text, "bound");

    // Logs: each app's lines are in its own.
    for (app, other) in [("ada", "bob"), ("bob", "ada")] {
        let log = host
            .oarlock(&["logs", "--app", app, "-n", "1000"])
            .await
            .stdout;
        assert!(
            log.contains(&format!("/tmp/kept is kept by {app}")),
            "{log}"
        );
        assert!(log.contains(&format!("host={app}.localhost")), "{log}");
        let foreign = log.lines().find(|line| {
            line.contains(&format!("by {other}")) || line.contains(&format!("host={other}"))
        });
        assert_eq!(foreign, None);
    }
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn commands_choose_the_app_and_a_scaled_formation_is_kept() {
    let apps = Apps::new();
    for name in ["ada", "bob"] {
        tenant(&apps, name, "");
    }
    let host = apps.start(binary(), &["ada", "bob"]).await;
    let here =
        async |folder: &str, args: &[&str]| oarlock(binary(), &apps.path(folder), args).await;

    // In an app's folder, or below it, or by name; elsewhere the command asks which.
    std::fs::create_dir(apps.path("bob/src")).unwrap();
    for (folder, app) in [("ada", "ada"), ("ada/static", "ada"), ("bob/src", "bob")] {
        let done = here(folder, &["config", "get", "SECRET"]).await;
        assert_eq!(done.stdout.trim(), format!("secret of {app}"), "{done:?}");
    }
    let done = here("ada", &["config", "get", "SECRET", "--app", "bob"]).await;
    assert_eq!(done.stdout.trim(), "secret of bob", "{done:?}");
    let done = here("", &["ps"]).await;
    assert_eq!(done.code, i32::from(exit::USAGE), "{done:?}");
    assert!(
        done.stderr.contains("--app") && done.stderr.contains("ada, bob"),
        "{done:?}"
    );
    let done = here("ada", &["ps", "--app", "eve"]).await;
    assert!(done.code != 0 && done.stderr.contains("eve"), "{done:?}");

    // A change of one is none of the other's.
    assert_eq!(here("ada", &["scale", "web=3"]).await.code, 0);
    assert_eq!(
        here("ada", &["config", "set", "SECRET=changed"]).await.code,
        0
    );
    until("web=3", async || webs(&host, "ada").await == 3).await;
    assert_eq!(webs(&host, "bob").await, 1);
    let env = get(&host, "bob", "/env").await;
    assert!(
        env.text().contains("SECRET=secret of bob\n") && env.text().contains("OARLOCK_RELEASE=v1")
    );
    assert!(
        get(&host, "ada", "/env")
            .await
            .text()
            .contains("SECRET=changed\n")
    );
    assert_eq!(host.interrupt().await, Some(0));

    let host = apps.start(binary(), &["ada", "bob"]).await;
    until("web=3 again", async || webs(&host, "ada").await == 3).await;
    assert_eq!(webs(&host, "bob").await, 1);
    assert!(
        get(&host, "ada", "/env")
            .await
            .text()
            .contains("SECRET=changed\n")
    );
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn an_app_that_cannot_start_stops_no_other() {
    let apps = Apps::new();
    tenant(&apps, "ada", "");
    apps.add("typo", "[processes]\nweb = \"web.wasm\"\n[scael]\nweb = 1");
    apps.add("missing", "[processes]\nweb = \"web.wasm\"");
    apps.add("broken", "[processes]\nweb = \"web.wasm\"");
    apps.write("broken/web.wasm", "not wasm");
    apps.add(
        "phase",
        "[processes]\nweb = \"web.wasm\"\nrelease = \"probe.wasm exit 1\"",
    );
    apps.put_guest("phase/web.wasm", "hello-p2");
    apps.put_guest("phase/probe.wasm", "probe-p2");
    // A link out of its folder, to what another keeps to itself.
    tenant(&apps, "sly", "");
    std::os::unix::fs::symlink(
        apps.path("ada").join("static/file.txt"),
        apps.path("sly").join("static/link.txt"),
    )
    .unwrap();

    let host = apps.start(binary(), &["ada"]).await;
    for (app, says) in [
        ("typo", "unknown key `scael`"),
        ("missing", "there is no such file"),
        ("broken", "web.wasm"),
        ("phase", "release phase failed"),
    ] {
        host.output.wait_for(&format!("! error: {app}: ")).await;
        host.output.wait_for(says).await;
        // Nor is it answered for by those that run.
        let answer = get(&host, app, "/env").await;
        assert!(
            answer.status >= 400 && !answer.text().contains("ada"),
            "{app}: {answer:?}"
        );
    }
    assert!(
        get(&host, "ada", "/env")
            .await
            .text()
            .contains("secret of ada")
    );
    let link = host
        .oarlock(&[
            "run",
            "--app",
            "sly",
            "probe",
            "--",
            "read",
            "/app/static/link.txt",
        ])
        .await;
    assert!(!link.stdout.contains("file of ada"), "{link:?}");

    // What was mended runs after a restart.
    // Others may still be starting, and the end of a start has a code of its own.
    assert!(host.interrupt().await.is_some());
    apps.add("typo", "[processes]\nweb = \"web.wasm\"");
    apps.put_guest("typo/web.wasm", "hello-p2");
    let host = running(apps.serve(binary()), &["ada", "typo"]).await;
    assert_eq!(get(&host, "typo", "/").await.text(), "Hello, Oarlock");
    // Others may still be starting, and the end of a start has a code of its own.
    assert!(host.interrupt().await.is_some());
}

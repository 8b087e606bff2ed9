//! The URL of an `external` add-on is the tenant's own choice: under `serve` it opens no private range
//! that the operator has not listed, and nothing opens the host's own listener.

use oarlock_tests::app::Running;
use oarlock_tests::apps::{Apps, running};
use oarlock_tests::servers::{Redis, free_port};

use crate::binary;

/// What a connection attempt of an app's one-off dyno prints.
async fn connect(host: &Running, app: &str, address: &str) -> String {
    let args = ["run", "--app", app, "probe", "--", "connect", address];
    host.oarlock(&args).await.stdout.trim().to_owned()
}

#[tokio::test]
async fn a_tenants_url_opens_no_private_range_unless_the_operator_does() {
    let redis = Redis::start();
    let server = redis.address().to_string();
    let own = format!("127.0.0.1:{}", free_port());
    let apps = Apps::new();
    for (app, url) in [
        ("ada", redis.url()),
        ("sly", format!("http://{own}/")),
        ("cloud", "http://169.254.169.254/latest/".to_owned()),
        ("named", redis.url().replace("127.0.0.1", "localhost")),
    ] {
        let manifest = format!(
            "[processes]\nprobe = \"probe.wasm\"\n[scale]\nprobe = 0\n[addons]\ndb = {{ plan = \"external\", url_from = \"DB_URL\" }}\n\
             [config]\nDB_URL = \"{url}\"\n[network]\nallow = [\"{own}\"]"
        );
        apps.add(app, &manifest);
        apps.put_guest(&format!("{app}/probe.wasm"), "probe-p2");
    }
    apps.write("policy.toml", "private_networks = [\"127.0.0.0/8\"]");
    let all = ["ada", "sly", "cloud", "named"];

    let host = apps.serve_at(binary(), &own).start().await;
    for app in all {
        host.output.wait_for(&format!("{app} v1")).await;
    }
    assert_eq!(
        connect(&host, "ada", &server).await,
        "error: PermissionDenied"
    );
    assert_eq!(connect(&host, "sly", &own).await, "error: PermissionDenied");
    assert_eq!(
        connect(&host, "cloud", "169.254.169.254:80").await,
        "error: PermissionDenied"
    );
    let log = host.oarlock(&["logs", "--app", "ada"]).await.stdout;
    assert!(
        log.contains("the add-on `db` counts only if the operator's policy lists its range"),
        "{log}"
    );
    assert!(!log.contains("opensesame"), "{log}");
    assert_eq!(host.interrupt().await, Some(0));

    let mut launch = apps.serve_at(binary(), &own);
    launch.command.arg("--policy").arg(apps.path("policy.toml"));
    let host = running(launch, &[]).await;
    for app in all {
        host.output.wait_for(&format!("{app} v1")).await;
    }
    assert_eq!(connect(&host, "ada", &server).await, "connected");
    // Another's endpoint, the host's own listener and a name for loopback stay closed.
    assert_eq!(
        connect(&host, "sly", &server).await,
        "error: PermissionDenied"
    );
    assert_eq!(connect(&host, "sly", &own).await, "error: PermissionDenied");
    assert_eq!(
        connect(&host, "cloud", "169.254.169.254:80").await,
        "error: PermissionDenied"
    );
    let by_name = server.replace("127.0.0.1", "localhost");
    let text = connect(&host, "named", &by_name).await;
    assert!(text.starts_with("error: "), "{text}");
    let log = host.oarlock(&["logs", "--app", "sly"]).await.stdout;
    assert!(log.contains("the host itself listens there"), "{log}");
    assert_eq!(host.interrupt().await, Some(0));
}

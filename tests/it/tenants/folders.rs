//! An app's folder is hostile input, and its name is the app: under `serve`, over the real binary.

use std::os::unix::fs::symlink;
use std::path::Path;

use oarlock_tests::apps::{Apps, get};

use crate::binary;

const WEB: &str = "[processes]\nweb = \"web.wasm\"\n";

fn tenant(apps: &Apps, app: &str, more: &str) {
    apps.add(app, &format!("{WEB}{more}"));
    apps.put_guest(&format!("{app}/web.wasm"), "hello-p2");
}

pub(crate) fn fifo(path: &Path) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
}

#[tokio::test]
async fn a_folder_cannot_have_the_host_read_or_wait_for_anything_else() {
    let apps = Apps::new();
    tenant(&apps, "ada", "");
    apps.write("ada/.env", "SECRET=of-ada");
    let link = |target: &str, at: &str| symlink(target, apps.path("").join(at)).unwrap();

    tenant(&apps, "env-link", "");
    link("../ada/.env", "env-link/.env");
    tenant(&apps, "env-fifo", "");
    fifo(&apps.path("env-fifo/.env"));
    std::fs::create_dir_all(apps.path("manifest-link")).unwrap();
    link("../ada/oarlock.toml", "manifest-link/oarlock.toml");
    std::fs::create_dir_all(apps.path("manifest-fifo")).unwrap();
    fifo(&apps.path("manifest-fifo/oarlock.toml"));
    std::fs::create_dir_all(apps.path("procfile-fifo")).unwrap();
    fifo(&apps.path("procfile-fifo/Procfile"));
    apps.add("wasm-link", WEB);
    link("../ada/web.wasm", "wasm-link/web.wasm");
    apps.add("wasm-fifo", WEB);
    fifo(&apps.path("wasm-fifo/web.wasm"));
    apps.add("wasm-large", WEB);
    let large = std::fs::File::create(apps.path("wasm-large/web.wasm")).unwrap();
    large.set_len((256 << 20) + 1).unwrap();
    tenant(&apps, "glob-link", "[files]\ninclude = [\"static/*\"]\n");
    std::fs::create_dir_all(apps.path("glob-link/static")).unwrap();
    link("../../ada/.env", "glob-link/static/env");
    tenant(&apps, "glob-fifo", "[files]\ninclude = [\"static/*\"]\n");
    std::fs::create_dir_all(apps.path("glob-fifo/static")).unwrap();
    fifo(&apps.path("glob-fifo/static/pipe"));
    tenant(
        &apps,
        "glob-state",
        "[files]\ninclude = [\".oarlock/**\"]\n",
    );
    tenant(&apps, "state-link", "[files]\ninclude = [\"data/**\"]\n");
    std::fs::create_dir_all(apps.path("state-link/.oarlock")).unwrap();
    link(".oarlock", "state-link/data");
    apps.write("env-large/.env", &format!("A={}", "x".repeat(1 << 20)));
    tenant(&apps, "env-large", "");

    let host = apps.start(binary(), &["ada"]).await;
    for (app, says) in [
        ("env-link", "leads out"),
        ("env-fifo", "a named pipe"),
        ("manifest-link", "leads out"),
        ("manifest-fifo", "a named pipe"),
        ("procfile-fifo", "a named pipe"),
        ("wasm-link", "leads out"),
        ("wasm-fifo", "a named pipe"),
        ("wasm-large", "over the limit of 268435456 bytes"),
        ("glob-link", "leads out"),
        ("glob-fifo", "a named pipe"),
        ("glob-state", "`.oarlock` is never part of an app"),
        ("state-link", "`.oarlock` is never part of an app"),
        ("env-large", "over the limit of 1048576 bytes"),
    ] {
        let line = host.output.wait_for(&format!("! error: {app}: ")).await;
        assert!(line.contains(says), "{line}");
    }
    let all = host.output.lines().join("\n");
    assert!(!all.contains("of-ada"), "{all}");
    assert_eq!(get(&host, "ada", "/").await.status, 200);
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn an_app_is_named_as_its_folder_and_takes_no_other_ones_place() {
    let apps = Apps::new();
    // It is read before the neighbour is.
    apps.write(
        "aaa/oarlock.toml",
        "app = \"neighbour\"\n[processes]\nweb = \"web.wasm\"\n",
    );
    apps.put_guest("aaa/web.wasm", "probe-p2");
    tenant(&apps, "neighbour", "");
    apps.write("No_Name/oarlock.toml", WEB);
    apps.write(
        "link-target-x/oarlock.toml",
        &format!("app = \"linked\"\n{WEB}"),
    );
    apps.put_guest("link-target-x/web.wasm", "hello-p2");
    // An entry below `--apps` is the operator's, and its name counts.
    symlink("link-target-x", apps.path("linked")).unwrap();

    let host = apps.start(binary(), &["neighbour", "linked"]).await;
    let taken = host.output.wait_for("! error: aaa: ").await;
    assert!(taken.contains("write `app = \"aaa\"`"), "{taken}");
    host.output
        .wait_for("No_Name: `No_Name` is not an app name")
        .await;
    assert_eq!(get(&host, "neighbour", "/").await.text(), "Hello, Oarlock");
    assert_eq!(get(&host, "linked", "/").await.text(), "Hello, Oarlock");
    let refused = get(&host, "aaa", "/").await;
    assert_eq!(
        (refused.status, refused.text().contains("no web dynos")),
        (503, true)
    );
    assert_eq!(host.interrupt().await, Some(0));

    // What was kept by a name that no folder has any more is not lost, and the message says whose it is.
    std::fs::rename(apps.path("neighbour"), apps.path("other")).unwrap();
    std::fs::remove_dir_all(apps.path("aaa")).unwrap();
    let host = apps.start(binary(), &["linked"]).await;
    host.output.wait_for("! error: other: ").await;
    let kept = host.output.wait_for("are kept from before").await;
    assert!(kept.contains("`mv "), "{kept}");
    assert_eq!(get(&host, "neighbour", "/").await.status, 404);
    assert_eq!(host.interrupt().await, Some(0));
    std::fs::rename(apps.path("other"), apps.path("neighbour")).unwrap();
    let host = apps.start(binary(), &["linked", "neighbour"]).await;
    let line = host.output.wait_for("neighbour v1 at").await;
    assert!(
        line.contains("Running"),
        "its first release goes on: {line}"
    );
    assert_eq!(host.interrupt().await, Some(0));
}

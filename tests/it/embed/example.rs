//! `examples/embed-axum`: the server as it is, with its guests as they are built.

use std::path::PathBuf;

use bytes::Bytes;
use oarlock_tests::app::{Answer, fetch};
use tokio::sync::oneshot;

fn folder() -> PathBuf {
    oarlock_tests::repository().join("examples/embed-axum")
}

#[tokio::test]
async fn two_apps_and_a_route_of_its_own_are_served_beside_each_other() {
    let guests = folder().join("guests");
    tokio::task::spawn_blocking({
        let guests = guests.clone();
        move || oarlock_tests::build_components(&guests)
    })
    .await
    .unwrap();
    let data = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let path = data.path().to_owned();
    let server = tokio::spawn(async move {
        let stop = async { drop(stopped.await) };
        embed_axum::serve(listener, (&guests, &path), stop).await
    });
    // Asked before the apps run, it answers when they do: the socket is open.
    let get = async |path: &str| -> Answer {
        let url = format!("http://{addr}{path}");
        fetch("GET", &url, &[], Bytes::new()).await.unwrap()
    };
    let hello = get("/hello/you?and=me").await;
    assert_eq!(
        (hello.status, hello.text()),
        (200, "Hello from /you?and=me\n")
    );
    let pear = get("/shop/pear").await;
    assert_eq!((pear.status, pear.text()), (200, "A pear is 0.40 EUR.\n"));
    let fig = get("/shop/fig").await;
    assert_eq!((fig.status, fig.text()), (404, "There is no fig.\n"));
    assert_eq!(get("/asked").await.text(), "shop: 2\n");
    assert_eq!(get("/other").await.status, 404);
    drop(stop);
    server.await.unwrap().unwrap();
    // The server told who asks, and the log is whole when it has ended.
    let log = std::fs::read_to_string(data.path().join("apps/shop/logs/app.log")).unwrap();
    assert!(
        log.contains("path=\"/pear\"") && log.contains("fwd=\"127.0.0.1\""),
        "{log}"
    );
}

/// The guide's page about embedding.
fn page() -> String {
    let page = oarlock_tests::repository().join("runtime/docs/src/embedding.md");
    std::fs::read_to_string(page).unwrap()
}

#[test]
fn the_guide_counts_the_examples_glue() {
    let source = std::fs::read_to_string(folder().join("src/lib.rs")).unwrap();
    let (_, rest) = source.split_once("// The glue begins here.\n").unwrap();
    let (glue, _) = rest.split_once("// The glue ends here.\n").unwrap();
    let lines = glue.lines().filter(|line| !line.trim().is_empty()).count();
    let said = format!("{lines} lines of glue");
    assert!(
        page().contains(&said),
        "the guide has to say \"{said}\" in embedding.md"
    );
}

/// The guide's code is that of the library's documentation, which is run.
#[test]
fn the_guides_code_is_the_documentations() {
    let page = page();
    let mut blocks = page.split("```rust\n");
    let shown = blocks
        .find(|block| block.starts_with("use oarlock_host"))
        .unwrap();
    let shown: Vec<&str> = shown.split("```").next().unwrap().lines().collect();
    let library = oarlock_tests::repository().join("runtime/host/src/lib.rs");
    let library = std::fs::read_to_string(library).unwrap();
    let run = library.split("//! ```\n").nth(1).unwrap();
    let run: Vec<&str> = run
        .lines()
        .map(|line| line.trim_start_matches("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .filter(|line| !line.starts_with("# "))
        .collect();
    assert_eq!(shown, run);
}

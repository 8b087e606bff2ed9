//! The guestbook as a whole, under `oarlock up`: WASI 0.3 guests that share one kv add-on.

use oarlock_tests::app::App;

use super::until;
use crate::binary;

#[tokio::test]
async fn an_entry_is_signed_indexed_found_and_counted() {
    let source = oarlock_tests::repository().join("examples/guestbook/oarlock.toml");
    let manifest = std::fs::read_to_string(source).unwrap();
    let app = App::new(&manifest.replace("target/wasm32-wasip2/release/", ""));
    for component in ["web", "worker", "scheduler", "nightly", "release"] {
        let to = app.path().join(format!("{component}.wasm"));
        std::fs::copy(oarlock_tests::example("guestbook", component), to).unwrap();
    }
    let host = app.up(binary()).start().await;
    host.output.wait_for("a new book, schema 2").await;
    host.output.wait_for("digest: 0 entries").await;

    let entries = async |query: &str| -> Vec<String> {
        let answer = host.get(&format!("/api/entries{query}")).await;
        let json: serde_json::Value = serde_json::from_str(answer.text()).unwrap();
        let entries = json["entries"].as_array().unwrap();
        let name = |entry: &serde_json::Value| entry["name"].as_str().unwrap().to_owned();
        entries.iter().map(name).collect()
    };
    for (name, text) in [("Ada", "A rare word"), ("Bob", "Hello")] {
        let body = format!(r#"{{"name":"{name}","text":"{text}"}}"#);
        assert_eq!(host.post("/api/entries", body).await.status, 201);
    }
    assert_eq!(entries("").await, ["Bob", "Ada"]);
    // The worker writes this line after it has noted how far it came; the digest counts that note.
    let indexed = || {
        let of = |line: &String| match line.rsplit_once(": ") {
            Some((_, "1 entry indexed")) => 1,
            Some((_, "2 entries indexed")) => 2,
            _ => 0,
        };
        host.output.lines().iter().map(of).sum::<u32>()
    };
    until("the index", async || indexed() == 2).await;
    assert_eq!(entries("?q=rare").await, ["Ada"]);
    assert!(host.get("/").await.text().contains("A rare word"));

    // The scheduler writes a digest as it starts, and then each minute.
    assert_eq!(host.oarlock(&["restart", "scheduler"]).await.code, 0);
    host.output
        .wait_for("digest: 2 entries, 2 new, 2 indexed")
        .await;
    let digest = host.get("/api/digest").await;
    let digest: serde_json::Value = serde_json::from_str(digest.text()).unwrap();
    assert_eq!(digest["written"], 2);
    let nightly = host.oarlock(&["run", "nightly"]).await;
    assert_eq!(nightly.code, 0, "{nightly:?}");
    assert!(
        nightly.stdout.contains("2 entries written so far"),
        "{nightly:?}"
    );
    assert_eq!(host.interrupt().await, Some(0));

    // All of it is there at the next start, and the release phase has nothing to do.
    let host = app.up(binary()).start().await;
    assert!(host.get("/").await.text().contains("A rare word"));
    assert_eq!(host.output.find("schema 2"), None);
    assert_eq!(host.interrupt().await, Some(0));
}

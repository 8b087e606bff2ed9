//! A tenant whose guests go on after their answers takes nothing of its neighbour's.

use oarlock_tests::apps::{Apps, get};

use crate::binary;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_is_served_beside_guests_that_go_on_after_their_answers() {
    let apps = Apps::new();
    let manifest = "[processes]\nweb = \"web.wasm\"\n[limits.web]\nisolation = \"request\"\n\
                    concurrency = 3\nqueue = 0";
    for name in ["evil", "good"] {
        apps.add(name, manifest);
        apps.put_guest(&format!("{name}/web.wasm"), "handler-p2");
    }
    let host = apps.start(binary(), &["evil", "good"]).await;
    let mut codes = Vec::new();
    for path in ["/after-spin", "/after/3600000", "/after-spin", "/"] {
        codes.push(get(&host, "evil", path).await.status);
        let answer = get(&host, "good", "/").await;
        assert_eq!((answer.status, answer.text()), (200, "hello"));
    }
    // No more than its slots, whatever it goes on with.
    assert_eq!(codes, [200, 200, 200, 503]);
    let log = async || {
        host.oarlock(&["logs", "--app", "evil", "-n", "1000"])
            .await
            .stdout
    };
    // The default of `serve`.
    let text = "it went on for more than 5 seconds after its response";
    super::until("the end of all three", async || {
        log().await.matches(text).count() == 3
    })
    .await;
    assert_eq!(get(&host, "evil", "/counter").await.text(), "1");
    assert_eq!(host.interrupt().await, Some(0));
}

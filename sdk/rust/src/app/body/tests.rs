#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use futures::executor::block_on;
use futures::future::join;

use super::*;

#[test]
fn a_whole_body_is_read_up_to_the_limit() {
    assert_eq!(block_on(Body::from("hello").bytes(5)).unwrap(), "hello");
    assert_eq!(block_on(Body::empty().text(0)).unwrap(), "");
    let error = block_on(Body::from("hello").bytes(4)).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&TooLarge { limit: 4 }));
}

#[test]
fn the_limit_counts_all_chunks() {
    let body = || {
        Body::stream(futures::stream::iter(
            ["ab", "cd", "ef"].map(Ok::<_, Error>),
        ))
    };
    assert_eq!(block_on(body().text(6)).unwrap(), "abcdef");
    assert!(block_on(body().text(5)).unwrap_err().is::<TooLarge>());
}

#[test]
fn a_channel_waits_for_its_reader_and_ends_with_its_sender() {
    let (mut sender, mut body) = Body::channel();
    let write = async move {
        sender.send("one").await.unwrap();
        sender.send("two").await.unwrap();
    };
    let read = async {
        let mut seen = Vec::new();
        while let Some(chunk) = body.chunk().await.unwrap() {
            seen.push(chunk);
        }
        seen
    };
    assert_eq!(block_on(join(write, read)).1, ["one", "two"]);
}

#[test]
fn a_sender_learns_that_the_reader_has_gone() {
    let (mut sender, body) = Body::channel();
    drop(body);
    assert_eq!(block_on(sender.send("x")), Err(Closed));
}

#[test]
fn an_aborted_body_never_ends_cleanly() {
    let (sender, mut body) = Body::channel();
    sender.abort("broken");
    assert_eq!(block_on(body.chunk()).unwrap_err().to_string(), "broken");
}

#[test]
fn an_error_in_a_stream_reaches_the_reader() {
    let chunks = [Ok("ab"), Err("lost the upstream")];
    let error = block_on(Body::stream(futures::stream::iter(chunks)).text(100)).unwrap_err();
    assert_eq!(error.to_string(), "lost the upstream");
}

//! What a guest makes its host hold is charged to its memory limit.

use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use oarlock_sandbox::CallError;

use super::fresh::gone;
use super::{Setup, get, soon, text};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn bodies_that_are_never_sent_fit_into_the_memory_limit() {
    let sandbox = Setup::new().memory(16).sandbox("hoard-p2");
    let few: u64 = text(soon(sandbox.call(get("/bodies/3"))).await)
        .await
        .parse()
        .unwrap();
    assert!(few > MIB, "each body may hold some pieces: {few}");
    let many: u64 = text(soon(sandbox.call(get("/bodies/200"))).await)
        .await
        .parse()
        .unwrap();
    // The limit, what is free in addition, and the first 4 KiB of each body.
    assert!(many > 8 * MIB && many < 18 * MIB, "{many}");
    gone(&sandbox).await;
    assert_eq!(sandbox.meter().held_bytes(), 0);
}

#[tokio::test]
async fn a_guest_that_is_ahead_of_its_reader_waits() {
    for memory in [4, 64] {
        let sandbox = Setup::new().memory(memory).sandbox("hoard-p2");
        // With 4 MiB there is no room for the text besides the guest's own memory.
        let size = if memory == 4 { 1 } else { 16 };
        let answer = soon(sandbox.call(get(&format!("/write/{size}"))))
            .await
            .unwrap();
        let mut body = answer.into_body().into_data_stream();
        let mut read = 0;
        while let Some(piece) = soon(body.next()).await {
            read += piece.unwrap().len() as u64;
            let held = sandbox.meter().held_bytes();
            assert!(held <= MIB, "{held} bytes are held");
            tokio::task::yield_now().await;
        }
        assert_eq!(read, size * MIB);
        drop(body);
        gone(&sandbox).await;
        assert_eq!(sandbox.meter().held_bytes(), 0);
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_any_more_gives_its_charge_back() {
    let sandbox = Setup::new().sandbox("hoard-p2");
    let answer = soon(sandbox.call(get("/write/16"))).await.unwrap();
    let mut body = answer.into_body();
    let piece = soon(body.frame()).await.unwrap().unwrap();
    drop(body);
    gone(&sandbox).await;
    // Whoever holds the bytes holds the charge, be the instance gone or not.
    let length = piece.data_ref().unwrap().len() as u64;
    assert_eq!(sandbox.meter().held_bytes(), length);
    drop(piece);
    assert_eq!(sandbox.meter().held_bytes(), 0);
}

#[tokio::test]
async fn header_sets_fit_into_the_memory_limit() {
    let sandbox = Setup::new().memory(16).sandbox("hoard-p2");
    assert_eq!(
        text(soon(sandbox.call(get("/fields/50"))).await).await,
        "5000000"
    );
    let error = soon(sandbox.call(get("/fields/300"))).await.unwrap_err();
    assert_eq!(error, CallError::Memory { limit: 16 * MIB });
    gone(&sandbox).await;
    assert_eq!(sandbox.meter().held_bytes(), 0);
}

//! What goes through a connection, and how it ends.
use wasip3::wit_bindgen::spawn_local;
use wasip3::wit_stream;

use crate::net::*;

/// A server that echoes each of its clients in a task of its own.
pub async fn application(net: &Net) {
    let (_listener, mut accepted, addr) = net.listener();
    spawn_local(async move {
        for _ in 0..3 {
            let peer = accepted.next().await.unwrap();
            let (receiving, _) = peer.receive();
            let sent = peer.send(receiving);
            spawn_local(async move {
                let _ = sent.await;
                drop(peer);
            });
        }
    });
    for words in [&b""[..], b"hello", b"and again"] {
        let client = net.connect(addr).await.unwrap();
        send(&client, words).await.unwrap();
        assert_eq!(rest(&client).await, (words.to_vec(), Ok(())));
    }
}

/// Each direction ends by itself.
pub async fn half_close(net: &Net) {
    for near_first in [true, false] {
        let (near, far) = net.pair().await;
        let (first, second) = if near_first { (near, far) } else { (far, near) };
        send(&first, b"question").await.unwrap();
        assert_eq!(rest(&second).await, (b"question".to_vec(), Ok(())));
        send(&second, b"answer").await.unwrap();
        // The socket may be gone, as long as a stream of it is not.
        let (data, received) = first.receive();
        drop((first, second));
        assert_eq!(data.collect().await, b"answer");
        received.await.unwrap();
    }
}

/// A peer that is gone before it has read everything, or that is written to.
pub async fn reset(net: &Net) {
    let (near, far) = net.pair().await;
    send(&near, b"unread").await.unwrap();
    drop(far);
    let (bytes, end) = rest(&near).await;
    assert_eq!(
        (bytes, end),
        (Vec::new(), Err("ErrorCode::ConnectionReset".to_owned()))
    );

    let (near, far) = net.pair().await;
    drop(far);
    assert_eq!(rest(&near).await, (Vec::new(), Ok(())));
    let (mut sending, data) = wit_stream::new();
    let sent = near.send(data);
    let left = sending.write_all(b"to nobody".to_vec()).await;
    assert_eq!(left, b"to nobody");
    fails(sent.await, ErrorCode::ConnectionBroken);

    // One that reads no more, but is there: what it is sent is taken.
    let (near, far) = net.pair().await;
    let (data, received) = far.receive();
    drop(data);
    received.await.unwrap();
    send(&near, b"into nothing").await.unwrap();
    send(&far, b"whole").await.unwrap();
    assert_eq!(rest(&near).await, (b"whole".to_vec(), Ok(())));
}

/// Far more than the buffers hold, both ways.
pub async fn bulk(net: &Net) {
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (near, far) = net.pair().await;
    let (data, _) = far.receive();
    let echoed = far.send(data);
    let (mut sending, data) = wit_stream::new();
    let sent = near.send(data);
    let all = bytes.clone();
    spawn_local(async move {
        assert!(sending.write_all(all).await.is_empty());
    });
    let (back, end) = rest(&near).await;
    assert_eq!(end, Ok(()));
    assert!(back == bytes);
    sent.await.unwrap();
    echoed.await.unwrap();
}

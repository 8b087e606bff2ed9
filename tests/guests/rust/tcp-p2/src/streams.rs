//! What goes through a connection, and how it ends.
use wasip2::io::poll::poll;
use wasip2::io::streams::StreamError;
use wasip2::sockets::tcp::ShutdownType;

use crate::net::*;

/// A server that takes one client's words after another's.
pub fn application(net: &Net) {
    let (listener, addr) = net.listener();
    for words in [&b""[..], b"hello", b"and again"] {
        let client = net.connect(net.socket(), addr).unwrap();
        if !words.is_empty() {
            client.write(words);
        }
        // Ends with the client's end.
        drop(client);
        listener.subscribe().block();
        let server = accept(&listener).unwrap();
        assert_eq!(server.rest(), (words.to_vec(), Ok(())));
    }
}

/// Each direction ends by itself.
pub fn half_close(net: &Net) {
    for near_first in [true, false] {
        let (near, far) = net.pair();
        let (first, second) = if near_first { (near, far) } else { (far, near) };
        first.write(b"question");
        first.socket.shutdown(ShutdownType::Send).unwrap();
        assert!(matches!(
            first.output.check_write(),
            Err(StreamError::Closed)
        ));
        assert_eq!(second.rest(), (b"question".to_vec(), Ok(())));
        // The other direction is still there, before and after.
        second.write(b"answer");
        second.socket.shutdown(ShutdownType::Send).unwrap();
        assert_eq!(first.rest(), (b"answer".to_vec(), Ok(())));
        // An end is the end, however often one asks.
        assert!(matches!(first.input.read(1), Err(StreamError::Closed)));
        first.input.subscribe().block();
        first.socket.shutdown(ShutdownType::Both).unwrap();
        second.socket.shutdown(ShutdownType::Both).unwrap();
    }
}

/// A peer that is gone before it has read everything, or that is written to.
pub fn reset(net: &Net) {
    let (near, far) = net.pair();
    near.write(b"unread");
    drop(near);
    drop(far);

    let (near, far) = net.pair();
    far.write(b"partly");
    near.write(b"unread");
    drop(far);
    // What came before is still to be had.
    assert_eq!(near.rest(), (b"partly".to_vec(), Err(())));

    let (near, far) = net.pair();
    drop(far);
    assert_eq!(near.rest(), (Vec::new(), Ok(())));
    let written = near.output.blocking_write_and_flush(b"to nobody");
    assert!(written.is_err());

    // A read that waits is woken by it.
    let (near, far) = net.pair();
    let waits = near.input.subscribe();
    assert!(!waits.ready());
    drop(far);
    assert_eq!(poll(&[&waits]), [0]);
}

/// What the two directions of `shutdown` mean on each side.
pub fn shutdown(net: &Net) {
    // One's own reading end, though there is something to read.
    let (near, far) = net.pair();
    far.write(b"unread");
    near.socket.shutdown(ShutdownType::Receive).unwrap();
    assert!(matches!(near.input.read(10), Err(StreamError::Closed)));
    // The peer may write on, and the other direction is whole.
    far.write(b"into nothing");
    near.write(b"whole");
    drop(near);
    assert_eq!(far.rest(), (b"whole".to_vec(), Ok(())));

    // One's own writing end.
    let (near, far) = net.pair();
    near.socket.shutdown(ShutdownType::Send).unwrap();
    let write = near.output.blocking_write_and_flush(b"too late");
    assert!(matches!(write, Err(StreamError::Closed)));
    assert!(matches!(near.output.flush(), Err(StreamError::Closed)));
    assert_eq!(far.rest(), (Vec::new(), Ok(())));

    // Nothing is lost that was written before.
    let (near, far) = net.pair();
    let mut written = 0;
    loop {
        let permitted = near.output.check_write().unwrap();
        if permitted == 0 {
            break;
        }
        let bytes: Vec<u8> = (0..permitted)
            .map(|n| ((written + n) % 251) as u8)
            .collect();
        near.output.write(&bytes).unwrap();
        written += permitted;
    }
    // The peer reads nothing: there is a bound.
    assert!((1..1_000_000).contains(&written), "{written}");
    near.socket.shutdown(ShutdownType::Send).unwrap();
    drop(near);
    let (bytes, end) = far.rest();
    assert_eq!((bytes.len() as u64, end), (written, Ok(())));
    let expected = (0..written).map(|n| (n % 251) as u8);
    assert!(bytes.into_iter().eq(expected));

    // A write that waits for room is woken when there is some.
    let (near, far) = net.pair();
    while near.output.check_write().unwrap() > 0 {
        let permitted = near.output.check_write().unwrap();
        near.output.write(&vec![1; permitted as usize]).unwrap();
    }
    let waits = near.output.subscribe();
    assert!(!waits.ready());
    assert!(!far.input.read(1000).unwrap().is_empty());
    assert_eq!(poll(&[&waits]), [0]);
    assert!(near.output.check_write().unwrap() > 0);
}

/// Far more than the buffers hold, both ways, by one thread.
pub fn bulk(net: &Net) {
    const ALL: u64 = 5_000_000;
    let (near, far) = net.pair();
    let byte = |n: u64| (n % 251) as u8;
    let (mut sent, mut echoed, mut back) = (0, 0, 0);
    let (mut waiting, mut got) = (Vec::new(), Vec::new());
    while back < ALL {
        let permitted = near.output.check_write().unwrap().min(ALL - sent);
        if permitted > 0 {
            let bytes: Vec<u8> = (sent..sent + permitted).map(byte).collect();
            near.output.write(&bytes).unwrap();
            sent += permitted;
        }
        if waiting.is_empty() {
            waiting = far.input.read(100_000).unwrap();
        }
        let permitted = far.output.check_write().unwrap() as usize;
        let some: Vec<u8> = waiting.drain(..permitted.min(waiting.len())).collect();
        if !some.is_empty() {
            far.output.write(&some).unwrap();
            echoed += some.len() as u64;
        }
        got.extend(near.input.read(30_000).unwrap());
        back = got.len() as u64;
    }
    assert_eq!((sent, echoed), (ALL, ALL));
    assert!(got.into_iter().eq((0..ALL).map(byte)));
}

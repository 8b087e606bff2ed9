//! Addresses, states, options, bounds.
use crate::net::*;

/// Addresses that no socket of this family may be given.
fn invalid(net: &Net, port: u16) -> Vec<IpSocketAddress> {
    if net.v6 {
        vec![
            v4([127, 0, 0, 1], port),
            v6([0xff00, 0, 0, 0, 0, 0, 0, 0], port),
            // Mapped and compatible IPv4.
            v6([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], port),
            v6([0, 0, 0, 0, 0, 0, 0x7f00, 1], port),
        ]
    } else {
        vec![
            v6([0, 0, 0, 0, 0, 0, 0, 1], port),
            v4([255; 4], port),
            v4([224, 254, 0, 0], port),
        ]
    }
}

pub async fn bind(net: &Net) {
    // A port is chosen, or the one that was asked for.
    let first = net.socket();
    first.bind(net.loopback(0)).unwrap();
    let addr = first.get_local_address().unwrap();
    same(addr, net.loopback(port(addr)));
    assert_ne!(port(addr), 0);
    let own = net.socket();
    own.bind(net.loopback(4321)).unwrap();
    same(own.get_local_address().unwrap(), net.loopback(4321));

    // One socket has it, until it is gone; the other family's ports are others.
    fails(net.socket().bind(addr), ErrorCode::AddressInUse);
    fails(
        net.socket().bind(net.loopback(4321)),
        ErrorCode::AddressInUse,
    );
    let other = Net { v6: !net.v6 };
    other.socket().bind(other.loopback(4321)).unwrap();
    drop(first);
    net.socket().bind(addr).unwrap();

    // At once, connections that were accepted or not.
    let (listener, mut accepted, addr) = net.listener();
    let near = net.connect(addr).await.unwrap();
    let peer = accepted.next().await.unwrap();
    let waiting = net.connect(addr).await.unwrap();
    drop((listener, accepted, near, peer, waiting));
    let again = net.socket();
    again.bind(addr).unwrap();
    again.listen().unwrap();

    for addr in invalid(net, 0) {
        fails(net.socket().bind(addr), ErrorCode::InvalidArgument);
    }
    // Nobody else is to be reached.
    let foreign = if net.v6 {
        v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 0)
    } else {
        v4([192, 0, 2, 1], 0)
    };
    fails(net.socket().bind(foreign), ErrorCode::AccessDenied);
    fails(
        net.socket().bind(net.unspecified(4322)),
        ErrorCode::AccessDenied,
    );
    // A local bind before a connect is not listening; listening on it, or on nothing in particular, is.
    let local = net.socket();
    local.bind(net.unspecified(0)).unwrap();
    assert_ne!(port(local.get_local_address().unwrap()), 0);
    fails(local.listen(), ErrorCode::AccessDenied);
    fails(net.socket().listen(), ErrorCode::AccessDenied);
}

pub async fn connect(net: &Net) {
    let (_listener, mut accepted, addr) = net.listener();
    for addr in invalid(net, 80) {
        fails(net.connect(addr).await, ErrorCode::InvalidArgument);
    }
    for addr in [net.unspecified(80), net.unspecified(0), net.loopback(0)] {
        fails(net.connect(addr).await, ErrorCode::InvalidArgument);
    }

    // The two ends name each other, whether the one that connects was bound or not.
    let loopback = net.socket();
    loopback.bind(net.loopback(0)).unwrap();
    let own = net.socket();
    own.bind(net.loopback(4321)).unwrap();
    let unspecified = net.socket();
    unspecified.bind(net.unspecified(0)).unwrap();
    for near in [net.socket(), loopback, own, unspecified] {
        let bound = near.get_local_address().ok().map(port);
        near.connect(addr).await.unwrap();
        let far = accepted.next().await.unwrap();
        let local = near.get_local_address().unwrap();
        same(local, net.loopback(port(local)));
        assert!(bound.is_none_or(|bound| bound == port(local)));
        same(far.get_remote_address().unwrap(), local);
        same(near.get_remote_address().unwrap(), addr);
        same(far.get_local_address().unwrap(), addr);
    }

    // Nobody accepts: bound only, and no longer there.
    let bound = net.socket();
    bound.bind(net.loopback(0)).unwrap();
    let only_bound = bound.get_local_address().unwrap();
    let (gone, stream, gone_addr) = net.listener();
    drop((gone, stream));
    for addr in [only_bound, gone_addr, net.loopback(4321)] {
        fails(net.connect(addr).await, ErrorCode::ConnectionRefused);
    }
    // Never was there: nobody's but the machine's.
    let attempt = net.connect(net.loopback(4323)).await;
    fails(attempt, ErrorCode::AccessDenied);
    // A socket that was refused says so from then on, and nothing that wasi-libc aborts on.
    let refused = net.socket();
    fails(
        refused.connect(only_bound).await,
        ErrorCode::ConnectionRefused,
    );
    fails(refused.get_local_address(), ErrorCode::ConnectionRefused);
    fails(
        refused.get_keep_alive_enabled(),
        ErrorCode::ConnectionRefused,
    );
}

async fn unconnected(socket: &TcpSocket) {
    fails(socket.get_remote_address(), ErrorCode::InvalidState);
    fails(send(socket, b"").await, ErrorCode::InvalidState);
    let (bytes, end) = rest(socket).await;
    assert_eq!(
        (bytes, end),
        (Vec::new(), Err("ErrorCode::InvalidState".to_owned()))
    );
    settable(socket);
}

fn settable(socket: &TcpSocket) {
    socket.set_keep_alive_enabled(true).unwrap();
    assert!(socket.get_keep_alive_enabled().unwrap());
    socket.set_keep_alive_count(9).unwrap();
    assert_eq!(socket.get_keep_alive_count().unwrap(), 9);
    socket.set_hop_limit(64).unwrap();
    assert_eq!(socket.get_hop_limit().unwrap(), 64);
}

pub async fn states(net: &Net) {
    let socket = net.socket();
    assert!(!socket.get_is_listening());
    assert_eq!(
        format!("{:?}", socket.get_address_family()),
        format!("{:?}", net.family())
    );
    unconnected(&socket).await;
    fails(socket.get_local_address(), ErrorCode::InvalidState);
    socket.set_listen_backlog_size(32).unwrap();

    socket.bind(net.loopback(0)).unwrap();
    let addr = socket.get_local_address().unwrap();
    unconnected(&socket).await;
    fails(socket.bind(net.loopback(0)), ErrorCode::InvalidState);
    socket.set_listen_backlog_size(32).unwrap();

    let mut accepted = socket.listen().unwrap();
    assert!(socket.get_is_listening());
    unconnected(&socket).await;
    same(socket.get_local_address().unwrap(), addr);
    fails(socket.bind(net.loopback(0)), ErrorCode::InvalidState);
    fails(socket.listen(), ErrorCode::InvalidState);
    fails(socket.connect(addr).await, ErrorCode::InvalidState);
    socket.set_listen_backlog_size(32).unwrap();

    let near = net.connect(addr).await.unwrap();
    let far = accepted.next().await.unwrap();
    for socket in [&near, &far] {
        fails(socket.bind(net.loopback(0)), ErrorCode::InvalidState);
        fails(socket.listen(), ErrorCode::InvalidState);
        fails(socket.connect(addr).await, ErrorCode::InvalidState);
        fails(socket.set_listen_backlog_size(1), ErrorCode::InvalidState);
        assert!(!socket.get_is_listening());
        settable(socket);
        socket.get_local_address().unwrap();
        socket.get_remote_address().unwrap();
    }
    // Each direction is taken once.
    send(&near, b"once").await.unwrap();
    fails(send(&near, b"twice").await, ErrorCode::InvalidState);
    assert_eq!(rest(&far).await, (b"once".to_vec(), Ok(())));
    let (_, end) = rest(&far).await;
    assert_eq!(end, Err("ErrorCode::InvalidState".to_owned()));
}

pub async fn options(net: &Net) {
    let second = 1_000_000_000;
    let (listener, mut accepted, addr) = net.listener();
    let near = net.connect(addr).await.unwrap();
    let far = accepted.next().await.unwrap();
    for socket in [&net.socket(), &listener, &near, &far] {
        assert!(!socket.get_keep_alive_enabled().unwrap());
        assert_ne!(socket.get_keep_alive_count().unwrap(), 0);
        assert_ne!(socket.get_receive_buffer_size().unwrap(), 0);
        assert_ne!(socket.get_send_buffer_size().unwrap(), 0);

        let zero = || ErrorCode::InvalidArgument;
        fails(socket.set_keep_alive_idle_time(0), zero());
        fails(socket.set_keep_alive_interval(0), zero());
        fails(socket.set_keep_alive_count(0), zero());
        fails(socket.set_hop_limit(0), zero());
        fails(socket.set_receive_buffer_size(0), zero());
        fails(socket.set_send_buffer_size(0), zero());

        // What is too little or too much for it is rounded.
        for nanos in [1, u64::MAX] {
            socket.set_keep_alive_idle_time(nanos).unwrap();
            assert!(socket.get_keep_alive_idle_time().unwrap() >= second);
            socket.set_keep_alive_interval(nanos).unwrap();
            assert!(socket.get_keep_alive_interval().unwrap() >= second);
            socket.set_receive_buffer_size(nanos).unwrap();
            socket.set_send_buffer_size(nanos).unwrap();
        }
        socket.set_hop_limit(u8::MAX).unwrap();
        assert_eq!(socket.get_hop_limit().unwrap(), u8::MAX);
    }
    fails(
        listener.set_listen_backlog_size(0),
        ErrorCode::InvalidArgument,
    );
    // What is accepted has its listener's options.
    listener.set_hop_limit(42).unwrap();
    let _near = net.connect(addr).await.unwrap();
    let heir = accepted.next().await.unwrap();
    assert_eq!(heir.get_hop_limit().unwrap(), 42);
}

/// No more wait than the listener wants; who was accepted makes room.
pub async fn backlog(net: &Net) {
    let listener = net.socket();
    listener.bind(net.loopback(0)).unwrap();
    listener.set_listen_backlog_size(3).unwrap();
    let mut accepted = listener.listen().unwrap();
    let addr = listener.get_local_address().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(net.connect(addr).await.unwrap());
    }
    fails(net.connect(addr).await, ErrorCode::ConnectionRefused);
    let first = accepted.next().await.unwrap();
    let fourth = net.connect(addr).await.unwrap();

    // Those that nobody accepted are reset.
    drop((listener, accepted));
    let (bytes, end) = rest(&fourth).await;
    assert_eq!(
        (bytes, end),
        (Vec::new(), Err("ErrorCode::ConnectionReset".to_owned()))
    );
    send(&first, b"still here").await.unwrap();
    assert_eq!(rest(&waiting[0]).await, (b"still here".to_vec(), Ok(())));
}

/// Many after each other and at once; places and numbers come back.
pub async fn many(net: &Net) {
    let (_listener, mut accepted, addr) = net.listener();
    for round in 0..500_u32 {
        let near = net.connect(addr).await.unwrap();
        let far = accepted.next().await.unwrap();
        send(&near, &round.to_le_bytes()).await.unwrap();
        assert_eq!(rest(&far).await, (round.to_le_bytes().to_vec(), Ok(())));
    }
    let mut pairs = Vec::new();
    for n in 0..30_u8 {
        let near = net.connect(addr).await.unwrap();
        pairs.push((n, near, accepted.next().await.unwrap()));
    }
    for (n, near, _) in &pairs {
        send(near, &[*n]).await.unwrap();
    }
    for (n, near, far) in pairs.iter().rev() {
        assert_eq!(rest(far).await, (vec![*n], Ok(())));
        send(far, &[*n, *n]).await.unwrap();
        assert_eq!(rest(near).await, (vec![*n, *n], Ok(())));
    }
}

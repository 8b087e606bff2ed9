//! Addresses, states, options, bounds.
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};

use crate::net::*;

#[track_caller]
fn fails<T>(outcome: Result<T, ErrorCode>, code: ErrorCode) {
    match outcome {
        Ok(_) => panic!("no {code:?}"),
        Err(error) => assert_eq!(error, code),
    }
}

/// Addresses that no socket of this family may be given.
fn invalid(net: &Net) -> Vec<IpSocketAddress> {
    let mut invalid = vec![net.other_family(0)];
    match net.family {
        IpAddressFamily::Ipv4 => {
            invalid.push(v4([255; 4], 0));
            invalid.push(v4([224, 254, 0, 0], 0));
        }
        IpAddressFamily::Ipv6 => {
            invalid.push(v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 0));
            // Mapped and compatible IPv4.
            invalid.push(v6([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], 0));
            invalid.push(v6([0, 0, 0, 0, 0, 0, 0x7f00, 1], 0));
        }
    }
    invalid
}

fn with_port(addr: IpSocketAddress, port: u16) -> IpSocketAddress {
    match addr {
        IpSocketAddress::Ipv4(v4) => IpSocketAddress::Ipv4(Ipv4SocketAddress { port, ..v4 }),
        IpSocketAddress::Ipv6(v6) => IpSocketAddress::Ipv6(Ipv6SocketAddress { port, ..v6 }),
    }
}

pub fn bind(net: &Net) {
    // A port is chosen, or the one that was asked for.
    let first = net.socket();
    net.bind(&first, net.loopback(0)).unwrap();
    let addr = first.local_address().unwrap();
    same(addr, net.loopback(port(addr)));
    assert_ne!(port(addr), 0);
    let second = net.socket();
    net.bind(&second, net.loopback(0)).unwrap();
    assert_ne!(port(second.local_address().unwrap()), port(addr));
    let own = net.socket();
    net.bind(&own, net.loopback(4321)).unwrap();
    same(own.local_address().unwrap(), net.loopback(4321));

    // One socket has it, until it is gone; the other family's ports are others.
    fails(net.bind(&net.socket(), addr), ErrorCode::AddressInUse);
    fails(
        net.bind(&net.socket(), net.loopback(4321)),
        ErrorCode::AddressInUse,
    );
    let other = Net::new(net.family == IpAddressFamily::Ipv4);
    other.bind(&other.socket(), other.loopback(4321)).unwrap();
    drop(first);
    net.bind(&net.socket(), addr).unwrap();

    // At once, connections that were accepted or not.
    let (listener, addr) = net.listener();
    let accepted = net.connect(net.socket(), addr).unwrap();
    let peer = accept(&listener).unwrap();
    let waiting = net.connect(net.socket(), addr).unwrap();
    drop((listener, peer, accepted, waiting));
    let again = net.socket();
    net.bind(&again, addr).unwrap();
    net.listen(&again).unwrap();

    for addr in invalid(net) {
        fails(net.bind(&net.socket(), addr), ErrorCode::InvalidArgument);
    }
    // Nobody else is to be reached.
    let foreign = match net.family {
        IpAddressFamily::Ipv4 => v4([192, 0, 2, 1], 0),
        IpAddressFamily::Ipv6 => v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 0),
    };
    fails(net.bind(&net.socket(), foreign), ErrorCode::AccessDenied);
    fails(
        net.bind(&net.socket(), net.unspecified(4322)),
        ErrorCode::AccessDenied,
    );
    // A local bind before a connect is not listening; listening on it is.
    let local = net.socket();
    net.bind(&local, net.unspecified(0)).unwrap();
    assert_ne!(port(local.local_address().unwrap()), 0);
    fails(net.listen(&local), ErrorCode::AccessDenied);
}

pub fn connect(net: &Net) {
    let (listener, addr) = net.listener();
    for addr in invalid(net) {
        let attempt = net.connect(net.socket(), with_port(addr, 80));
        fails(attempt, ErrorCode::InvalidArgument);
    }
    for addr in [net.unspecified(80), net.unspecified(0), net.loopback(0)] {
        let attempt = net.connect(net.socket(), addr);
        fails(attempt, ErrorCode::InvalidArgument);
    }

    // The two ends name each other, whether the one that connects was bound or not.
    let loopback = net.socket();
    net.bind(&loopback, net.loopback(0)).unwrap();
    let own = net.socket();
    net.bind(&own, net.loopback(4321)).unwrap();
    let unspecified = net.socket();
    net.bind(&unspecified, net.unspecified(0)).unwrap();
    for socket in [net.socket(), loopback, own, unspecified] {
        let bound = socket.local_address().ok().map(port);
        let near = net.connect(socket, addr).unwrap();
        let far = accept(&listener).unwrap();
        let local = near.socket.local_address().unwrap();
        same(local, net.loopback(port(local)));
        assert!(bound.is_none_or(|bound| bound == port(local)));
        assert_ne!(port(local), 0);
        same(far.socket.remote_address().unwrap(), local);
        same(near.socket.remote_address().unwrap(), addr);
        same(far.socket.local_address().unwrap(), addr);
    }

    // Nobody accepts: bound only, and no longer there.
    let bound = net.socket();
    net.bind(&bound, net.loopback(0)).unwrap();
    let only_bound = bound.local_address().unwrap();
    let (gone, gone_addr) = net.listener();
    drop(gone);
    for addr in [only_bound, gone_addr, net.loopback(4321)] {
        fails(
            net.connect(net.socket(), addr),
            ErrorCode::ConnectionRefused,
        );
    }
    // Never was there: nobody's but the machine's.
    fails(
        net.connect(net.socket(), net.loopback(4323)),
        ErrorCode::AccessDenied,
    );
    // A socket that was refused says so from then on, and nothing that wasi-libc aborts on.
    let refused = net.socket();
    refused.start_connect(&net.network, only_bound).unwrap();
    fails(refused.finish_connect(), ErrorCode::ConnectionRefused);
    fails(refused.local_address(), ErrorCode::ConnectionRefused);
    fails(refused.keep_alive_enabled(), ErrorCode::ConnectionRefused);
}

/// What holds of every socket that neither is connected nor connects.
fn unconnected(socket: &TcpSocket) {
    fails(socket.finish_bind(), ErrorCode::NotInProgress);
    fails(socket.finish_connect(), ErrorCode::NotInProgress);
    fails(socket.finish_listen(), ErrorCode::NotInProgress);
    fails(socket.remote_address(), ErrorCode::InvalidState);
    for how in [
        ShutdownType::Receive,
        ShutdownType::Send,
        ShutdownType::Both,
    ] {
        fails(socket.shutdown(how), ErrorCode::InvalidState);
    }
    settable(socket);
}

fn settable(socket: &TcpSocket) {
    socket.set_keep_alive_enabled(true).unwrap();
    assert!(socket.keep_alive_enabled().unwrap());
    socket.set_keep_alive_enabled(false).unwrap();
    assert!(!socket.keep_alive_enabled().unwrap());
    socket.set_keep_alive_count(9).unwrap();
    assert_eq!(socket.keep_alive_count().unwrap(), 9);
    socket.set_hop_limit(64).unwrap();
    assert_eq!(socket.hop_limit().unwrap(), 64);
}

pub fn states(net: &Net) {
    let socket = net.socket();
    assert_eq!(socket.address_family(), net.family);
    assert!(!socket.is_listening());
    unconnected(&socket);
    fails(socket.local_address(), ErrorCode::InvalidState);
    fails(socket.start_listen(), ErrorCode::InvalidState);
    fails(socket.accept(), ErrorCode::InvalidState);
    socket.set_listen_backlog_size(32).unwrap();

    // A step that was begun must be finished before another begins.
    let begun = net.socket();
    begun.start_bind(&net.network, net.loopback(0)).unwrap();
    let second = begun.start_bind(&net.network, net.loopback(0));
    fails(second, ErrorCode::ConcurrencyConflict);
    fails(begun.finish_connect(), ErrorCode::NotInProgress);
    begun.finish_bind().unwrap();

    net.bind(&socket, net.loopback(0)).unwrap();
    let addr = socket.local_address().unwrap();
    assert!(!socket.is_listening());
    unconnected(&socket);
    fails(net.bind(&socket, net.loopback(0)), ErrorCode::InvalidState);
    fails(socket.accept(), ErrorCode::InvalidState);
    socket.set_listen_backlog_size(32).unwrap();

    net.listen(&socket).unwrap();
    assert!(socket.is_listening());
    unconnected(&socket);
    same(socket.local_address().unwrap(), addr);
    fails(net.bind(&socket, net.loopback(0)), ErrorCode::InvalidState);
    fails(net.listen(&socket), ErrorCode::InvalidState);
    let connect = socket.start_connect(&net.network, addr);
    fails(connect, ErrorCode::InvalidState);
    fails(socket.accept(), ErrorCode::WouldBlock);
    socket.set_listen_backlog_size(32).unwrap();

    let connecting = net.socket();
    connecting.start_connect(&net.network, addr).unwrap();
    // wasi-libc asks here too.
    connecting.local_address().unwrap();
    connecting.keep_alive_enabled().unwrap();
    let again = connecting.start_connect(&net.network, addr);
    fails(again, ErrorCode::ConcurrencyConflict);
    let _streams = connecting.finish_connect().unwrap();

    socket.subscribe().block();
    let accepted = accept(&socket).unwrap();
    fails(socket.accept(), ErrorCode::WouldBlock);
    for socket in [&connecting, &accepted.socket] {
        fails(net.bind(socket, net.loopback(0)), ErrorCode::InvalidState);
        fails(net.listen(socket), ErrorCode::InvalidState);
        let connect = socket.start_connect(&net.network, addr);
        fails(connect, ErrorCode::InvalidState);
        fails(socket.accept(), ErrorCode::InvalidState);
        fails(socket.finish_connect(), ErrorCode::NotInProgress);
        let backlog = socket.set_listen_backlog_size(1);
        fails(backlog, ErrorCode::InvalidState);
        assert!(!socket.is_listening());
        assert_eq!(socket.address_family(), net.family);
        settable(socket);
        socket.local_address().unwrap();
        socket.remote_address().unwrap();
        socket.shutdown(ShutdownType::Both).unwrap();
    }
}

pub fn options(net: &Net) {
    let second = 1_000_000_000;
    let (listener, addr) = net.listener();
    let near = net.connect(net.socket(), addr).unwrap();
    let far = accept(&listener).unwrap();
    for socket in [&net.socket(), &listener, &near.socket, &far.socket] {
        assert!(!socket.keep_alive_enabled().unwrap());
        assert_ne!(socket.keep_alive_idle_time().unwrap(), 0);
        assert_ne!(socket.keep_alive_interval().unwrap(), 0);
        assert_ne!(socket.keep_alive_count().unwrap(), 0);
        assert_ne!(socket.hop_limit().unwrap(), 0);
        assert_ne!(socket.receive_buffer_size().unwrap(), 0);
        assert_ne!(socket.send_buffer_size().unwrap(), 0);

        let zero = ErrorCode::InvalidArgument;
        fails(socket.set_keep_alive_idle_time(0), zero);
        fails(socket.set_keep_alive_interval(0), zero);
        fails(socket.set_keep_alive_count(0), zero);
        fails(socket.set_hop_limit(0), zero);
        fails(socket.set_receive_buffer_size(0), zero);
        fails(socket.set_send_buffer_size(0), zero);

        // What is too little or too much for it is rounded.
        for nanos in [1, u64::MAX] {
            socket.set_keep_alive_idle_time(nanos).unwrap();
            assert!(socket.keep_alive_idle_time().unwrap() >= second);
            socket.set_keep_alive_interval(nanos).unwrap();
            assert!(socket.keep_alive_interval().unwrap() >= second);
            socket.set_receive_buffer_size(nanos).unwrap();
            socket.set_send_buffer_size(nanos).unwrap();
        }
        socket.set_keep_alive_count(u32::MAX).unwrap();
        socket.set_hop_limit(u8::MAX).unwrap();
        assert_eq!(socket.hop_limit().unwrap(), u8::MAX);
        socket.set_keep_alive_idle_time(7 * second).unwrap();
        assert_eq!(socket.keep_alive_idle_time().unwrap(), 7 * second);
    }
    fails(
        listener.set_listen_backlog_size(0),
        ErrorCode::InvalidArgument,
    );

    // What is accepted has its listener's options; what was accepted keeps its own.
    listener.set_hop_limit(42).unwrap();
    listener.set_keep_alive_enabled(true).unwrap();
    let _near = net.connect(net.socket(), addr).unwrap();
    let heir = accept(&listener).unwrap().socket;
    assert_eq!(heir.hop_limit().unwrap(), 42);
    assert!(heir.keep_alive_enabled().unwrap());
    listener.set_hop_limit(43).unwrap();
    assert_eq!(heir.hop_limit().unwrap(), 42);
    // Options last beyond bind and listen.
    let socket = net.socket();
    socket.set_hop_limit(41).unwrap();
    net.bind(&socket, net.loopback(0)).unwrap();
    assert_eq!(socket.hop_limit().unwrap(), 41);
    net.listen(&socket).unwrap();
    assert_eq!(socket.hop_limit().unwrap(), 41);
    let client = net.socket();
    client.set_hop_limit(40).unwrap();
    let client = net
        .connect(client, socket.local_address().unwrap())
        .unwrap();
    assert_eq!(client.socket.hop_limit().unwrap(), 40);
}

/// No more wait than the listener wants; who was accepted makes room.
pub fn backlog(net: &Net) {
    let listener = net.socket();
    net.bind(&listener, net.loopback(0)).unwrap();
    listener.set_listen_backlog_size(3).unwrap();
    net.listen(&listener).unwrap();
    let addr = listener.local_address().unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| net.connect(net.socket(), addr).unwrap())
        .collect();
    fails(
        net.connect(net.socket(), addr),
        ErrorCode::ConnectionRefused,
    );
    let first = accept(&listener).unwrap();
    same(
        first.socket.remote_address().unwrap(),
        waiting[0].socket.local_address().unwrap(),
    );
    let fourth = net.connect(net.socket(), addr).unwrap();
    listener.set_listen_backlog_size(4).unwrap();
    net.connect(net.socket(), addr).unwrap();

    // Those that nobody accepted are reset.
    drop(listener);
    assert_eq!(fourth.rest(), (Vec::new(), Err(())));
    first.write(b"still here");
    drop(first);
    assert_eq!(waiting[0].rest(), (b"still here".to_vec(), Ok(())));
}

/// Many after each other and at once; places and numbers come back.
pub fn many(net: &Net) {
    let (listener, addr) = net.listener();
    for round in 0..2_000_u32 {
        let near = net.connect(net.socket(), addr).unwrap();
        let far = accept(&listener).unwrap();
        near.write(&round.to_le_bytes());
        drop(near);
        assert_eq!(far.rest(), (round.to_le_bytes().to_vec(), Ok(())));
    }
    let mut pairs: Vec<_> = (0..30_u8)
        .map(|n| {
            let near = net.connect(net.socket(), addr).unwrap();
            (n, near, accept(&listener).unwrap())
        })
        .collect();
    for (n, near, _) in &pairs {
        near.write(&[*n]);
    }
    for (n, _, far) in pairs.iter().rev() {
        assert_eq!(far.input.blocking_read(10).unwrap(), [*n]);
        far.write(&[*n, *n]);
    }
    for (n, near, far) in pairs.drain(..) {
        drop(far);
        assert_eq!(near.rest(), (vec![n, n], Ok(())));
    }
}

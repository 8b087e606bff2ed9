//! Uses a dyno's own loopback by std, and so by wasi-libc, which aborts on answers that it does not expect.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, RawFd};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["socketpair"] => socketpair(),
        ["localhost"] => localhost(),
        ["pairs"] => pairs(),
        ["connecting", addr] => connecting(addr.parse().unwrap()),
        ["own-port", addr, host] => own_port(addr, host),
        ["hold", addr] => hold(addr),
        ["connect", addr] => match TcpStream::connect(addr) {
            Ok(_) => println!("connected"),
            Err(error) => println!("error {:?}", error.kind()),
        },
        ["udp", addr] => match UdpSocket::bind(addr) {
            Ok(_) => println!("bound"),
            Err(error) => println!("error {:?}", error.kind()),
        },
        ["bind-and-connect", addr] => bind_and_connect(addr.parse().unwrap()),
        other => panic!("unknown arguments {other:?}"),
    }
}

unsafe extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn bind(socket: i32, address: *const Address, length: u32) -> i32;
    fn connect(socket: i32, address: *const Address, length: u32) -> i32;
    fn listen(socket: i32, backlog: i32) -> i32;
}

const AF_INET: i32 = 1;
const SOCK_STREAM: i32 = 6;
const SOCK_NONBLOCK: i32 = 0x4000;

/// wasi-libc's `sockaddr_in`.
#[repr(C, align(16))]
struct Address {
    family: u16,
    port: [u8; 2],
    ip: [u8; 4],
}

impl From<SocketAddrV4> for Address {
    fn from(addr: SocketAddrV4) -> Self {
        Self {
            family: AF_INET as u16,
            port: addr.port().to_be_bytes(),
            ip: addr.ip().octets(),
        }
    }
}

fn new_socket(flags: i32) -> RawFd {
    let fd = unsafe { socket(AF_INET, SOCK_STREAM | flags, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    fd
}

fn call(
    act: unsafe extern "C" fn(i32, *const Address, u32) -> i32,
    fd: RawFd,
    addr: SocketAddrV4,
) -> std::io::Result<()> {
    let addr = Address::from(addr);
    match unsafe { act(fd, &addr, size_of::<Address>() as u32) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// As CPython makes one, and all event loops with it: one thread, the connect without waiting.
fn socketpair() {
    let listener = new_socket(0);
    call(bind, listener, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert_eq!(unsafe { listen(listener, 128) }, 0);
    let listener = unsafe { TcpListener::from_raw_fd(listener) };
    let SocketAddr::V4(addr) = listener.local_addr().unwrap() else {
        panic!("an IPv4 socket")
    };
    let client = new_socket(SOCK_NONBLOCK);
    call(connect, client, addr).expect("it is complete at once");
    let mut client = unsafe { TcpStream::from_raw_fd(client) };
    client.set_nonblocking(false).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    // Its guard against strangers.
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
    assert_eq!(server.local_addr().unwrap(), client.peer_addr().unwrap());
    drop(listener);
    server.set_nonblocking(true).unwrap();
    let early = server.read(&mut [0]).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    client.write_all(b"\0").unwrap();
    assert_eq!(server.read(&mut [1; 4]).unwrap(), 1);
    server.write_all(b"back").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    println!("{text}");
}

fn localhost() {
    for name in ["localhost", "LOCALHOST."] {
        let listener = TcpListener::bind((name, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let client = TcpStream::connect((name, addr.port())).unwrap();
        println!("{} {}", addr.ip(), client.peer_addr().unwrap() == addr);
    }
}

/// As many as the limits allow.
fn pairs() {
    // All that the guest itself needs, before the connections take the rest.
    drop(std::hint::black_box(vec![1_u8; 1 << 20]));
    let mut pairs = Vec::new();
    let error = loop {
        let listener = match TcpListener::bind("127.0.0.1:0") {
            Ok(listener) => listener,
            Err(error) => break error,
        };
        match TcpStream::connect(listener.local_addr().unwrap()) {
            Ok(client) => pairs.push((client, listener.accept().unwrap())),
            Err(error) => break error,
        }
    };
    let all = pairs.len();
    pairs.clear();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    println!("{all} pairs, then {:?}, then again", error.kind());
}

/// Asks for the names and options of a socket while the kernel connects it.
fn connecting(addr: SocketAddrV4) {
    // A busy machine may have it connected before anybody asks: then another one is tried.
    let (stream, begun) = loop {
        let fd = new_socket(SOCK_NONBLOCK);
        let begun = call(connect, fd, addr);
        let stream = unsafe { TcpStream::from_raw_fd(fd) };
        if let Err(begun) = begun {
            break (stream, begun);
        }
    };
    let local = stream.local_addr().unwrap();
    assert_ne!(local.port(), 0);
    stream.set_ttl(17).unwrap();
    assert_eq!(stream.ttl().unwrap(), 17);
    let peer = stream.peer_addr().unwrap_err();
    // `EINPROGRESS` and `ENOTCONN`.
    println!("{:?} {:?}", begun.raw_os_error(), peer.raw_os_error());
}

/// Connects to its own `$PORT`.
fn own_port(addr: &str, host: &str) {
    let listener = TcpListener::bind(addr).unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap_err();
    println!("{:?}", taken.kind());
    let mut client = TcpStream::connect((host, port)).unwrap();
    client.write_all(b"to myself").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    // Gone before it is accepted; what it said is not.
    let before = client.local_addr().unwrap().port();
    drop(client);
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer.port(), before);
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    println!("{text}");
    // The router's are accepted too, until the port is closed.
    while let Ok((mut stream, peer)) = listener.accept() {
        assert!(peer.ip().is_loopback());
        stream.write_all(b"hello").unwrap();
    }
    println!("closed");
}

/// Listens on a loopback address until its input ends.
fn hold(addr: &str) {
    let listener = TcpListener::bind(addr).unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let nobody = listener.accept().unwrap_err();
    println!("{:?}", nobody.kind());
}

/// A local address before a connection that leads out of the dyno.
fn bind_and_connect(addr: SocketAddrV4) {
    for local in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
        let fd = new_socket(0);
        call(bind, fd, SocketAddrV4::new(local, 0)).unwrap();
        call(connect, fd, addr).unwrap();
        let mut stream = unsafe { TcpStream::from_raw_fd(fd) };
        assert_ne!(stream.local_addr().unwrap().port(), 0);
        stream.write_all(b"ping").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        println!("{text}");
    }
    // The server that was granted is not hidden.
    println!("{:?}", TcpListener::bind(addr).unwrap_err().kind());
}

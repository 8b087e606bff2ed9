//! Uses std's network types (WASI 0.2) as its arguments say, one line of output each.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["connect", addr] => println!("{}", outcome(echo(addr))),
        ["resolve", name] => println!("{}", outcome(resolve(name))),
        ["resolve-many", count, name] => {
            let outcomes =
                (0..count.parse().unwrap()).map(|n| resolve(&format!("{n}.{name}")).is_ok());
            println!("{} resolved", outcomes.filter(|ok| *ok).count());
        }
        ["many", count, addr] => println!("{}", many(count.parse().unwrap(), addr)),
        ["many-udp", count] => {
            let sockets: Vec<_> = (0..count.parse().unwrap())
                .map(|_| UdpSocket::bind("0.0.0.0:0"))
                .collect();
            println!(
                "{} sockets",
                sockets.iter().filter(|socket| socket.is_ok()).count()
            );
        }
        ["bulk", bytes, addr] => println!("{}", outcome(bulk(bytes.parse().unwrap(), addr))),
        ["options", addr] => println!("{}", outcome(options(addr))),
        ["hold", addr] => println!("{}", outcome(hold(addr))),
        ["udp", addr] => println!("{}", outcome(udp(addr))),
        ["bind", addr] => println!(
            "{}",
            outcome(TcpListener::bind(addr).map(|_| "bound".to_owned()))
        ),
        ["listen", addr] => println!("{}", outcome(listen(addr))),
        other => panic!("unknown arguments {other:?}"),
    }
}

fn outcome(result: std::io::Result<String>) -> String {
    result.unwrap_or_else(|error| format!("error {:?}", error.kind()))
}

/// Sends a line, reads one.
fn echo(addr: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(b"ping\n")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(format!("got {}", text.trim()))
}

fn resolve(name: &str) -> std::io::Result<String> {
    let addresses: Vec<SocketAddr> = (name, 0).to_socket_addrs()?.collect();
    Ok(format!("resolved {}", addresses[0].ip()))
}

fn many(count: usize, addr: &str) -> String {
    let mut open = Vec::new();
    for _ in 0..count {
        match TcpStream::connect(addr) {
            Ok(stream) => open.push(stream),
            Err(error) => return format!("{} open, then {error}", open.len()),
        }
    }
    let all = open.len();
    open.clear();
    format!("{all} open, then again {}", outcome(echo(addr)))
}

/// Sends more than any buffer holds, and reads it back.
fn bulk(bytes: usize, addr: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    let sent: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
    stream.set_nonblocking(true)?;
    let (mut written, mut back) = (0, Vec::new());
    let mut buffer = vec![0; 65536];
    while back.len() < bytes {
        if written < bytes {
            match stream.write(&sent[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => back.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(format!(
        "{} bytes back, {}",
        back.len(),
        if back == sent { "equal" } else { "different" }
    ))
}

fn options(addr: &str) -> std::io::Result<String> {
    let stream = TcpStream::connect(addr)?;
    stream.set_ttl(17)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    let timeout = (&stream).read(&mut [0]).unwrap_err().kind();
    let peer = stream.peer_addr()?;
    let local = stream.local_addr()?;
    let named = peer.to_string() == addr && local.ip().is_loopback() && local.port() != 0;
    Ok(format!(
        "ttl {}, {timeout:?}, addresses {named}, {:?}",
        stream.ttl()?,
        stream.take_error()?
    ))
}

/// Reads until somebody ends the connection.
fn hold(addr: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    println!("connected");
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok("a clean end".to_owned())
}

fn udp(addr: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"ping", addr)?;
    let mut buffer = [0; 16];
    let (read, _) = socket.recv_from(&mut buffer)?;
    Ok(format!("got {}", String::from_utf8_lossy(&buffer[..read])))
}

/// Echoes each connection until the listener is closed.
fn listen(addr: &str) -> std::io::Result<String> {
    let listener = TcpListener::bind(addr)?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let mut text = Vec::new();
                stream.read_to_end(&mut text)?;
                stream.write_all(&text)?;
            }
            Err(error) => return Ok(format!("closed: {:?}", error.kind())),
        }
    }
}

//! Uses WASI 0.3's sockets as its arguments say.
use std::net::SocketAddr;

use wasip3::cli::environment::get_arguments;
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_stream;

wasip3::cli::command::export!(Probe);

struct Probe;

impl wasip3::exports::cli::run::Guest for Probe {
    async fn run() -> Result<(), ()> {
        let args = get_arguments();
        let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
        match args.as_slice() {
            ["connect", addr] => println!("{}", outcome(echo(addr).await)),
            ["bulk", bytes, addr] => {
                println!("{}", outcome(bulk(bytes.parse().unwrap(), addr).await))
            }
            ["resolve", name] => match resolve_addresses((*name).to_owned()).await {
                Ok(addresses) => println!("resolved {}", addresses.len()),
                Err(error) => println!("error {error:?}"),
            },
            ["many", count, addr] => {
                let mut open = Vec::new();
                for _ in 0..count.parse().unwrap() {
                    match connect(addr).await {
                        Ok(socket) => open.push(socket),
                        Err(error) => return Ok(println!("{} open, then {error:?}", open.len())),
                    }
                }
                println!("{} open", open.len());
            }
            ["many-udp", count] => {
                let count: usize = count.parse().unwrap();
                let sockets: Vec<_> = (0..count)
                    .map(|_| UdpSocket::create(IpAddressFamily::Ipv4))
                    .collect();
                println!(
                    "{} sockets",
                    sockets.iter().filter(|socket| socket.is_ok()).count()
                );
            }
            ["udp", addr] => println!("{}", outcome(udp(addr).await)),
            ["listen", addr] => println!("{}", outcome(listen(addr).await)),
            other => panic!("unknown arguments {other:?}"),
        }
        Ok(())
    }
}

fn outcome(result: Result<String, ErrorCode>) -> String {
    result.unwrap_or_else(|error| format!("error {error:?}"))
}

fn address(text: &str) -> IpSocketAddress {
    let SocketAddr::V4(addr) = text.parse().unwrap() else {
        panic!("IPv4 only")
    };
    let [a, b, c, d] = addr.ip().octets();
    IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port: addr.port(),
        address: (a, b, c, d),
    })
}

async fn connect(addr: &str) -> Result<TcpSocket, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(address(addr)).await?;
    Ok(socket)
}

async fn echo(addr: &str) -> Result<String, ErrorCode> {
    let socket = connect(addr).await?;
    let (mut sending, data) = wit_stream::new();
    let sent = socket.send(data);
    sending.write_all(b"ping\n".to_vec()).await;
    drop(sending);
    sent.await?;
    let (receiving, received) = socket.receive();
    let text = receiving.collect().await;
    received.await?;
    Ok(format!("got {}", String::from_utf8_lossy(&text).trim()))
}

/// Sends more than any buffer holds while it reads it back.
async fn bulk(bytes: usize, addr: &str) -> Result<String, ErrorCode> {
    let socket = connect(addr).await?;
    let data: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
    let (mut sending, source) = wit_stream::new();
    let sent = socket.send(source);
    let copy = data.clone();
    wasip3::wit_bindgen::spawn_local(async move {
        sending.write_all(copy).await;
    });
    let (receiving, received) = socket.receive();
    let back = receiving.collect().await;
    sent.await?;
    received.await?;
    Ok(format!(
        "{} bytes back, {}",
        back.len(),
        if back == data { "equal" } else { "different" }
    ))
}

async fn udp(addr: &str) -> Result<String, ErrorCode> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4)?;
    socket.send(b"ping".to_vec(), Some(address(addr))).await?;
    let (data, _) = socket.receive().await?;
    Ok(format!("got {}", String::from_utf8_lossy(&data)))
}

/// Echoes each connection until the listener is closed.
async fn listen(addr: &str) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(address(addr))?;
    let mut accepted = socket.listen()?;
    println!("listening");
    while let Some(peer) = accepted.next().await {
        let (receiving, _) = peer.receive();
        let sent = peer.send(receiving);
        wasip3::wit_bindgen::spawn_local(async move {
            let _ = sent.await;
            drop(peer);
        });
    }
    Ok("closed".to_owned())
}

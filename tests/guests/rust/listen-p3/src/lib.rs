//! A server on WASI 0.3's sockets: many connections at once, one request on each.
use wasip3::cli::environment::get_environment;
use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::wit_stream;

wasip3::cli::command::export!(Server);

struct Server;

impl wasip3::exports::cli::run::Guest for Server {
    async fn run() -> Result<(), ()> {
        let port = get_environment()
            .into_iter()
            .find(|(name, _)| name == "PORT")
            .and_then(|(_, value)| value.parse().ok())
            .ok_or(())?;
        let address = IpSocketAddress::Ipv4(Ipv4SocketAddress {
            port,
            address: (0, 0, 0, 0),
        });
        let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(drop)?;
        socket.bind(address).map_err(drop)?;
        let mut accepted = socket.listen().map_err(drop)?;
        while let Some(peer) = accepted.next().await {
            wasip3::wit_bindgen::spawn_local(serve(peer));
        }
        println!("closed");
        Ok(())
    }
}

async fn serve(peer: TcpSocket) {
    let (mut receiving, _) = peer.receive();
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let (_, bytes) = receiving.read(Vec::with_capacity(1024)).await;
        if bytes.is_empty() {
            return;
        }
        head.extend(bytes);
    }
    let line = String::from_utf8_lossy(&head)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{line}",
        line.len()
    );
    let (mut sending, data) = wit_stream::new();
    let sent = peer.send(data);
    sending.write_all(text.into_bytes()).await;
    drop(sending);
    let _ = sent.await;
}

//! Addresses of the family under test, and pairs of sockets.
pub use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
};
use wasip3::wit_bindgen::StreamReader;
use wasip3::wit_stream;

pub struct Net {
    pub v6: bool,
}

pub type Accepted = StreamReader<TcpSocket>;

impl Net {
    pub fn family(&self) -> IpAddressFamily {
        if self.v6 {
            IpAddressFamily::Ipv6
        } else {
            IpAddressFamily::Ipv4
        }
    }

    pub fn loopback(&self, port: u16) -> IpSocketAddress {
        if self.v6 {
            v6([0, 0, 0, 0, 0, 0, 0, 1], port)
        } else {
            v4([127, 0, 0, 1], port)
        }
    }

    pub fn unspecified(&self, port: u16) -> IpSocketAddress {
        if self.v6 {
            v6([0; 8], port)
        } else {
            v4([0; 4], port)
        }
    }

    pub fn socket(&self) -> TcpSocket {
        TcpSocket::create(self.family()).unwrap()
    }

    /// A listener on a port that was chosen for it, and where it is.
    pub fn listener(&self) -> (TcpSocket, Accepted, IpSocketAddress) {
        let socket = self.socket();
        socket.bind(self.loopback(0)).unwrap();
        let accepted = socket.listen().unwrap();
        let addr = socket.get_local_address().unwrap();
        (socket, accepted, addr)
    }

    pub async fn connect(&self, addr: IpSocketAddress) -> Result<TcpSocket, ErrorCode> {
        let socket = self.socket();
        socket.connect(addr).await?;
        Ok(socket)
    }

    /// Two ends of one connection: of who connected, and of who accepted.
    pub async fn pair(&self) -> (TcpSocket, TcpSocket) {
        let (_listener, mut accepted, addr) = self.listener();
        let near = self.connect(addr).await.unwrap();
        (near, accepted.next().await.unwrap())
    }
}

/// Sends it all, and ends that direction.
pub async fn send(socket: &TcpSocket, bytes: &[u8]) -> Result<(), ErrorCode> {
    let (mut sending, data) = wit_stream::new();
    let sent = socket.send(data);
    sending.write_all(bytes.to_vec()).await;
    drop(sending);
    sent.await
}

/// Everything up to the end, or up to a failure.
pub async fn rest(socket: &TcpSocket) -> (Vec<u8>, Result<(), String>) {
    let (data, received) = socket.receive();
    let bytes = data.collect().await;
    (bytes, received.await.map_err(|error| format!("{error:?}")))
}

pub fn v4([a, b, c, d]: [u8; 4], port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port,
        address: (a, b, c, d),
    })
}

pub fn v6([a, b, c, d, e, f, g, h]: [u16; 8], port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv6(Ipv6SocketAddress {
        port,
        flow_info: 0,
        address: (a, b, c, d, e, f, g, h),
        scope_id: 0,
    })
}

pub fn port(addr: IpSocketAddress) -> u16 {
    match addr {
        IpSocketAddress::Ipv4(v4) => v4.port,
        IpSocketAddress::Ipv6(v6) => v6.port,
    }
}

/// WIT's addresses cannot be compared.
#[track_caller]
pub fn same(one: IpSocketAddress, other: IpSocketAddress) {
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

/// Nor can its codes.
#[track_caller]
pub fn fails<T>(outcome: Result<T, ErrorCode>, code: ErrorCode) {
    match outcome {
        Ok(_) => panic!("no {code:?}"),
        Err(error) => assert_eq!(format!("{error:?}"), format!("{code:?}")),
    }
}

//! The two-step functions of 0.2 as one call each, and addresses of the family under test.
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
pub use wasip2::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, Network,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

pub struct Net {
    pub network: Network,
    pub family: IpAddressFamily,
}

pub struct Connection {
    pub input: InputStream,
    pub output: OutputStream,
    // After its streams, which are its children.
    pub socket: TcpSocket,
}

impl Net {
    pub fn new(v6: bool) -> Self {
        Self {
            network: instance_network(),
            family: if v6 {
                IpAddressFamily::Ipv6
            } else {
                IpAddressFamily::Ipv4
            },
        }
    }

    fn is_v6(&self) -> bool {
        self.family == IpAddressFamily::Ipv6
    }

    pub fn loopback(&self, port: u16) -> IpSocketAddress {
        if self.is_v6() {
            v6([0, 0, 0, 0, 0, 0, 0, 1], port)
        } else {
            v4([127, 0, 0, 1], port)
        }
    }

    pub fn unspecified(&self, port: u16) -> IpSocketAddress {
        if self.is_v6() {
            v6([0; 8], port)
        } else {
            v4([0; 4], port)
        }
    }

    pub fn other_family(&self, port: u16) -> IpSocketAddress {
        if self.is_v6() {
            v4([127, 0, 0, 1], port)
        } else {
            v6([0, 0, 0, 0, 0, 0, 0, 1], port)
        }
    }

    pub fn socket(&self) -> TcpSocket {
        create_tcp_socket(self.family).unwrap()
    }

    pub fn bind(&self, socket: &TcpSocket, addr: IpSocketAddress) -> Result<(), ErrorCode> {
        socket.start_bind(&self.network, addr)?;
        loop {
            match socket.finish_bind() {
                Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
                outcome => return outcome,
            }
        }
    }

    pub fn listen(&self, socket: &TcpSocket) -> Result<(), ErrorCode> {
        socket.start_listen()?;
        loop {
            match socket.finish_listen() {
                Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
                outcome => return outcome,
            }
        }
    }

    /// A listener on a port that was chosen for it, and where it is.
    pub fn listener(&self) -> (TcpSocket, IpSocketAddress) {
        let socket = self.socket();
        self.bind(&socket, self.loopback(0)).unwrap();
        self.listen(&socket).unwrap();
        let addr = socket.local_address().unwrap();
        (socket, addr)
    }

    pub fn connect(
        &self,
        socket: TcpSocket,
        addr: IpSocketAddress,
    ) -> Result<Connection, ErrorCode> {
        socket.start_connect(&self.network, addr)?;
        // Inside a dyno it is complete at once.
        let (input, output) = socket.finish_connect()?;
        Ok(Connection {
            input,
            output,
            socket,
        })
    }

    /// Two ends of one connection: of who connected, and of who accepted.
    pub fn pair(&self) -> (Connection, Connection) {
        let (listener, addr) = self.listener();
        let near = self.connect(self.socket(), addr).unwrap();
        (near, accept(&listener).unwrap())
    }
}

pub fn accept(listener: &TcpSocket) -> Result<Connection, ErrorCode> {
    let (socket, input, output) = listener.accept()?;
    Ok(Connection {
        input,
        output,
        socket,
    })
}

impl Connection {
    pub fn write(&self, bytes: &[u8]) {
        self.output.blocking_write_and_flush(bytes).unwrap();
    }

    /// Everything up to the end, or up to a failure.
    pub fn rest(&self) -> (Vec<u8>, Result<(), ()>) {
        let mut all = Vec::new();
        loop {
            match self.input.blocking_read(100_000) {
                Ok(bytes) => all.extend(bytes),
                Err(StreamError::Closed) => return (all, Ok(())),
                Err(StreamError::LastOperationFailed(_)) => return (all, Err(())),
            }
        }
    }
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

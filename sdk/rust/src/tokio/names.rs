//! Looking up names within tokio's runtime.

use std::io;
use std::net::SocketAddr;

/// The addresses of `host:port`, for tokio's `connect`, which cannot look them up itself: given a name,
/// it panics. The look-up keeps nothing else in the guest from going on.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// let addresses = oarlock_sdk::tokio::resolve("db.example.com:5432").await?;
/// let stream = ::tokio::net::TcpStream::connect(addresses.as_slice()).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// - `InvalidInput`: it is no `host:port`
/// - `NotFound`: there is no such name
/// - `PermissionDenied`: the app may not reach it; its log names the line to add to the manifest
/// - `TimedOut`: nobody answered within 10 seconds
/// - `Other`: whatever else went wrong, such as a name server that failed
///
/// # Panics
/// Without tokio's timer: `#[tokio::main]` and `Builder::enable_all` have it on.
pub async fn resolve(host_and_port: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host_and_port.parse() {
        return Ok(vec![address]);
    }
    let (host, port) = split(host_and_port)?;
    let addresses = lookup(host, port).await?;
    if addresses.is_empty() {
        let text = format!("{host}: the name has no address");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(addresses)
}

fn split(host_and_port: &str) -> io::Result<(&str, u16)> {
    host_and_port
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && !host.contains(':'))
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| {
            let text = format!("`{host_and_port}` is no host and port, as in `example.com:80`");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
}

#[cfg(not(target_os = "wasi"))]
async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(::tokio::net::lookup_host((host, port)).await?.collect())
}

#[cfg(target_os = "wasi")]
use wasi::lookup;

#[cfg(target_os = "wasi")]
mod wasi {
    use std::io;
    use std::net::{IpAddr, SocketAddr};
    use std::time::Duration;

    use ::tokio::time::{sleep, timeout};
    use wasip2::sockets::instance_network::instance_network;
    use wasip2::sockets::ip_name_lookup::{ResolveAddressStream, resolve_addresses};
    use wasip2::sockets::network::{ErrorCode, IpAddress};

    const TIMEOUT: Duration = Duration::from_secs(10);
    /// tokio cannot wait for the host's answer: it is asked for at intervals that grow from a
    /// millisecond to this.
    const LONGEST_INTERVAL: Duration = Duration::from_millis(32);

    pub(super) async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let error = |code| error(host, code);
        let stream = resolve_addresses(&instance_network(), host).map_err(error)?;
        let addresses = timeout(TIMEOUT, read(&stream))
            .await
            .unwrap_or(Err(ErrorCode::Timeout))
            .map_err(error)?;
        Ok(addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }

    async fn read(stream: &ResolveAddressStream) -> Result<Vec<IpAddr>, ErrorCode> {
        let mut addresses = Vec::new();
        let mut interval = Duration::from_millis(1);
        loop {
            match stream.resolve_next_address() {
                Ok(Some(address)) => addresses.push(ip(address)),
                Ok(None) => return Ok(addresses),
                Err(ErrorCode::WouldBlock) => {
                    sleep(interval).await;
                    interval = LONGEST_INTERVAL.min(interval * 2);
                }
                Err(code) => return Err(code),
            }
        }
    }

    fn ip(address: IpAddress) -> IpAddr {
        match address {
            IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]),
            IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]),
        }
    }

    fn error(host: &str, code: ErrorCode) -> io::Error {
        let (kind, text) = match code {
            ErrorCode::AccessDenied => (
                io::ErrorKind::PermissionDenied,
                "not permitted: the manifest's `[network] allow` does not name this host",
            ),
            ErrorCode::NameUnresolvable => (io::ErrorKind::NotFound, "there is no such name"),
            ErrorCode::InvalidArgument => (io::ErrorKind::InvalidInput, "it is no host's name"),
            ErrorCode::Timeout => (io::ErrorKind::TimedOut, "nobody answered within 10 seconds"),
            ErrorCode::TemporaryResolverFailure => (
                io::ErrorKind::Other,
                "the name server failed; it may answer later",
            ),
            code => {
                let text = format!("{host}: the look-up failed: {}", code.name());
                return io::Error::other(text);
            }
        };
        io::Error::new(kind, format!("{host}: {text}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_port_are_wanted() {
        assert_eq!(
            split("db.example.com:5432").unwrap(),
            ("db.example.com", 5432)
        );
        for wrong in ["db.example.com", ":80", "db:http", "db:70000", "::1:80", ""] {
            let error = split(wrong).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{wrong}");
        }
    }

    #[test]
    fn an_address_needs_no_look_up() {
        let runtime = ::tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let resolve = |text| runtime.block_on(resolve(text)).unwrap();
        assert_eq!(resolve("192.0.2.1:80"), ["192.0.2.1:80".parse().unwrap()]);
        assert_eq!(resolve("[::1]:80"), ["[::1]:80".parse().unwrap()]);
    }
}

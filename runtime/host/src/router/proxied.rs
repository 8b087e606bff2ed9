//! The PROXY protocol, versions 1 and 2: how a proxy that passes bytes on says whose they are, before the first of them.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. A header is read to its end and not a byte further.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest of version 1, with its line end.
const LONGEST_LINE: usize = 107;
/// Of version 2, up to and with the length of what follows.
const FIXED: usize = 16;
/// What may follow: addresses, and notes of the proxy that nobody reads here.
const MOST: usize = 4 << 10;

/// Why a connection is closed: it does not begin as it must.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHeader {
    #[error("it ended, or failed: {0}")]
    Io(#[from] io::Error),
    #[error("it does not begin with a header of the PROXY protocol")]
    Other,
    #[error("its header is longer than {MOST} bytes")]
    TooLong,
}

/// Whose connection it is; `None`: the proxy's own, or of somebody who has no address.
pub(super) async fn client(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, NoHeader> {
    let mut header = vec![stream.read_u8().await?];
    if header.first() == v2::PROTOCOL_PREFIX.first() {
        version_2(stream, header).await
    } else {
        version_1(stream, &mut header).await
    }
}

async fn version_1(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
) -> Result<Option<SocketAddr>, NoHeader> {
    // Byte by byte, for what follows the line is not ours.
    while !header.ends_with(b"\n") {
        let so_far = header.len().min(v1::PROTOCOL_PREFIX.len());
        let begins = v1::PROTOCOL_PREFIX.as_bytes().get(..so_far);
        if header.len() == LONGEST_LINE || header.get(..so_far) != begins {
            return Err(NoHeader::Other);
        }
        header.push(stream.read_u8().await?);
    }
    let parsed = v1::Header::try_from(&header[..]).map_err(|_| NoHeader::Other)?;
    Ok(match parsed.addresses {
        v1::Addresses::Tcp4(it) => Some((it.source_address, it.source_port).into()),
        v1::Addresses::Tcp6(it) => Some((it.source_address, it.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn version_2(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, NoHeader> {
    header.resize(FIXED, 0);
    stream
        .read_exact(header.get_mut(1..).unwrap_or_default())
        .await?;
    if !header.starts_with(v2::PROTOCOL_PREFIX) {
        return Err(NoHeader::Other);
    }
    let length = header.last_chunk().map_or(0, |it| u16::from_be_bytes(*it));
    let length = usize::from(length);
    if length > MOST {
        return Err(NoHeader::TooLong);
    }
    header.resize(FIXED + length, 0);
    stream
        .read_exact(header.get_mut(FIXED..).unwrap_or_default())
        .await?;
    let parsed = v2::Header::try_from(&header[..]).map_err(|_| NoHeader::Other)?;
    if parsed.command == v2::Command::Local {
        return Ok(None);
    }
    Ok(match parsed.addresses {
        v2::Addresses::IPv4(it) => Some((it.source_address, it.source_port).into()),
        v2::Addresses::IPv6(it) => Some((it.source_address, it.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    })
    .map(|client: Option<SocketAddr>| client.map(plain))
}

/// An IPv4 address as such, also where it comes as one of IPv6.
fn plain(client: SocketAddr) -> SocketAddr {
    let ip: IpAddr = client.ip().to_canonical();
    SocketAddr::new(ip, client.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read, and what is left for whoever comes next.
    async fn read(bytes: &[u8]) -> (Result<Option<String>, String>, Vec<u8>) {
        let mut rest = bytes;
        let client = client(&mut rest).await;
        let client = client.map(|client| client.map(|it| it.to_string()));
        (client.map_err(|error| error.to_string()), rest.to_vec())
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        header.extend(addresses);
        header
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_take_nothing_else() {
        let v4 = v2(1, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80]);
        let mut with_notes = v2(
            1,
            0x11,
            &[192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80, 4, 0, 1, 9],
        );
        let mut v6 = vec![0; 36];
        v6[0] = 0x20;
        v6[32] = 1;
        let v6 = v2(1, 0x21, &v6);
        for (header, client) in [
            (
                b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec(),
                Some("192.0.2.1:4660"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 fd00::1 4660 80\r\n".to_vec(),
                Some("[2001:db8::1]:4660"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v4, Some("192.0.2.1:4660")),
            (std::mem::take(&mut with_notes), Some("192.0.2.1:4660")),
            (v6, Some("[2000::]:256")),
            (v2(0, 0, &[]), None),
        ] {
            let mut bytes = header.clone();
            bytes.extend(b"GET / HTTP/1.1");
            let (named, rest) = read(&bytes).await;
            assert_eq!(named, Ok(client.map(str::to_owned)), "{header:?}");
            assert_eq!(rest, b"GET / HTTP/1.1");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_as_soon_as_that_is_clear() {
        let long = format!("PROXY {}", "A".repeat(200));
        let other = "it does not begin with a header of the PROXY protocol";
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4660\r\n".to_vec(),
            b"PROXY TCP4 300.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            long.into_bytes(),
            b"\r\n\r\n\x00\r\nQUIX\n\x21\x11\x00\x00".to_vec(),
            v2(1, 0x11, &[1, 2, 3]),
        ] {
            let (named, _) = read(&bytes).await;
            assert_eq!(named, Err(other.to_owned()), "{bytes:?}");
        }
        let (named, _) = read(&v2(1, 0x11, &vec![0; MOST + 1])).await;
        assert_eq!(named, Err(NoHeader::TooLong.to_string()));
        let (named, _) = read(b"PROXY TCP4 192.0").await;
        assert!(named.unwrap_err().starts_with("it ended"));
    }
}

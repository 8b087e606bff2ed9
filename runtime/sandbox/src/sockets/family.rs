//! The two families of addresses that a socket may be of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn unspecified(self) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Self::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
        }
    }

    pub(super) fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// IPv4-mapped and -compatible addresses have no place in an IPv6 socket (WIT).
    pub(super) fn has(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::V4, IpAddr::V4(_)) => true,
            (Self::V6, IpAddr::V6(v6)) => {
                let compatible =
                    matches!(v6.segments(), [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1);
                v6.to_ipv4_mapped().is_none() && !compatible
            }
            _ => false,
        }
    }
}

//! What kind of address an IP is. Every form that reaches an IPv4 host through IPv6 is judged by that host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A kind of address, as far as egress cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// Reachable over the public internet.
    Public,
    /// The machine itself.
    Loopback,
    /// RFC 1918, carrier-grade NAT (RFC 6598), unique local and site-local IPv6.
    Private,
    /// 169.254/16 and fe80::/10.
    LinkLocal,
    /// One to many, broadcast included.
    Multicast,
    /// Documentation, benchmarks, protocol assignments and what IANA has not given out.
    Reserved,
    /// 0.0.0.0 and `::`, which many systems take for the machine itself.
    Unspecified,
    /// Where a cloud hands out the machine's own credentials.
    Metadata,
}

impl Range {
    /// With its article, for messages.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
            Self::Unspecified => "the unspecified address",
            Self::Metadata => "a cloud metadata address",
        }
    }
}

/// Metadata and credential services of clouds. Some lie in ranges that are otherwise public.
const METADATA: [IpAddr; 10] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 42, 42)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0023)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
];

/// The same host in its plainest form: IPv4-mapped and IPv4-compatible IPv6 become IPv4.
pub(crate) fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0xffff, high, low] => IpAddr::V4(join(high, low)),
            // `::` and `::1` are addresses of their own.
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => ip,
            [0, 0, 0, 0, 0, 0, high, low] => IpAddr::V4(join(high, low)),
            _ => ip,
        },
    }
}

/// The IPv4 host that an IPv6 address leads to by translation or a tunnel, if it does.
pub(crate) fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        // NAT64, RFC 6052
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        // 6to4, RFC 3056
        [0x2002, high, low, ..] => Some(join(high, low)),
        // Stateless translation, RFC 2765: ::ffff:0:a.b.c.d
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(join(high, low)),
        // ISATAP, RFC 5214
        [_, _, _, _, 0 | 0x0200, 0x5efe, high, low] => Some(join(high, low)),
        _ => None,
    }
}

/// What kind of address this is. An address that embeds another is no better than that one.
pub(crate) fn classify(ip: IpAddr) -> Range {
    let ip = plain(ip);
    if METADATA.contains(&ip) {
        return Range::Metadata;
    }
    match ip {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => {
            let own = classify_v6(v6);
            match (own, embedded(v6)) {
                (Range::Public, Some(v4)) => classify(IpAddr::V4(v4)),
                (_, Some(v4)) if METADATA.contains(&IpAddr::V4(v4)) => Range::Metadata,
                _ => own,
            }
        }
    }
}

fn classify_v4(ip: Ipv4Addr) -> Range {
    match ip.octets() {
        [0, 0, 0, 0] => Range::Unspecified,
        [127, ..] => Range::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Range::Private,
        [169, 254, ..] => Range::LinkLocal,
        [224..=239, ..] | [255, 255, 255, 255] => Range::Multicast,
        [0, ..]
        | [192, 0, 0, _]
        | [192, 0, 2, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => Range::Reserved,
        _ => Range::Public,
    }
}

fn classify_v6(ip: Ipv6Addr) -> Range {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Range::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Range::Loopback,
        [0x64, 0xff9b, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Range::Public,
        [0x64, 0xff9b, 1, ..] | [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Range::Private,
        [0xfe80..=0xfebf, ..] => Range::LinkLocal,
        [0xff00..=0xffff, ..] => Range::Multicast,
        // Teredo, benchmarks, ORCHID and the rest of 2001::/23; documentation.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => {
            Range::Reserved
        }
        [0x2000..=0x3fff, ..] => Range::Public,
        _ => Range::Reserved,
    }
}

fn join(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_lead_to() {
        let table = [
            ("93.184.216.34", Range::Public),
            ("172.15.0.1", Range::Public),
            ("172.32.0.1", Range::Public),
            ("100.63.0.1", Range::Public),
            ("2606:2800:220:1::1", Range::Public),
            ("127.0.0.1", Range::Loopback),
            ("127.255.255.254", Range::Loopback),
            ("::1", Range::Loopback),
            ("::ffff:127.0.0.1", Range::Loopback),
            ("::127.0.0.1", Range::Loopback),
            ("64:ff9b::7f00:1", Range::Loopback),
            ("64:ff9b::808:808", Range::Public),
            ("2002:7f00:1::", Range::Loopback),
            ("2002:a00:1::1", Range::Private),
            ("2002:808:808::1", Range::Public),
            ("::ffff:0:7f00:1", Range::Loopback),
            ("2606:2800::5efe:a00:1", Range::Private),
            ("10.0.0.1", Range::Private),
            ("172.16.0.1", Range::Private),
            ("172.31.255.255", Range::Private),
            ("192.168.1.1", Range::Private),
            ("100.64.0.1", Range::Private),
            ("fc00::1", Range::Private),
            ("fdff::1", Range::Private),
            ("fec0::1", Range::Private),
            ("64:ff9b:1::1", Range::Private),
            ("::ffff:10.0.0.1", Range::Private),
            ("169.254.1.1", Range::LinkLocal),
            ("fe80::1", Range::LinkLocal),
            ("224.0.0.1", Range::Multicast),
            ("255.255.255.255", Range::Multicast),
            ("ff02::1", Range::Multicast),
            ("0.0.0.0", Range::Unspecified),
            ("::", Range::Unspecified),
            ("::ffff:0.0.0.0", Range::Unspecified),
            ("0.1.2.3", Range::Reserved),
            ("240.0.0.1", Range::Reserved),
            ("192.0.2.1", Range::Reserved),
            ("198.18.0.1", Range::Reserved),
            ("2001:db8::1", Range::Reserved),
            ("2001:0:7f00:1::1", Range::Reserved),
            ("4000::1", Range::Reserved),
            ("169.254.169.254", Range::Metadata),
            ("::ffff:169.254.169.254", Range::Metadata),
            ("64:ff9b::a9fe:a9fe", Range::Metadata),
            ("2002:a9fe:a9fe::1", Range::Metadata),
            ("fe80::5efe:a9fe:a9fe", Range::Metadata),
            ("fd00:ec2::254", Range::Metadata),
            ("100.100.100.200", Range::Metadata),
            ("168.63.129.16", Range::Metadata),
        ];
        for (text, expected) in table {
            assert_eq!(classify(text.parse().unwrap()), expected, "{text}");
        }
    }
}

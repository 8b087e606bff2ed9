//! Proxies that the operator trusts: they hold the connections of many clients, and name each request's client.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Addresses of `X-Forwarded-For` that are looked at, from the right: more hops than these are nobody's.
const MOST_HOPS: usize = 32;

pub(super) struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub(super) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// The client of a request that came from a trusted proxy: the last address in `X-Forwarded-For` that is no trusted
    /// proxy's. `None`: they name none.
    pub(super) fn named(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let values = headers.get_all(X_FORWARDED_FOR).iter();
        let hops = values
            .rev()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.rsplit(','));
        for hop in hops.take(MOST_HOPS) {
            // What is left of something that is no address was said by nobody who is trusted.
            let ip = parse(hop.trim())?;
            if !self.contains(ip) {
                return Some(ip);
            }
        }
        None
    }
}

/// An address, with or without a port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let ip = bare
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|addr| addr.ip()));
    ip.ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(values: &[&'static str]) -> Option<String> {
        let networks = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_FORWARDED_FOR, value.parse().unwrap());
        }
        let proxies = TrustedProxies::new(networks);
        proxies.named(&headers).map(|ip| ip.to_string())
    }

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_client() {
        let one = Some("192.0.2.1".to_owned());
        assert_eq!(named(&["192.0.2.1"]), one);
        assert_eq!(named(&["203.0.113.9, 192.0.2.1, 10.1.1.1"]), one);
        assert_eq!(named(&["192.0.2.1", "10.1.1.1", "fd00::7"]), one);
        assert_eq!(named(&["192.0.2.1:4711,[fd00::7]:80"]), one);
        assert_eq!(named(&["::ffff:192.0.2.1"]), one);
        assert_eq!(named(&["[2001:db8::1]"]), Some("2001:db8::1".to_owned()));
    }

    #[test]
    fn forged_and_missing_names_are_none() {
        assert_eq!(named(&[]), None);
        assert_eq!(named(&["10.1.1.1"]), None);
        assert_eq!(named(&["192.0.2.1, unknown, 10.1.1.1"]), None);
        assert_eq!(named(&["192.0.2.1, , 10.1.1.1"]), None);
    }
}

//! `[network] allow`: which hosts and ports a dyno may reach besides its add-ons.
//!
//! `scheme://host[:port]` or `host:port`. A host is a name, `*.` and a name, a literal address (IPv6
//! in brackets) or a range (`10.1.2.0/24`, `[fd00::]/8`); addresses and ranges always name a port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::Host;

use super::types::{AllowEntry, HostPattern};
use crate::mistakes::{Findings, brief};
use crate::read::Entry;
use crate::suggest::nearest;

/// Schemes and their ports (IANA's registry of service names, and what each protocol's own URLs say).
const SCHEMES: [(&str, u16); 24] = [
    ("amqp", 5672),
    ("amqps", 5671),
    ("ftp", 21),
    ("http", 80),
    ("https", 443),
    ("imap", 143),
    ("imaps", 993),
    ("ldap", 389),
    ("ldaps", 636),
    ("memcached", 11211),
    ("mongodb", 27017),
    ("mqtt", 1883),
    ("mqtts", 8883),
    ("mysql", 3306),
    ("nats", 4222),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("redis", 6379),
    ("rediss", 6379),
    ("smtp", 25),
    ("smtps", 465),
    ("ssh", 22),
    ("ws", 80),
    ("wss", 443),
];

const HELP: &str = "use scheme://host[:port] or host:port, as in \"https://api.example.com\" or \"db.example.com:5432\"";

/// A mistake and what to write instead.
type Refusal = (String, Option<String>);

fn refuse<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Refusal> {
    Err((message.into(), Some(help.into())))
}

/// What to do so that `host` at `port` may be reached, for the app's log: `add "example.com:443"
/// to allow in [network] of oarlock.toml`. The host may be a guest's own words: it is cut and escaped.
pub fn allow_line(host: &str, port: u16) -> String {
    let name = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    let host = match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => {
            let cut: String = name.trim_end_matches('.').chars().take(253).collect();
            cut.to_lowercase().escape_default().to_string()
        }
    };
    format!(
        "add \"{host}:{port}\" to allow in [network] of {}",
        super::MANIFEST_FILE
    )
}

/// Reads the list.
pub(crate) fn read(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Vec<AllowEntry> {
    let mut list: Vec<AllowEntry> = Vec::new();
    for (span, text) in entry.strings(findings) {
        match parse(text) {
            Ok((scheme, host, port)) => {
                let line = findings.source().line(span.start);
                let same = |other: &AllowEntry| {
                    other.scheme == scheme && other.host == host && other.port == port
                };
                if list.iter().any(same) {
                    findings.suggest(
                        &span,
                        format!("`{}` is given twice", brief(text)),
                        "keep one of them",
                    );
                } else {
                    list.push(AllowEntry {
                        text: text.to_owned(),
                        line,
                        scheme,
                        host,
                        port,
                    });
                }
            }
            Err((message, help)) => findings.push(&span, message, help),
        }
    }
    list
}

/// Scheme, host and port of one entry.
fn parse(text: &str) -> Result<(Option<String>, HostPattern, u16), Refusal> {
    if text.trim().is_empty() {
        return refuse("the entry is empty", HELP);
    }
    let shown = brief(text);
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return refuse(
            format!("`{shown}` has blanks in it"),
            "write one host and port in each entry",
        );
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let (host, port) = read_host_port(text, None)?;
        return Ok((None, host, port));
    };
    let scheme = scheme.to_ascii_lowercase();
    let valid = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    if !valid {
        return refuse(format!("`{}` is not a scheme", brief(&scheme)), HELP);
    }
    if rest.contains('@') {
        return refuse(
            format!("`{shown}` has a user in it"),
            "name the host and port alone; secrets belong into config vars",
        );
    }
    note_path(&scheme, rest, &shown)?;
    let default = SCHEMES
        .iter()
        .find(|(known, _)| *known == scheme)
        .map(|(_, port)| *port);
    let (host, port) = read_host_port(rest, Some((&scheme, default)))?;
    Ok((Some(scheme), host, port))
}

/// A host is allowed as a whole: paths, queries and fragments are refused, ranges have no scheme.
fn note_path(scheme: &str, rest: &str, shown: &str) -> Result<(), Refusal> {
    let Some(end) = rest.find(['/', '?', '#']) else {
        return Ok(());
    };
    let (host, path) = rest.split_at(end);
    let looks_like_range = path.strip_prefix('/').is_some_and(|after| {
        after
            .split(':')
            .next()
            .is_some_and(|bits| !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()))
    });
    if looks_like_range && host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return refuse(
            format!("`{shown}` gives a range a scheme"),
            format!("write \"{rest}\", with its port"),
        );
    }
    let message = format!("`{shown}` has a path; a host is allowed as a whole");
    refuse(message, format!("write \"{scheme}://{}\"", brief(host)))
}

/// `host[:port]`; the port comes from the scheme where there is one that has one.
fn read_host_port(
    text: &str,
    scheme: Option<(&str, Option<u16>)>,
) -> Result<(HostPattern, u16), Refusal> {
    let (host, port) = split_port(text)?;
    let pattern = read_host(host)?;
    if let Some(port) = port {
        return match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => {
                Ok((pattern, number))
            }
            _ => refuse(format!("`{}` is not a port", brief(port)), "use 1 to 65535"),
        };
    }
    let shown = brief(host);
    match (&pattern, scheme) {
        (HostPattern::Ip(_) | HostPattern::Net(_), scheme) => {
            let (prefix, port) = match scheme {
                Some((scheme, default)) => (format!("{scheme}://"), default.unwrap_or(443)),
                None => (String::new(), 443),
            };
            refuse(
                format!("`{shown}` needs a port, as every literal address does"),
                format!("write \"{prefix}{shown}:{port}\""),
            )
        }
        (_, Some((_, Some(port)))) => Ok((pattern, port)),
        (_, Some((scheme, None))) => {
            let help = match nearest(scheme, SCHEMES.iter().map(|(known, _)| *known)) {
                Some(near) => format!("did you mean `{near}://{shown}`?"),
                None => format!("write \"{scheme}://{shown}:PORT\""),
            };
            refuse(format!("the port of `{scheme}` is not known"), help)
        }
        (_, None) => refuse(
            format!("`{shown}` has no port"),
            format!("write \"https://{shown}\" or \"{shown}:443\""),
        ),
    }
}

/// Parts the port from the host, minding brackets.
fn split_port(text: &str) -> Result<(&str, Option<&str>), Refusal> {
    if let Some(close) = text.rfind(']') {
        let (_, after) = text.split_at(close);
        return Ok(match after.rfind(':') {
            Some(colon) => (
                text.get(..close + colon).unwrap_or(text),
                text.get(close + colon + 1..),
            ),
            None => (text, None),
        });
    }
    if text.matches(':').count() > 1 {
        let help = if text.parse::<Ipv6Addr>().is_ok() {
            format!("write \"[{text}]:443\"")
        } else {
            "write an IPv6 address in brackets, as in \"[2001:db8::1]:443\"".to_owned()
        };
        return refuse(format!("`{}` has more than one colon", brief(text)), help);
    }
    Ok(match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

fn read_host(host: &str) -> Result<HostPattern, Refusal> {
    let shown = brief(host);
    if host.is_empty() {
        return refuse("the entry names no host", HELP);
    }
    if host.starts_with('[') {
        return read_v6(host);
    }
    if let Some((address, _)) = host.split_once('/') {
        return match (address.parse::<Ipv4Addr>(), host.parse::<IpNet>()) {
            (Ok(_), Ok(net)) => whole_net(net),
            (Ok(_), Err(_)) => refuse(
                format!("`{shown}` is not a range"),
                "use a prefix of 0 to 32 bits, as in \"10.1.2.0/24\"",
            ),
            (Err(_), _) => refuse(
                format!("`{shown}` has a path; a host is allowed as a whole"),
                format!("write \"{}\" and its port", brief(address)),
            ),
        };
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(HostPattern::Ip(address.into()));
    }
    if let Some(below) = host.strip_prefix("*.") {
        return Ok(HostPattern::Below(read_name(below, host)?));
    }
    if host.contains('*') {
        let help = if host == "*" {
            "name the hosts, or a domain as in \"*.example.com:443\""
        } else {
            "`*.` stands for all names below one, at the start only"
        };
        return refuse(format!("`{shown}` is too wide or misplaces the `*`"), help);
    }
    Ok(HostPattern::Name(read_name(host, host)?))
}

/// `[address]`, `[address]/bits` or `[address/bits]`.
fn read_v6(host: &str) -> Result<HostPattern, Refusal> {
    let shown = brief(host);
    let plain: String = host.chars().filter(|c| !matches!(c, '[' | ']')).collect();
    let brackets = host.matches('[').count() == 1 && host.matches(']').count() == 1;
    if let (true, Ok(address)) = (brackets && host.ends_with(']'), plain.parse::<Ipv6Addr>()) {
        return match address.to_ipv4_mapped() {
            Some(v4) => refuse(
                format!("`{shown}` is an IPv4 address"),
                format!("write \"{v4}\" and its port"),
            ),
            None => Ok(HostPattern::Ip(address.into())),
        };
    }
    match plain.parse::<IpNet>() {
        Ok(net @ IpNet::V6(_)) if brackets => whole_net(net),
        _ => refuse(
            format!("`{shown}` is not an IPv6 address or range in brackets"),
            "use one like \"[2001:db8::1]:443\" or \"[fd00::]/8:443\"",
        ),
    }
}

/// A range's address must be its first one.
fn whole_net(net: IpNet) -> Result<HostPattern, Refusal> {
    if net.addr() == net.network() {
        return Ok(HostPattern::Net(net));
    }
    refuse(
        format!("`{net}` has bits beyond its prefix"),
        format!("did you mean `{}`?", net.trunc()),
    )
}

/// A DNS name, lower case.
fn read_name(name: &str, shown: &str) -> Result<String, Refusal> {
    let shown = brief(shown);
    if !name.is_ascii() {
        return match Host::parse(name) {
            Ok(Host::Domain(ascii)) => refuse(
                format!("`{shown}` is not in ASCII"),
                format!("write its DNS form, `{}`", brief(&ascii)),
            ),
            _ => refuse(format!("`{shown}` is not a host name"), HELP),
        };
    }
    if let Some(dotless) = name.strip_suffix('.').filter(|rest| !rest.is_empty()) {
        return refuse(
            format!("`{shown}` ends with a dot"),
            format!("write `{}`", brief(dotless)),
        );
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last_is_number = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > 253 || !name.split('.').all(label) || last_is_number {
        return refuse(format!("`{shown}` is not a host name or address"), HELP);
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn good(text: &str) -> (Option<String>, HostPattern, u16) {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn hosts_and_ports() {
        let name = |name: &str| HostPattern::Name(name.to_owned());
        assert_eq!(
            good("https://api.stripe.com"),
            (Some("https".into()), name("api.stripe.com"), 443)
        );
        assert_eq!(
            good("HTTP://API.Example.com"),
            (Some("http".into()), name("api.example.com"), 80)
        );
        assert_eq!(
            good("https://example.com:8443"),
            (Some("https".into()), name("example.com"), 8443)
        );
        assert_eq!(
            good("smtp.example.com:587"),
            (None, name("smtp.example.com"), 587)
        );
        assert_eq!(
            good("postgres://db"),
            (Some("postgres".into()), name("db"), 5432)
        );
        assert_eq!(good("tcp://db:9"), (Some("tcp".into()), name("db"), 9));
        assert_eq!(
            good("*.example.net:443"),
            (None, HostPattern::Below("example.net".into()), 443)
        );
        assert_eq!(
            good("https://*.example.net"),
            (
                Some("https".into()),
                HostPattern::Below("example.net".into()),
                443
            )
        );
        assert_eq!(
            good("10.1.2.3:80"),
            (None, HostPattern::Ip("10.1.2.3".parse().unwrap()), 80)
        );
        assert_eq!(
            good("http://10.1.2.3:80").1,
            HostPattern::Ip("10.1.2.3".parse().unwrap())
        );
        assert_eq!(
            good("10.1.2.0/24:5432"),
            (None, HostPattern::Net("10.1.2.0/24".parse().unwrap()), 5432)
        );
        assert_eq!(
            good("[2001:db8::1]:443"),
            (None, HostPattern::Ip("2001:db8::1".parse().unwrap()), 443)
        );
        assert_eq!(
            good("https://[::1]:443").1,
            HostPattern::Ip("::1".parse().unwrap())
        );
        assert_eq!(
            good("[fd00::]/8:22"),
            (None, HostPattern::Net("fd00::/8".parse().unwrap()), 22)
        );
        assert_eq!(
            good("[fd00::/8]:22").1,
            HostPattern::Net("fd00::/8".parse().unwrap())
        );
    }

    #[test]
    fn everything_else_is_refused_with_help() {
        let bad = [
            "",
            " ",
            "example.com",
            "*",
            "*:443",
            "*.*.example.com:1",
            "ex*mple.com:1",
            "https://example.com/path",
            "https://example.com/",
            "https://example.com?x",
            "https://u:p@example.com",
            "10.1.2.3",
            "https://10.1.2.3",
            "10.1.2.0/24",
            "https://10.1.2.0/24:443",
            "10.1.2.5/24:1",
            "10.1.2.0/33:1",
            "example.com:0",
            "example.com:65536",
            "example.com:+1",
            "example.com:",
            "example.com:http",
            ":443",
            "https://",
            "2001:db8::1",
            "2001:db8::1:443",
            "[2001:db8::1]",
            "[2001:db8::1:443",
            "[10.0.0.1]:1",
            "[::ffff:10.0.0.1]:1",
            "[fe80::1%eth0]:1",
            "1.2.3:4",
            "1.2.3.256:4",
            "exam ple.com:1",
            "-a.com:1",
            "a..com:1",
            "example.com.:1",
            "münchen.de:1",
            "gopher://x",
            "htps://example.com",
            "a/b:1",
            "*.:1",
            "*.10.0.0.1:1",
            "[::]]:1",
            "]:1",
            "://x:1",
            "[",
            "[]:1",
        ];
        for text in bad {
            let error = parse(text).expect_err(text);
            assert!(error.1.is_some(), "{text}: {error:?}");
        }
        assert_eq!(
            parse("münchen.de:1").unwrap_err().1.unwrap(),
            "write its DNS form, `xn--mnchen-3ya.de`"
        );
        assert_eq!(
            parse("10.1.2.5/24:1").unwrap_err().1.unwrap(),
            "did you mean `10.1.2.0/24`?"
        );
        assert_eq!(
            parse("https://10.1.2.3").unwrap_err().1.unwrap(),
            "write \"https://10.1.2.3:443\""
        );
    }

    #[test]
    fn suggested_lines_are_valid_entries() {
        assert_eq!(
            allow_line("Example.com.", 443),
            "add \"example.com:443\" to allow in [network] of oarlock.toml"
        );
        assert_eq!(
            allow_line("::1", 8080),
            "add \"[::1]:8080\" to allow in [network] of oarlock.toml"
        );
        assert_eq!(allow_line("[::1]", 8080), allow_line("::1", 8080));
        assert!(allow_line("10.0.0.1", 1).contains("\"10.0.0.1:1\""));
        assert!(allow_line("a\"\u{1b}b\n", 1).starts_with("add \"a\\\"\\u{1b}b\\n:1\""));
        assert!(allow_line(&"x".repeat(10_000), 1).len() < 400);
    }
}

//! The `external` add-on: a server that someone else runs, named by a URL in a config var.
//!
//! It sets `<NAME>_URL` (or `<as>_URL`) and opens that one host and port, for its processes only. The
//! config var it reads (`url_from`, else the variable's own name) is kept from all other processes:
//! it holds the password. The URL is the app's own choice, so that it is worth no more than an `allow` entry:
//! loopback and private ranges are opened by a literal IP that the operator's `private_networks` lists, or in
//! `up`, and by nothing else. No message here ever shows more of a URL than its scheme, host and port.

use std::collections::BTreeMap;
use std::path::Path;

use oarlock_sandbox::{ChosenBy, Endpoint};
use oarlock_spec::manifest::Addon;
use oarlock_spec::names::AddonName;
use url::Url;

use super::provider::{BindError, Key, Offer, Provider, ProviderInfo, Request, prefix};

/// What `check` and the listings say of it.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "external",
    about: "a server of your own, by its URL in a config var",
    plans: &[],
    keys: &[Key::As, Key::UrlFrom],
    variables: |name, addon| vec![variable(name, addon)],
    sources: |name, addon| vec![source(name, addon)],
    open: |_: &Path| Box::new(External),
};

/// The ports of schemes whose URLs often name none.
const PORTS: &[(&str, u16)] = &[
    ("amqp", 5672),
    ("amqps", 5671),
    ("http", 80),
    ("https", 443),
    ("ldap", 389),
    ("ldaps", 636),
    ("mariadb", 3306),
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
    ("submission", 587),
    ("valkey", 6379),
    ("ws", 80),
    ("wss", 443),
];

struct External;

#[async_trait::async_trait]
impl Provider for External {
    async fn bind(&self, request: &Request<'_>) -> Result<Offer, BindError> {
        let (variable, source) = (
            variable(request.name, request.addon),
            source(request.name, request.addon),
        );
        let url = request
            .config
            .get(&source)
            .filter(|url| !url.trim().is_empty())
            .ok_or_else(|| {
                BindError(format!(
                    "the config var `{source}` is not set; set it to the server's URL: \
                 oarlock config set {source}=scheme://user:password@host:port/…"
                ))
            })?;
        let (host, port) = endpoint(url.trim())
            .map_err(|reason| BindError(format!("the config var `{source}` {reason}")))?;
        Ok(Offer {
            env: BTreeMap::from([(variable, url.trim().to_owned())]),
            endpoints: vec![Endpoint {
                addon: request.name.to_string(),
                host,
                port,
                chosen_by: ChosenBy::App,
            }],
            kv: None,
        })
    }

    async fn close(&self) {}
}

fn variable(name: &AddonName, addon: &Addon) -> String {
    format!("{}_URL", prefix(name, addon))
}

fn source(name: &AddonName, addon: &Addon) -> String {
    addon
        .url_from
        .clone()
        .unwrap_or_else(|| variable(name, addon))
}

/// The one host (a name in lower case, or an IP without brackets) and port that a URL names. An
/// error goes on where "the config var `X`" began.
fn endpoint(text: &str) -> Result<(String, u16), String> {
    const FORM: &str = "it has to be scheme://user:password@host:port/…";
    let url = Url::parse(text).map_err(|error| {
        // The parser's words are about the form alone; the text itself is secret.
        format!(
            "is no URL that names one host and port ({error}): {FORM}, with special characters of the password \
             percent-encoded (`#` is %23, `/` is %2F, `@` is %40)"
        )
    })?;
    let scheme = url.scheme();
    let host = match url.host_str() {
        Some(host) if !host.is_empty() => host.trim_matches(['[', ']']).to_ascii_lowercase(),
        _ => return Err(format!("names no host: {FORM}")),
    };
    if scheme.ends_with("+srv") {
        return Err(format!(
            "has the scheme `{scheme}`, which finds its hosts by DNS; name the host and port instead"
        ));
    }
    let is_ip = host.parse::<std::net::IpAddr>().is_ok();
    let is_name = host.len() <= 253
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !host.starts_with(['.', '-']);
    if !is_ip && !is_name {
        let several = if host.contains(',') {
            "; an external add-on is one host, so make one of each"
        } else {
            ""
        };
        return Err(format!(
            "names the host `{}`, which is no host name{several}",
            mask(&host)
        ));
    }
    match url.port().or_else(|| {
        PORTS
            .iter()
            .find(|(known, _)| *known == scheme)
            .map(|(_, port)| *port)
    }) {
        Some(0) => Err("names the port 0, which cannot be connected to".to_owned()),
        Some(port) => Ok((host, port)),
        None => Err(format!(
            "names no port, and `{scheme}` has no usual one: write {scheme}://…@{host}:PORT/…"
        )),
    }
}

/// What may be shown of something that is not a host name: it could be a piece of a password.
fn mask(host: &str) -> String {
    host.chars()
        .map(|c| if matches!(c, ',' | '.' | ':') { c } else { '*' })
        .take(40)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[track_caller]
    fn is(url: &str, host: &str, port: u16) {
        assert_eq!(endpoint(url), Ok((host.to_owned(), port)), "{url}");
    }

    #[test]
    fn a_url_names_one_host_and_port() {
        is(
            "postgres://ada:secret@DB.example.com/app",
            "db.example.com",
            5432,
        );
        is("redis://:p%40ss@127.0.0.1:7000/1", "127.0.0.1", 7000);
        is("redis://10.0.0.5", "10.0.0.5", 6379);
        is("amqp://u:p@rabbit", "rabbit", 5672);
        is("mysql://u:p@[2001:db8::7]:3307/x", "2001:db8::7", 3307);
        is("http://api.example.com/v1", "api.example.com", 80);
        is("https://api.example.com:8443", "api.example.com", 8443);
        is("custom://h:9", "h", 9);
    }

    #[test]
    fn what_names_none_is_refused_and_never_shown() {
        let bad = [
            "hunter2",
            "postgres://ada:hunter2#@db.example.com/app",
            "custom://ada:hunter2@host/path",
            "postgres:///hunter2",
            "postgres://ada:hunter2@db:0/app",
            "postgres://ada:hunter2@db:99999/app",
            "postgres://ada:hunter2@a,b/app",
            "postgres://ada:x@hunter2%20/app",
            "mongodb+srv://ada:hunter2@cluster.example.com/app",
            "mongodb://ada:hunter2@a:1,b:2/app",
        ];
        for url in bad {
            let error = endpoint(url).expect_err(url);
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.len() > 20, "{error}");
        }
    }
}

//! The decision table.

use oarlock_spec::manifest::HostPattern;

use super::*;

/// An allow entry, as the manifest's parser makes it.
fn entry(text: &str) -> AllowEntry {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_owned()), rest),
        None => (None, text),
    };
    let usual = match scheme.as_deref() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        Some("redis") => Some(6379),
        _ => None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap()),
        _ => (rest, usual.unwrap()),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = if let Some(parent) = host.strip_prefix("*.") {
        HostPattern::Below(parent.to_owned())
    } else if let Ok(ip) = bare.parse() {
        HostPattern::Ip(ip)
    } else if let Ok(net) = bare.parse() {
        HostPattern::Net(net)
    } else {
        HostPattern::Name(host.to_owned())
    };
    AllowEntry {
        text: text.to_owned(),
        line: 7,
        scheme,
        host,
        port,
    }
}

fn endpoint(addon: &str, host: &str, port: u16) -> Endpoint {
    Endpoint {
        addon: addon.to_owned(),
        host: host.to_owned(),
        port,
        chosen_by: ChosenBy::Operator,
    }
}

/// What a tenant's own URL opens.
fn of_the_app(addon: &str, host: &str, port: u16) -> Endpoint {
    Endpoint {
        chosen_by: ChosenBy::App,
        ..endpoint(addon, host, port)
    }
}

fn egress(allow: &[&str]) -> EgressRules {
    EgressRules {
        allow: allow.iter().map(|text| entry(text)).collect(),
        ..EgressRules::default()
    }
}

fn up(allow: &[&str]) -> EgressRules {
    EgressRules {
        private: PrivateNetworks {
            allowed: Vec::new(),
            local_development: true,
        },
        ..egress(allow)
    }
}

fn policy(ranges: &[&str], allow: &[&str]) -> EgressRules {
    EgressRules {
        private: PrivateNetworks {
            allowed: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            local_development: false,
        },
        ..egress(allow)
    }
}

fn connect(rules: &EgressRules, answers: &[(&str, &str)], addr: &str) -> Decision {
    let egress = Egress::new(rules.clone());
    for (name, ip) in answers {
        egress
            .answers
            .lock()
            .unwrap()
            .remember(Instant::now(), name, &[ip.parse().unwrap()]);
    }
    let tcp = egress.decide(&Attempt::Connect(addr.parse().unwrap()));
    let udp = egress.decide(&Attempt::Udp(addr.parse().unwrap()));
    assert_eq!(
        tcp == Decision::Allow,
        udp == Decision::Allow,
        "TCP and UDP differ for {addr}"
    );
    tcp
}

fn http(rules: &EgressRules, url: &str) -> Decision {
    let url: http::Uri = url.parse().unwrap();
    let tls = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Egress::new(rules.clone()).decide(&Attempt::Http {
        tls,
        host: url.host().unwrap(),
        port,
    })
}

fn resolve(rules: &EgressRules, name: &str) -> Decision {
    Egress::new(rules.clone()).decide(&Attempt::Resolve(name))
}

#[track_caller]
fn denied(decision: Decision, says: &str) {
    match decision {
        Decision::Allow => panic!("it was allowed"),
        Decision::Deny(denial) => {
            assert!(
                denial.reason.contains(says),
                "{:?} does not say {says:?}",
                denial.reason
            );
        }
    }
}

#[track_caller]
fn allowed(decision: Decision) {
    assert_eq!(decision, Decision::Allow);
}

#[test]
fn nothing_is_granted_by_default() {
    let none = EgressRules::default();
    denied(
        connect(&none, &[], "93.184.216.34:443"),
        "TCP connection to 93.184.216.34:443 denied: it is a public address that no add-on and no `[network]` entry \
         grants and that no granted name was answered with; to allow it, add \"93.184.216.34:443\" to `allow` in `[network]`",
    );
    denied(
        resolve(&none, "db.example.com"),
        "look-up of db.example.com denied: no add-on and no `[network]` entry names it; to allow it, add \
         \"db.example.com:PORT\" to `allow` in `[network]`",
    );
    denied(
        http(&none, "https://api.stripe.com/v1"),
        "outgoing request to https://api.stripe.com denied: no add-on and no `[network]` entry grants it; to allow it, \
         add \"https://api.stripe.com\" to `allow` in `[network]`",
    );
    denied(
        http(&none, "http://a.example:8080/"),
        "add \"http://a.example:8080\" to",
    );
    denied(
        Egress::new(none).decide(&Attempt::Listen("0.0.0.0:80".parse().unwrap())),
        "listening on 0.0.0.0:80 denied",
    );
}

#[test]
fn a_name_opens_what_it_was_answered_with_and_only_its_port() {
    let rules = egress(&["smtp.example.com:587"]);
    let answers = [("smtp.example.com", "93.184.216.34")];
    allowed(resolve(&rules, "smtp.example.com"));
    allowed(resolve(&rules, "SMTP.Example.COM."));
    denied(
        resolve(&rules, "example.com"),
        "no `[network]` entry names it",
    );
    denied(
        resolve(&rules, "x.smtp.example.com"),
        "no `[network]` entry names it",
    );
    allowed(connect(&rules, &answers, "93.184.216.34:587"));
    allowed(connect(&rules, &answers, "[::ffff:93.184.216.34]:587"));
    denied(
        connect(&rules, &answers, "93.184.216.34:25"),
        "smtp.example.com is granted, but not with this port; to allow it, add \"smtp.example.com:25\"",
    );
    denied(
        connect(&rules, &[], "93.184.216.34:587"),
        "no granted name was answered with",
    );
    denied(
        connect(&rules, &answers, "93.184.216.35:587"),
        "no granted name was answered with",
    );
    allowed(http(&rules, "http://smtp.example.com:587/"));
    allowed(http(&rules, "https://smtp.example.com:587/"));
    denied(
        http(&rules, "https://smtp.example.com/"),
        "no `[network]` entry grants it",
    );
}

#[test]
fn a_wildcard_is_any_depth_below_and_not_the_domain_itself() {
    let rules = egress(&["*.example.net:443"]);
    allowed(resolve(&rules, "a.example.net"));
    allowed(resolve(&rules, "a.b.c.example.net"));
    denied(resolve(&rules, "example.net"), "names it");
    denied(resolve(&rules, ".example.net"), "denied");
    denied(resolve(&rules, "aexample.net"), "names it");
    denied(resolve(&rules, "a.example.net.evil.com"), "names it");
    allowed(http(&rules, "https://a.example.net/"));
    allowed(connect(
        &rules,
        &[("a.b.example.net", "93.184.216.34")],
        "93.184.216.34:443",
    ));
    denied(
        connect(
            &rules,
            &[("a.b.example.net", "93.184.216.34")],
            "93.184.216.34:80",
        ),
        "port",
    );
}

#[test]
fn a_scheme_limits_http_and_opens_the_socket() {
    let rules = egress(&[
        "https://api.stripe.com",
        "http://plain.example:8080",
        "redis://cache.example",
    ]);
    allowed(http(&rules, "https://api.stripe.com/v1"));
    denied(
        http(&rules, "http://api.stripe.com:443/"),
        "\"https://api.stripe.com\" (line 7 of the manifest) limits HTTP to https; to allow it, add \"http://api.stripe.com:443\"",
    );
    denied(
        http(&rules, "http://api.stripe.com/"),
        "no `[network]` entry grants it",
    );
    denied(
        http(&rules, "https://api.stripe.com:8443/"),
        "no `[network]` entry grants it",
    );
    allowed(connect(
        &rules,
        &[("api.stripe.com", "93.184.216.34")],
        "93.184.216.34:443",
    ));
    allowed(http(&rules, "http://plain.example:8080/"));
    denied(
        http(&rules, "https://plain.example:8080/"),
        "limits HTTP to http;",
    );
    allowed(http(&rules, "http://cache.example:6379/"));
    allowed(connect(
        &rules,
        &[("cache.example", "93.184.216.34")],
        "93.184.216.34:6379",
    ));
    // Two entries for one place add up.
    let both = egress(&["https://a.example", "http://a.example:443"]);
    allowed(http(&both, "http://a.example:443/"));
    allowed(http(&both, "https://a.example/"));
}

#[test]
fn addresses_and_ranges_are_granted_literally() {
    let rules = egress(&[
        "93.184.216.34:25",
        "93.184.0.0/16:443",
        "[2606:2800::1]:443",
    ]);
    allowed(connect(&rules, &[], "93.184.216.34:25"));
    denied(connect(&rules, &[], "93.184.216.35:25"), "denied");
    allowed(connect(&rules, &[], "93.184.9.9:443"));
    denied(connect(&rules, &[], "93.185.0.1:443"), "denied");
    allowed(connect(&rules, &[], "[2606:2800::1]:443"));
    allowed(http(&rules, "https://93.184.216.1/"));
    allowed(http(&rules, "https://[2606:2800::1]/"));
    denied(http(&rules, "https://93.185.0.1/"), "denied");
    // An address is its own answer, and connecting to it is judged on its own.
    allowed(resolve(&rules, "10.0.0.1"));
    allowed(resolve(&rules, "[::1]"));
    denied(connect(&rules, &[], "10.0.0.1:443"), "a private address");
}

#[test]
fn private_ranges_need_the_policy_too() {
    let entries = [
        "10.1.2.0/24:5432",
        "127.0.0.1:80",
        "169.254.1.1:80",
        "[fd00::1]:80",
        "100.64.0.1:80",
        "0.0.0.0/0:9",
    ];
    let rules = egress(&entries);
    for addr in [
        "10.1.2.3:5432",
        "127.0.0.1:80",
        "169.254.1.1:80",
        "[fd00::1]:80",
        "100.64.0.1:80",
        "192.168.0.1:9",
    ] {
        denied(
            connect(&rules, &[], addr),
            "counts only if the operator's policy lists its range in `private_networks`",
        );
    }
    denied(http(&rules, "http://127.0.0.1/"), "a loopback address");
    denied(http(&rules, "http://2130706433/"), "a loopback address");
    denied(http(&rules, "http://0x7f.1/"), "a loopback address");
    denied(
        http(&rules, "http://[::ffff:127.0.0.1]/"),
        "a loopback address",
    );
    let rules = policy(&["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"], &entries);
    allowed(connect(&rules, &[], "10.1.2.3:5432"));
    allowed(connect(&rules, &[], "[::ffff:10.1.2.3]:5432"));
    denied(
        connect(&rules, &[], "10.1.3.3:5432"),
        "and list its range in the operator's `private_networks`",
    );
    denied(connect(&rules, &[], "10.1.2.3:5433"), "denied");
    allowed(connect(&rules, &[], "127.0.0.1:80"));
    allowed(http(&rules, "http://127.0.0.1/"));
    denied(connect(&rules, &[], "127.0.0.2:80"), "denied");
    allowed(connect(&rules, &[], "[fd00::1]:80"));
    denied(
        connect(&rules, &[], "169.254.1.1:80"),
        "a link-local address",
    );
    denied(connect(&rules, &[], "192.168.0.1:9"), "a private address");
    // A policy alone grants nothing.
    denied(
        connect(&policy(&["0.0.0.0/0"], &[]), &[], "10.0.0.1:80"),
        "denied",
    );
}

#[test]
fn a_name_that_resolves_to_a_denied_range_stays_denied() {
    let rules = policy(&["0.0.0.0/0", "::/0"], &["rebound.example:80"]);
    for ip in [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "::1",
        "fd00::1",
        "64:ff9b::a00:1",
        "2002:a00:1::1",
        "224.0.0.1",
    ] {
        let addr = SocketAddr::new(ip.parse().unwrap(), 80).to_string();
        denied(
            connect(&rules, &[("rebound.example", ip)], &addr),
            "which a name never opens",
        );
    }
    let up = up(&["rebound.example:80"]);
    for ip in ["169.254.1.1", "224.0.0.1", "198.18.0.1", "fe80::1"] {
        let addr = SocketAddr::new(ip.parse().unwrap(), 80).to_string();
        denied(
            connect(&up, &[("rebound.example", ip)], &addr),
            "which a name never opens",
        );
    }
}

#[test]
fn local_development_opens_what_entries_name() {
    let rules = up(&["localhost:9000", "127.0.0.1:6379", "192.168.0.0/16:5432"]);
    allowed(resolve(&rules, "localhost"));
    allowed(connect(
        &rules,
        &[("localhost", "127.0.0.1")],
        "127.0.0.1:9000",
    ));
    allowed(connect(&rules, &[("localhost", "::1")], "[::1]:9000"));
    allowed(connect(&rules, &[], "127.0.0.1:6379"));
    allowed(connect(&rules, &[], "192.168.1.1:5432"));
    allowed(http(&rules, "http://127.0.0.1:6379/"));
    denied(
        connect(&rules, &[], "127.0.0.1:6380"),
        "add \"127.0.0.1:6380\"",
    );
    denied(connect(&rules, &[], "10.0.0.1:5432"), "denied");
}

#[test]
fn an_addon_opens_its_exact_endpoint_in_any_range() {
    let rules = EgressRules {
        endpoints: vec![
            endpoint("db", "127.0.0.1", 5432),
            endpoint("cache", "redis.internal", 6379),
        ],
        ..EgressRules::default()
    };
    allowed(connect(&rules, &[], "127.0.0.1:5432"));
    denied(connect(&rules, &[], "127.0.0.1:5433"), "denied");
    denied(connect(&rules, &[], "127.0.0.2:5432"), "denied");
    allowed(resolve(&rules, "redis.internal"));
    allowed(connect(
        &rules,
        &[("redis.internal", "10.9.9.9")],
        "10.9.9.9:6379",
    ));
    denied(
        connect(&rules, &[("redis.internal", "10.9.9.9")], "10.9.9.9:6380"),
        "not with this port",
    );
    denied(connect(&rules, &[], "10.9.9.9:6379"), "denied");
    allowed(http(&rules, "http://127.0.0.1:5432/"));
}

/// A tenant may name the host's loopback or its private network in the URL of an add-on; that opens nothing
/// that an `allow` entry would not.
#[test]
fn an_endpoint_of_the_apps_own_choice_is_worth_an_allow_entry() {
    let with = |rules: EgressRules| EgressRules {
        endpoints: vec![
            of_the_app("db", "127.0.0.1", 5432),
            of_the_app("lan", "10.1.2.3", 6379),
            of_the_app("named", "redis.internal", 6380),
            of_the_app("public", "93.184.216.34", 443),
        ],
        ..rules
    };
    let named = [("redis.internal", "10.1.2.4")];

    let none = with(egress(&[]));
    denied(
        connect(&none, &[], "127.0.0.1:5432"),
        "it is a loopback address, and the add-on `db` counts only if the operator's policy lists its range",
    );
    denied(
        connect(&none, &[], "[::ffff:127.0.0.1]:5432"),
        "the add-on `db`",
    );
    denied(connect(&none, &[], "10.1.2.3:6379"), "the add-on `lan`");
    denied(http(&none, "http://127.0.0.1:5432/"), "the add-on `db`");
    denied(
        connect(&none, &named, "10.1.2.4:6380"),
        "let the add-on `named`'s URL name 10.1.2.4:6380 and list its range",
    );
    allowed(connect(&none, &[], "93.184.216.34:443"));
    allowed(connect(
        &none,
        &[("redis.internal", "93.184.216.35")],
        "93.184.216.35:6380",
    ));

    let listed = with(policy(&["10.1.2.0/24"], &[]));
    allowed(connect(&listed, &[], "10.1.2.3:6379"));
    denied(connect(&listed, &[], "127.0.0.1:5432"), "loopback");
    denied(
        connect(&listed, &named, "10.1.2.4:6380"),
        "a name never opens",
    );

    let here = with(up(&[]));
    allowed(connect(&here, &[], "127.0.0.1:5432"));
    allowed(connect(&here, &[], "10.1.2.3:6379"));
    allowed(connect(&here, &named, "10.1.2.4:6380"));
}

#[test]
fn some_addresses_are_never_granted() {
    let never = |host: &str, port| EgressRules {
        endpoints: vec![endpoint("sly", host, port)],
        allow: vec![
            entry("0.0.0.0/0:80"),
            entry("*.nip.example:80"),
            AllowEntry {
                port,
                ..entry("127.0.0.1:1")
            },
        ],
        private: PrivateNetworks {
            allowed: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            local_development: true,
        },
        never: ["127.0.0.1:8080", "0.0.0.0:8443"]
            .map(|addr| addr.parse().unwrap())
            .into_iter()
            .collect(),
        never_ips: vec!["192.168.7.7".parse().unwrap()],
    };
    for ip in [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254",
        "168.63.129.16",
    ] {
        let addr = SocketAddr::new(ip.parse().unwrap(), 80).to_string();
        denied(
            connect(&never(ip, 80), &[("a.nip.example", ip)], &addr),
            "a cloud metadata address, which nothing can allow",
        );
    }
    denied(
        http(&never("x", 1), "http://169.254.169.254/latest"),
        "which nothing can allow",
    );
    denied(
        connect(&never("0.0.0.0", 80), &[], "0.0.0.0:80"),
        "the unspecified address",
    );
    denied(
        connect(&never("::", 80), &[], "[::]:80"),
        "the unspecified address",
    );
    denied(
        connect(&never("192.168.7.7", 80), &[], "192.168.7.7:80"),
        "keeps to the host",
    );
    denied(
        connect(&never("127.0.0.1", 8080), &[], "127.0.0.1:8080"),
        "the host itself listens there",
    );
    denied(
        connect(&never("127.0.0.1", 8080), &[], "[::ffff:127.0.0.1]:8080"),
        "the host itself listens there",
    );
    denied(
        connect(&never("127.0.0.1", 8443), &[], "127.0.0.1:8443"),
        "the host itself listens there",
    );
    denied(
        connect(&never("::1", 8443), &[], "[::1]:8443"),
        "the host itself listens there",
    );
    let held = DynoPort::take().unwrap();
    let number = held.number();
    let dyno = format!("127.0.0.1:{number}");
    denied(
        connect(&never("127.0.0.1", number), &[], &dyno),
        "a dyno listens there",
    );
    drop(held);
    allowed(connect(&never("127.0.0.1", number), &[], &dyno));
}

#[test]
fn what_is_revoked_is_denied() {
    let egress = Egress::new(EgressRules {
        endpoints: vec![
            endpoint("db", "127.0.0.1", 5432),
            endpoint("cache", "127.0.0.1", 6379),
        ],
        ..EgressRules::default()
    });
    let to = |port| Attempt::Connect(SocketAddr::from(([127, 0, 0, 1], port)));
    egress.revoke("db");
    denied(egress.decide(&to(5432)), "denied");
    allowed(egress.decide(&to(6379)));
    egress.close();
    denied(egress.decide(&to(6379)), "its grant has been withdrawn");
}

#[tokio::test]
async fn look_ups_are_granted_remembered_and_limited() {
    let egress = Egress::new(up(&["localhost:9000"]));
    assert!(matches!(
        egress.look_up("example.com").await,
        Err(LookupError::Denied(_))
    ));
    assert_eq!(
        egress.look_up("127.0.0.1").await,
        Ok(vec!["127.0.0.1".parse().unwrap()])
    );
    assert_eq!(
        egress.look_up("not a name").await,
        Err(LookupError::Invalid)
    );
    denied(
        egress.decide(&Attempt::Connect("127.0.0.1:9000".parse().unwrap())),
        "denied",
    );
    // A thousand askers of one name cost one look-up.
    for _ in 0..1000 {
        assert!(
            egress
                .look_up("LOCALHOST")
                .await
                .unwrap()
                .iter()
                .all(IpAddr::is_loopback)
        );
    }
    allowed(egress.decide(&Attempt::Connect("127.0.0.1:9000".parse().unwrap())));

    let strict = Egress::new(policy(&["127.0.0.0/8"], &["localhost:9000"]));
    match strict.look_up("localhost").await {
        Err(LookupError::Denied(denial)) => assert!(
            denial.reason.contains("a loopback address"),
            "{}",
            denial.reason
        ),
        other => panic!("{other:?}"),
    }

    let many = Egress::new(egress_below_localhost());
    let mut too_many = 0;
    for n in 0..60 {
        too_many +=
            u32::from(many.look_up(&format!("{n}.localhost")).await == Err(LookupError::TooMany));
    }
    // The bucket fills while the look-ups run: 20 at once, and 20 for each second they take.
    assert!(too_many > 0);
}

fn egress_below_localhost() -> EgressRules {
    up(&["*.localhost:9000"])
}

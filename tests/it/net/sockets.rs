//! Connecting, resolving, UDP.

use super::*;

#[tokio::test]
async fn an_addons_endpoint_is_reached_and_nothing_else() {
    let (addr, count) = echo_server().await;
    let (other, others) = echo_server().await;
    for guest in ["net-probe", "net-probe-p3"] {
        let text = addr.to_string();
        let (lines, remarks) = Net::none()
            .addon("db", addr)
            .run(guest, &["connect", &text])
            .await;
        assert_eq!(lines, ["got ping"], "{guest}");
        assert!(remarks.is_empty(), "{remarks:?}");
        let text = other.to_string();
        let (lines, remarks) = Net::none()
            .addon("db", addr)
            .run(guest, &["connect", &text])
            .await;
        let denied = if guest == "net-probe" {
            "error PermissionDenied"
        } else {
            "error ErrorCode::AccessDenied"
        };
        assert_eq!(lines, [denied], "{guest}");
        remarked(
            &remarks,
            &format!(
                "TCP connection to {other} denied: it is a loopback address that no add-on and no `[network]` entry \
                 grants and that no granted name was answered with; to allow it, add \"{other}\" to `allow` in \
                 `[network]` and list its range in the operator's `private_networks`"
            ),
        );
    }
    assert_eq!(
        (
            count.load(Ordering::Relaxed),
            others.load(Ordering::Relaxed)
        ),
        (2, 0)
    );
}

#[tokio::test]
async fn names_are_answered_only_if_granted() {
    let (addr, _) = echo_server().await;
    let name = format!("localhost:{}", addr.port());
    let granted = || Net::up().allow(None, "localhost", addr.port());
    let (lines, _) = granted().run("net-probe", &["connect", &name]).await;
    assert_eq!(lines, ["got ping"]);
    let (lines, _) = granted()
        .run("net-probe-p3", &["resolve", "localhost"])
        .await;
    assert!(lines[0].starts_with("resolved "), "{lines:?}");

    let (lines, remarks) = granted()
        .run("net-probe", &["resolve", "example.com"])
        .await;
    assert!(lines[0].starts_with("error"), "{lines:?}");
    remarked(
        &remarks,
        "look-up of example.com denied: no add-on and no `[network]` entry names it; to allow it",
    );
    let (lines, remarks) = granted()
        .run("net-probe-p3", &["resolve", "example.com"])
        .await;
    assert_eq!(lines, ["error ErrorCode::AccessDenied"]);
    remarked(&remarks, "look-up of example.com denied");

    // Without `up`, the same name resolves to a denied range.
    let (lines, remarks) = Net::none()
        .allow(None, "localhost", addr.port())
        .run("net-probe", &["connect", &name])
        .await;
    assert!(lines[0].starts_with("error"), "{lines:?}");
    remarked(&remarks, "a loopback address, which a name never opens");
}

#[tokio::test]
async fn look_ups_have_a_rate() {
    let mut net = Net::up();
    let entry = AllowEntry {
        text: "*.localhost:80".to_owned(),
        line: 3,
        scheme: None,
        host: HostPattern::Below("localhost".to_owned()),
        port: 80,
    };
    net.rules.allow.push(entry);
    let (_, remarks) = net
        .run("net-probe", &["resolve-many", "100", "localhost"])
        .await;
    remarked(&remarks, "refused: more than 20 look-ups a second");
    // However often the guest tries, the log is not flooded.
    assert!(remarks.len() < 40, "{}", remarks.len());
}

#[tokio::test]
async fn large_transfers_flow_both_ways() {
    let (addr, _) = echo_server().await;
    let text = addr.to_string();
    for guest in ["net-probe", "net-probe-p3"] {
        let (lines, _) = Net::none()
            .addon("db", addr)
            .run(guest, &["bulk", "8000000", &text])
            .await;
        assert_eq!(lines, ["8000000 bytes back, equal"], "{guest}");
    }
}

#[tokio::test]
async fn options_and_timeouts_work() {
    let (addr, _) = echo_server().await;
    let text = addr.to_string();
    let (lines, _) = Net::none()
        .addon("db", addr)
        .run("net-probe", &["options", &text])
        .await;
    assert_eq!(lines, ["ttl 17, WouldBlock, addresses true, None"]);
}

#[tokio::test]
async fn sockets_are_capped_with_a_named_error() {
    let (addr, _) = echo_server().await;
    let text = addr.to_string();
    let limited = || {
        let mut net = Net::none().addon("db", addr);
        net.limits.sockets = 8;
        net
    };
    for guest in ["net-probe", "net-probe-p3"] {
        let (lines, remarks) = limited().run(guest, &["many", "9", &text]).await;
        assert!(lines[0].starts_with("8 open, then "), "{guest}: {lines:?}");
        remarked(
            &remarks,
            "socket refused: 8 are open, the limit; raise `sockets` in `[limits]`",
        );
        let (lines, remarks) = limited().run(guest, &["many-udp", "20"]).await;
        assert_eq!(lines, ["8 sockets"], "{guest}");
        remarked(&remarks, "socket refused: 8 are open");
    }
    // A closed socket gives its place back.
    let (lines, _) = limited().run("net-probe", &["many", "8", &text]).await;
    assert_eq!(lines, ["8 open, then again got ping"]);
}

#[tokio::test]
async fn a_detached_addons_connections_are_cut() {
    let (addr, _) = echo_server().await;
    let text = addr.to_string();
    let started = Net::none()
        .addon("db", addr)
        .start("net-probe", &["hold", &text]);
    started.says("connected").await;
    started.egress.revoke("cache");
    started.egress.revoke("db");
    let (_, lines, _) = started.end().await;
    assert_eq!(lines[0], "connected");
    assert!(lines[1].starts_with("error"), "not a clean end: {lines:?}");
}

#[tokio::test]
async fn udp_asks_the_same_rules() {
    let addr = udp_echo_server().await;
    let text = addr.to_string();
    for guest in ["net-probe", "net-probe-p3"] {
        let granted = Net::up().allow(None, "127.0.0.1", addr.port());
        let (lines, _) = granted.run(guest, &["udp", &text]).await;
        assert_eq!(lines, ["got ping"], "{guest}");
        let (lines, remarks) = Net::up().run(guest, &["udp", &text]).await;
        assert!(lines[0].starts_with("error"), "{lines:?}");
        remarked(&remarks, &format!("UDP to {addr} denied"));
    }
}

#[tokio::test]
async fn tokio_guests_connect() {
    let (addr, count) = echo_server().await;
    let text = addr.to_string();
    let (mut lines, _) = Net::none()
        .addon("db", addr)
        .run("net-tokio", &["connect", &text])
        .await;
    lines.sort();
    let expected: Vec<_> = (0..8).map(|n| format!("got ping {n}")).collect();
    assert_eq!(lines, expected);
    assert_eq!(count.load(Ordering::Relaxed), 8);
}

//! A dyno's own sockets on 127.0.0.1 and ::1, which exist in its instance only; and what a TCP socket promises, asked of it
//! there: nothing that the machine does has a part in the answer.

use super::*;

/// A case of the guests that ask about TCP, over both families and with nothing granted.
async fn holds(case: &str) {
    for guest in ["tcp-p2", "tcp-p3"] {
        for family in ["v4", "v6"] {
            let (lines, _) = Net::none().run(guest, &[case, family]).await;
            assert_eq!(lines, ["ok"], "{guest} {family}");
        }
    }
}

#[tokio::test]
async fn addresses_are_bound_once_and_free_again_at_once() {
    holds("bind").await;
}

#[tokio::test]
async fn the_ends_of_a_connection_name_each_other_and_nobody_is_refused_by_name() {
    holds("connect").await;
}

#[tokio::test]
async fn each_state_permits_what_the_wit_says() {
    holds("states").await;
}

#[tokio::test]
async fn options_are_kept_checked_and_inherited() {
    holds("options").await;
}

#[tokio::test]
async fn a_full_backlog_refuses_and_those_who_waited_are_reset() {
    holds("backlog").await;
}

#[tokio::test]
async fn thousands_of_connections_give_back_what_they_took() {
    holds("many").await;
}

#[tokio::test]
async fn a_server_and_its_clients_are_one_dyno() {
    holds("application").await;
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    holds("half-close").await;
}

#[tokio::test]
async fn a_peer_that_is_gone_resets_what_it_did_not_read() {
    holds("reset").await;
}

#[tokio::test]
async fn large_transfers_flow_both_ways_inside_a_dyno() {
    holds("bulk").await;
}

#[tokio::test]
async fn a_shutdown_loses_nothing_and_wakes_who_waits() {
    for family in ["v4", "v6"] {
        let (lines, _) = Net::none().run("tcp-p2", &["shutdown", family]).await;
        assert_eq!(lines, ["ok"], "{family}");
    }
}

#[tokio::test]
async fn a_socketpair_is_made_as_event_loops_make_it() {
    let (lines, remarks) = Net::none().run("loopback-std", &["socketpair"]).await;
    assert_eq!(lines, ["back"]);
    assert!(remarks.is_empty(), "{remarks:?}");
}

#[tokio::test]
async fn localhost_is_the_dynos_own() {
    let (lines, remarks) = Net::none().run("loopback-std", &["localhost"]).await;
    assert_eq!(lines, ["127.0.0.1 true", "127.0.0.1 true"]);
    assert!(remarks.is_empty(), "{remarks:?}");
    let (lines, _) = Net::none()
        .run("net-probe-p3", &["resolve", "localhost"])
        .await;
    assert_eq!(lines, ["resolved 2"]);
}

#[tokio::test]
async fn another_instance_does_not_see_it_nor_does_the_machine() {
    let addr = free_port().to_string();
    let (sandbox, log, egress) = Net::none().sandbox("loopback-std", &["hold", &addr]);
    let holds = |run| Started {
        run,
        log: log.clone(),
        egress: egress.clone(),
    };
    let first = holds(sandbox.run(Stdin::OpenUntilStop, Output::Log, &[]));
    first.says("listening").await;
    // Not even an instance of the same dyno: it has the same number for itself.
    let second = holds(sandbox.run(Stdin::Ended, Output::Log, &[]));
    let (exit, _, _) = second.end().await;
    assert_eq!(exit, Exit::Code(0));
    assert!(tokio::net::TcpStream::connect(&addr).await.is_err());
    let (lines, remarks) = Net::none().run("loopback-std", &["connect", &addr]).await;
    assert_eq!(lines, ["error PermissionDenied"]);
    remarked(
        &remarks,
        "it is a loopback address that no add-on and no `[network]` entry grants",
    );
    first.run.handle().stop();
    let (exit, lines, _) = first.end().await;
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(lines.iter().filter(|line| *line == "WouldBlock").count(), 2);
}

#[tokio::test]
async fn both_ends_count_as_sockets_and_their_buffers_as_memory() {
    let mut net = Net::none();
    net.limits.sockets = 10;
    let (lines, remarks) = net.run("loopback-std", &["pairs"]).await;
    // Beside the listener there is room for four, and for one end of a fifth.
    assert!(lines[0].starts_with("4 pairs, then "), "{lines:?}");
    assert!(lines[0].ends_with(", then again"), "{lines:?}");
    remarked(&remarks, "socket refused: 10 are open, the limit");

    let pairs = |memory: u64| async move {
        let mut net = Net::none();
        net.limits.memory = memory;
        net.limits.sockets = 1_000;
        net.limits.resources = 100_000;
        let (lines, remarks) = net.run("loopback-std", &["pairs"]).await;
        assert!(
            lines[0].ends_with("pairs, then OutOfMemory, then again"),
            "{lines:?}"
        );
        remarked(
            &remarks,
            "connection inside the dyno refused: its buffers of 128 KiB do not fit into `memory`",
        );
        let (count, _) = lines[0].split_once(' ').unwrap();
        count.parse::<u64>().unwrap()
    };
    let (less, more) = (pairs(8 << 20).await, pairs(16 << 20).await);
    // The guest's own memory takes whole pages, and perhaps one more.
    let expected = (8 << 20) / (128 << 10);
    assert!(
        (expected - 2..=expected + 2).contains(&(more - less)),
        "{less} {more}"
    );
}

#[tokio::test]
async fn what_is_asked_while_the_kernel_connects_has_an_answer() {
    let (addr, _) = echo_server().await;
    let (lines, _) = Net::none()
        .addon("db", addr)
        .run("loopback-std", &["connecting", &addr.to_string()])
        .await;
    assert_eq!(lines, ["Some(26) Some(53)"]);
}

#[tokio::test]
async fn a_local_bind_before_a_connect_is_no_listening() {
    let (addr, _) = echo_server().await;
    let (lines, remarks) = Net::none()
        .addon("db", addr)
        .run("loopback-std", &["bind-and-connect", &addr.to_string()])
        .await;
    assert_eq!(lines, ["ping", "ping", "AddrInUse"]);
    assert_eq!(
        remarks,
        [format!(
            "listening on {addr} refused: an add-on or a `[network]` entry grants a server there; take another port"
        )]
    );
}

#[tokio::test]
async fn a_dyno_reaches_its_own_port_and_the_router_still_does() {
    for (bind, host) in [
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("0.0.0.0", "::1"),
        ("[::]", "127.0.0.1"),
    ] {
        let port = Port::open(4).unwrap();
        let mut net = Net::none();
        net.listen = Some(port.clone());
        let addr = format!("{bind}:{}", port.number());
        let started = net.start("loopback-std", &["own-port", &addr, host]);
        tokio::time::timeout(PATIENCE, port.accepting())
            .await
            .expect("the guest accepts");
        let mut text = String::new();
        let mut stream = port.connect().await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        port.close();
        let (exit, lines, remarks) = started.end().await;
        assert_eq!(exit, Exit::Code(0), "{lines:?}");
        assert_eq!(lines, ["AddrInUse", "to myself", "closed"]);
        assert!(remarks.is_empty(), "{remarks:?}");
    }
}

#[tokio::test]
async fn a_listener_on_loopback_is_not_the_port() {
    let port = Port::open(4).unwrap();
    let mut net = Net::none();
    net.listen = Some(port.clone());
    let started = net.start("loopback-std", &["hold", "127.0.0.1:0"]);
    started.says("listening").await;
    assert!(port.connect().await.is_err());
    started.run.handle().stop();
    let (exit, _, _) = started.end().await;
    assert_eq!(exit, Exit::Code(0));
}

#[tokio::test]
async fn udp_is_not_part_of_it_and_says_so() {
    let mut net = Net::up();
    net.limits.sockets = 4;
    let (lines, remarks) = net.run("loopback-std", &["udp", "127.0.0.1:0"]).await;
    assert_eq!(lines, ["error PermissionDenied"]);
    remarked(
        &remarks,
        "binding UDP to 127.0.0.1:0 denied: UDP is bound to no address and port in particular",
    );
}

//! Listening on `$PORT`.

use super::*;

async fn echoes(guest: &str, bind: impl Fn(SocketAddr) -> String) {
    let addr = free_port();
    let mut net = Net::none();
    net.listen = Some(addr);
    let started = net.start(guest, &["listen", &bind(addr)]);
    started.says("listening").await;
    assert_eq!(ask(addr, "hello").await.unwrap(), "hello");
    assert_eq!(ask(addr, "again").await.unwrap(), "again");

    // No guest may connect to a dyno's port, its own app's `up` rules or not.
    let text = addr.to_string();
    let (lines, remarks) = Net::up()
        .allow(None, "127.0.0.1", addr.port())
        .run("net-probe", &["connect", &text])
        .await;
    assert_eq!(lines, ["error PermissionDenied"]);
    remarked(
        &remarks,
        "a dyno listens there; dynos are reached through the router, which nothing can allow",
    );

    started.run.handle().stop();
    let refused = async { while ask(addr, "late").await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused)
        .await
        .expect("the listener closes");
    started.says("closed").await;
    let (exit, _, _) = started.end().await;
    assert_eq!(exit, Exit::Code(0));
}

#[tokio::test]
async fn a_std_guest_serves_until_it_is_stopped() {
    echoes("net-probe", |addr| format!("0.0.0.0:{}", addr.port())).await;
}

#[tokio::test]
async fn a_guest_may_bind_all_addresses_of_ipv6_too() {
    echoes("net-probe", |addr| format!("[::]:{}", addr.port())).await;
}

#[tokio::test]
async fn a_tokio_guest_serves_until_it_is_stopped() {
    echoes("net-tokio", |addr| addr.to_string()).await;
}

#[tokio::test]
async fn a_p3_guest_serves_until_it_is_stopped() {
    echoes("net-probe-p3", |addr| addr.to_string()).await;
}

#[tokio::test]
async fn no_other_port_can_be_listened_on() {
    let addr = free_port();
    for (listen, bind) in [
        (None, addr.to_string()),
        (Some(addr), "0.0.0.0:0".to_owned()),
        (None, "127.0.0.1:0".to_owned()),
    ] {
        let mut net = Net::up();
        net.listen = listen;
        let (lines, remarks) = net.run("net-probe", &["bind", &bind]).await;
        assert_eq!(lines, ["error PermissionDenied"], "{bind}");
        remarked(
            &remarks,
            "denied: a listening web process may listen on `$PORT` only, all others not at all",
        );
    }
}

#[tokio::test]
async fn connections_above_the_socket_limit_wait() {
    let addr = free_port();
    let mut net = Net::none();
    net.listen = Some(addr);
    // The listener and two connections.
    net.limits.sockets = 3;
    let started = net.start("net-tokio", &["listen", &addr.to_string()]);
    started.says("listening").await;
    let held: Vec<_> =
        futures::future::try_join_all((0..2).map(|_| tokio::net::TcpStream::connect(addr)))
            .await
            .unwrap();
    let waiting = tokio::spawn(async move { ask(addr, "third").await });
    let full = async {
        while !started
            .log
            .remarks
            .lock()
            .unwrap()
            .iter()
            .any(|remark| remark.contains("raise `sockets`"))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, full)
        .await
        .expect("the limit is remarked on");
    assert!(!waiting.is_finished());
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap(), "third");
}

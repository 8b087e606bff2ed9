//! Listening on `$PORT`, which exists only in this process.

use oarlock_sandbox::Refused;

use super::*;

fn port() -> Port {
    Port::open(4).unwrap()
}

/// Sends a text to a listening guest and reads its echo.
async fn ask(port: &Port, text: &str) -> Result<String, Refused> {
    let mut stream = port.connect().await?;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    Ok(back)
}

async fn echoes(guest: &str, bind: impl Fn(u16) -> String) {
    let port = port();
    let mut net = Net::none();
    net.listen = Some(port.clone());
    let started = net.start(guest, &["listen", &bind(port.number())]);
    tokio::time::timeout(PATIENCE, port.accepting())
        .await
        .expect("the guest accepts");
    assert_eq!(ask(&port, "hello").await.unwrap(), "hello");
    // More than any buffer on the way holds.
    let long = "again ".repeat(100_000);
    assert_eq!(both(&port, &long).await, long);

    // Nothing of it is in the kernel, and no guest may connect to it, its own app's `up` rules or not.
    let text = format!("127.0.0.1:{}", port.number());
    assert!(tokio::net::TcpStream::connect(&text).await.is_err());
    let (lines, remarks) = Net::up()
        .allow(None, "127.0.0.1", port.number())
        .run("net-probe", &["connect", &text])
        .await;
    assert_eq!(lines, ["error PermissionDenied"]);
    remarked(
        &remarks,
        "a dyno listens there; dynos are reached through the router, which nothing can allow",
    );

    // The stop signal alone does not keep requests from being served; closing the port does.
    started.run.handle().stop();
    assert_eq!(ask(&port, "late").await.unwrap(), "late");
    port.close();
    assert_eq!(ask(&port, "too late").await, Err(Refused));
    started.says("closed").await;
    let (exit, _, _) = started.end().await;
    assert_eq!(exit, Exit::Code(0));
}

/// Sends and reads at once.
async fn both(port: &Port, text: &str) -> String {
    let (mut reads, mut writes) = tokio::io::split(port.connect().await.unwrap());
    let sending = async {
        writes.write_all(text.as_bytes()).await.unwrap();
        writes.shutdown().await.unwrap();
    };
    let mut back = String::new();
    let (_, read) = tokio::join!(sending, reads.read_to_string(&mut back));
    read.unwrap();
    back
}

#[tokio::test]
async fn a_std_guest_serves_until_its_port_is_closed() {
    echoes("net-probe", |port| format!("0.0.0.0:{port}")).await;
}

#[tokio::test]
async fn a_guest_may_bind_all_addresses_of_ipv6_too() {
    echoes("net-probe", |port| format!("[::]:{port}")).await;
}

#[tokio::test]
async fn a_tokio_guest_serves_until_its_port_is_closed() {
    echoes("net-tokio", |port| format!("127.0.0.1:{port}")).await;
}

#[tokio::test]
async fn a_p3_guest_serves_until_its_port_is_closed() {
    echoes("net-probe-p3", |port| format!("127.0.0.1:{port}")).await;
}

#[tokio::test]
async fn no_other_port_can_be_listened_on() {
    let (own, neighbours) = (port(), port());
    for (listen, bind) in [
        (None, format!("0.0.0.0:{}", own.number())),
        (Some(&own), format!("0.0.0.0:{}", neighbours.number())),
        (Some(&own), format!("192.0.2.1:{}", own.number())),
        (Some(&own), "0.0.0.0:0".to_owned()),
        (None, "127.0.0.2:0".to_owned()),
    ] {
        let mut net = Net::up();
        net.listen = listen.cloned();
        let (lines, remarks) = net.run("net-probe", &["bind", &bind]).await;
        assert_eq!(lines, ["error PermissionDenied"], "{bind}");
        remarked(
            &remarks,
            "denied: a listening web process may listen on `$PORT`, all others not at all; for its own sockets alone a \
             dyno may listen on 127.0.0.1 and ::1",
        );
    }
}

#[tokio::test]
async fn a_port_is_bound_once_and_looking_is_not_listening() {
    let port = port();
    let claim = |net: &mut Net| net.listen = Some(port.clone());
    let addr = format!("127.0.0.1:{}", port.number());
    let mut net = Net::none();
    claim(&mut net);
    let started = net.start("net-probe", &["listen", &addr]);
    tokio::time::timeout(PATIENCE, port.accepting())
        .await
        .expect("the guest accepts");
    let mut second = Net::none();
    claim(&mut second);
    let (lines, _) = second.run("net-probe", &["bind", &addr]).await;
    assert_eq!(lines, ["error AddrInUse"]);
    port.close();
    let (exit, _, _) = started.end().await;
    assert_eq!(exit, Exit::Code(0));

    let only_bound = Port::open(1).unwrap();
    let mut net = Net::none();
    net.listen = Some(only_bound.clone());
    let addr = format!("127.0.0.1:{}", only_bound.number());
    let (lines, _) = net.run("net-probe", &["bind", &addr]).await;
    assert_eq!(lines, ["bound"]);
    assert_eq!(ask(&only_bound, "nobody").await, Err(Refused));
}

#[tokio::test]
async fn a_guest_that_is_killed_cuts_its_connections() {
    let port = port();
    let mut net = Net::none();
    net.listen = Some(port.clone());
    let started = net.start(
        "net-tokio",
        &["listen", &format!("127.0.0.1:{}", port.number())],
    );
    port.accepting().await;
    let mut stream = port.connect().await.unwrap();
    stream.write_all(b"half").await.unwrap();
    let mut half = [0; 4];
    stream.read_exact(&mut half).await.unwrap();
    started.run.handle().kill();
    let end = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
    let kind = end.expect("the connection ends").unwrap_err().kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    port.gone().await;
}

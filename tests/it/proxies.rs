//! Behind a real nginx that the policy trusts, and one that it does not.

use std::net::SocketAddr;

use oarlock_tests::app::{App, PATIENCE, Running};
use oarlock_tests::servers::{Nginx, Passes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::serving::logged;

/// A client that nginx sees as another than itself.
const CLIENT: &str = "127.0.0.9";

/// `/head` answers with the request's head, as the guest got it.
async fn up(policy: &str) -> (App, Running) {
    let app = App::new("[processes]\nweb = \"web.wasm\"\n").guest("web.wasm", "listen-std");
    app.write("policy.toml", policy);
    let launch = app.up(crate::binary());
    let running = launch.args(&["--policy", "policy.toml"]).start().await;
    (app, running)
}

/// What a client at [`CLIENT`] gets; empty if its connection is closed.
async fn head(server: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((CLIENT.parse::<std::net::IpAddr>().unwrap(), 0).into())
        .unwrap();
    let mut stream = socket.connect(server).await.unwrap();
    let request =
        "GET /head HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: gopher\r\nConnection: close\r\n\r\n";
    // It may be closed by now.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
    let _reset = read.await.expect("the connection ends").is_err();
    String::from_utf8(answer).unwrap().to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_says_how_the_client_asked_if_it_is_trusted() {
    for (policy, proto, port) in [
        ("trusted_proxies = [\"127.0.0.1\"]\n", "https", Some("443")),
        ("", "http", None),
    ] {
        let (_app, running) = up(policy).await;
        let nginx = Nginx::start(Passes::Requests, running.address());
        let seen = head(nginx.address()).await;
        assert!(
            seen.contains(&format!("x-forwarded-for: {CLIENT}, 127.0.0.1\r\n")),
            "{seen}"
        );
        assert!(
            seen.contains(&format!("x-forwarded-proto: {proto}\r\n")),
            "{seen}"
        );
        let own = running.address().port().to_string();
        let port = port.unwrap_or(&own);
        assert!(
            seen.contains(&format!("x-forwarded-port: {port}\r\n")),
            "{seen}"
        );
        logged(&running, "router", &format!("fwd=\"{CLIENT}, 127.0.0.1\"")).await;
        assert_eq!(running.interrupt().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_names_the_client_by_the_proxy_protocol() {
    let (_app, running) = up("trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true\n").await;
    let nginx = Nginx::start(Passes::Bytes, running.address());
    let seen = head(nginx.address()).await;
    assert!(
        seen.contains(&format!("x-forwarded-for: {CLIENT}\r\n")),
        "{seen}"
    );
    assert!(seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
    logged(&running, "router", &format!("fwd=\"{CLIENT}\"")).await;
    assert_eq!(head(running.address()).await, "", "it comes from elsewhere");
    running.output.wait_for("`proxy_protocol` is on").await;
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_protocol_needs_a_proxy() {
    let app = App::new("[processes]\nweb = \"web.wasm\"\n").guest("web.wasm", "listen-std");
    app.write("policy.toml", "proxy_protocol = true\n");
    let args = ["check", ".", "--policy", "policy.toml"];
    let done = oarlock_tests::app::oarlock(crate::binary(), app.path(), &args).await;
    assert_eq!(done.code, 120, "{}", done.stderr);
    assert!(done.stderr.contains("policy.toml:1:1"), "{}", done.stderr);
    assert!(done.stderr.contains("`trusted_proxies`"), "{}", done.stderr);
}

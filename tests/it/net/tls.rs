//! HTTPS: a certificate of one of the extra roots is trusted, any other is not.

use std::sync::Arc;

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use oarlock_tests::app::{App, fetch};

use super::outgoing::{answer, call, request};
use super::*;

/// A server with a certificate for `localhost`; its address and the certificate.
async fn https_server() -> (SocketAddr, Vec<u8>) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http
                        .serve_connection(TokioIo::new(stream), service_fn(answer))
                        .await;
                }
            });
        }
    });
    (addr, certificate.to_vec())
}

#[tokio::test]
async fn https_trusts_the_given_roots_only() {
    let (addr, certificate) = https_server().await;
    let port = addr.port();
    for guest in ["http-out-p2", "http-out-p3"] {
        let mut net = Net::up().allow(Some("https"), "localhost", port);
        net.roots.push(certificate.clone());
        let (sandbox, log, _egress) = net.sandbox(guest, &[]);
        let url = format!("https://localhost:{port}/");
        let (status, _, body) = call(&sandbox, request(&url, b"secret")).await;
        let remarks = log.remarks.lock().unwrap().clone();
        assert_eq!(
            (status.as_u16(), &body[..]),
            (200, &b"secret"[..]),
            "{guest}: {body:?} {remarks:?}"
        );

        let (sandbox, _, _egress) = Net::up()
            .allow(Some("https"), "localhost", port)
            .sandbox(guest, &[]);
        let (status, _, body) = call(&sandbox, request(&url, b"secret")).await;
        assert_eq!(status.as_u16(), 502);
        assert!(
            String::from_utf8_lossy(&body).contains("TlsCertificateError"),
            "{guest}: {body:?}"
        );
    }
}

/// A certificate as a PEM file has it.
fn pem(certificate: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in certificate.chunks(3) {
        let bytes = [0, 1, 2].map(|at| u32::from(*three.get(at).unwrap_or(&0)));
        let bits = bytes[0] << 16 | bytes[1] << 8 | bytes[2];
        for nth in 0..4 {
            let six = (bits >> (18 - 6 * nth)) & 63;
            text.push(if nth <= three.len() {
                char::from(ALPHABET[six as usize])
            } else {
                '='
            });
        }
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        text.trim_end()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_names_a_ca_that_outgoing_https_trusts() {
    let (addr, certificate) = https_server().await;
    let url = format!("https://localhost:{}/", addr.port());
    let manifest = format!(
        "[processes]\nweb = \"web.wasm\"\n[network]\nallow = [\"https://localhost:{}\"]\n",
        addr.port()
    );
    let app = App::new(&manifest).guest("web.wasm", "http-out-p2");
    // From the policy's own folder, wherever that is.
    app.write("etc/policy.toml", "[tls]\nca = \"our-ca.pem\"\n");
    app.write("etc/our-ca.pem", &pem(&certificate));
    for (policy, answer) in [("etc/policy.toml", "secret"), ("", "TlsCertificateError")] {
        let launch = app.up(crate::binary());
        let launch = if policy.is_empty() {
            launch
        } else {
            launch.args(&["--policy", policy])
        };
        let running = launch.start().await;
        let web = format!("http://{}/", running.address());
        let asked = fetch(
            "POST",
            &web,
            &[("x-url", url.as_str())],
            Bytes::from_static(b"secret"),
        )
        .await;
        let asked = asked.unwrap();
        assert!(asked.text().contains(answer), "{policy}: {asked:?}");
        assert_eq!(running.interrupt().await, Some(0));
    }
    app.write("etc/our-ca.pem", "nonsense\n");
    let mut running = app
        .up(crate::binary())
        .args(&["--policy", "etc/policy.toml"])
        .spawn();
    running
        .output
        .wait_for("there is no certificate in it")
        .await;
    assert_eq!(running.wait().await, Some(1));
}

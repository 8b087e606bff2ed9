//! HTTPS: a certificate of one of the extra roots is trusted, any other is not.

use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

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

//! A service with a certificate of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use platform::health::Health;
use platform::serve::{self, HttpArgs};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio_util::sync::CancellationToken;

use crate::kit::{DEADLINE, Server};

/// Writes a new certificate for `localhost` with its key; answers it for clients to trust.
fn renew(dir: &TempDir) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert.der().clone()
}

fn args(dir: &TempDir) -> HttpArgs {
    HttpArgs {
        tls_cert_file: Some(dir.path().join("cert.pem")),
        tls_key_file: Some(dir.path().join("key.pem")),
        header_timeout: Duration::from_millis(500),
        ..HttpArgs::default()
    }
}

async fn connect(
    server: &Server,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn it_serves_https_and_takes_a_renewed_certificate() {
    let dir = TempDir::new().unwrap();
    let first = renew(&dir);
    let router = Router::new().route("/hello", get(async || "hello"));
    let server = Server::start(router, args(&dir)).await;
    let mut stream = connect(&server, &first).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let request = b"GET /hello HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");

    // Plain HTTP is no handshake; and one that never begins ends with the limit for headers.
    let mut plain = server.client().await;
    plain.send("GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, plain.0.read_to_end(&mut bytes)).await.expect("an end");
    assert!(!bytes.starts_with(b"HTTP"), "{bytes:?}");
    let mut silent = server.client().await;
    let read = tokio::time::timeout(DEADLINE, silent.0.read_to_end(&mut bytes)).await;
    read.expect("an end").unwrap();

    // A key that does not fit changes nothing; then the pair does.
    let second = renew(&dir);
    assert_ne!(first, second);
    let deadline = Instant::now() + DEADLINE;
    while connect(&server, &second).await.is_err() {
        assert!(Instant::now() < deadline, "the renewed certificate is not taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(connect(&server, &first).await.is_err());
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_at_start() {
    let dir = TempDir::new().unwrap();
    renew(&dir);
    let other = TempDir::new().unwrap();
    renew(&other);
    let start = async |args: HttpArgs| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        let started = serve::start(listener, &Health::new("test"), &args, 0, &shutdown);
        shutdown.cancel();
        started.map(drop).map_err(|error| format!("{error:#}"))
    };
    assert!(start(args(&dir)).await.is_ok());
    let key_of_another =
        HttpArgs { tls_key_file: Some(other.path().join("key.pem")), ..args(&dir) };
    assert!(start(key_of_another).await.unwrap_err().contains("do not work together"));
    assert!(start(HttpArgs { tls_key_file: None, ..args(&dir) }).await.is_err());
    let missing = HttpArgs { tls_cert_file: Some(dir.path().join("none.pem")), ..args(&dir) };
    assert!(start(missing).await.unwrap_err().contains("none.pem"));
    // A key in the place of the certificate: its words stay out of the error.
    let key = std::fs::read_to_string(dir.path().join("key.pem")).unwrap();
    let swapped = HttpArgs {
        tls_cert_file: Some(dir.path().join("key.pem")),
        tls_key_file: Some(dir.path().join("cert.pem")),
        ..args(&dir)
    };
    let error = start(swapped).await.unwrap_err();
    assert!(key.lines().skip(1).all(|line| !error.contains(line)), "{error}");
}

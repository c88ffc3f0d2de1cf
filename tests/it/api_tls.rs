//! TLS: works, takes new certificates, keeps the old ones when the new cannot be used, and is not held by silent clients.

use crate::api_support::{Api, eventually};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sqlx::postgres::PgPoolOptions;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use vm_service::http::serve::{HttpConfig, bind, serve};
use vm_service::http::state::Limits;

struct Pair {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

fn pair() -> Pair {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    Pair { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
}

fn write(folder: &Path, cert: &str, key: &str) {
    std::fs::write(folder.join("cert.pem"), cert).unwrap();
    std::fs::write(folder.join("key.pem"), key).unwrap();
}

fn config(folder: &Path) -> HttpConfig {
    HttpConfig {
        tls: Some((folder.join("cert.pem"), folder.join("key.pem"))),
        certificate_check: Duration::from_millis(50),
        header_timeout: Duration::from_millis(500),
        ..HttpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

/// The answer to one request over TLS, by a client that trusts this certificate alone.
async fn get(address: SocketAddr, trusted: &Pair, alpn: &'static str) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let ask = move || -> Result<String, std::io::Error> {
        let connection =
            ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).map_err(std::io::Error::other)?;
        let socket = std::net::TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut stream = StreamOwned::new(connection, socket);
        let mut bytes = Vec::new();
        if alpn == "h2" {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
            let mut head = [0; 9];
            stream.read_exact(&mut head)?;
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
            return Ok(format!("frame {}", head[3]));
        }
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        drop(stream.read_to_end(&mut bytes));
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    tokio::task::spawn_blocking(ask).await.unwrap().map_err(|error| error.to_string())
}

fn unasked() -> Api {
    let options = sqlx::postgres::PgConnectOptions::new_without_pgpass().host("/var/tmp/nowhere");
    Api::over(PgPoolOptions::new().connect_lazy_with(options), Limits::default())
}

#[tokio::test]
async fn new_certificates_are_taken_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, third) = (pair(), pair(), pair());
    write(folder.path(), &first.cert, &first.key);
    let api = unasked();
    let listener = bind(&config(folder.path())).await.unwrap();
    assert_eq!(listener.url(), format!("https://{}", listener.address));
    let address = listener.address;
    let served = tokio::spawn(serve(listener, api.state.clone()));
    let answer = get(address, &first, "http/1.1").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
    assert_eq!(get(address, &first, "h2").await.unwrap(), "frame 4", "HTTP/2 begins with SETTINGS");
    get(address, &second, "http/1.1").await.unwrap_err();

    write(folder.path(), &second.cert, &first.key);
    eventually(async || api.logs.text().contains("the new certificate cannot be used")).await;
    get(address, &first, "http/1.1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(api.logs.text().matches("the new certificate cannot be used").count(), 1, "it is told once");

    write(folder.path(), &second.cert, &second.key);
    eventually(async || get(address, &second, "http/1.1").await.is_ok()).await;
    get(address, &first, "http/1.1").await.unwrap_err();
    write(folder.path(), "garbage", &second.key);
    eventually(async || api.logs.text().matches("the new certificate cannot be used").count() == 2).await;
    std::fs::remove_file(folder.path().join("cert.pem")).unwrap();
    tokio::time::sleep(Duration::from_millis(120)).await;
    get(address, &second, "http/1.1").await.unwrap();
    write(folder.path(), &third.cert, &third.key);
    eventually(async || get(address, &third, "http/1.1").await.is_ok()).await;
    let logs = api.logs.text();
    assert!(!logs.contains("PRIVATE KEY"), "{logs}");
    api.state.stop.cancel();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_that_do_not_speak_tls_or_nothing_at_all_are_cut_off() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let pair = pair();
    write(folder.path(), &pair.cert, &pair.key);
    let api = unasked();
    let listener = bind(&config(folder.path())).await.unwrap();
    let address = listener.address;
    tokio::spawn(serve(listener, api.state.clone()));
    for first in [&b""[..], b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\x02\x00"] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(first).await.unwrap();
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
        drop(read.expect("not cut off"));
        assert!(!String::from_utf8_lossy(&bytes).contains("HTTP/1.1"));
    }
    // After the handshake: no request.
    let begun = std::time::Instant::now();
    get(address, &pair, "http/1.1").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_before_anything_listens() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (pair(), pair());
    let sentence = async || bind(&config(folder.path())).await.unwrap_err().to_string();
    assert!(sentence().await.contains("cert.pem cannot be read"));
    write(folder.path(), &one.cert, &two.key);
    assert!(sentence().await.contains("do not go together"));
    write(folder.path(), &one.cert, "x");
    assert!(sentence().await.contains("--tls-key holds no private key"));
    write(folder.path(), "", &one.key);
    let empty = sentence().await;
    assert!(empty.contains("--tls-cert"), "{empty}");
    write(folder.path(), &one.cert, &one.key);
    bind(&config(folder.path())).await.unwrap();
    let public = HttpConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config(folder.path()) };
    bind(&public).await.unwrap();
}

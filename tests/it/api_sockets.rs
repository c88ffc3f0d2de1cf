//! What only shows on a real socket: who is cut off, who is not, how the service stops, and why it does not start.

use crate::api_support::{Api, CI, VIEWER, eventually, machine, task_path};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vm_service::http::serve::{BindError, HttpConfig, bind, serve, serve_router};
use vm_service::http::state::Limits;

/// Generous: a machine under load is slow, and a client that is not cut off stays for ever.
const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);

fn loopback() -> HttpConfig {
    HttpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn impatient() -> HttpConfig {
    HttpConfig { header_timeout: SHORT, ..loopback() }
}

async fn serving(api: &Api, config: &HttpConfig) -> (SocketAddr, JoinHandle<std::io::Result<()>>) {
    let listener = bind(config).await.unwrap();
    assert_eq!(listener.url(), format!("http://{}", listener.address));
    let address = listener.address;
    (address, tokio::spawn(serve(listener, api.state.clone())))
}

fn unasked() -> Api {
    let options = sqlx::postgres::PgConnectOptions::new_without_pgpass().host("/var/tmp/nowhere");
    Api::over(PgPoolOptions::new().connect_lazy_with(options), Limits { body: SHORT, ..Limits::default() })
}

/// All that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await {
        // Closed, or reset because something of ours was not read.
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => panic!("not cut off: {}", String::from_utf8_lossy(&bytes)),
    }
}

/// Sends a byte now and then until the other side closes.
async fn trickle(address: SocketAddr, first: &[u8], drops: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first).await.unwrap();
    let (mut from, mut to) = stream.split();
    let send = async {
        for byte in drops.iter().cycle() {
            if to.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut bytes = Vec::new();
    tokio::select! {
        read = tokio::time::timeout(SOON, from.read_to_end(&mut bytes)) => drop(read.expect("not cut off")),
        () = send => {}
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn headers_that_trickle_are_cut_off() {
    let api = unasked();
    let (address, _) = serving(&api, &impatient()).await;
    trickle(address, b"", b"").await;
    trickle(address, b"GET /status HTTP/1.1\r\n", b"x-a: b\r\n").await;
    trickle(address, b"GET /sta", b"t").await;
    trickle(address, b"PRI * HTTP/2.0\r\n\r\n", b"").await;
    // HTTP/2: preface, empty SETTINGS, then PINGs byte by byte: life, but no request.
    trickle(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"\0\0\x08\x06\0\0\0\0\0pingpong").await;
    // A request was served, and no other comes.
    let answered = trickle(address, b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n", b"").await;
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_body_that_trickles_is_cut_off(pool: PgPool) {
    let api = Api::with_limits(pool, Limits { body: SHORT, ..Limits::default() }).await;
    let (address, _) = serving(&api, &loopback()).await;
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {CI}\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n{{",
        task_path(1)
    );
    let answer = trickle(address, head.as_bytes(), b" ").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("did not arrive in time"), "{answer}");
}

#[tokio::test]
async fn headers_and_bodies_that_are_too_large_are_refused() {
    let api = unasked();
    let (address, _) = serving(&api, &loopback()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let large = format!("GET /status HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(100_000));
    drop(stream.write_all(large.as_bytes()).await);
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\nbroken header\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 400"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn work_in_flight_is_not_cut_off(pool: PgPool) {
    let api = Api::new(pool).await;
    let (address, _) = serving(&api, &impatient()).await;
    api.put(CI, &task_path(1), &machine()).await;
    let request = |token: &str, path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}\r\n")
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request(VIEWER, "/api/v1/events", "accept: text/event-stream\r\n").as_bytes()).await.unwrap();
    let mut poll = TcpStream::connect(address).await.unwrap();
    poll.write_all(request(CI, &format!("{}?wait=1", task_path(1)), "").as_bytes()).await.unwrap();
    let answer = rest(&mut poll).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("queued"), "{answer}");
    // A second has passed, three times the timeout: the stream still tells.
    api.call(CI, "DELETE", &task_path(1)).await;
    let mut text = String::new();
    let read = async {
        while !text.contains("task.released") {
            let mut some = [0; 4096];
            let n = stream.read(&mut some).await.unwrap();
            assert!(n > 0, "cut off: {text}");
            text += &String::from_utf8_lossy(&some[..n]);
        }
    };
    tokio::time::timeout(SOON, read).await.unwrap();
}

async fn is_served(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    drop(stream.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await);
    rest(&mut stream).await.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let api = unasked();
    let (address, _) = serving(&api, &HttpConfig { max_connections: 2, ..loopback() }).await;
    let held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    eventually(async || !is_served(address).await).await;
    drop(held);
    eventually(async || is_served(address).await).await;
}

#[tokio::test]
async fn who_does_not_take_the_answer_is_cut_off() {
    let api = unasked();
    let config = HttpConfig { max_connections: 1, write_timeout: SHORT, ..loopback() };
    let (address, _) = serving(&api, &config).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.repeat(8).as_bytes()).await.unwrap();
    // Its slot is free again, although it is still here and the header timeout is 10 s.
    let begun = std::time::Instant::now();
    eventually(async || is_served(address).await).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(stream);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_stop_answers_who_waits_and_ends(pool: PgPool) {
    let api = Api::new(pool).await;
    let (address, served) = serving(&api, &loopback()).await;
    api.put(CI, &task_path(1), &machine()).await;
    let mut poll = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {}?wait=60 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {CI}\r\n\r\n", task_path(1));
    poll.write_all(request.as_bytes()).await.unwrap();
    let idle = TcpStream::connect(address).await.unwrap();
    eventually(async || api.logs.text().matches("\"answered\"").count() == 1 && api.db().wake.subscribe().has_changed().is_ok())
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    api.state.stop.cancel();
    let answer = rest(&mut poll).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("queued"), "{answer}");
    tokio::time::timeout(SOON * 2, served).await.unwrap().unwrap().unwrap();
    drop(idle);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn why_it_does_not_start_is_one_sentence() {
    let taken = bind(&loopback()).await.unwrap();
    let error = bind(&HttpConfig::new(taken.address)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} is in use: stop the program that has it, or choose another port with --listen", taken.address)
    );
    let public = HttpConfig::new("0.0.0.0:0".parse().unwrap());
    assert!(bind(&public).await.unwrap_err().to_string().contains("--tls-cert and --tls-key, or --behind-tls-proxy"));
    for open in ["[::]:0", "192.0.2.1:0", "10.0.0.1:0", "[::ffff:10.0.0.1]:0"] {
        let refused = bind(&HttpConfig::new(open.parse().unwrap())).await.unwrap_err();
        assert!(matches!(refused, BindError::NotEncrypted(_)), "{open}: {refused}");
    }
    bind(&HttpConfig { behind_tls_proxy: true, ..public }).await.unwrap();
    let foreign = HttpConfig { behind_tls_proxy: true, ..HttpConfig::new("192.0.2.1:3001".parse().unwrap()) };
    assert!(bind(&foreign).await.unwrap_err().to_string().contains("is not an address of this host"));
}

#[tokio::test]
async fn a_broken_service_says_what_is_wrong_until_it_is_told_to_stop() {
    let listener = bind(&loopback()).await.unwrap();
    let address = listener.address;
    let (stop, (_problem, told)) = (CancellationToken::new(), watch::channel(Some("Set the region.".to_owned())));
    let served = tokio::spawn(serve_router(listener, vm_service::http::broken_router(told), stop.clone()));
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        rest(&mut stream).await
    };
    for path in ["/status", "/api/v1/tasks", "/docs", "/consoles"] {
        let answer = ask(path).await;
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("\"detail\":\"Set the region.\""), "{answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    }
    let mut style = String::new();
    for path in ["/", "/console", "/console/", "/console/tasks/1", "/console/sign-in?next=%2Fconsole"] {
        let answer = ask(path).await;
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains(">Set the region.</p>"), "{answer}");
        assert!(
            answer.contains("content-type: text/html") && answer.contains("content-security-policy: default-src 'none'"),
            "{answer}"
        );
        style = answer
            .split("href=\"")
            .find_map(|rest| rest.split('"').next().filter(|path| path.ends_with(".css")))
            .unwrap()
            .to_owned();
    }
    assert!(ask(&style).await.starts_with("HTTP/1.1 200"), "{style}");
    stop.cancel();
    tokio::time::timeout(SOON, served).await.unwrap().unwrap().unwrap();
}

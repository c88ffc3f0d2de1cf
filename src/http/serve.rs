//! The listener: refused with one sentence when it could not serve safely, and ended without cutting off whoever is being answered.
//!
//! Runs: from start until the stop token; then nothing new is accepted, and what runs has [`HttpConfig::grace`] to finish.
//! Not here: one connection (`guard`), certificates (`tls`), one request (`router`).

use super::guard::Guard;
use super::state::AppState;
use super::tls::Certificate;
use axum::Router;
use axum_server::accept::DefaultAcceptor;
use axum_server::tls_rustls::RustlsAcceptor;
use axum_server::{Handle, Server};
use hyper_util::rt::TokioTimer;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// All header lines of one request.
const HEADER_BYTES: usize = 32 * 1024;
/// A dispatcher may have this many long polls on one connection.
const STREAMS: u32 = 250;
/// HTTP/2 only: a peer that vanished is noticed after both.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(10);

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The option that said so.
    pub option: &'static str,
    /// Files of certificate chain and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// A proxy in front does TLS.
    pub behind_tls_proxy: bool,
    /// For a request's headers to arrive; also the longest that a connection may be without a request, and a TLS handshake last.
    pub header_timeout: Duration,
    /// For a client to take a part of its answer.
    pub write_timeout: Duration,
    /// Connections at a time; more are closed at once.
    pub max_connections: usize,
    /// Between two looks at the certificate files.
    pub certificate_check: Duration,
    /// For requests to finish at the stop.
    pub grace: Duration,
}

impl HttpConfig {
    /// Listens at `listen` without TLS, with the usual limits.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            option: "--listen",
            tls: None,
            behind_tls_proxy: false,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            max_connections: 4096,
            certificate_check: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// Why nothing can be served, in one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Tokens and keys would cross a network unencrypted.
    #[error(
        "{0} can be reached from other machines and would not be encrypted: give --tls-cert and --tls-key, or --behind-tls-proxy when a proxy in front does TLS, or listen on 127.0.0.1"
    )]
    NotEncrypted(SocketAddr),
    /// Somebody else has the port.
    #[error("{0} is in use: stop the program that has it, or choose another port with {1}")]
    InUse(SocketAddr, &'static str),
    /// Not an address of this host.
    #[error("{0} is not an address of this host: choose one of its own, or 0.0.0.0, with {1}")]
    NotOurs(SocketAddr, &'static str),
    /// A port below 1024.
    #[error("this user may not listen on port {port}: choose a port from 1024 on with {1}", port = .0.port())]
    Privileged(SocketAddr, &'static str),
    /// Certificate or key.
    #[error("{0}")]
    Certificate(String),
    /// Anything else.
    #[error("cannot listen on {0}")]
    Other(SocketAddr, #[source] io::Error),
}

/// A socket that listens; nobody is answered before [`serve`].
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    certificate: Option<Certificate>,
    config: HttpConfig,
    /// Where it listens, with the port that it got.
    pub address: SocketAddr,
}

/// Takes the address.
///
/// # Errors
/// See [`BindError`].
pub async fn bind(config: &HttpConfig) -> Result<Listener, BindError> {
    let at = config.listen;
    if !at.ip().to_canonical().is_loopback() && config.tls.is_none() && !config.behind_tls_proxy {
        return Err(BindError::NotEncrypted(at));
    }
    let certificate =
        config.tls.as_ref().map(|(cert, key)| Certificate::read(cert, key)).transpose().map_err(BindError::Certificate)?;
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(at, config.option),
        io::ErrorKind::AddrNotAvailable => BindError::NotOurs(at, config.option),
        io::ErrorKind::PermissionDenied => BindError::Privileged(at, config.option),
        _ => BindError::Other(at, error),
    };
    let socket = tokio::net::TcpListener::bind(at).await.and_then(tokio::net::TcpListener::into_std).map_err(refused)?;
    let address = socket.local_addr().map_err(|error| BindError::Other(at, error))?;
    Ok(Listener { socket, certificate, config: config.clone(), address })
}

impl Listener {
    /// Whether its callers reach it over TLS, ours or a proxy's.
    pub fn is_encrypted(&self) -> bool {
        self.certificate.is_some() || self.config.behind_tls_proxy
    }

    /// For people: `http://127.0.0.1:3001`.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// Serves the API until the state's stop token.
///
/// # Errors
/// When the socket fails.
pub async fn serve(listener: Listener, state: AppState) -> io::Result<()> {
    let stop = state.stop.clone();
    serve_router(listener, super::router(state), stop).await
}

/// Serves any router until `stop`; for a service whose configuration must be mended first, that of [`super::broken_router`].
///
/// # Errors
/// When the socket fails.
pub async fn serve_router(listener: Listener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let Listener { socket, certificate, config, address } = listener;
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(socket)?.handle(handle.clone());
    set_limits(&mut server, &config);
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let (idle, stall) = (config.header_timeout, config.write_timeout);
    // Whatever ends this function ends these two with it.
    let helpers = stop.child_token();
    let _ended = helpers.clone().drop_guard();
    tokio::spawn(async move {
        stop.cancelled().await;
        handle.graceful_shutdown(Some(config.grace));
    });
    // Who connects: attempts to sign in are counted by address.
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tracing::info!(%address, tls = certificate.is_some(), behind_tls_proxy = config.behind_tls_proxy, "listening");
    match certificate {
        None => server.acceptor(Guard { inner: DefaultAcceptor, slots, idle, stall }).serve(service).await,
        Some(certificate) => {
            let inner = RustlsAcceptor::new(certificate.config.clone()).handshake_timeout(idle);
            tokio::spawn(certificate.watch(config.certificate_check, helpers));
            server.acceptor(Guard { inner, slots, idle, stall }).serve(service).await
        }
    }
}

fn set_limits(server: &mut Server<SocketAddr>, config: &HttpConfig) {
    let builder = server.http_builder();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.header_timeout).max_buf_size(HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX));
}

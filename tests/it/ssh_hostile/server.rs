//! An SSH server that speaks the protocol and then does what it is told, and counts what it saw.

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, ssh_key::LineEnding};
use russh::server::{self, Auth, ChannelOpenHandle, PublicKeyOffer, VerifiedPublicKey};
use russh::{Channel, ChannelId, Sig};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use vm_service::domain::secret::Secret;
use vm_service::ssh::Target;

pub(super) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

pub(super) const HOST: u8 = 1;
pub(super) const LOGIN: u8 = 2;

pub(super) fn target(addr: SocketAddr, host: u8, login: u8) -> Target {
    Target {
        addr,
        user: "circleci".to_owned(),
        host_key: key(host).public_key().to_openssh().unwrap(),
        login: Secret::new(key(login).to_openssh(LineEnding::LF).unwrap().as_str()),
    }
}

/// Serves every connection with `serve`.
pub(super) async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    addr
}

/// What the server does once a command is asked for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Act {
    Succeed,
    Fail,
    Signal,
    CloseWithoutStatus,
    Hang,
    Flood,
    RefuseCommand,
    RefuseChannel,
    NeverOpenChannel,
    HangUp,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) logins: AtomicUsize,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

struct Host {
    act: Act,
    seen: Arc<Seen>,
    channel: Option<Channel<server::Msg>>,
}

impl server::Handler for Host {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, Self::Error> {
        self.seen.logins.fetch_add(1, Ordering::SeqCst);
        Ok(Auth::reject())
    }

    async fn auth_publickey_offered(&mut self, _: &str, _: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        self.seen.logins.fetch_add(1, Ordering::SeqCst);
        Ok(Auth::Accept)
    }

    async fn auth_publickey(&mut self, _: &str, shown: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.seen.logins.fetch_add(1, Ordering::SeqCst);
        let good = shown.public_key.key_data() == key(LOGIN).public_key().key_data();
        Ok(if good { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<server::Msg>,
        reply: ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        match self.act {
            Act::RefuseChannel => reply.reject(russh::ChannelOpenFailure::ResourceShortage).await,
            Act::NeverOpenChannel => std::mem::forget(reply),
            _ => {
                self.channel = Some(channel);
                reply.accept().await;
            }
        }
        Ok(())
    }

    async fn data(&mut self, _: ChannelId, data: &[u8], _: &mut server::Session) -> Result<(), Self::Error> {
        self.seen.received.fetch_add(data.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, _: &[u8], session: &mut server::Session) -> Result<(), Self::Error> {
        match self.act {
            Act::RefuseCommand => return session.channel_failure(id),
            Act::HangUp => return Err(russh::Error::Disconnect),
            _ => session.channel_success(id)?,
        }
        match self.act {
            Act::Succeed => {
                session.data(id, "out".to_owned())?;
                session.extended_data(id, 1, "err".to_owned())?;
                session.exit_status_request(id, 0)?;
            }
            Act::Fail => session.exit_status_request(id, 7)?,
            Act::Signal => session.exit_signal_request(id, Sig::KILL, false, "", "")?,
            Act::Flood => {
                let (channel, seen) = (self.channel.take().unwrap(), Arc::clone(&self.seen));
                tokio::spawn(async move {
                    while channel.data_bytes(vec![b'x'; 32 * 1024]).await.is_ok() {
                        seen.sent.fetch_add(32 * 1024, Ordering::SeqCst);
                    }
                });
                return Ok(());
            }
            Act::Hang => return Ok(()),
            _ => {}
        }
        session.eof(id)?;
        session.close(id)
    }
}

pub(super) async fn host(act: Act) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let given = Arc::clone(&seen);
    let addr = listen(move |stream| serve(stream, act, Arc::clone(&given))).await;
    (addr, seen)
}

pub(super) async fn serve(stream: TcpStream, act: Act, seen: Arc<Seen>) {
    let config = server::Config { keys: vec![key(HOST)], auth_rejection_time: Duration::ZERO, ..server::Config::default() };
    if let Ok(session) = server::run_stream(Arc::new(config), stream, Host { act, seen, channel: None }).await {
        session.await.ok();
    }
}

//! A logged-in connection: the pinned key is proven before anything is sent, and dropping the session ends everything of it.

use super::reach::{self, Reached};
use super::{SshError, Target, printable};
use russh::client::{self, AuthResult, DisconnectReason};
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{AlgorithmKind, Error as Russh, Preferred, SshId, cipher, compression, kex, mac};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Three of these without an answer, 45 s, and the machine counts as dead.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What a server may send ahead of us, bytes; also bounds what it may make us keep during a key exchange.
const WINDOW: u32 = 1 << 20;
/// What waits for a slow reader, in packets of at most 32 KiB.
const PACKETS: usize = 16;

/// X25519 alone: on an emulated CPU the post-quantum exchange costs much more, and no secret here outlives its machine.
const KEX: &[kex::Name] =
    &[kex::CURVE25519, kex::CURVE25519_PRE_RFC_8731, kex::EXTENSION_SUPPORT_AS_CLIENT, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT];
const HOST_KEYS: &[Algorithm] = &[Algorithm::Ed25519];
const CIPHERS: &[cipher::Name] = &[cipher::CHACHA20_POLY1305, cipher::AES_256_GCM];
/// Not used by these ciphers, but the exchange names one.
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM];
const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// Why a session ended, for the one who was using it.
type End = Arc<Mutex<Option<String>>>;

/// A logged-in connection to a server that has proven the pinned key. Dropping it closes the connection at once.
pub struct Session {
    pub(super) handle: client::Handle<Pin>,
    end: End,
    _off: DropGuard,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Connects and logs in, with one try.
    ///
    /// # Errors
    /// See [`SshError`]; `NotReachable` when no server was up.
    pub async fn connect(target: &Target, deadline: Instant) -> Result<Self, SshError> {
        let keys = Keys::of(target)?;
        let reached = reach::once(target.addr, deadline).await?;
        Self::open(reached, target, keys, deadline).await
    }

    /// Connects and logs in as soon as a server is up. Before its banner every failure means "not yet"; after it, failures are final.
    ///
    /// # Errors
    /// See [`SshError`]; `NotReachable` when no server was up before the deadline.
    pub async fn connect_when_up(target: &Target, deadline: Instant) -> Result<Self, SshError> {
        let keys = Keys::of(target)?;
        let reached = reach::when_up(target.addr, deadline).await?;
        Self::open(reached, target, keys, deadline).await
    }

    async fn open(reached: Reached, target: &Target, keys: Keys, deadline: Instant) -> Result<Self, SshError> {
        let off = CancellationToken::new();
        // From here on a timeout or a cancelled caller drops the guard, and with it the library's task and the socket.
        let guard = off.clone().drop_guard();
        let end = End::default();
        let pin = Pin { host_key: keys.host_key, end: Arc::clone(&end) };
        let wire = reached.into_wire(off);
        let opening = async {
            let mut handle = client::connect_stream(config(), wire, pin).await.map_err(|e| exchange_failed(&e))?;
            let login = PrivateKeyWithHashAlg::new(Arc::new(keys.login), None);
            match handle.authenticate_publickey(target.user.as_str(), login).await {
                Ok(AuthResult::Success) => Ok(handle),
                // sshd also hangs up on a login that it does not want, for example while it boots (pam_nologin).
                Ok(AuthResult::Failure { .. }) | Err(_) => Err(SshError::LoginRefused),
            }
        };
        let handle = timeout_at(deadline, opening).await.unwrap_or(Err(SshError::TimedOut))?;
        Ok(Self { handle, end, _off: guard })
    }

    /// Why the connection is no more.
    pub(super) fn lost(&self) -> SshError {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).clone();
        SshError::Lost(end.unwrap_or_else(|| "it was closed".to_owned()))
    }
}

struct Keys {
    host_key: PublicKey,
    login: PrivateKey,
}

impl Keys {
    fn of(target: &Target) -> Result<Self, SshError> {
        let host_key = PublicKey::from_openssh(&target.host_key).map_err(|_| SshError::InvalidKey("host key"))?;
        let login = PrivateKey::from_openssh(target.login.expose()).map_err(|_| SshError::InvalidKey("login"))?;
        if host_key.algorithm() != Algorithm::Ed25519 {
            return Err(SshError::InvalidKey("host key"));
        }
        Ok(Self { host_key, login })
    }
}

/// Holds the server to the pinned key and notes why the session ended.
pub(super) struct Pin {
    host_key: PublicKey,
    end: End,
}

impl client::Handler for Pin {
    type Error = Russh;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Russh> {
        Ok(match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.key_data() == self.host_key.key_data(),
            PublicKeyOrCertificate::Certificate(_) => false,
        })
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Russh>) -> Result<(), Russh> {
        let text = match &reason {
            DisconnectReason::ReceivedDisconnect(info) => format!("the machine said: {}", printable(info.message.as_bytes())),
            DisconnectReason::Error(Russh::KeepaliveTimeout) => "the machine stopped answering".to_owned(),
            DisconnectReason::Error(Russh::IO(e)) if e.kind() == std::io::ErrorKind::TimedOut => {
                "the machine stopped reading".to_owned()
            }
            DisconnectReason::Error(e) => printable(e.to_string().as_bytes()),
        };
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        Ok(())
    }
}

fn config() -> Arc<client::Config> {
    Arc::new(client::Config {
        client_id: SshId::Standard(reach::BANNER.trim_end().into()),
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Borrowed(HOST_KEYS),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(COMPRESSION),
            ..Preferred::DEFAULT
        },
        window_size: WINDOW,
        channel_buffer_size: PACKETS,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 2,
        ..client::Config::default()
    })
}

/// A server that cannot prove the pinned key shows another one, offers no key of its kind, or signs wrongly.
fn exchange_failed(error: &Russh) -> SshError {
    match error {
        Russh::UnknownKey | Russh::WrongServerSig | Russh::Signature(_) | Russh::NoCommonAlgo { kind: AlgorithmKind::Key, .. } => {
            SshError::WrongHostKey
        }
        other => SshError::Misbehaved(printable(format!("key exchange: {other}").as_bytes())),
    }
}

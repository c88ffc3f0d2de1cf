//! Secrets at rest are sealed with AES-256-GCM under a configured key; what is sealed for one row cannot be opened for another.
//!
//! A sealed value is: version byte 1, key id (4 bytes), nonce (12 bytes, random), ciphertext, tag. The associated data is the
//! row's id. The newest key seals; during a rotation an older one still opens, because each value names its key.
//! A token is kept as HMAC-SHA-256 under a key derived from the sealing key; so is a session of the console, under another.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{digest, hkdf, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use uuid::Uuid;
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEAD_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// Why a sealed value cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The key is not 32 bytes in base64.
    #[error("a sealing key must be 32 bytes in base64; make one with `openssl rand -base64 32`")]
    BadKey,
    /// There is no key at all.
    #[error("no sealing key is configured: set VM_SERVICE_SEALING_KEYS")]
    NoKey,
    /// Sealed under a key that is not configured.
    #[error("sealed under a key that is not configured: add the old key to VM_SERVICE_SEALING_KEYS until the rotation is over")]
    UnknownKey,
    /// Damaged, or sealed for another row.
    #[error("the sealed value is damaged or belongs to another row")]
    Damaged,
}

/// Seals, opens and hashes. The first key seals; all open.
pub struct Sealer {
    keys: Vec<Key>,
}

struct Key {
    id: [u8; KEY_ID_LEN],
    aead: RandomizedNonceKey,
    tokens: hmac::Key,
    sessions: hmac::Key,
    forms: hmac::Key,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

impl Sealer {
    /// From keys in base64, newest first.
    ///
    /// # Errors
    /// `NoKey`, `BadKey`.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, SealError> {
        let keys = keys.into_iter().map(Key::new).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(SealError::NoKey) } else { Ok(Self { keys }) }
    }

    /// A fresh key in base64.
    ///
    /// # Errors
    /// `BadKey` when the system has no randomness.
    pub fn fresh_key() -> Result<Zeroizing<String>, SealError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::fill(bytes.as_mut()).map_err(|_| SealError::BadKey)?;
        Ok(Zeroizing::new(STANDARD.encode(bytes.as_ref())))
    }

    /// Seals `plain` for the row `row`.
    ///
    /// # Errors
    /// `Damaged` when the library refuses; there is no way to cause that from outside.
    pub fn seal(&self, row: Uuid, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.keys.first().ok_or(SealError::NoKey)?;
        let mut body = Zeroizing::new(plain.to_vec());
        let nonce = key.aead.seal_in_place_append_tag(Aad::from(row.as_bytes()), &mut *body).map_err(|_| SealError::Damaged)?;
        let mut sealed = Vec::with_capacity(HEAD_LEN + body.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&key.id);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    /// Opens what was sealed for the row `row`.
    ///
    /// # Errors
    /// `UnknownKey`, `Damaged`.
    pub fn open(&self, row: Uuid, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (head, body) = sealed.split_at_checked(HEAD_LEN).ok_or(SealError::Damaged)?;
        let (version, rest) = head.split_first().ok_or(SealError::Damaged)?;
        let (id, nonce) = rest.split_at(KEY_ID_LEN);
        if *version != VERSION {
            return Err(SealError::Damaged);
        }
        let key = self.keys.iter().find(|key| key.id == id).ok_or(SealError::UnknownKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Damaged)?;
        let mut body = Zeroizing::new(body.to_vec());
        let len = key.aead.open_in_place(nonce, Aad::from(row.as_bytes()), &mut body).map_err(|_| SealError::Damaged)?.len();
        body.truncate(len);
        Ok(body)
    }

    /// A fresh API token: 256 random bits, with a prefix that secret scanners can know.
    ///
    /// # Errors
    /// `BadKey` when the system has no randomness.
    pub fn fresh_token() -> Result<Zeroizing<String>, SealError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::fill(bytes.as_mut()).map_err(|_| SealError::BadKey)?;
        Ok(Zeroizing::new(format!("vms_{}", URL_SAFE_NO_PAD.encode(bytes.as_ref()))))
    }

    /// The keyed hashes of a token, one a key, newest first: a new token is kept under the first, and any may find one.
    pub fn token_hashes(&self, token: &str) -> Vec<Vec<u8>> {
        self.keys.iter().map(|key| hmac::sign(&key.tokens, token.as_bytes()).as_ref().to_vec()).collect()
    }

    /// A fresh name of a session of the console: 256 random bits, for a cookie.
    ///
    /// # Errors
    /// `BadKey` when the system has no randomness.
    pub fn fresh_session() -> Result<Zeroizing<String>, SealError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::fill(bytes.as_mut()).map_err(|_| SealError::BadKey)?;
        Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_ref())))
    }

    /// The keyed hashes of a session's name, one a key, newest first.
    pub fn session_hashes(&self, session: &str) -> Vec<Vec<u8>> {
        self.keys.iter().map(|key| hmac::sign(&key.sessions, session.as_bytes()).as_ref().to_vec()).collect()
    }

    /// What every form of a session carries: nobody can say it who does not know the session's name or a page of it.
    pub fn form_token(&self, session: &str) -> String {
        let tag = self.keys.first().map(|key| hmac::sign(&key.forms, session.as_bytes()));
        tag.map(|tag| URL_SAFE_NO_PAD.encode(tag.as_ref())).unwrap_or_default()
    }

    /// Whether a form of this session carries this.
    pub fn is_form_token(&self, session: &str, shown: &str) -> bool {
        let Ok(tag) = URL_SAFE_NO_PAD.decode(shown) else { return false };
        self.keys.iter().any(|key| hmac::verify(&key.forms, session.as_bytes(), &tag).is_ok())
    }
}

/// SHA-256, for fingerprints of things that are not secret.
pub fn fingerprint(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

impl Key {
    fn new(text: &str) -> Result<Self, SealError> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| SealError::BadKey)?);
        if bytes.len() != 32 {
            return Err(SealError::BadKey);
        }
        let aead = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::BadKey)?;
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"vm-service").extract(&bytes);
        let mut id = [0; KEY_ID_LEN];
        let expand = |info: &[u8], out: &mut [u8]| {
            derived.expand(&[info], Length(out.len())).and_then(|okm| okm.fill(out)).map_err(|_| SealError::BadKey)
        };
        expand(b"key id", &mut id)?;
        let derive = |info: &[u8]| {
            let mut derived = Zeroizing::new([0_u8; 32]);
            expand(info, derived.as_mut())?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
        };
        let (tokens, sessions, forms) = (derive(b"api tokens")?, derive(b"console sessions")?, derive(b"console forms")?);
        Ok(Self { id, aead, tokens, sessions, forms })
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The associated data of what is sealed in the settings, which are no row of their own.
pub const fn settings_row() -> Uuid {
    Uuid::from_u128(0x7365_7474_696e_6773)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(keys: &[&str]) -> Sealer {
        Sealer::new(keys.iter().copied()).unwrap()
    }

    #[test]
    fn opens_for_its_row_alone_and_only_undamaged() {
        let key = Sealer::fresh_key().unwrap();
        let s = sealer(&[&key]);
        let (row, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let sealed = s.seal(row, b"private").unwrap();
        assert_eq!(s.open(row, &sealed).unwrap().as_slice(), b"private");
        assert_eq!(s.open(other, &sealed).unwrap_err(), SealError::Damaged);
        for at in [0, HEAD_LEN, sealed.len() - 1] {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(s.open(row, &bent).unwrap_err(), SealError::Damaged, "byte {at}");
        }
        assert_eq!(s.open(row, &sealed[..HEAD_LEN - 1]).unwrap_err(), SealError::Damaged);
        assert!(!sealed.windows(7).any(|w| w == b"private"));
        assert_ne!(s.seal(row, b"private").unwrap(), sealed, "a nonce is never used twice");
    }

    #[test]
    fn a_rotation_opens_old_values_and_finds_old_tokens() {
        let (old, new) = (Sealer::fresh_key().unwrap(), Sealer::fresh_key().unwrap());
        let row = Uuid::from_u128(1);
        let before = sealer(&[&old]);
        let during = sealer(&[&new, &old]);
        let after = sealer(&[&new]);
        let sealed = before.seal(row, b"x").unwrap();
        assert_eq!(during.open(row, &sealed).unwrap().as_slice(), b"x");
        assert_eq!(after.open(row, &sealed).unwrap_err(), SealError::UnknownKey);
        assert!(after.open(row, &during.seal(row, b"x").unwrap()).is_ok());
        assert!(during.token_hashes("t").contains(&before.token_hashes("t")[0]));
        assert_ne!(before.token_hashes("t"), after.token_hashes("t"));
    }

    #[test]
    fn a_form_belongs_to_its_session_also_during_a_rotation() {
        let (old, new) = (Sealer::fresh_key().unwrap(), Sealer::fresh_key().unwrap());
        let shown = sealer(&[&old]).form_token("one");
        assert!(sealer(&[&new, &old]).is_form_token("one", &shown));
        assert!(!sealer(&[&old]).is_form_token("other", &shown));
        assert!(!sealer(&[&new]).is_form_token("one", &shown));
        for bad in ["", "x", &shown[1..]] {
            assert!(!sealer(&[&old]).is_form_token("one", bad), "{bad}");
        }
    }

    #[test]
    fn a_bad_key_is_named() {
        assert_eq!(Sealer::new(["short"]).unwrap_err(), SealError::BadKey);
        assert_eq!(Sealer::new([]).unwrap_err(), SealError::NoKey);
    }
}

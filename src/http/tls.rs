//! Certificates from files, taken anew when the files change; a pair that cannot be used is logged once, and the old one stays.
//!
//! Reads: the two files. Writes: the log. Runs: from start to stop, in one task.

use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A pair of files and what was last read from them.
#[derive(Debug)]
pub(super) struct Certificate {
    files: (PathBuf, PathBuf),
    seen: (Vec<u8>, zeroize::Zeroizing<Vec<u8>>),
    pub(super) config: RustlsConfig,
}

impl Certificate {
    /// Reads the pair.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Self, String> {
        let seen = (read(cert)?, zeroize::Zeroizing::new(read(key)?));
        let config = RustlsConfig::from_config(Arc::new(parse(&seen.0, &seen.1)?));
        Ok(Self { files: (cert.to_owned(), key.to_owned()), seen, config })
    }

    /// Looks at the files every `interval`, until `stop`.
    pub(super) async fn watch(mut self, interval: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            match self.look().await {
                Ok(true) => tracing::info!(file = %self.files.0.display(), "a new certificate is in use"),
                Ok(false) => {}
                Err(error) => tracing::error!(error, "the new certificate cannot be used; the old one stays"),
            }
        }
    }

    async fn look(&mut self) -> Result<bool, String> {
        // A file that is being replaced may be missing for a moment; the next look finds it.
        let (Ok(cert), Ok(key)) = (tokio::fs::read(&self.files.0).await, tokio::fs::read(&self.files.1).await) else {
            return Ok(false);
        };
        if cert == self.seen.0 && key == *self.seen.1 {
            return Ok(false);
        }
        self.seen = (cert, zeroize::Zeroizing::new(key));
        self.config.reload_from_config(Arc::new(parse(&self.seen.0, &self.seen.1)?));
        Ok(true)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let sentence = |error: io::Error| format!("{} cannot be read ({error}): check --tls-cert and --tls-key", file.display());
    std::fs::read(file).map_err(sentence)
}

fn parse(cert: &[u8], key: &[u8]) -> Result<ServerConfig, String> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the file of --tls-cert holds no certificate in PEM form ({error})"))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("the file of --tls-key holds no private key in PEM form ({error})"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up ({error})"))?
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .map_err(|error| format!("the certificate of --tls-cert and the key of --tls-key do not go together ({error})"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

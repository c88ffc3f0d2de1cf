//! Where the service is and who asks: options and environment become a [`Client`], or one sentence that says what to set.
//!
//! The token is, in this order: `--token-file`, `--token` or `VM_SERVICE_TOKEN`, and for a service on this machine the operator token
//! that `vm-service up` left in its data folder. That last one never goes to another machine.
//!
//! Reads: the environment (through clap), the token file, the certificate file. Writes: nothing. Calls: nothing. Runs: once.

use super::Client;
use super::base::Base;
use crate::domain::secret::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// For the TCP and TLS handshakes.
const CONNECT: Duration = Duration::from_secs(10);

/// What the composition root knows about this machine.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// `operator.token` of the default data folder of `up`; it need not exist.
    pub operator_token: Option<PathBuf>,
}

/// The options that every client command has.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Service")]
pub struct Connect {
    /// Where the service answers.
    #[arg(long, global = true, env = "VM_SERVICE_URL", default_value = "http://127.0.0.1:3001", value_name = "URL")]
    url: String,
    /// The API token; better kept in the environment or in a file, because other users can see arguments.
    #[arg(long, global = true, env = "VM_SERVICE_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = secret)]
    token: Option<Secret>,
    /// A file with the API token; goes before --token. Without any, a service on this machine is given the token of `vm-service up`.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) that the service's must come from, instead of the system's.
    #[arg(long, global = true, env = "VM_SERVICE_CA", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.trim()))
}

impl Connect {
    /// A client with these options; nothing is sent yet.
    ///
    /// # Errors
    /// A sentence that says which option is wrong.
    pub fn client(&self, defaults: &Defaults) -> Result<Client, String> {
        let base = Base::parse(&self.url)?;
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("vm-service/", env!("CARGO_PKG_VERSION")));
        if base.is_local() {
            http = http.no_proxy();
        }
        // The roots of the system are read by the HTTP library, which takes the process's provider; nobody else needs them.
        if !base.is_tls() {
            http = http.tls_backend_preconfigured(tls(rustls::RootCertStore::empty())?);
        } else if let Some(file) = self.ca_file.as_deref().filter(|file| !file.as_os_str().is_empty()) {
            http = http.tls_backend_preconfigured(tls(roots(file)?)?);
        } else {
            // Fails only when a provider is installed already.
            rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        }
        let http = http.build().map_err(|e| format!("TLS cannot be set up: {}.", super::client::root_cause(&e)))?;
        let token = self.find_token(&base, defaults)?;
        Ok(Client::new(http, base, token))
    }

    fn find_token(&self, base: &Base, defaults: &Defaults) -> Result<Option<Secret>, String> {
        if let Some(file) = &self.token_file {
            return read_token(file).map(Some).map_err(|e| format!("The token file {} cannot be read: {e}.", file.display()));
        }
        if let Some(token) = self.token.as_ref().filter(|token| !token.expose().is_empty()) {
            return Ok(Some(token.clone()));
        }
        match defaults.operator_token.as_deref().filter(|_| base.is_local()) {
            // No such file, or another user's: the service says that a token is missing.
            Some(file) => Ok(read_token(file).ok()),
            None => Ok(None),
        }
    }
}

fn read_token(file: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    let token = Secret::new(text.trim());
    if token.expose().is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(token)
}

fn roots(file: &Path) -> Result<rustls::RootCertStore, String> {
    let cannot = |why: String| format!("The certificates in {} cannot be read: {why}.", file.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| cannot(e.to_string()))? {
        let certificate = certificate.map_err(|e| cannot(e.to_string()))?;
        roots.add(certificate).map_err(|e| cannot(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(cannot("there is none".to_owned()));
    }
    Ok(roots)
}

fn tls(roots: rustls::RootCertStore) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}."))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

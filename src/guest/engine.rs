//! Proves from outside that a VM's Docker engine answers over TLS, to the client certificate of its identity and with a server
//! certificate that its own authority has signed for this address.

use crate::domain::identity::DockerIdentity;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two tries while the port is closed.
const POLL: Duration = Duration::from_millis(50);
/// One try; the connection waits inside the VM until the engine has started.
const TRY: Duration = Duration::from_secs(30);

/// Waits until the engine at `at` answers a ping. On failure: what was wrong last.
pub(super) async fn answers(at: SocketAddr, identity: &DockerIdentity, deadline: Instant) -> Result<(), String> {
    let client = client(identity).map_err(|e| format!("the Docker certificates cannot be used: {e}"))?;
    let url = format!("https://{at}/_ping");
    let mut last = "no answer".to_owned();
    let asking = async {
        loop {
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => last = format!("status {}", answer.status().as_u16()),
                Err(e) => last = innermost(&e),
            }
            sleep(POLL).await;
        }
    };
    timeout_at(deadline, asking).await.map_err(|_| last)
}

fn client(identity: &DockerIdentity) -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
    let mut authority = rustls::RootCertStore::empty();
    authority.add(CertificateDer::from_pem_slice(identity.ca.as_bytes())?)?;
    let certificate = CertificateDer::from_pem_slice(identity.client_cert.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(identity.client_key.expose().as_bytes())?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authority)
        .with_client_auth_cert(vec![certificate], key)?;
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .timeout(TRY)
        .build()?)
}

/// The cause that says something; the outer ones repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    crate::ssh::printable(cause.to_string().as_bytes())
}

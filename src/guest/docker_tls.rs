//! A throw-away certificate authority per VM, and what it signs.

use crate::domain::secret::{self, Secret};
use serde::{Deserialize, Serialize};

/// The Docker certificates of one VM. The authority's key is not kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DockerIdentity {
    /// The authority's certificate, PEM.
    pub ca: String,
    /// The engine's certificate, PEM.
    pub server_cert: String,
    /// The engine's key, PEM.
    #[serde(with = "secret::exposed")]
    pub server_key: Secret,
    /// The job's certificate, PEM.
    pub client_cert: String,
    /// The job's key, PEM.
    #[serde(with = "secret::exposed")]
    pub client_key: Secret,
}

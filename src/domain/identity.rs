//! Who a VM is: the keys it is first met with, and the keys it has afterwards. Plain data; made in `guest::identity`, sealed in rows.

use super::secret::{self, Secret};
use serde::{Deserialize, Serialize};

/// The user that logs in; exists in every image, may use sudo.
pub const USER: &str = "circleci";
/// The keys a launch's machines are first met with. Only its host key (both halves) and the public half of the login are in
/// the user data. Sealed in the launch's row; void after first contact.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bootstrap {
    /// OpenSSH private key of the machine's SSH server.
    #[serde(with = "secret::exposed")]
    pub host_private: Secret,
    /// Its public half, OpenSSH, one line.
    pub host_public: String,
    /// OpenSSH private key of the login; never leaves the service.
    #[serde(with = "secret::exposed")]
    pub login_private: Secret,
    /// Its public half, OpenSSH, one line.
    pub login_public: String,
}

/// The keys a VM has from first contact to its end. Sealed in the VM's row, erased at release.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// OpenSSH private key of its SSH server.
    #[serde(with = "secret::exposed")]
    pub host_private: Secret,
    /// Its public half, OpenSSH, one line.
    pub host_public: String,
    /// OpenSSH private key of its login: part of the task's answer.
    #[serde(with = "secret::exposed")]
    pub login_private: Secret,
    /// Its public half, OpenSSH, one line.
    pub login_public: String,
    /// For `remote_docker`.
    pub docker: Option<DockerIdentity>,
}

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

//! What a dispatcher asks for, checked: a [`TaskRequest`] that exists is one that can be served.

use super::lineage::Trust;
use super::resource_class::DEFAULT_CLASS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the job uses its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Executor {
    /// The job runs in the VM, over SSH.
    Machine,
    /// The job runs elsewhere and uses the VM's Docker engine over TLS.
    RemoteDocker,
}

impl Executor {
    /// The word in the database, tags and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::RemoteDocker => "remote_docker",
        }
    }
}

impl std::fmt::Display for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Executor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "machine" => Ok(Self::Machine),
            "remote_docker" => Ok(Self::RemoteDocker),
            other => Err(format!("\"{other}\" is not an executor: use machine or remote_docker")),
        }
    }
}

/// The body of `PUT /api/v1/tasks/{id}` and `POST /api/v1/tasks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    /// How the job uses its VM.
    #[garde(skip)]
    pub executor: Executor,
    /// The project; VMs and caches are never shared between projects. 1 to 200 characters.
    #[garde(length(chars, min = 1, max = 200), custom(no_control_characters))]
    #[schema(min_length = 1, max_length = 200)]
    pub project_id: String,
    /// Name of a resource class; `medium` when absent.
    #[serde(default = "default_class")]
    #[garde(length(chars, min = 1, max = 100))]
    #[schema(min_length = 1, max_length = 100)]
    pub resource_class: String,
    /// Public keys that may log in beside the answer's key; at most 16, OpenSSH format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[garde(length(max = 16), inner(length(min = 1, max = 4096), custom(is_public_key)))]
    #[schema(max_items = 16)]
    pub ssh_public_keys: Vec<String>,
    /// The longest the job may hold its VM, in seconds, 1 to 604800; the settings' limit when absent or lower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 1, max = 604_800))]
    #[schema(minimum = 1, maximum = 604_800)]
    pub max_run_seconds: Option<u32>,
    /// When given, the dispatcher must send a heartbeat at least this often, in seconds, 10 to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 10, max = 3600))]
    #[schema(minimum = 10, maximum = 3600)]
    pub lease_seconds: Option<u32>,
    /// The project's Docker layers are on the VM's disk, and what the job adds to them is kept for the next one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[garde(skip)]
    pub docker_layer_caching: bool,
    /// An `untrusted` job (code from outside) reads a copy of the project's layers, and nothing of what it writes is kept.
    #[serde(default, skip_serializing_if = "is_trusted")]
    #[garde(skip)]
    pub cache_trust: Trust,
    /// Higher goes first, -100 to 100.
    #[serde(default)]
    #[garde(range(min = -100, max = 100))]
    #[schema(minimum = -100, maximum = 100)]
    pub priority: i16,
    /// Shown again in answers and lists; at most 32, keys of 1 to 63 and values of up to 255 characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[garde(custom(valid_labels))]
    pub labels: BTreeMap<String, String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_trusted(trust: &Trust) -> bool {
    *trust == Trust::Trusted
}

fn default_class() -> String {
    DEFAULT_CLASS.to_owned()
}

/// A check for garde: no character that a terminal or a log would act on.
pub(super) fn no_control_characters(text: &str, _: &()) -> garde::Result {
    if text.chars().any(char::is_control) {
        return Err(garde::Error::new("must not contain control characters"));
    }
    Ok(())
}

fn is_public_key(text: &str, _: &()) -> garde::Result {
    match russh::keys::ssh_key::PublicKey::from_openssh(text) {
        Ok(_) if !text.contains('\n') => Ok(()),
        _ => Err(garde::Error::new("is not one public key in OpenSSH format, such as \"ssh-ed25519 AAAA…\"")),
    }
}

fn valid_labels(labels: &BTreeMap<String, String>, _: &()) -> garde::Result {
    if labels.len() > 32 {
        return Err(garde::Error::new("has more than 32 entries"));
    }
    for (key, value) in labels {
        let ok = (1..=63).contains(&key.chars().count()) && value.chars().count() <= 255;
        if !ok || no_control_characters(key, &()).is_err() || no_control_characters(value, &()).is_err() {
            return Err(garde::Error::new("keys have 1 to 63 characters, values up to 255, none of them control characters"));
        }
    }
    Ok(())
}

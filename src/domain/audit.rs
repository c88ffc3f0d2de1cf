//! An event of the audit log, in the form of the operations guide (chapter *Audit Logs*): who did what to what, when, from where, and
//! whether it was let. It holds no secret.
//!
//! Not here: where events are kept and chained (`db::audit`), which request is which action (`http::audit`).

use super::access::Role;
use super::ids::TokenId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Of the form.
pub const VERSION: i32 = 1;

/// Who acts, or what is acted upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Party {
    /// Its id; of a person or a program the principal.
    pub id: String,
    /// What it is: `principal`, `local_user` or `unknown` of an actor; `task`, `vm`, `volume`, `image`, `settings`, `token`, … of a target.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is called, when that is not its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What a principal's token let it do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Which token it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<TokenId>,
}

impl Party {
    /// One of this kind.
    pub fn new(kind: &str, id: String) -> Self {
        Self { id, kind: kind.to_owned(), name: None, role: None, token_id: None }
    }
}

/// The request behind an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRequest {
    /// As in its answer's `x-request-id`, and in the service's log.
    pub id: String,
    /// Such as `DELETE`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Whence it came: the caller's address, or that of a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// What the header `X-Forwarded-For` says; a proxy writes it, or anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded_for: Option<String>,
    /// What the header `X-Client-Trace-Id` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_trace_id: Option<String>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEvent {
    /// Unique.
    pub id: Uuid,
    /// Of this form: 1.
    pub version: i32,
    /// What was done: lower-case words with dots, what it was done to first, such as `vm.terminate`.
    pub action: String,
    /// Whether it was.
    pub success: bool,
    /// Who.
    pub actor: Party,
    /// To what.
    pub target: Option<Party>,
    /// What belongs to this action; the same fields for the same `action` and `version`.
    pub payload: Value,
    /// Absent: a command on the server.
    pub request: Option<AuditRequest>,
    /// Whose the target is, such as a project.
    pub scope: Option<Party>,
    /// When.
    pub occurred_at: DateTime<Utc>,
    /// Further texts, such as the `status` of a request that was refused.
    pub metadata: BTreeMap<String, String>,
}

/// An event as the log shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditView {
    /// What happened.
    #[serde(flatten)]
    pub event: AuditEvent,
    /// Its number in the chain, without gaps; null for about a second.
    pub link: Option<i64>,
    /// SHA-256 over it and the hash of the link before, in hex.
    pub hash: Option<String>,
}

/// Whether a part of the chain holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditCheck {
    /// No row of this part was changed or is gone.
    pub holds: bool,
    /// Rows looked at.
    pub checked: i64,
    /// The last link of this part.
    pub up_to: i64,
    /// Its hash, in hex: noted elsewhere, it also shows a chain that was made anew up to there.
    pub hash: Option<String>,
    /// Rows that are not in the chain yet.
    pub unsealed: i64,
    /// There is more: ask again with it as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
    /// The first place where it does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<AuditBreak>,
}

/// A place where the chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditBreak {
    /// The link.
    pub link: i64,
    /// The event, when it is there.
    pub id: Option<Uuid>,
    /// What is wrong with it.
    pub why: String,
}

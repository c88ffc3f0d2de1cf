//! What the API says: the answers of `http`, read by `cli`. One definition, so that the two cannot drift apart.
//!
//! Secrets appear in [`Connection`] alone, and that appears only in the PUT and GET of one task, for its owner, while `ready`.

use super::failure::Failure;
use super::ids::{GenerationId, TaskId, VmId, VolumeId};
use super::lifecycle::{TaskState, VmState, VolumeState};
use super::lineage::Lineage;
use super::tags::Origin;
use super::task::{Executor, TaskRequest};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A task, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// Where it is.
    pub state: TaskState,
    /// What was asked for.
    #[serde(flatten)]
    pub request: TaskRequest,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When the job could begin.
    pub ready_at: Option<DateTime<Utc>>,
    /// When it had its last answer.
    pub ended_at: Option<DateTime<Utc>>,
    /// Its VM, from the claim on.
    pub vm: Option<TaskVm>,
    /// What became of its Docker layer cache; none: it asked for none, or it is not decided yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cache: Option<TaskCache>,
    /// How to reach the VM: only while `ready`, only for its owner, never in lists.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connection: Option<Connection>,
    /// Why it ended without its job.
    pub failure: Option<Failure>,
}

/// The VM of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskVm {
    /// Our id.
    pub id: VmId,
    /// Which provider it comes from.
    pub provider: String,
    /// The provider's name for it.
    pub provider_id: Option<String>,
    /// Ahead of demand, or because a task waited.
    pub origin: Origin,
    /// Where it answers.
    pub address: Option<String>,
}

/// The Docker layer cache of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskCache {
    /// The volume that the engine works on; none: it works without one.
    pub volume_id: Option<VolumeId>,
    /// Layers were on it.
    pub hit: bool,
    /// One sentence: which volume, or why none.
    pub reason: String,
}

/// How to reach a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Connection {
    /// The way in by SSH.
    pub ssh: SshConnection,
    /// The Docker engine; for `remote_docker` only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub docker: Option<DockerConnection>,
}

/// The way in by SSH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SshConnection {
    /// An address.
    pub host: String,
    /// A port.
    pub port: u16,
    /// The user; may use sudo.
    pub user: String,
    /// OpenSSH private key.
    pub private_key: String,
    /// The VM's public host key, OpenSSH format; refuse any other.
    pub host_key: String,
}

/// The Docker engine of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DockerConnection {
    /// For `DOCKER_HOST`: `tcp://address:port`.
    pub host: String,
    /// `ca.pem`.
    pub ca: String,
    /// `cert.pem`.
    pub cert: String,
    /// `key.pem`.
    pub key: String,
}

/// A VM, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmView {
    /// Our id.
    pub id: VmId,
    /// Where it is.
    pub state: VmState,
    /// Why it is there, when there is more to say.
    pub reason: Option<String>,
    /// What it was made for.
    pub executor: Executor,
    /// Its class.
    pub resource_class: String,
    /// Ahead of demand, or because a task waited.
    pub origin: Origin,
    /// Which provider it comes from.
    pub provider: String,
    /// The provider's name for it.
    pub provider_id: Option<String>,
    /// Where it answers.
    pub address: Option<String>,
    /// The task that has it.
    pub task_id: Option<TaskId>,
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// When it became available.
    pub available_at: Option<DateTime<Utc>>,
    /// When it ends itself, whatever happens.
    pub absolute_end_at: DateTime<Utc>,
    /// An operator's "do not touch".
    pub hold: Option<Hold>,
}

/// An operator's "do not touch", with reason and expiry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Hold {
    /// Why.
    pub reason: String,
    /// Until when; afterwards the usual rules apply.
    pub until: DateTime<Utc>,
}

/// A Docker layer cache volume, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VolumeView {
    /// Our id.
    pub id: VolumeId,
    /// Whose layers, and which engine reads them.
    #[serde(flatten)]
    pub lineage: Lineage,
    /// Where it is.
    pub state: VolumeState,
    /// Why it is there, when there is more to say.
    pub reason: Option<String>,
    /// Which provider it comes from.
    pub provider: String,
    /// The provider's name for it.
    pub provider_id: Option<String>,
    /// Its VMs are in the same zone.
    pub zone: String,
    /// Its size, GiB.
    pub size_gib: u32,
    /// What its last job left on it, bytes.
    pub used_bytes: Option<u64>,
    /// The newest good state that was made of it, or the one that it was copied from.
    pub generation: Option<GenerationId>,
    /// Jobs that worked on it and ended well.
    pub jobs: u32,
    /// The VM that it is on, or on its way to or from.
    pub vm_id: Option<VmId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When a job last had it.
    pub last_used_at: DateTime<Utc>,
    /// How often its project's jobs found layers.
    pub project: CacheUse,
    /// An operator's "do not touch".
    pub hold: Option<Hold>,
}

/// How often the jobs of a project found layers, as far back as the history goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CacheUse {
    /// Jobs that asked for a cache.
    pub jobs: u64,
    /// Of them, those that found layers.
    pub hits: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventView {
    /// Grows with time; a cursor.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// A short word for programs, such as `task.claimed`.
    pub kind: String,
    /// The task it is about.
    pub task_id: Option<TaskId>,
    /// The VM it is about.
    pub vm_id: Option<VmId>,
    /// One sentence for a person.
    pub message: String,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

/// The body of `PUT /api/v1/vms/{id}/hold`: a reason, and when it ends, said in one of two ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// Why; 1 to 500 characters.
    #[garde(length(chars, min = 1, max = 500), custom(super::task::no_control_characters))]
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    /// Until when; in the future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub until: Option<DateTime<Utc>>,
    /// For how long from now, seconds, 1 to 31622400 (366 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 1, max = 31_622_400))]
    #[schema(minimum = 1, maximum = 31_622_400)]
    pub seconds: Option<u32>,
}

/// The body of `POST /api/v1/vms/terminate`: these VMs, all in one state, or all unknown machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminateRequest {
    /// These; at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(length(min = 1, max = 1000)))]
    #[schema(min_items = 1, max_items = 1000)]
    pub ids: Option<Vec<VmId>>,
    /// All that are in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub state: Option<VmState>,
    /// All machines whose rows were lost, whatever runs on them.
    #[serde(default, skip_serializing_if = "is_false")]
    #[garde(skip)]
    pub unknown: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(it: &bool) -> bool {
    !it
}

/// What came of `POST /api/v1/vms/terminate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Terminated {
    /// Their end began now.
    pub terminating: Vec<VmId>,
    /// They stay: held, ended already, or not there.
    pub kept: Vec<VmId>,
    /// Unknown machines that are going to be ended, by the provider's names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
}

/// The answer of `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusView {
    /// Always `ok`; anything else is a problem document.
    pub status: String,
}

/// The answer of `/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthView {
    /// `ok`, or `degraded` when one of the others is not as it should be.
    pub status: String,
    /// Of the binary.
    pub version: String,
    /// The database.
    pub database: DatabaseHealth,
    /// How far this host's clock is ahead of Postgres' (behind: negative), milliseconds; over 2000 either way is not as it should be.
    pub clock_skew_ms: i64,
    /// What is wrong with the configuration.
    pub configuration_problem: Option<String>,
}

/// The database, in `/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DatabaseHealth {
    /// Half of how long a question took, milliseconds; none: it could not be asked.
    pub latency_ms: Option<u64>,
    /// What is wrong with it; none: reachable, with a schema that this binary serves.
    pub problem: Option<String>,
}

/// Every answer that is not a success (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProblemView {
    /// Always `about:blank`: `status` and `title` say what kind it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of the status.
    pub title: String,
    /// As in the status line.
    pub status: u16,
    /// One sentence that says what to do.
    pub detail: String,
    /// As in `x-request-id`, and in the service's log.
    pub request_id: String,
    /// What is wrong with each field.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Where, such as `labels` or `ssh_public_keys[0]`.
    pub field: String,
    /// What.
    pub message: String,
}

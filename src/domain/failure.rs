//! Why a task ended without its job: a code the dispatcher can act on and one sentence for a person.

use serde::{Deserialize, Serialize};

/// What a dispatcher does next depends on this code; the list only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum FailureCode {
    /// The VM died or vanished under the job: run the job again.
    VmLost,
    /// No VM could be started in time: run the job again later.
    VmStartFailed,
    /// The VM could not be made ready for this task (keys, cache): run the job again.
    PreparationFailed,
    /// The job held its VM longer than it may.
    MaxRunExceeded,
    /// The dispatcher stopped sending heartbeats.
    LeaseExpired,
    /// An operator ended the VM.
    TerminatedByOperator,
}

impl FailureCode {
    /// The word in the database and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VmLost => "vm_lost",
            Self::VmStartFailed => "vm_start_failed",
            Self::PreparationFailed => "preparation_failed",
            Self::MaxRunExceeded => "max_run_exceeded",
            Self::LeaseExpired => "lease_expired",
            Self::TerminatedByOperator => "terminated_by_operator",
        }
    }
}

/// The failure of one task, as in its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Failure {
    /// What to act on.
    pub code: FailureCode,
    /// One sentence for a person.
    pub detail: String,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(code: FailureCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

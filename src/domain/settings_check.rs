//! A check of settings before they are saved: what the API and the console show of it, and what its row holds.
//!
//! A check is *done* when a loop has written its one result, and *expired* when its deadline passed before: then it has none.

use super::ids::SettingsCheckId;
use super::settings_diff::Change;
use super::task::Executor;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is wrong.
    Fine,
    /// It works, and has a consequence that one should know; or it could not be looked at now.
    Warning,
    /// It would not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckFinding {
    /// How much it weighs.
    pub severity: Severity,
    /// What was looked at.
    pub what: String,
    /// One sentence: what was seen, and when wrong, what to change.
    pub detail: String,
}

/// What a save would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Effect {
    /// The pools that would change.
    pub pools: Vec<PoolEffect>,
    /// Of the VMs that wait for jobs; none: no class that keeps VMs has a price.
    pub cost: Option<Cost>,
}

/// What becomes of one kind of VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PoolEffect {
    /// What for.
    pub executor: Executor,
    /// Name of the class.
    pub resource_class: String,
    /// VMs kept free now under the settings in force.
    pub kept_before: u32,
    /// VMs kept free now under those proposed.
    pub kept_after: u32,
    /// VMs that are free or on their way.
    pub free: u32,
    /// VMs started at once because of the save.
    pub starts: u32,
    /// VMs ended or stopped within a minute because of the save.
    pub ends: u32,
    /// Free VMs that would be unlike a new one, and are replaced, a few at a time.
    pub replaced: u32,
}

/// Of the VMs that wait for jobs, a month of 730 hours, in the currency of the prices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Cost {
    /// Under the settings in force.
    pub before: f64,
    /// Under those proposed.
    pub after: f64,
    /// Classes that keep VMs and have no price.
    pub unpriced: Vec<String>,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckResult {
    /// In the order in which they were looked at.
    pub findings: Vec<CheckFinding>,
    /// What a save would do.
    pub effect: Effect,
}

impl CheckResult {
    /// Whether nothing that was looked at would not work.
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Problem)
    }
}

/// Where a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// Nobody has begun.
    Queued,
    /// Somebody looks.
    Running,
    /// The result is there.
    Done,
    /// The deadline passed without a result.
    Expired,
}

impl CheckState {
    /// Whether nothing more comes.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Expired)
    }
}

/// A check, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckView {
    /// Its id.
    pub id: SettingsCheckId,
    /// Where it is.
    pub state: CheckState,
    /// Who asked.
    pub principal: String,
    /// The version that the proposed settings are made on top of.
    pub version: i64,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// There is a result before, or none.
    pub deadline_at: DateTime<Utc>,
    /// What differs from that version.
    pub changes: Vec<Change>,
    /// What it came to; only when done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<CheckResult>,
}

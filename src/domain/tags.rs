//! What every machine carries from the call that makes it, so that it can be found again and removed.
//!
//! A machine without [`Tags::installation`] equal to ours is not ours and is never touched.

use super::ids::{GenerationId, InstallationId, LaunchId, VolumeId};
use super::lineage::Lineage;
use super::task::Executor;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Ahead of demand, or because a task waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Origin {
    /// Launched ahead of demand.
    Preallocated,
    /// Launched because a task waited.
    OnDemand,
}

impl Origin {
    /// The word in the database, tags and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preallocated => "preallocated",
            Self::OnDemand => "on_demand",
        }
    }
}

/// The tags of a machine; all machines of one launch carry the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// Whose machine it is.
    pub installation: InstallationId,
    /// The launch that made it.
    pub launch: LaunchId,
    /// What it was made for.
    pub executor: Executor,
    /// Name of its resource class.
    pub resource_class: String,
    /// Why it was made.
    pub origin: Origin,
    /// When the launch was sent.
    pub created_at: DateTime<Utc>,
}

/// The tags of a cache volume: enough to give it back to its project when every row is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeTags {
    /// Whose volume it is.
    pub installation: InstallationId,
    /// Its row.
    pub volume: VolumeId,
    /// Whose layers it holds, for ever.
    pub lineage: Lineage,
}

/// The tags of a volume's snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTags {
    /// Whose snapshot it is.
    pub installation: InstallationId,
    /// Its row.
    pub generation: GenerationId,
    /// Whose layers it holds, for ever.
    pub lineage: Lineage,
}

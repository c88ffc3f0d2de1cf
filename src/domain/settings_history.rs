//! Versions of the settings: who saved which, and when.
//!
//! Not here: the settings themselves (`settings`), what differs between two (`settings_diff`), where versions are kept (`db::settings`).

use super::settings::Settings;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One version: who saved it, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SettingsVersion {
    /// Grows with every save; the `ETag` of the settings while it is in force.
    pub version: i64,
    /// When it was saved.
    pub created_at: DateTime<Utc>,
    /// The principal who saved it.
    pub created_by: String,
}

/// One version, the whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SavedSettings {
    /// Which.
    #[serde(flatten)]
    pub saved: SettingsVersion,
    /// As they were saved; a secret is sealed, and stays good when it is sent back so. Who may not change settings sees a mask in its place.
    pub settings: Settings,
}

//! An image that VMs are made of: what is known of it, what is asked of it, and what it was measured to be.
//!
//! An image is a *candidate* that may get a share of the launches, then *promoted* (it is what launches take), then *retired* (no launch
//! takes it any more), then deleted. Not here: which one a launch takes (`plan::images`); how a builder's manifest is read
//! (`image_manifest`).

use super::ec2::Architecture;
use super::ids::ImageId;
use super::lifecycle::ImageState;
use super::lineage::Store;
use super::resource_class::ResourceClass;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What an image is for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ImageKind {
    /// For classes without GPUs.
    #[default]
    Base,
    /// For classes with GPUs: has their driver, and the check that they can be used.
    Gpu,
}

impl ImageKind {
    /// The word in the database and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Gpu => "gpu",
        }
    }

    /// What VMs of this class are made of.
    pub const fn of(class: &ResourceClass) -> Self {
        if class.gpus > 0 { Self::Gpu } else { Self::Base }
    }
}

impl std::fmt::Display for ImageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What its builder and the provider say of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ImageFacts {
    /// Such as `ubuntu-24.04`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    /// Of its Docker engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_version: Option<String>,
    /// How its engine keeps layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// NVIDIA's driver in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvidia_driver: Option<String>,
    /// The CUDA runtime in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
    /// Of what it was built from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Snapshots that its disks are made of, by the provider's names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
    /// What an operator should know of it, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Where an image is to be looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// An AMI.
    Ami {
        /// Its region.
        region: String,
        /// Its id.
        id: String,
    },
    /// A folder beside the one that new VMs of a host are made of.
    Folder {
        /// Its name: the hash in its manifest.
        hash: String,
        /// The host; none: whichever serves.
        host: Option<String>,
    },
}

impl ImageSource {
    /// The provider's name for it.
    pub fn provider_id(&self) -> &str {
        match self {
            Self::Ami { id, .. } => id,
            Self::Folder { hash, .. } => hash,
        }
    }
}

/// An image that somebody wants to have registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedImage {
    /// Where it is.
    pub source: ImageSource,
    /// For people.
    pub name: String,
    /// What it is for.
    pub kind: ImageKind,
    /// Of its machines.
    pub architecture: Architecture,
    /// As its builder says.
    pub facts: ImageFacts,
}

/// An image is judged by its last machines: a page stays fast however many there were, and shows what the image does now.
pub const JUDGED_BY: u32 = 2000;

/// What became of an image's last machines, at most [`JUDGED_BY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageFigures {
    /// Machines that were made of it.
    pub vms: u32,
    /// Of them, those that became ready.
    pub ready: u32,
    /// Of them, those that were given up before.
    pub failed: u32,
    /// From the request to ready, milliseconds: half took less.
    pub median_ms: Option<u64>,
    /// The same: nine of ten took less.
    pub p90_ms: Option<u64>,
    /// Tasks that had one of them and have ended.
    pub tasks: u32,
    /// Of them, those that failed for a reason of the infrastructure.
    pub tasks_failed: u32,
}

/// An image, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageView {
    /// Our id.
    pub id: ImageId,
    /// For people.
    pub name: String,
    /// Whose it is.
    pub provider: String,
    /// Region or host.
    pub place: String,
    /// Of its machines.
    pub architecture: Architecture,
    /// What it is for.
    pub kind: ImageKind,
    /// The provider's name for it: what launches name.
    pub provider_id: String,
    /// What its builder and the provider say of it.
    pub facts: ImageFacts,
    /// Where it is in its life.
    pub state: ImageState,
    /// Percent of the launches that it fits; of a candidate.
    pub share: u32,
    /// Why it is where it is.
    pub reason: Option<String>,
    /// When it was registered.
    pub registered_at: DateTime<Utc>,
    /// By whom.
    pub registered_by: String,
    /// When its state or its share were last changed.
    pub changed_at: DateTime<Utc>,
    /// By whom.
    pub changed_by: String,
    /// Since when the provider does not have it any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing_at: Option<DateTime<Utc>>,
    /// What became of its machines.
    pub figures: ImageFigures,
    /// The same of the image that is promoted for the same launches; none: none is, or it is this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub promoted: Option<ImageFigures>,
}

/// The answer of `POST /api/v1/images`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RegisteredImages {
    /// One for each region, or the one of the host; those that were known before as they are.
    pub images: Vec<ImageView>,
}

/// The body of `POST /api/v1/images`: a manifest of packer's, or the manifest of an on-host image's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegisterRequest {
    /// As packer's post-processor `manifest` writes it; the builds of its last run are registered, each in each of its regions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    #[schema(value_type = Option<Object>)]
    pub manifest: Option<serde_json::Value>,
    /// `manifest.json` of an image folder that is on the host, beside the one that is `current`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    #[schema(value_type = Option<Object>)]
    pub folder: Option<serde_json::Value>,
    /// The host of the folder; only where several hosts serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[garde(inner(length(min = 1, max = 200)))]
    pub host: Option<String>,
    /// Only these regions of the manifest; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[garde(inner(length(min = 1, max = 64)))]
    pub regions: Option<Vec<String>>,
    /// For people; the builder's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[garde(inner(length(chars, min = 1, max = 200), custom(super::task::no_control_characters)))]
    pub name: Option<String>,
    /// Percent of the launches that each gets at first, 0 to 100.
    #[garde(range(max = 100))]
    #[schema(maximum = 100)]
    pub share: u32,
}

/// The body of `PUT /api/v1/images/{id}/share`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareRequest {
    /// Percent of the launches that it fits, 0 to 100.
    #[garde(range(max = 100))]
    #[schema(maximum = 100)]
    pub share: u32,
}

/// The body of `POST /api/v1/images/{id}/promote`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromoteRequest {
    /// Whatever was measured.
    #[garde(skip)]
    pub force: bool,
}

/// The body of `POST /api/v1/images/{id}/retire`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetireRequest {
    /// Why; 1 to 500 characters.
    #[garde(length(chars, min = 1, max = 500), custom(super::task::no_control_characters))]
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
}

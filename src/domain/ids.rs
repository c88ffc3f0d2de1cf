//! Every id is a UUID of its own type, so that a task's id can never be passed where a VM's is meant.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// One job's need of a VM; chosen by the dispatcher (`PUT`) or by us (`POST`).
    TaskId
);
id!(
    /// Our row for a VM; the provider's own name for it is its `provider_id`.
    VmId
);
id!(
    /// One call that makes machines.
    LaunchId
);
id!(
    /// A project's Docker layer cache disk.
    VolumeId
);
id!(
    /// One good state of a cache volume.
    GenerationId
);
id!(
    /// One image that VMs are made of; the provider's own name for it is its `provider_id`.
    ImageId
);
id!(
    /// One wish to have images registered.
    ImageOrderId
);
id!(
    /// One check of settings before they are saved.
    SettingsCheckId
);
id!(
    /// This installation; tags every machine, so that two installations on one account or host never touch each other.
    InstallationId
);
id!(
    /// One API token; the token itself is never stored.
    TokenId
);

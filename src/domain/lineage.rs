//! Whose layers a cache holds, and which engine can read them: a volume is only ever used within one [`Lineage`].
//!
//! Not here: which volume of a lineage a job gets, and what of it is kept (`plan::cache`).

use serde::{Deserialize, Serialize};
use std::time::Duration;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[sqlx(type_name = "text", rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word in the database, tags and answers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                [$(Self::$variant),+].into_iter().find(|it| it.as_str() == text)
                    .ok_or_else(|| format!("\"{text}\" is not one of {}", [$($text),+].join(", ")))
            }
        }
    };
}

words!(
    /// Whether what a job writes may be read by later jobs.
    #[derive(Default)]
    Trust {
        /// It is kept.
        #[default]
        Trusted = "trusted",
        /// It reads a copy, and nothing of it is kept.
        Untrusted = "untrusted",
    }
);

words!(
    /// How an engine keeps its layers.
    Store {
        /// The engine's own store, below its data folder.
        Classic = "classic",
        /// That of containerd, which new engines use.
        Containerd = "containerd",
    }
);

/// An engine, as far as its layers are readable by another: of the same architecture, store and major version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Engine {
    /// Of the machine, such as `x86_64`.
    pub architecture: String,
    /// How it keeps its layers.
    pub store: Store,
    /// Its major version.
    pub major: i32,
}

/// The line of one project's caches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Lineage {
    /// The project it belongs to, for ever.
    pub project_id: String,
    /// Trusted and untrusted never mix.
    pub trust: Trust,
    /// Who can read it.
    #[serde(flatten)]
    pub engine: Engine,
}

/// One layer that a cache holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Layer {
    /// The same layer has the same name in every copy of a cache.
    pub id: String,
    /// Its size.
    pub bytes: u64,
}

/// What a snapshot and a copy of one cost here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// Next to nothing: each good state is kept, and each job may have a copy of the best.
    Cheap,
    /// A snapshot costs time and money: one for each lineage in this time.
    EachAfter(Duration),
}

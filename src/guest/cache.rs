//! The words of a project's Docker layer cache inside a VM: the disk that is brought, and what came of mounting and unmounting it.
//!
//! Not here: how it is done (`linux_cache`, `cache/*.sh`); which disk a job gets (`loops`).

use crate::domain::lineage::{Engine, Layer};

/// A cache disk that has been attached to the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheDisk {
    /// It is found by this, never by a device name.
    pub serial: String,
    /// What the engine in the VM is, and must be for the disk.
    pub engine: Engine,
    /// What is on it.
    pub content: CacheContent,
}

/// What is on a cache disk before it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheContent {
    /// Nothing: it must be formatted. One that holds a file system of ours already is used as it is: an earlier try made it.
    Nothing,
    /// A state that ended well.
    Good,
    /// Nobody knows whether it ended well: it is checked whole.
    Unchecked,
}

/// Why a cache disk is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheTrouble {
    /// No disk of that serial came in time.
    NotThere,
    /// File system or store are damaged, or the engine does not start on it.
    Damaged,
    /// Another engine wrote it.
    WrongEngine,
    /// No room is left on it, and pruning made none.
    Full,
}

/// What came of mounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// The engine works on the disk.
    Ready(CacheReady),
    /// The engine works as it did before, without the disk, which is not mounted.
    Refused {
        /// What to do next.
        trouble: CacheTrouble,
        /// One sentence: what was seen.
        detail: String,
    },
}

/// The engine works on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheReady {
    /// Layers are on it.
    pub warm: bool,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes of the file system.
    pub size_bytes: u64,
    /// What was removed or mended, a sentence each; usually none.
    pub notes: Vec<String>,
}

/// What came of unmounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmounted {
    /// Bytes in use.
    pub used_bytes: u64,
    /// What is on the disk; empty when the engine would not say.
    pub layers: Vec<Layer>,
    /// Of them, those that the job made or used.
    pub used: Vec<Layer>,
    /// What was removed to make room, a sentence each.
    pub notes: Vec<String>,
}

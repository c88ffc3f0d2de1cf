//! `vm-service cache`: what an operator does with cache volumes from outside: compares two generations, and brings one in.
//!
//! Reads: snapshots, an image on this host. Writes: a new snapshot, progress on standard error. Calls: `provider`. Runs: once, by hand.
//!
//! Not here: where the settings and keys come from (`app::cache`); the making of an image in a VM.

pub mod diff;
#[cfg(feature = "ec2")]
pub mod seed;

//! `vm-service cache`: what an operator does with cache volumes from outside: compares two generations, and brings one in.
//!
//! Reads: snapshots, archives and images on this host. Writes: a new snapshot, progress on standard error. Calls: `provider`, `guest`. Runs:
//! once, by hand.
//!
//! Not here: where the settings and keys come from (`app::cache`).

pub mod diff;
pub mod image;
#[cfg(feature = "ec2")]
pub mod seed;

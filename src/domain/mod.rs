//! The words of the service and the decisions it takes: plain data and pure functions, nothing that waits.
//!
//! Every other module speaks in these types. `now` and randomness are arguments, so that a run can be repeated.
//!
//! Not here: SQL (`db`), clouds (`provider`), what happens inside a VM (`guest`).

pub mod access;
pub mod api;
pub mod audit;
pub mod audit_place;
pub mod catalogue;
mod certificates;
pub mod ec2;
pub mod failure;
pub mod identity;
pub mod ids;
pub mod image;
pub mod image_manifest;
pub mod lifecycle;
pub mod lineage;
pub mod network;
pub mod outbound;
mod pattern;
pub mod plan;
pub mod preallocated;
pub mod rate;
pub mod resource_class;
pub mod schedule_preview;
pub mod secret;
pub mod settings;
pub mod settings_check;
pub mod settings_diff;
pub mod settings_history;
pub mod statsd;
pub mod tags;
pub mod task;

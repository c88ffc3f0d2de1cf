//! vm-service: gives every CI job a virtual machine of its own.
//!
//! `http` writes intent and reads state, `loops` carry it out, `domain` decides, `provider` and `guest` act; Postgres is the only
//! shared state. Who may import whom is in `tests/it/walls.rs`.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod domain;
pub mod guest;
pub mod http;
pub mod loops;
pub mod provider;
pub mod seal;
pub mod sim;
pub mod ssh;
pub mod telemetry;

//! Every integration test, in one binary; `.ci/with-postgres` gives it a real Postgres.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on fails, and says so")]

mod api;
mod api_bad_input;
mod api_images;
mod api_operators;
mod api_rights;
mod api_settings;
mod api_sockets;
mod api_support;
mod api_tls;
mod api_volumes;
mod api_wait;
mod audit;
#[cfg(feature = "ec2")]
mod audit_bucket;
mod audit_chain;
mod audit_console;
mod bad_start;
mod browser;
mod cache_rules;
mod cache_scenes;
mod cache_seed;
mod cache_troubles;
mod cache_vms;
mod cli;
mod cli_live;
mod console;
mod console_cost;
mod console_live;
mod console_pages;
mod console_speed;
mod console_support;
mod constraints;
mod contract;
mod cycling;
mod e2e;
#[cfg(feature = "ec2")]
mod ec2_doctor;
#[cfg(feature = "ec2")]
mod ec2_lab;
#[cfg(feature = "ec2")]
mod ec2_outbound;
#[cfg(feature = "ec2")]
mod ec2_scenes;
#[cfg(feature = "ec2")]
mod ec2_settings;
#[cfg(feature = "ec2")]
mod ec2_wire;
mod explain;
mod gc_scenes;
mod gpu_scenes;
mod holds;
mod image_rules;
mod image_scenes;
mod integrate;
mod kills;
mod leases;
mod lifecycle;
mod limits;
mod many_rows;
mod onhost;
mod onhost_isolation;
mod onhost_snapshot;
mod onhost_volumes;
mod over_sim;
mod pool;
mod rebuild;
mod relaunch;
mod reserve;
mod roles;
mod schemathesis;
mod service;
mod settings_browser;
mod settings_catalogue;
mod settings_checks;
mod settings_live;
mod settings_page;
mod settings_vms;
mod sim_rules;
mod simulation;
mod ssh_hostile;
mod statements;
mod support;
mod task_life;
mod telemetry;
mod tokens;
mod transactions;
mod trouble;
mod walls;

//! The HTTP API: writes intent and reads state; it never calls a cloud and never waits for a machine.
//!
//! A *problem* is an RFC 9457 document, made in `problem` alone. The *envelope* is what every request passes: request id, one log
//! line, a time limit, a caught panic. A *guard* watches one connection.
//!
//! Reads: `db` (tasks, VMs, events, settings, tokens), `seal` (tokens, a ready task's identity). Writes: `db`.
//! Calls: nothing else. Runs: in `serve` and `up`; any number of copies.
//!
//!     socket → serve, guard, tls → envelope → auth → extract → tasks | vms | events | settings | health → db
//!                                           → console → the same functions, as pages
//!
//! Not here: what becomes of an intent (`loops`), SQL (`db`), what answers look like (`domain::api`).

pub mod serve;
pub mod state;

mod audit;
mod audit_log;
mod auth;
mod connection;
mod console;
mod docs;
mod envelope;
mod events;
mod events_stream;
mod extract;
mod guard;
mod health;
mod images;
mod metrics;
mod openapi;
mod paging;
mod problem;
mod router;
mod settings;
mod settings_checks;
mod settings_history;
mod streams;
mod task_list;
mod task_wait;
mod tasks;
mod tls;
mod vm_hold;
mod vms;
mod volumes;
mod waiting;

pub use console::Hosts;
pub use metrics::metrics_router;
pub use router::{broken_router, document, enveloped, router};

//! Every integration test, in one binary; `.ci/with-postgres` gives it a real Postgres.

mod bad_start;
mod cli;
mod constraints;
mod e2e;
mod lifecycle;
mod onhost;
mod service;
mod ssh_hostile;
mod statements;
mod support;
mod task_life;
mod trouble;
mod walls;

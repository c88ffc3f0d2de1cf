//! Every integration test, in one binary; `.ci/with-postgres` gives it a real Postgres.

mod constraints;
mod lifecycle;
mod onhost;
mod ssh_hostile;
mod statements;
mod support;
mod task_life;
mod trouble;
mod walls;

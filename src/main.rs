//! Starts what the arguments name.

use std::process::ExitCode;

/// The process beside an on-host VM; hidden, started by the service itself.
const KEEP_MACHINE: &str = "keep-machine";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(KEEP_MACHINE) {
        return vm_service::provider::onhost::keeper::main();
    }
    ExitCode::SUCCESS
}

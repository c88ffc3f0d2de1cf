//! `vm-service vms`: VMs as people and programs read them, their end, and an operator's "do not touch".
//!
//! Reads: the API. Writes: nothing but its answer. Calls: the API. Runs: once.

use super::calls::{Calls, Columns};
use super::table::{age, json, length, or_dash, time};
use super::{Client, Connect, Failure, REFUSED};
use crate::domain::api::{Terminated, VmView};
use crate::domain::ids::VmId;
use crate::domain::lifecycle::VmState;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json as object};

/// `vm-service vms`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vm-service vms                                     list the VMs
  vm-service vms list --state available              those that wait for a task
  vm-service vms terminate 3f1c… 9b20…               end two, whatever runs on them
  vm-service vms hold 3f1c… --reason 'kernel bug, ask Ada' --for 2h
  vm-service vms ssh 3f1c…                           a shell in it
  vm-service vms --json | jq -r '.[] | select(.task_id == null) | .id'")]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Print the API's JSON: one document, for a list one array of all its items.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    pub(super) what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum What {
    #[command(flatten)]
    Call(Call),
    /// Log in to a VM with this machine's ssh, or run a command there; who did so is in the audit log.
    Ssh {
        /// Its id.
        id: VmId,
        /// The command and its arguments, after --; none: a shell.
        #[arg(last = true)]
        command: Vec<String>,
    },
}

/// What the API alone does.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Call {
    /// List VMs, newest first (the default).
    List {
        /// Only in this state, such as available, assigned or quarantined.
        #[arg(long)]
        state: Option<VmState>,
    },
    /// Show one VM.
    Show {
        /// Its id.
        id: VmId,
    },
    /// End VMs, whatever runs on them.
    Terminate {
        /// Their ids.
        #[arg(required_unless_present = "unknown", conflicts_with = "unknown")]
        ids: Vec<VmId>,
        /// All machines whose rows were lost; `vm-service gc --dry-run` names them.
        #[arg(long)]
        unknown: bool,
    },
    /// Keep a VM from being given away, ended or cleaned up for a while.
    Hold {
        /// Its id.
        id: VmId,
        /// Why; shown to everybody who looks at the VM.
        #[arg(long)]
        reason: String,
        /// For how long from now, such as 30m, 2h, 1d or 1h30m.
        #[arg(long = "for", value_name = "LENGTH", value_parser = parse_length)]
        length: TimeDelta,
    },
    /// End a hold: the usual rules apply again.
    Unhold {
        /// Its id.
        id: VmId,
    },
}

/// Runs the command; the answer is what to print, or why not. Not here: `ssh` (`vm_ssh`).
pub(super) async fn run(args: &Args, call: &Call, client: &Client) -> Result<String, Failure> {
    let calls = Calls { client, as_json: args.json };
    let answer = match call {
        Call::List { state } => calls.list("vms", [state.map(|state| ("state", state.to_string()))], COLUMNS).await,
        Call::Show { id } => calls.show(format!("vms/{id}"), lines).await,
        Call::Terminate { unknown: true, .. } => {
            calls.change(Method::POST, "vms/terminate".to_owned(), Some(&object!({ "unknown": true })), unknown_ended).await
        }
        Call::Terminate { ids, .. } => return terminate(client, ids, args.json).await,
        Call::Hold { id, reason, length: for_ } => {
            // A length, not a time: it counts by the service's clock.
            let hold = object!({ "reason": reason, "seconds": for_.num_seconds() });
            let until = |vm: VmView| or_dash(vm.hold.map(|hold| time(hold.until)));
            let said = |vm| format!("VM {id} is held for {}, until {}.\n", length(*for_), until(vm));
            calls.change(Method::PUT, format!("vms/{id}/hold"), Some(&hold), said).await
        }
        Call::Unhold { id } => {
            let said = |_: VmView| format!("VM {id} is not held any more.\n");
            calls.bare(Method::DELETE, format!("vms/{id}/hold"), said).await
        }
    };
    answer.map_err(|e| e.to_string().into())
}

const COLUMNS: Columns<VmView> = Columns {
    heading: &["ID", "STATE", "EXECUTOR", "CLASS", "AGE", "MACHINE", "ADDRESS", "TASK", "NOTE"],
    row: |vm, now| {
        vec![
            vm.id.to_string(),
            vm.state.to_string(),
            vm.executor.to_string(),
            vm.resource_class,
            age(vm.created_at, now),
            format!("{} {}", vm.provider, vm.provider_id.unwrap_or_default()),
            or_dash(vm.address),
            or_dash(vm.task_id),
            vm.hold.map(|hold| format!("held: {}", hold.reason)).or(vm.reason).unwrap_or_default(),
        ]
    },
    none: "No VMs.",
};

fn lines(vm: VmView, now: Option<DateTime<Utc>>) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("id", vm.id.to_string()),
        ("state", vm.state.to_string()),
        ("reason", or_dash(vm.reason)),
        ("executor", vm.executor.to_string()),
        ("class", vm.resource_class),
        ("origin", vm.origin.as_str().to_owned()),
        ("machine", format!("{} {}", vm.provider, or_dash(vm.provider_id))),
        ("address", or_dash(vm.address)),
        ("task", or_dash(vm.task_id)),
        ("age", age(vm.created_at, now)),
        ("created", time(vm.created_at)),
        ("available", or_dash(vm.available_at.map(time))),
        ("ends itself", time(vm.absolute_end_at)),
    ];
    if let Some(hold) = vm.hold {
        lines.push(("held", format!("until {}: {}", time(hold.until), hold.reason)));
    }
    lines
}

fn unknown_ended(ended: Terminated) -> String {
    if ended.machines.is_empty() {
        return "No unknown machines.\n".to_owned();
    }
    ended.machines.into_iter().map(|machine| format!("Machine {machine} is going to be ended.\n")).collect()
}

/// Each is tried, whatever happened to the others; one that failed makes the whole fail, and those that were ended are printed all the
/// same.
async fn terminate(client: &Client, ids: &[VmId], as_json: bool) -> Result<String, Failure> {
    let mut answers = Vec::new();
    let mut done = String::new();
    let mut failed = Vec::new();
    for id in ids {
        match client.change::<()>(Method::DELETE, &format!("vms/{id}"), None).await {
            Ok(answer) => {
                done += &format!("VM {id} is being terminated.\n");
                answers.push(if answer.body.is_null() { object!({ "id": id }) } else { answer.body });
            }
            Err(e) => failed.push(format!("VM {id} is not terminated: {e}")),
        }
    }
    let printed = if as_json { json(&Value::Array(answers)) } else { done };
    if failed.is_empty() {
        return Ok(printed);
    }
    Err(Failure { printed, sentence: failed.join("\n"), code: REFUSED })
}

/// "2h", "30m", "1h30m".
pub(super) fn parse_length(text: &str) -> Result<TimeDelta, String> {
    let wrong = || format!("\"{text}\" is not a length of time such as 30m, 2h, 1d or 1h30m");
    let mut total = TimeDelta::zero();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes().get(digits) {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3600,
            Some(b'd') => 86400,
            _ => return Err(wrong()),
        };
        let seconds = count.checked_mul(unit).and_then(TimeDelta::try_seconds).ok_or_else(wrong)?;
        total = total.checked_add(&seconds).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    if total <= TimeDelta::zero() {
        return Err(wrong());
    }
    Ok(total)
}

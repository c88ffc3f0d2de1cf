//! What must hold after every operation, judged by the cloud's truth and the API's answers.
//!
//! | check | what it says |
//! | --- | --- |
//! | answers | a task that was asked for is known, its final answer never changes, a release or an operator's end is believed at once |
//! | claims | no machine ever serves two tasks; it was personalised, and its host key is the one of the task's VM |
//! | ends | no machine of a running job, and none that is held, is ended by us; none is stopped, or ends by itself, under its job |
//! | deadlines | a job past its time, of a silent dispatcher, or on a dead machine has its final answer soon |
//! | rules | no call breaks a rule of the cloud; the database refuses no statement as a defect |
//!
//! Not here: caches (`cache_checks`), limits (`limits`), what needs time to settle (`calm`).

use super::cache_checks;
use super::history::History;
use super::limits;
use super::model::{BY_OPERATOR, Job, RELEASED};
use super::report::Violation;
use chrono::TimeDelta;
use std::collections::BTreeMap;
use vm_service::db::rows::TaskRow;
use vm_service::db::tasks::TaskFilter;
use vm_service::domain::api::TaskView;
use vm_service::domain::identity::Identity;
use vm_service::domain::ids::TaskId;
use vm_service::domain::lifecycle::TaskState;
use vm_service::provider::MachineState;
use vm_service::sim::{Call, EndCause, MachineTruth, Outcome};

/// Checks in a row, each after a tick of every loop on some replica, that a job may be past its end: crashes and faults hit a few of them.
const OVERDUE_CHECKS: u32 = 15;
/// The same in time, for a job on a dead machine: lists lag and fail, and a verdict takes two of them and a look.
const DEAD_FOR: TimeDelta = TimeDelta::minutes(10);

/// Everything.
pub(super) async fn all(history: &mut History) -> Result<(), Violation> {
    history.model.end(history.now());
    let machines: Vec<MachineTruth> = history.cluster.sim.truth();
    let by_id: BTreeMap<&str, &MachineTruth> = machines.iter().map(|machine| (machine.provider_id.as_str(), machine)).collect();
    answers(history, &by_id).await?;
    ends(history, &machines)?;
    deadlines(history, &by_id)?;
    limits::hold(history, &machines).await?;
    cache_checks::all(history, &machines).await?;
    history.images_hold(&machines)?;
    rules(history)
}

async fn answers(history: &mut History, machines: &BTreeMap<&str, &MachineTruth>) -> Result<(), Violation> {
    let filter = TaskFilter { limit: 500, ..TaskFilter::default() };
    let listed: BTreeMap<TaskId, TaskView> =
        history.db.list_tasks(&filter).await.unwrap().into_iter().map(|view| (view.id, view)).collect();
    for id in history.model.open() {
        let view = match listed.get(&id) {
            Some(view) => Some(view.clone()),
            None => history.db.find_task(id).await.unwrap().map(|row| row.view),
        };
        let Some(view) = view else {
            return Err(Violation::new("a task that was asked for is known", "the API does not know it any more").task(id));
        };
        let ready = view.state == TaskState::Ready && history.model.jobs[&id].ready_at.is_none();
        if ready {
            claimed(history, id, machines).await?;
        }
        let Some(job) = history.model.jobs.get_mut(&id) else { continue };
        let machine = view.vm.as_ref().and_then(|vm| vm.provider_id.clone());
        if view.state == TaskState::Ready && machine != job.machine {
            let detail = format!("was {:?}, is {machine:?}", job.machine);
            return Err(Violation::new("a ready task keeps its machine", detail).task(id));
        }
        if job.let_go == Some(RELEASED) && !view.state.is_terminal() {
            return Err(Violation::new("a release is believed", format!("it is {}", view.state)).task(id));
        }
        if job.let_go == Some(BY_OPERATOR) && job.ready_at.is_some() && !view.state.is_terminal() {
            let detail = format!("it is {}", view.state);
            return Err(Violation::new("a job whose VM an operator ended is told so at once", detail).task(id));
        }
        job.state = view.state;
    }
    Ok(())
}

/// A task is ready for the first time.
async fn claimed(history: &mut History, id: TaskId, machines: &BTreeMap<&str, &MachineTruth>) -> Result<(), Violation> {
    let row: TaskRow = history.db.find_task(id).await.unwrap().unwrap();
    // Nobody else runs between this look and the list.
    let (Some(way_in), Some(vm)) = (&row.way_in, &row.view.vm) else {
        return Err(Violation::new("a ready task has a way in", format!("{:?}", row.view)).task(id));
    };
    let machine = vm.provider_id.clone().unwrap_or_default();
    let wrong = |rule, detail: String| Err(Violation::new(rule, detail).task(id).machine(&machine));
    if let Some(other) = history.model.served.insert(machine.clone(), id) {
        return wrong("no machine serves two tasks", format!("{machine} served {other} before"));
    }
    let Some(truth) = machines.get(machine.as_str()) else {
        return wrong("a ready task has a machine", format!("the cloud never made {machine}"));
    };
    let plain = history.cluster.sealer.open(way_in.vm.0, &way_in.identity_sealed).unwrap();
    let identity: Identity = serde_json::from_slice(&plain).unwrap();
    if truth.personalised_as.as_ref() != Some(&identity.host_public) || truth.keys.host != identity.host_public {
        return wrong("a machine is personalised as the task's VM", format!("expected {}", identity.host_public));
    }
    if truth.address.is_some_and(|address| address.to_string() != way_in.address) {
        return wrong("a ready task is told its machine's address", format!("was told {}", way_in.address));
    }
    let keys = &row.view.request.ssh_public_keys;
    if !keys.iter().all(|key| truth.keys.logins.contains(key)) {
        return wrong("a ready task's keys are in its machine", "one is missing".to_owned());
    }
    cache_checks::ready(history, &row, truth)?;
    if let Some(job) = history.model.jobs.get_mut(&id) {
        (job.ready_at, job.machine, job.vm) = (row.view.ready_at, Some(machine), Some(vm.id));
    }
    Ok(())
}

fn ends(history: &mut History, machines: &[MachineTruth]) -> Result<(), Violation> {
    let now = history.now();
    let model = &mut history.model;
    for truth in machines {
        let id = truth.provider_id.as_str();
        if matches!(truth.state, MachineState::Stopping | MachineState::Stopped) {
            let job: Option<&Job> = model.served.get(id).and_then(|task| model.jobs.get(task));
            if job.is_some_and(|job| !job.may_end(now)) {
                return Err(Violation::new("no machine of a running job is stopped", format!("{:?}", truth.state)).machine(id));
            }
        }
        let fresh = match truth.end {
            Some(EndCause::AskedByUs) => model.asked.insert(id.to_owned()),
            Some(EndCause::OwnEnd) => model.ended.insert(id.to_owned()),
            _ => false,
        };
        if !fresh {
            continue;
        }
        let asked = truth.end == Some(EndCause::AskedByUs);
        let job: Option<&Job> = model.served.get(id).and_then(|task| model.jobs.get(task));
        if let Some(job) = job.filter(|job| !job.may_end(now)) {
            let ends_at = truth.ends_itself_at;
            if asked && !(job.bereft && ends_at.is_some_and(|at| at <= now)) {
                let detail = format!("asked by us while its job runs; bereft: {}, its own end is at {ends_at:?}", job.bereft);
                return Err(Violation::new("no machine of a running job is ended by us", detail).machine(id));
            }
            if !asked && !job.bereft {
                return Err(Violation::new("no machine ends by itself under its job", "its own end came first").machine(id));
            }
        }
        if let Some(held) = model.holds.get(id).filter(|held| held.until > now) {
            let told = model.operation() >= held.set + 8 && truth.personalised_as.is_some();
            if asked || told {
                let detail = format!("{:?} although it is held until {}", truth.end, held.until);
                return Err(Violation::new("a held VM lives until its hold ends", detail).machine(id));
            }
        }
    }
    Ok(())
}

fn deadlines(history: &mut History, machines: &BTreeMap<&str, &MachineTruth>) -> Result<(), Violation> {
    let now = history.now();
    let heard_since = history.model.heard_since;
    for job in history.model.jobs.values_mut() {
        let dead = job.machine.as_ref().and_then(|machine| machines.get(machine.as_str())).and_then(|truth| truth.ended_at);
        // One that died while nothing looked may still be given to a job: that job's time begins with it.
        let dead = dead.max(job.ready_at.filter(|_| dead.is_some()));
        let silent = job.is_silent(now) && heard_since + job.may_be_silent() <= now;
        let due = job.has_run_out(now) || silent || dead.is_some_and(|at| at + DEAD_FOR <= now);
        if !job.is_open() || !due {
            job.overdue = None;
            continue;
        }
        let (checks, since) = job.overdue.map_or((1, now), |(checks, since)| (checks + 1, since));
        job.overdue = Some((checks, since));
        if checks > OVERDUE_CHECKS {
            let detail = format!("it is {} since {since}; its machine ended at {dead:?}", job.state);
            return Err(Violation::new("a task has its final answer within its deadline", detail).task(job.id));
        }
    }
    Ok(())
}

fn rules(history: &mut History) -> Result<(), Violation> {
    if let Some(defect) = history.cluster.defects.first() {
        return Err(Violation::new("the database refuses nothing as a defect", defect.clone()));
    }
    let seen = history.model.calls_seen;
    let fresh = history.cluster.sim.journal_from(seen);
    history.model.calls_seen += fresh.len();
    // Stops and starts are refused by state where they come late, or the machine has died meanwhile: nothing happens.
    let by_state = |call: &&Call| ["stop_machine", "start_machine"].contains(&call.op) || cache_checks::is_by_state(call);
    match fresh.iter().find(|call| call.outcome == Outcome::Refused && !by_state(call)) {
        Some(call) => Err(Violation::new("no call breaks a rule of the cloud", call.to_string())),
        None => Ok(()),
    }
}

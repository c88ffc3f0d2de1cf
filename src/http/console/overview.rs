//! The first page: what is wrong, the pools, the queue, the limits, the starts of the last hours.

use super::chart::Chart;
use super::frame::{self, Frame, Parts, Tab};
use super::session::Session;
use super::troubles::{Facts, Trouble, troubles};
use super::words;
use crate::db::console_overview::{Longest, Totals, Waits};
use crate::domain::lifecycle::{TaskState, VmState};
use crate::domain::plan::room::Kind;
use crate::domain::resource_class::ResourceClass;
use crate::domain::settings::Settings;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;

/// Reasons that are shown; the queue has a page of its own.
const WAITS: i64 = 12;

/// One kind of VM: what there is, and what should be.
struct Pool {
    kind: Kind,
    base: i64,
    available: i64,
    coming: i64,
    assigned: i64,
    ending: i64,
    reserve: i64,
    reserve_wanted: i64,
    waiting: i64,
}

impl Pool {
    /// Fewer are free, or on their way, than should be.
    fn is_short(&self) -> bool {
        self.available + self.coming < self.base
    }
}

/// One limit.
struct Limit {
    name: String,
    used: i64,
    most: i64,
}

impl Limit {
    fn is_reached(&self) -> bool {
        self.used >= self.most && self.most > 0
    }

    /// The end of its picture.
    fn scale(&self) -> i64 {
        self.most.max(1)
    }
}

#[derive(Template)]
#[template(path = "overview.html", config = ".askama.toml")]
struct Overview {
    troubles: Vec<Trouble>,
    pools: Vec<Pool>,
    waits: Vec<(Waits, Longest)>,
    limits: Vec<Limit>,
    queued: i64,
    preparing: i64,
    ready: i64,
    totals: Totals,
    chart: String,
    now: DateTime<Utc>,
}

/// `GET /console`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let frame = Frame::new(&session, &uri, Tab::Overview, "Overview");
    Ok(frame::page(&frame, Parts { live: live(&state).await?, ..Parts::default() }))
}

/// All of it.
pub(super) async fn live(state: &AppState) -> Result<String, Problem> {
    let now = state.clock.now();
    let settings = state.settings.borrow().settings.clone();
    let db = &state.db;
    let vms = db.count_vms().await?;
    let tasks = db.count_open_tasks().await?;
    let waits = db.list_waits(WAITS).await?;
    let waiting = db.count_waiting().await?;
    let old = now - settings.timeouts.life();
    let totals = db.totals(now - TimeDelta::hours(24), old, now).await?;
    let breakers = db.list_all_breakers().await?;
    let starts = db.count_starts(Chart::since(now)).await?;
    let is_blind = db.is_blind(now).await?;
    let facts = Facts {
        configuration: state.problem.borrow().clone(),
        skew: (state.skew)(),
        settings: &settings,
        vms: &vms,
        tasks: &tasks,
        breakers: &breakers,
        totals: &totals,
        is_blind,
        now,
    };
    let mut waiting_of = BTreeMap::<Kind, i64>::new();
    for (kind, _, tasks) in waiting {
        *waiting_of.entry(kind).or_default() += i64::from(tasks);
    }
    let of = |state: TaskState| tasks.get(&state).copied().unwrap_or(0);
    Ok(frame::html(&Overview {
        troubles: troubles(&facts),
        pools: pools(&settings, &vms, &waiting_of, now),
        waits,
        limits: limits(&settings, &vms, &totals),
        queued: of(TaskState::Queued),
        preparing: of(TaskState::Preparing),
        ready: of(TaskState::Ready),
        chart: frame::html(&Chart::new(&starts, now)),
        totals,
        now,
    }))
}

fn pools(
    settings: &Settings,
    vms: &BTreeMap<Kind, BTreeMap<VmState, i64>>,
    waiting: &BTreeMap<Kind, i64>,
    now: DateTime<Utc>,
) -> Vec<Pool> {
    let mut kinds = settings.preallocated.kinds();
    kinds.extend(vms.keys().chain(waiting.keys()).cloned());
    kinds.sort();
    kinds.dedup();
    let none = BTreeMap::new();
    let pool = |kind: Kind| {
        let states = vms.get(&kind).unwrap_or(&none);
        let count = |of: &[VmState]| of.iter().filter_map(|state| states.get(state)).sum();
        let class = settings.resource_classes.get(&kind.1);
        Pool {
            base: settings.preallocated.base(kind.0, &kind.1, now).into(),
            available: count(&[VmState::Available]),
            coming: count(&[VmState::Requested, VmState::Launching, VmState::Booting]),
            assigned: count(&[VmState::Assigned]),
            ending: count(&[VmState::Draining, VmState::Terminating, VmState::Quarantined]),
            reserve: count(&[VmState::Stopping, VmState::Stopped]),
            reserve_wanted: class.map_or(0, |class| class.reserve.size(kind.0).into()),
            waiting: waiting.get(&kind).copied().unwrap_or(0),
            kind,
        }
    };
    kinds.into_iter().map(pool).collect()
}

fn limits(settings: &Settings, vms: &BTreeMap<Kind, BTreeMap<VmState, i64>>, totals: &Totals) -> Vec<Limit> {
    let count =
        |of: fn(VmState) -> bool| -> i64 { vms.values().flatten().filter(|(state, _)| of(**state)).map(|(_, count)| count).sum() };
    let in_flight = |state| matches!(state, VmState::Requested | VmState::Launching | VmState::Booting);
    let mut limits = vec![
        Limit { name: "VMs".to_owned(), used: count(|_| true) + totals.unknown + totals.orphans, most: totals.max_vms.into() },
        Limit { name: "Starting at a time".to_owned(), used: count(in_flight), most: totals.max_in_flight.into() },
        Limit { name: "Cache volumes".to_owned(), used: totals.volumes, most: totals.max_volumes.into() },
    ];
    limits.extend(totals.max_gpus.map(|most| Limit { name: "GPUs".to_owned(), used: totals.gpus, most: most.into() }));
    let of_project = |most: u32| Limit { name: "Busiest project".to_owned(), used: totals.busiest_project, most: most.into() };
    limits.extend(settings.limits.vms_per_project.map(of_project));
    let of_class = |(name, class): (&String, &ResourceClass)| {
        let used = vms.iter().filter(|((_, class), _)| class == name).flat_map(|(_, states)| states.values()).sum();
        Some(Limit { name: format!("Class {name}"), used, most: class.limit?.into() })
    };
    limits.extend(settings.resource_classes.iter().filter_map(of_class));
    limits
}

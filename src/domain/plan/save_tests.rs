//! What a save would do, on snapshots made by hand.

use super::super::room::{Limits, Supply};
use super::super::scale::Idle;
use super::*;
use crate::domain::preallocated::Schedule;
use crate::domain::resource_class::Price;
use crate::domain::task::Executor;
use uuid::Uuid;

fn noon() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn kind() -> Kind {
    (Executor::Machine, "medium".to_owned())
}

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
    change(&mut settings);
    settings
}

fn budget(vms: u32) -> Budget {
    Budget { vms, in_flight: 20, volumes: 20 }
}

/// `free` VMs that became free just now.
fn snapshot<'a>(settings: &'a Settings, free: u32, taken: &Taken) -> Snapshot<'a> {
    let idle = |n: u32| Idle { id: VmId(Uuid::from_u128(n.into())), since: noon(), made_at: noon(), outdated: false };
    let limits = Limits {
        settings,
        supply: BTreeMap::from([(kind(), Supply { in_flight: 0, available: free, live: free })]),
        breakers: BTreeMap::new(),
        room: Some(taken.room(budget(20), settings)),
        allowance: Allowance { calls: 0, machines: 0 },
        max_batch: 100,
        now: noon(),
    };
    let idle = BTreeMap::from([(kind(), (0..free).map(idle).collect())]);
    Snapshot { limits, idle, reserve: BTreeMap::new(), keeps_reserve: false, waiting: BTreeMap::new() }
}

fn effect(old: &Settings, new: &Settings, free: u32) -> Effect {
    let taken = Taken { vms: free, ..Taken::default() };
    plan_save(&snapshot(old, free, &taken), &snapshot(new, free, &taken))
}

#[test]
fn a_larger_pool_starts_vms_and_a_smaller_one_ends_them() {
    let (small, large) = (settings(|s| s.preallocated.machine = 1), settings(|s| s.preallocated.machine = 4));
    let up = effect(&small, &large, 1);
    let pool = |kept_before, kept_after, free, starts, ends| PoolEffect {
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        kept_before,
        kept_after,
        free,
        starts,
        ends,
        replaced: 0,
    };
    assert_eq!(up.pools, [pool(1, 4, 1, 3, 0)]);
    assert_eq!(effect(&large, &small, 4).pools, [pool(4, 1, 4, 0, 3)]);
    assert_eq!(effect(&small, &settings(|s| s.preallocated.machine = 30), 1).pools[0].starts, 19, "as many as the limits allow");
    assert_eq!(effect(&small, &small, 0).pools, [], "what would happen anyway is not because of the save");
}

#[test]
fn free_vms_of_a_class_that_changes_are_replaced() {
    let old = settings(|s| s.preallocated.machine = 3);
    let taken = Taken { vms: 3, ..Taken::default() };
    let (before, mut after) = (snapshot(&old, 3, &taken), snapshot(&old, 3, &taken));
    for vm in after.idle.get_mut(&kind()).unwrap() {
        vm.outdated = true;
    }
    let pools = plan_save(&before, &after).pools;
    assert_eq!((pools[0].replaced, pools[0].starts, pools[0].ends), (3, 2, 0), "two at a time, replacement first");
}

#[test]
fn what_waits_is_priced_by_the_week_of_its_schedule() {
    let price =
        |s: &mut Settings| s.resource_classes.get_mut("medium").unwrap().price_per_hour = Some(Price::try_from(0.1).unwrap());
    let schedule = |cron: &str, count| Schedule {
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        cron: cron.to_owned(),
        count,
    };
    let old = settings(|s| s.preallocated.machine = 1);
    let new = settings(|s| {
        price(s);
        // Half of each day.
        s.preallocated.schedules = vec![schedule("0 0 * * *", 4), schedule("0 12 * * *", 0)];
    });
    let cost = effect(&old, &new, 0).cost.unwrap();
    assert_eq!((cost.before, cost.after, cost.unpriced.len()), (73.0, 146.0, 0));
    let large = settings(|s| {
        price(s);
        s.preallocated.machine = 1;
        s.preallocated.schedules = vec![Schedule { resource_class: "large".to_owned(), ..schedule("0 0 * * *", 1) }];
    });
    assert_eq!(effect(&old, &large, 0).cost.unwrap().unpriced, ["large"]);
    assert_eq!(effect(&old, &settings(|s| s.preallocated.machine = 2), 0).cost, None);
}

#[test]
fn limits_below_what_is_there_are_told_and_what_would_stand_still() {
    let old = settings(|_| ());
    let new = settings(|s| {
        s.preallocated.machine = 9;
        s.limits.gpus = Some(1);
        s.pause_launches = true;
        s.resource_classes.remove("large");
        s.resource_classes.get_mut("medium").unwrap().limit = Some(2);
    });
    let taken = Taken { vms: 8, in_flight: 1, volumes: 2, gpus: 3, busiest_project: 4 };
    let (before, after) = (snapshot(&old, 3, &taken), snapshot(&new, 3, &taken));
    let found = warnings(&before, &after, &taken, budget(5));
    let told: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
    assert_eq!(
        told,
        ["limits.vms", "limits.gpus", "resource_classes.medium.limit", "preallocated", "resource_classes", "pause_launches"]
    );
    assert!(found[0].detail.starts_with("The limit would be 5, and there are 8 VMs"), "{}", found[0].detail);
    assert_eq!(warnings(&before, &before, &taken, budget(20)), []);
}

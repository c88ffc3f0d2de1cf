//! How many VMs wait for jobs, by kind and hour, and when they are replaced by fresh ones.
//!
//! The *base* of a kind is the number of its VMs that are kept free, in addition to those that jobs have. A schedule sets it from each
//! time that its pattern names until another schedule of the same kind does; before the first of them the standing count holds.
//!
//! Not here: what is launched and drained for it (`plan::scale`).

use super::resource_class::DEFAULT_CLASS;
use super::task::Executor;
use chrono::{DateTime, DurationRound as _, NaiveDateTime, SubsecRound as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use serde::{Deserialize, Serialize};
use std::str::FromStr as _;

/// A schedule's last time is looked for this far back: patterns name a time each week or more often.
const LOOK_BACK: TimeDelta = TimeDelta::days(32);

/// The pools of VMs that wait for jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Preallocated {
    /// VMs of class `medium` kept free for remote Docker.
    #[garde(range(max = 10_000))]
    pub remote_docker: u32,
    /// VMs of class `medium` kept free for machine jobs.
    #[garde(range(max = 10_000))]
    pub machine: u32,
    /// VMs of other classes kept free; one entry a kind.
    #[garde(dive, length(max = 200))]
    pub pools: Vec<Pool>,
    /// Times at which a kind's number changes.
    #[garde(dive, length(max = 200))]
    pub schedules: Vec<Schedule>,
    /// Time zone of all patterns here, such as `Europe/Paris`.
    #[garde(custom(is_time_zone))]
    pub time_zone: String,
    /// When idle VMs are replaced by fresh ones: a cron pattern of five fields that names a time each day.
    #[garde(custom(is_daily))]
    pub cycle: String,
    /// How many are replaced at a time, 1 to 100.
    #[garde(range(min = 1, max = 100))]
    pub cycle_at_a_time: u32,
}

/// A kind of VM and how many are kept free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// What for.
    #[garde(skip)]
    pub executor: Executor,
    /// Name of the class.
    #[garde(length(chars, min = 1, max = 100))]
    pub resource_class: String,
    /// How many.
    #[garde(range(max = 10_000))]
    pub count: u32,
}

/// From each time that the pattern names, the kind has this number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// What for.
    #[garde(skip)]
    pub executor: Executor,
    /// Name of the class.
    #[garde(length(chars, min = 1, max = 100))]
    pub resource_class: String,
    /// A cron pattern of five fields: minute, hour, day of the month, month, day of the week. It names a time each month or more often.
    #[garde(custom(is_monthly))]
    pub cron: String,
    /// How many.
    #[garde(range(max = 10_000))]
    pub count: u32,
}

impl Default for Preallocated {
    fn default() -> Self {
        Self {
            remote_docker: 0,
            machine: 0,
            pools: Vec::new(),
            schedules: Vec::new(),
            time_zone: "UTC".to_owned(),
            cycle: "0 4 * * *".to_owned(),
            cycle_at_a_time: 2,
        }
    }
}

impl Preallocated {
    /// How many VMs of this kind are kept free at `now`.
    pub fn base(&self, executor: Executor, class: &str, now: DateTime<Utc>) -> u32 {
        let kind = (executor, class);
        let set = self
            .schedules
            .iter()
            .filter(|schedule| (schedule.executor, schedule.resource_class.as_str()) == kind)
            .filter_map(|schedule| Some((self.last(&schedule.cron, now)?, schedule.count)))
            .max_by_key(|(at, _)| *at);
        set.map_or_else(|| self.standing(executor, class), |(_, count)| count)
    }

    /// Every kind that has a base now or at another time.
    pub fn kinds(&self) -> Vec<(Executor, String)> {
        let of_pools = self.pools.iter().map(|pool| (pool.executor, pool.resource_class.clone()));
        let of_schedules = self.schedules.iter().map(|schedule| (schedule.executor, schedule.resource_class.clone()));
        let usual = [Executor::Machine, Executor::RemoteDocker].map(|executor| (executor, DEFAULT_CLASS.to_owned()));
        let mut kinds: Vec<_> = usual.into_iter().chain(of_pools).chain(of_schedules).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// When the replacement of idle VMs was last due.
    pub fn last_cycle(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.last(&self.cycle, now)
    }

    fn standing(&self, executor: Executor, class: &str) -> u32 {
        let pool = self.pools.iter().find(|pool| (pool.executor, pool.resource_class.as_str()) == (executor, class));
        match (pool, class, executor) {
            (Some(pool), _, _) => pool.count,
            (None, DEFAULT_CLASS, Executor::Machine) => self.machine,
            (None, DEFAULT_CLASS, Executor::RemoteDocker) => self.remote_docker,
            (None, _, _) => 0,
        }
    }

    /// The pattern's newest time that is not after `now`.
    pub(super) fn last(&self, pattern: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let zone: Tz = self.time_zone.parse().unwrap_or(Tz::UTC);
        let now = now.trunc_subsecs(0);
        let local = now.with_timezone(&zone).naive_local();
        // The library is asked by the clock on the wall alone. An hour that comes twice counts when it comes first: the second time, all
        // of it has been. A time that is left out is an hour later.
        let first = |wall: NaiveDateTime| zone.from_local_datetime(&wall).earliest().map(|at| at.with_timezone(&Utc));
        let instant = |wall| first(wall).or_else(|| first(wall + TimeDelta::hours(1)));
        let repeated = first(local).map_or_else(TimeDelta::zero, |at| now - at);
        let cron = Cron::from_str(pattern).ok()?;
        let mut wall = cron.find_previous_occurrence(&(local + repeated).and_utc(), true).ok()?;
        while instant(wall.naive_utc())? > now {
            wall = cron.find_previous_occurrence(&wall, false).ok()?;
        }
        let at = instant(wall.naive_utc())?;
        (now - at <= LOOK_BACK).then_some(at)
    }
}

fn is_time_zone(text: &str, _: &()) -> garde::Result {
    text.parse::<Tz>().map(|_| ()).map_err(|_| garde::Error::new("is not a time zone such as \"UTC\" or \"Europe/Paris\""))
}

fn is_daily(pattern: &str, _: &()) -> garde::Result {
    names_a_time_within(pattern, TimeDelta::days(1), "names no time on some days")
}

fn is_monthly(pattern: &str, _: &()) -> garde::Result {
    names_a_time_within(pattern, LOOK_BACK, "names no time for more than a month")
}

fn names_a_time_within(pattern: &str, span: TimeDelta, otherwise: &str) -> garde::Result {
    let unreadable =
        || garde::Error::new("is not a cron pattern of five fields such as \"0 8 * * 1-5\" (minute, hour, day, month, weekday)");
    if pattern.split_whitespace().count() != 5 || pattern.len() > 200 {
        return Err(unreadable());
    }
    let cron = Cron::from_str(pattern).map_err(|_| unreadable())?;
    // A year of days, a leap day among them.
    let mut day = DateTime::from_timestamp(1_830_297_600, 0).unwrap_or_default();
    let end = day + TimeDelta::days(366);
    while day < end {
        // The last time within the span of this day is within that of each day before that time.
        let last = cron.find_previous_occurrence(&(day + span), true).ok().filter(|last| *last >= day);
        let after = last.and_then(|last| last.duration_trunc(TimeDelta::days(1)).ok());
        day = after.ok_or_else(|| garde::Error::new(otherwise))? + TimeDelta::days(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use garde::Validate as _;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedule(cron: &str, count: u32) -> Schedule {
        Schedule { executor: Executor::Machine, resource_class: "large".to_owned(), cron: cron.to_owned(), count }
    }

    #[test]
    fn a_schedule_holds_until_the_next_in_its_time_zone() {
        let work = Preallocated {
            schedules: vec![schedule("0 8 * * 1-5", 10), schedule("0 18 * * 1-5", 1)],
            pools: vec![Pool { executor: Executor::Machine, resource_class: "large".to_owned(), count: 3 }],
            time_zone: "Europe/Paris".to_owned(),
            ..Preallocated::default()
        };
        let base = |when| work.base(Executor::Machine, "large", at(when));
        // Friday; Paris is two hours ahead in summer, one in winter.
        assert_eq!(base("2026-07-03T05:59:59Z"), 1);
        assert_eq!(base("2026-07-03T06:00:00Z"), 10);
        assert_eq!(base("2026-07-03T16:00:00Z"), 1);
        assert_eq!(base("2026-07-05T12:00:00Z"), 1, "on Sunday Friday's evening still holds");
        assert_eq!(base("2026-12-04T06:59:59Z"), 1);
        assert_eq!(base("2026-12-04T07:00:00Z"), 10);
        assert_eq!(work.base(Executor::RemoteDocker, "large", at("2026-07-03T06:00:00Z")), 0);
    }

    #[test]
    fn without_a_schedule_the_standing_count_holds() {
        let some = Preallocated { machine: 2, remote_docker: 5, ..Preallocated::default() };
        let now = at("2026-07-03T06:00:00Z");
        assert_eq!(some.base(Executor::Machine, "medium", now), 2);
        assert_eq!(some.base(Executor::RemoteDocker, "medium", now), 5);
        assert_eq!(some.base(Executor::Machine, "large", now), 0);
    }

    #[test]
    fn patterns_and_zones_are_checked() {
        let told = |change: fn(&mut Preallocated)| {
            let mut some = Preallocated { schedules: vec![schedule("0 8 * * *", 1)], ..Preallocated::default() };
            change(&mut some);
            some.validate().err().map(|report| report.to_string())
        };
        assert_eq!(told(|_| ()), None);
        assert!(told(|s| s.time_zone = "Mars/Base".to_owned()).unwrap().contains("is not a time zone"));
        assert!(told(|s| s.cycle = "0 4 * * 1".to_owned()).unwrap().contains("names no time on some days"));
        assert!(told(|s| s.cycle = "often".to_owned()).unwrap().contains("is not a cron pattern"));
        assert!(told(|s| s.schedules[0].cron = "0 8 1 1 *".to_owned()).unwrap().contains("more than a month"));
        assert!(told(|s| s.schedules[0].cron = "0 8 * * 8".to_owned()).unwrap().contains("is not a cron pattern"));
    }
}

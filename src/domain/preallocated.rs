//! How many VMs wait for jobs, by kind and hour, and when they are replaced by fresh ones.
//!
//! The *base* of a kind is the number of its VMs that are kept free, in addition to those that jobs have. A schedule sets it from each
//! time that its pattern names until another schedule of the same kind does; before the first of them the standing count holds.
//!
//! Not here: what is launched and drained for it (`plan::scale`).

use super::pattern::{LOOK_BACK, Pattern, Unfit, names_a_time_within};
use super::resource_class::DEFAULT_CLASS;
use super::task::{Executor, no_control_characters};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

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
    #[garde(length(chars, min = 1, max = 100), custom(no_control_characters))]
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
    #[garde(length(chars, min = 1, max = 100), custom(no_control_characters))]
    pub resource_class: String,
    /// A cron pattern of five fields: minute, hour, day of the month, month, day of the week. It names a time each month or more often.
    #[garde(custom(is_monthly))]
    pub cron: String,
    /// How many.
    #[garde(range(max = 10_000))]
    pub count: u32,
}

/// What sets the number of one kind: its schedules, read once for as many questions as there are.
pub struct Timetable {
    patterns: Vec<(Pattern, u32)>,
    standing: u32,
}

impl Timetable {
    /// How many VMs are kept free at `now`.
    pub fn base(&self, now: DateTime<Utc>) -> u32 {
        let set = self.patterns.iter().filter_map(|(pattern, count)| Some((pattern.last(now)?, *count)));
        set.max_by_key(|(at, _)| *at).map_or(self.standing, |(_, count)| count)
    }

    /// Each pattern's newest time that is not after `now`.
    pub fn last(&self, now: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        self.patterns.iter().filter_map(move |(pattern, _)| pattern.last(now))
    }
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
        self.timetable(executor, class).base(now)
    }

    /// What sets this kind's number.
    pub fn timetable(&self, executor: Executor, class: &str) -> Timetable {
        let of_kind = |schedule: &&Schedule| (schedule.executor, schedule.resource_class.as_str()) == (executor, class);
        let schedules = self.schedules.iter().filter(of_kind);
        Timetable {
            patterns: schedules.filter_map(|it| Some((Pattern::read(&it.cron, &self.time_zone)?, it.count))).collect(),
            standing: self.standing(executor, class),
        }
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
        Pattern::read(&self.cycle, &self.time_zone)?.last(now)
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
}

fn is_time_zone(text: &str, _: &()) -> garde::Result {
    text.parse::<Tz>().map(|_| ()).map_err(|_| garde::Error::new("is not a time zone such as \"UTC\" or \"Europe/Paris\""))
}

fn is_daily(pattern: &str, _: &()) -> garde::Result {
    is_often(pattern, TimeDelta::days(1), "names no time on some days")
}

fn is_monthly(pattern: &str, _: &()) -> garde::Result {
    is_often(pattern, LOOK_BACK, "names no time for more than a month")
}

fn is_often(pattern: &str, span: TimeDelta, otherwise: &str) -> garde::Result {
    names_a_time_within(pattern, span).map_err(|unfit| {
        garde::Error::new(match unfit {
            Unfit::Unreadable => "is not a cron pattern of five fields such as \"0 8 * * 1-5\" (minute, hour, day, month, weekday)",
            Unfit::TooRare => otherwise,
        })
    })
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

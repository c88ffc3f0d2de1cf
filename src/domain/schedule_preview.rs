//! When the number of VMs that are kept free will change, and to what: the times that the schedules name, each asked of
//! [`Timetable::base`], which is what the scaler goes by. So a preview cannot say anything else than what will be.

use super::preallocated::{Preallocated, Timetable};
use super::task::Executor;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Times of one kind that are looked at; where schedules name more, they are shown as far as that.
const MOST_TIMES: usize = 500;
/// They are looked for in parts of this length.
const PART: TimeDelta = TimeDelta::hours(6);

/// One kind of VM over a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PoolPreview {
    /// What for.
    pub executor: Executor,
    /// Name of the class.
    pub resource_class: String,
    /// The number at the start, then each change of it.
    pub steps: Vec<Step>,
    /// As far as the steps are known.
    pub until: DateTime<Utc>,
}

/// From then on so many VMs are kept free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    /// From when.
    pub at: DateTime<Utc>,
    /// The same in the settings' time zone, such as `Mon 2026-10-26 08:00 CET`.
    pub local: String,
    /// How many.
    pub count: u32,
}

/// What becomes of every kind from `from` on, for so long.
pub fn preview(preallocated: &Preallocated, from: DateTime<Utc>, span: TimeDelta) -> Vec<PoolPreview> {
    let zone: Tz = preallocated.time_zone.parse().unwrap_or(Tz::UTC);
    let one = |(executor, resource_class): (Executor, String)| {
        let timetable = preallocated.timetable(executor, &resource_class);
        let (times, until) = times(&timetable, from, from + span);
        let mut steps: Vec<Step> = Vec::new();
        for at in std::iter::once(from).chain(times) {
            let count = timetable.base(at);
            if steps.last().is_none_or(|step| step.count != count) {
                let local = at.with_timezone(&zone).format("%a %Y-%m-%d %H:%M %Z").to_string();
                steps.push(Step { at, local, count });
            }
        }
        PoolPreview { executor, resource_class, steps, until }
    };
    preallocated.kinds().into_iter().map(one).collect()
}

impl PoolPreview {
    /// Minutes of VMs that are kept free over so long, as they are on average as far as the steps are known.
    pub fn vm_minutes(&self, over: TimeDelta) -> u64 {
        let Some(first) = self.steps.first() else { return 0 };
        let ends = self.steps.iter().skip(1).map(|step| step.at).chain([self.until]);
        let minutes = |from: DateTime<Utc>, to: DateTime<Utc>| u64::try_from((to - from).num_minutes()).unwrap_or(0);
        let kept: u64 = self.steps.iter().zip(ends).map(|(step, end)| minutes(step.at, end) * u64::from(step.count)).sum();
        let over = u64::try_from(over.num_minutes()).unwrap_or(0);
        kept * over / minutes(first.at, self.until).max(1)
    }
}

/// The times from `from` on at which a schedule begins to hold, and how far they are known. They are found from behind, as the scaler finds
/// them: the hour that comes twice at the end of summer time is another one when it is looked for from before.
fn times(timetable: &Timetable, from: DateTime<Utc>, to: DateTime<Utc>) -> (BTreeSet<DateTime<Utc>>, DateTime<Utc>) {
    let (mut found, mut known) = (BTreeSet::new(), from);
    while known < to && found.len() < MOST_TIMES {
        let end = to.min(known + PART);
        let mut before = end - TimeDelta::seconds(1);
        while let Some(at) = timetable.last(before).max().filter(|at| *at >= known) {
            found.insert(at);
            before = at - TimeDelta::seconds(1);
        }
        known = end;
    }
    (found, known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::preallocated::Schedule;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedules(all: &[(&str, u32)]) -> Preallocated {
        let schedule = |(cron, count): &(&str, u32)| Schedule {
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            cron: (*cron).to_owned(),
            count: *count,
        };
        Preallocated {
            machine: 7,
            schedules: all.iter().map(schedule).collect(),
            time_zone: "Europe/Paris".to_owned(),
            ..Preallocated::default()
        }
    }

    fn told(some: &Preallocated, from: &str) -> Vec<(String, u32)> {
        let week = preview(some, at(from), TimeDelta::days(7));
        week[0].steps.iter().map(|step| (step.local.clone(), step.count)).collect()
    }

    #[test]
    fn a_week_keeps_local_hours_across_the_end_of_summer_time() {
        let some = schedules(&[("0 8 * * 1-5", 5), ("0 18 * * 1-5", 1)]);
        // From Friday noon; on Sunday the clock goes back.
        let week = told(&some, "2026-10-23T10:00:00Z");
        let [first, evening, monday, ..] = &week[..] else { panic!("{week:?}") };
        assert_eq!((first.0.as_str(), first.1), ("Fri 2026-10-23 12:00 CEST", 5));
        assert_eq!((evening.0.as_str(), evening.1), ("Fri 2026-10-23 18:00 CEST", 1));
        assert_eq!((monday.0.as_str(), monday.1), ("Mon 2026-10-26 08:00 CET", 5));
        assert_eq!(week.len(), 2 + 2 * 4 + 1);
        let pool = &preview(&some, at("2026-10-23T10:00:00Z"), TimeDelta::days(7))[0];
        assert_eq!(pool.steps[2].at, at("2026-10-26T07:00:00Z"));
    }

    /// What the scaler will do, minute by minute, on both days on which the clock is moved.
    #[test]
    fn a_preview_says_what_the_scaler_does_in_every_minute_of_both_time_changes() {
        // 02:30 is not there in spring and is there twice in autumn.
        let some = schedules(&[("30 2 * * *", 3), ("15 3 * * *", 4), ("*/45 1-3 * * 0", 6), ("0 12 * * *", 0)]);
        for day in ["2026-03-28T00:00:00Z", "2026-10-24T00:00:00Z", "2026-07-04T00:00:00Z"] {
            let pool = &preview(&some, at(day), TimeDelta::days(3))[0];
            for minute in 0..3 * 24 * 60 {
                let now = at(day) + TimeDelta::minutes(minute);
                let shown = pool.steps.iter().rev().find(|step| step.at <= now).unwrap().count;
                assert_eq!(shown, some.base(Executor::Machine, "medium", now), "at {now}: {:?}", pool.steps);
            }
        }
    }

    #[test]
    fn minutes_are_summed_up_and_a_busy_pattern_is_shown_as_far_as_it_is_known() {
        let some = schedules(&[("0 0 * * *", 2)]);
        let day = &preview(&some, at("2026-07-04T12:00:00Z"), TimeDelta::days(1))[0];
        assert_eq!(day.vm_minutes(TimeDelta::days(1)), 2 * 24 * 60);
        assert_eq!(day.vm_minutes(TimeDelta::days(7)), 7 * 2 * 24 * 60);
        let busy = schedules(&[("*/2 * * * *", 1), ("1-59/2 * * * *", 2)]);
        let week = &preview(&busy, at("2026-07-04T12:00:00Z"), TimeDelta::days(7))[0];
        assert!(
            week.until < at("2026-07-11T12:00:00Z") && week.steps.len() > 500 && week.until > at("2026-07-04T12:00:00Z"),
            "{} {}",
            week.until,
            week.steps.len()
        );
        let minutes = week.vm_minutes(TimeDelta::days(7));
        assert!((15_000..=15_240).contains(&minutes), "one and two by turns, all week: {minutes}");
        let none = &preview(&Preallocated::default(), at("2026-07-04T12:00:00Z"), TimeDelta::days(7))[0];
        assert_eq!((none.steps.len(), none.vm_minutes(TimeDelta::days(7))), (1, 0));
    }
}

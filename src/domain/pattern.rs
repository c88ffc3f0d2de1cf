//! Times that a cron pattern names by the clock on a wall: the newest one before another, on days on which the clock is moved too.
//!
//! An hour that comes twice counts when it comes first; a time that is left out is an hour later.

use chrono::{DateTime, DurationRound as _, NaiveDateTime, SubsecRound as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use std::str::FromStr as _;

/// A pattern's last time is looked for this far back.
pub(super) const LOOK_BACK: TimeDelta = TimeDelta::days(32);

/// A pattern of five fields in a time zone, read once for as many questions as there are.
pub(super) struct Pattern {
    cron: Cron,
    zone: Tz,
}

impl Pattern {
    /// None when it cannot be read, which valid settings exclude. An unknown time zone is UTC.
    pub(super) fn read(pattern: &str, time_zone: &str) -> Option<Self> {
        Some(Self { cron: Cron::from_str(pattern).ok()?, zone: time_zone.parse().unwrap_or(Tz::UTC) })
    }

    /// The newest time that is not after `now` and not further back than [`LOOK_BACK`].
    pub(super) fn last(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let now = now.trunc_subsecs(0);
        let local = now.with_timezone(&self.zone).naive_local();
        // The library is asked by the clock on the wall alone: the second time an hour comes, all of it has been.
        let first = |wall: NaiveDateTime| self.zone.from_local_datetime(&wall).earliest().map(|at| at.with_timezone(&Utc));
        let instant = |wall| first(wall).or_else(|| first(wall + TimeDelta::hours(1)));
        let repeated = first(local).map_or_else(TimeDelta::zero, |at| now - at);
        let mut wall = self.cron.find_previous_occurrence(&(local + repeated).and_utc(), true).ok()?;
        while instant(wall.naive_utc())? > now {
            wall = self.cron.find_previous_occurrence(&wall, false).ok()?;
        }
        let at = instant(wall.naive_utc())?;
        (now - at <= LOOK_BACK).then_some(at)
    }
}

/// Why a pattern does not serve.
pub(super) enum Unfit {
    /// It is no pattern of five fields.
    Unreadable,
    /// It names no time for longer than it should.
    TooRare,
}

/// Whether there is a time in each span of this length, all year round.
pub(super) fn names_a_time_within(pattern: &str, span: TimeDelta) -> Result<(), Unfit> {
    if pattern.split_whitespace().count() != 5 || pattern.len() > 200 {
        return Err(Unfit::Unreadable);
    }
    let cron = Cron::from_str(pattern).map_err(|_| Unfit::Unreadable)?;
    // A year of days, a leap day among them.
    let mut day = DateTime::from_timestamp(1_830_297_600, 0).unwrap_or_default();
    let end = day + TimeDelta::days(366);
    while day < end {
        // The last time within the span of this day is within that of each day before that time.
        let last = cron.find_previous_occurrence(&(day + span), true).ok().filter(|last| *last >= day);
        let after = last.and_then(|last| last.duration_trunc(TimeDelta::days(1)).ok());
        day = after.ok_or(Unfit::TooRare)? + TimeDelta::days(1);
    }
    Ok(())
}

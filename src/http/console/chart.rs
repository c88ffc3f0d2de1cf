//! The starts of the last hours as a picture: a bar for each quarter of an hour, failures on top of successes.

use crate::db::console_overview::Starts;
use askama::Template;
use chrono::{DateTime, DurationRound as _, TimeDelta, Timelike as _, Utc};

/// Quarters of an hour in the picture.
const BARS: i32 = 24;
/// The picture's own units.
const BAR_WIDTH: i64 = 20;
const HEIGHT: i64 = 100;

/// One quarter of an hour.
struct Bar {
    x: i64,
    at: DateTime<Utc>,
    good: i64,
    failed: i64,
    good_height: i64,
    failed_height: i64,
}

/// The picture.
#[derive(Template)]
#[template(path = "chart.html", config = ".askama.toml")]
pub(super) struct Chart {
    bars: Vec<Bar>,
    most: i64,
    good: i64,
    failed: i64,
}

impl Chart {
    /// Since when it shows starts.
    pub(super) fn since(now: DateTime<Utc>) -> DateTime<Utc> {
        let quarter = TimeDelta::minutes(15);
        now.duration_trunc(quarter).unwrap_or(now) - quarter * (BARS - 1)
    }

    /// Of these starts.
    pub(super) fn new(starts: &[Starts], now: DateTime<Utc>) -> Self {
        let most = starts.iter().map(|it| it.good + it.failed).max().unwrap_or(0);
        let height = |count: i64| if count == 0 { 0 } else { (count * HEIGHT / most.max(1)).max(2) };
        let since = Self::since(now);
        let bars = (0..BARS).map(|n| {
            let at = since + TimeDelta::minutes(15) * n;
            let (good, failed) = starts.iter().find(|it| it.at == at).map_or((0, 0), |it| (it.good, it.failed));
            Bar { x: i64::from(n) * BAR_WIDTH, at, good, failed, good_height: height(good), failed_height: height(failed) }
        });
        let sum = |of: fn(&Starts) -> i64| starts.iter().map(of).sum();
        Self { bars: bars.collect(), most, good: sum(|it| it.good), failed: sum(|it| it.failed) }
    }

    /// Full hours, for the axis.
    fn hours(&self) -> impl Iterator<Item = &Bar> {
        self.bars.iter().filter(|bar| bar.at.minute() == 0)
    }

    /// Quarters in which something started, for the table.
    fn told(&self) -> impl Iterator<Item = &Bar> {
        self.bars.iter().filter(|bar| bar.good + bar.failed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_stands_at_its_quarter_and_a_single_failure_is_seen() {
        let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let at = Chart::since(now) + TimeDelta::minutes(15) * 23;
        assert!(at <= now && now - at < TimeDelta::minutes(15), "the last one is now");
        let chart = Chart::new(&[Starts { at, good: 199, failed: 1 }], now);
        let last = chart.bars.last().unwrap();
        assert_eq!((last.x, last.good_height, last.failed_height), (460, 99, 2));
        assert_eq!((chart.bars.len(), chart.most, chart.told().count(), chart.hours().count()), (24, 200, 1, 6));
        assert_eq!(Chart::new(&[], now).most, 0);
    }
}

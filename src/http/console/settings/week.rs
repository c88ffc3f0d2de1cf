//! The next week as a picture: for each pool the number of VMs that are kept waiting, and beside it the same as a table.

use crate::domain::preallocated::Preallocated;
use crate::domain::schedule_preview::{PoolPreview, preview};
use crate::domain::task::Executor;
use crate::http::console::frame::html;
use askama::Template;
use chrono::{DateTime, TimeDelta, Utc};
use std::fmt::Write as _;

const WEEK: TimeDelta = TimeDelta::days(7);
/// Of the picture.
const WIDTH: i64 = 700;
const HEIGHT: i64 = 40;

#[derive(Template)]
#[template(path = "settings_week.html", config = ".askama.toml")]
struct Week {
    zone: String,
    pools: Vec<Pool>,
    days: Vec<(i64, String)>,
}

struct Pool {
    preview: PoolPreview,
    path: String,
    most: u32,
    /// The schedules name more times than are shown.
    is_cut: bool,
}

/// From `now` on; pools that keep nothing all week are left out.
pub(super) fn picture(preallocated: &Preallocated, now: DateTime<Utc>) -> String {
    let pools: Vec<Pool> = preview(preallocated, now, WEEK)
        .into_iter()
        .filter(|pool| pool.vm_minutes(WEEK) > 0)
        .map(|preview| Pool {
            path: path(&preview, now),
            most: preview.steps.iter().map(|step| step.count).max().unwrap_or(0),
            is_cut: preview.until < now + WEEK,
            preview,
        })
        .collect();
    let days = (0..7).map(|day| (WIDTH * day / 7, (now + TimeDelta::days(day)).format("%a %d").to_string())).collect();
    html(&Week { zone: preallocated.time_zone.clone(), pools, days })
}

/// The area under the steps.
fn path(pool: &PoolPreview, now: DateTime<Utc>) -> String {
    let most = i64::from(pool.steps.iter().map(|step| step.count).max().unwrap_or(0)).max(1);
    let x = |at: DateTime<Utc>| ((at - now).num_minutes() * WIDTH / WEEK.num_minutes()).clamp(0, WIDTH);
    let y = |count: u32| HEIGHT - i64::from(count) * (HEIGHT - 2) / most;
    let mut path = format!("M0 {HEIGHT}");
    let ends = pool.steps.iter().skip(1).map(|step| step.at).chain([pool.until]);
    for (step, end) in pool.steps.iter().zip(ends) {
        let _ = write!(path, "L{} {}H{}", x(step.at), y(step.count), x(end));
    }
    let _ = write!(path, "V{HEIGHT}Z");
    path
}

impl Pool {
    fn name(&self) -> String {
        let executor = match self.preview.executor {
            Executor::Machine => "Machine Executor",
            Executor::RemoteDocker => "Remote Docker",
        };
        format!("{executor}, {}", self.preview.resource_class)
    }
}

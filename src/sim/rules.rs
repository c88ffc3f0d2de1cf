//! The rules of the simulated cloud as numbers; their defaults are those of EC2.md, with its sources.

use super::buckets::Bucket;
use crate::domain::lineage::{Engine, Store};
use crate::domain::rate::Rate;
use crate::domain::settings::Budget;
use crate::provider::Pace;
use crate::provider::volumes::Copies;
use chrono::TimeDelta;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;

/// A time that is drawn evenly between two, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    min: TimeDelta,
    max: TimeDelta,
}

impl Spread {
    /// No time at all.
    pub const NONE: Self = Self::exactly(TimeDelta::zero());

    /// Always the same.
    pub const fn exactly(time: TimeDelta) -> Self {
        Self { min: time, max: time }
    }

    /// Between `min` and `max`, both included.
    pub const fn between(min: TimeDelta, max: TimeDelta) -> Self {
        Self { min, max }
    }

    /// Draws; a spread of one value takes nothing from `rng`.
    pub(super) fn draw(&self, rng: &mut StdRng) -> TimeDelta {
        if self.max <= self.min {
            return self.min;
        }
        TimeDelta::milliseconds(rng.random_range(self.min.num_milliseconds()..=self.max.num_milliseconds()))
    }
}

/// What the simulated cloud holds its callers to. Change single numbers with `Rules { page: 10, ..Rules::default() }`.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Call budgets; a bucket that is missing is never empty.
    pub rates: BTreeMap<Bucket, Rate>,
    /// Machines per launch.
    pub max_batch: u32,
    /// Ids per call.
    pub max_ids: usize,
    /// Entries per page of a list; each page is a call.
    pub page: usize,
    /// How often it asks to be looked at and asked.
    pub pace: Pace,
    /// What the provider says that it carries.
    pub carries: Budget,
    /// Availability zones; the cloud chooses among those with room.
    pub zones: Vec<String>,
    /// Room per class and zone, in machines; without an entry there is always room.
    pub capacity: BTreeMap<(String, String), u32>,
    /// How many addresses there are; at most one machine has each at a time.
    pub addresses: u32,
    /// From launch or start to running.
    pub runs_after: Spread,
    /// From running to the first answer over SSH.
    pub answers_after: Spread,
    /// From the wish to end to the end.
    pub shuts_down_in: Spread,
    /// How long an ended machine is still shown.
    pub terminated_shown_for: TimeDelta,
    /// How long a direct look does not know a new machine yet.
    pub look_lag: Spread,
    /// How long lists do not hold a new machine or volume yet.
    pub list_lag: Spread,
    /// The same, for those that [`super::Fault::ListLags`] strikes.
    pub list_lag_struck: Spread,
    /// When [`super::Fault::Dies`] and [`super::Fault::LoseTags`] strike, after the machine first runs.
    pub struck_after: Spread,
    /// From the wish to attach or detach to the fact.
    pub volume_moves_in: Spread,
    /// Volumes per machine.
    pub volumes_per_machine: usize,
    /// From the wish for a snapshot to its completion.
    pub snapshot_takes: Spread,
    /// What snapshots and copies cost.
    pub copies: Copies,
    /// What machines are made of; none: unknown.
    pub image: Option<String>,
    /// How many GPUs machines may have at a time; none: always enough.
    pub gpus: Option<u32>,
    /// The engine of every machine.
    pub engine: Engine,
}

impl Default for Rules {
    fn default() -> Self {
        let rates = [
            (Bucket::LaunchCalls, 5, 2.0),
            (Bucket::LaunchMachines, 1000, 2.0),
            (Bucket::Terminate, 100, 5.0),
            (Bucket::CreateTags, 100, 10.0),
            (Bucket::Mutating, 50, 5.0),
            (Bucket::Describe, 100, 20.0),
        ];
        let seconds = |min, max| Spread::between(TimeDelta::seconds(min), TimeDelta::seconds(max));
        Self {
            rates: rates.into_iter().map(|(bucket, burst, per_second)| (bucket, Rate { burst, per_second })).collect(),
            max_batch: 1000,
            max_ids: 1000,
            page: 1000,
            // A list takes a call for each page of a thousand machines.
            pace: Pace {
                list: Duration::from_secs(30),
                watch: Duration::from_secs(2),
                watch_ends: Duration::from_secs(10),
                first_look: Duration::from_secs(5),
                terminate: Duration::from_secs(5),
                settles: Duration::from_secs(300),
                notices: Some(Duration::from_secs(60)),
            },
            carries: Budget { vms: 10_000, in_flight: 2000, volumes: 2000 },
            zones: ["zone-a", "zone-b", "zone-c"].map(str::to_owned).to_vec(),
            capacity: BTreeMap::new(),
            addresses: 16_384,
            // "Typical cold start is about 26 s, of which about 18 s is AWS's."
            runs_after: seconds(14, 22),
            answers_after: seconds(5, 11),
            shuts_down_in: seconds(25, 35),
            terminated_shown_for: TimeDelta::hours(1),
            look_lag: seconds(0, 3),
            list_lag: seconds(0, 15),
            list_lag_struck: seconds(60, 300),
            struck_after: seconds(0, 1800),
            volume_moves_in: seconds(1, 5),
            volumes_per_machine: 27,
            snapshot_takes: seconds(60, 600),
            copies: Copies::EachAfter(Duration::from_secs(3600)),
            image: Some("image-of-all".to_owned()),
            gpus: None,
            engine: Engine { architecture: "x86_64".to_owned(), store: Store::Classic, major: 28 },
        }
    }
}

impl Rules {
    /// A cloud that is never in the way: no budgets, no lag, machines run and end at once, one machine per launch.
    pub fn obliging() -> Self {
        Self {
            rates: BTreeMap::new(),
            max_batch: 1,
            pace: Pace {
                list: Duration::from_secs(10),
                watch: Duration::from_millis(500),
                watch_ends: Duration::from_millis(500),
                first_look: Duration::ZERO,
                terminate: Duration::ZERO,
                settles: Duration::ZERO,
                notices: None,
            },
            carries: Budget { vms: 100, in_flight: 50, volumes: 200 },
            zones: vec!["zone-a".to_owned()],
            runs_after: Spread::NONE,
            answers_after: Spread::NONE,
            shuts_down_in: Spread::NONE,
            look_lag: Spread::NONE,
            list_lag: Spread::NONE,
            struck_after: Spread::NONE,
            volume_moves_in: Spread::NONE,
            snapshot_takes: Spread::NONE,
            copies: Copies::Cheap,
            ..Self::default()
        }
    }
}

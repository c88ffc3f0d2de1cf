//! The order in which waiting tasks are looked at: by priority, then each project by its weighted share; and nobody waits for ever.
//!
//! A *lane* is what waits for one kind of VM, of one project, at one priority; it is served first come, first served. A lane *starves*
//! when for [`STARVES_AFTER`] it had a task that waited and was given nothing. Starving lanes go before all others, the one that starves
//! longest first, and being given a VM ends it. So with L lanes of a kind, the n-th task of a lane has a VM after at most
//! n × ([`STARVES_AFTER`] + the time in which L VMs of its kind come free), whatever the others ask for.
//!
//! A project's *share* is the number of VMs it has, over its weight; the lowest is served next.

use super::assign::Waiting;
use crate::domain::settings::Settings;
use crate::domain::task::Executor;
use chrono::{DateTime, TimeDelta, Utc};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Longer than a VM takes to start, so that it never decides about a queue that moves.
pub const STARVES_AFTER: TimeDelta = TimeDelta::minutes(10);

/// Names a lane: project, effective priority, kind.
pub type LaneKey = (String, i16, Executor, String);

/// Lower goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Since when it was given nothing.
    Starving(DateTime<Utc>),
    /// Priority, thousandths of a share with one VM more, age of the first in the lane.
    Usual(Reverse<i16>, u64, DateTime<Utc>),
}

struct Lane {
    key: LaneKey,
    tasks: VecDeque<Waiting>,
    served_at: Option<DateTime<Utc>>,
}

/// The waiting tasks, next one first.
pub struct Queue<'a> {
    settings: &'a Settings,
    now: DateTime<Utc>,
    at_work: BTreeMap<String, u32>,
    lanes: Vec<Lane>,
    of_project: BTreeMap<String, Vec<usize>>,
    order: BTreeSet<(Rank, usize)>,
}

impl<'a> Queue<'a> {
    /// The queue of `waiting`, where `served_at` says when each lane was last given a VM, and `at_work` how many VMs each project has.
    pub fn new(
        settings: &'a Settings,
        mut waiting: Vec<Waiting>,
        served_at: &BTreeMap<LaneKey, DateTime<Utc>>,
        at_work: BTreeMap<String, u32>,
        now: DateTime<Utc>,
    ) -> Self {
        waiting.sort_by_key(|task| (task.created_at, task.id));
        let mut by_key: BTreeMap<LaneKey, VecDeque<Waiting>> = BTreeMap::new();
        for task in waiting {
            by_key.entry(lane_key(settings, &task)).or_default().push_back(task);
        }
        let mut queue = Self { settings, now, at_work, lanes: Vec::new(), of_project: BTreeMap::new(), order: BTreeSet::new() };
        for (key, tasks) in by_key {
            let served_at = served_at.get(&key).copied();
            queue.of_project.entry(key.0.clone()).or_default().push(queue.lanes.len());
            queue.lanes.push(Lane { key, tasks, served_at });
        }
        for lane in 0..queue.lanes.len() {
            queue.order.extend(queue.ranked(lane));
        }
        queue
    }

    /// VMs that the project has, those granted by this queue among them.
    pub fn at_work(&self, project: &str) -> u32 {
        self.at_work.get(project).copied().unwrap_or_default()
    }

    /// Takes the next task out.
    pub fn take_next(&mut self) -> Option<Waiting> {
        let (_, lane) = self.order.pop_first()?;
        let task = self.lanes[lane].tasks.pop_front();
        let again = self.ranked(lane);
        self.order.extend(again);
        task
    }

    /// The task that was taken out last gets a VM, or one is on its way: its project has one more.
    pub fn granted(&mut self, task: &Waiting) {
        let lanes = self.of_project.get(&task.project_id).cloned().unwrap_or_default();
        for lane in &lanes {
            if let Some(entry) = self.ranked(*lane) {
                self.order.remove(&entry);
            }
        }
        *self.at_work.entry(task.project_id.clone()).or_default() += 1;
        let key = lane_key(self.settings, task);
        for lane in lanes {
            if self.lanes[lane].key == key {
                self.lanes[lane].served_at = Some(self.now);
            }
            let again = self.ranked(lane);
            self.order.extend(again);
        }
    }

    fn ranked(&self, lane: usize) -> Option<(Rank, usize)> {
        let Lane { key: (project, priority, _, _), tasks, served_at } = &self.lanes[lane];
        let first = tasks.front()?.created_at;
        let since = served_at.map_or(first, |served| served.max(first));
        let rank = if self.now - since >= STARVES_AFTER {
            Rank::Starving(since)
        } else {
            let weight = u64::from(self.settings.project(project).weight.max(1));
            Rank::Usual(Reverse(*priority), (u64::from(self.at_work(project)) + 1) * 1000 / weight, first)
        };
        Some((rank, lane))
    }
}

fn lane_key(settings: &Settings, task: &Waiting) -> LaneKey {
    (task.project_id.clone(), priority(settings, &task.project_id, task.priority), task.executor, task.resource_class.clone())
}

/// The priority that counts: the task's and its project's.
pub fn priority(settings: &Settings, project: &str, of_task: i16) -> i16 {
    of_task.saturating_add(settings.project(project).priority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TaskId;
    use crate::domain::lineage::Trust;
    use crate::domain::settings::ProjectSettings;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
    }

    fn waiting(id: u128, project: &str, priority: i16, since: i64) -> Waiting {
        Waiting {
            id: TaskId(Uuid::from_u128(id)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            project_id: project.to_owned(),
            priority,
            created_at: at(since),
            max_run_seconds: 3600,
            caching: false,
            trust: Trust::Trusted,
            reason: None,
        }
    }

    /// The order in which all are served when each is granted.
    fn served(settings: &Settings, waiting: Vec<Waiting>, now: i64) -> Vec<u128> {
        let mut queue = Queue::new(settings, waiting, &BTreeMap::new(), BTreeMap::new(), at(now));
        std::iter::from_fn(|| {
            let task = queue.take_next()?;
            queue.granted(&task);
            Some(task.id.0.as_u128())
        })
        .collect()
    }

    #[test]
    fn priority_goes_first_then_projects_take_turns_then_age() {
        let tasks = vec![waiting(1, "a", 0, 0), waiting(2, "a", 0, 1), waiting(3, "b", 0, 2), waiting(4, "c", 5, 3)];
        assert_eq!(served(&Settings::default(), tasks, 4), [4, 1, 3, 2]);
    }

    #[test]
    fn a_project_of_weight_two_has_twice_as_many() {
        let mut settings = Settings::default();
        settings.projects.insert("b".to_owned(), ProjectSettings { weight: 2, priority: 0 });
        let tasks = (0..30).flat_map(|n| [waiting(n, "a", 0, 0), waiting(100 + n, "b", 0, 1)]).collect();
        let first: Vec<u128> = served(&settings, tasks, 2).into_iter().take(15).collect();
        assert_eq!(first.iter().filter(|id| **id >= 100).count(), 10, "{first:?}");
    }

    #[test]
    fn the_priority_of_a_project_is_added() {
        let mut settings = Settings::default();
        settings.projects.insert("b".to_owned(), ProjectSettings { weight: 1, priority: 7 });
        assert_eq!(served(&settings, vec![waiting(1, "a", 5, 0), waiting(2, "b", 0, 1)], 2), [2, 1]);
    }

    #[test]
    fn what_starves_goes_before_priority_and_only_until_it_is_served() {
        let old = STARVES_AFTER.num_seconds();
        let tasks = vec![waiting(1, "a", -100, 0), waiting(2, "a", -100, 0), waiting(3, "b", 100, old), waiting(4, "b", 100, old)];
        assert_eq!(served(&Settings::default(), tasks.clone(), old), [1, 3, 4, 2]);
        let lately = BTreeMap::from([(("a".to_owned(), -100, Executor::Machine, "medium".to_owned()), at(1))]);
        let mut queue = Queue::new(&Settings::default(), tasks, &lately, BTreeMap::new(), at(old)).take_next().unwrap();
        queue.reason = None;
        assert_eq!(queue.id.0.as_u128(), 3, "served a moment ago");
    }

    proptest! {
        /// The bound of the module's first lines, under a flood of better-ranked tasks that never ends: one VM comes free each second.
        #[test]
        fn nobody_starves(others in 1_u16..8, priority in -100_i16..100, weight in 1_u32..1000, before in 0_u8..4) {
            let mut settings = Settings::default();
            for n in 0..others {
                settings.projects.insert(format!("rich{n}"), ProjectSettings { weight, priority: 100 });
            }
            let mut served_at = BTreeMap::new();
            let mut mine: Vec<Waiting> = (0..=before).map(|n| waiting(u128::from(n), "poor", priority, 0)).collect();
            let last = mine.last().unwrap().id;
            let bound = (i64::from(before) + 1) * (STARVES_AFTER.num_seconds() + i64::from(others) + 1);
            for second in 0..=bound {
                let flood = (0..others).map(|n| waiting(1000 + u128::from(n), &format!("rich{n}"), 100, second));
                let all = mine.iter().cloned().chain(flood).collect();
                // Those who have a VM give it back at once: the share never speaks for the poor.
                let mut queue = Queue::new(&settings, all, &served_at, BTreeMap::from([("poor".to_owned(), 1000)]), at(second));
                let task = queue.take_next().unwrap();
                served_at.insert(lane_key(&settings, &task), at(second));
                if task.project_id == "poor" {
                    mine.retain(|other| other.id != task.id);
                    if task.id == last { return Ok(()); }
                }
            }
            prop_assert!(false, "the last of {} was not served within {bound} s", before + 1);
        }
    }
}

//! Which cache volumes and good states nobody needs any more: unused for too long, out of quarantine's time, over a limit, or in the way
//! of a disk that is nearly full; the least recently used go first. In use, or held, none ever goes: those are not in the snapshot.
//!
//! Not here: what of a lineage is kept after a job (`cache`); rows without a volume, and volumes without a row (`gc_volumes`).

use crate::domain::ids::{GenerationId, VolumeId};
use crate::domain::tags::SnapshotTags;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;

/// For a look at what went wrong; a hold keeps it longer.
pub const QUARANTINE_LASTS: TimeDelta = TimeDelta::hours(24);
/// Less than this part of the disk is free: a lineage goes at each look.
const SHORT_OF_SPACE: f64 = 0.10;

/// Names a lineage among the others, by its fields.
pub type LineageKey = String;

/// A volume that no VM has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleVolume {
    /// The volume.
    pub id: VolumeId,
    /// Whose.
    pub lineage: LineageKey,
    /// In quarantine since then; none: free.
    pub quarantined_at: Option<DateTime<Utc>>,
    /// A job may get it after a check, although it is in quarantine.
    pub unchecked: bool,
    /// When a job last had it.
    pub last_used_at: DateTime<Utc>,
}

/// A good state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleGeneration {
    /// The generation.
    pub id: GenerationId,
    /// Whose.
    pub lineage: LineageKey,
    /// When it was made, or last copied.
    pub last_used_at: DateTime<Utc>,
}

/// A snapshot that the provider names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSnapshot {
    /// The provider's name for it.
    pub provider_id: String,
    /// What it carries.
    pub tags: SnapshotTags,
    /// Size of the volume it was made of.
    pub size_gib: u32,
}

/// What a decision is made of.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Without held ones.
    pub volumes: Vec<IdleVolume>,
    /// Completed ones.
    pub generations: Vec<IdleGeneration>,
    /// Lineages that have a volume in use.
    pub in_use: Vec<LineageKey>,
    /// Volumes in any state but deleted, and how many there may be.
    pub count: usize,
    /// How many there may be.
    pub limit: usize,
    /// The part of the disk that is free, 0 to 1; none: it is not ours to watch.
    pub free: Option<f64>,
    /// Without a job for so long, a volume is cleared.
    pub inactive: TimeDelta,
}

/// What is to be deleted, each with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Volumes.
    pub volumes: Vec<(VolumeId, String)>,
    /// Good states.
    pub generations: Vec<(GenerationId, String)>,
}

/// Decides.
pub fn plan_gc_cache(snapshot: &Snapshot, now: DateTime<Utc>) -> Decision {
    let used = lineages(snapshot, now);
    let mut decision = Decision::default();
    let days = snapshot.inactive.num_days();
    for volume in &snapshot.volumes {
        match volume.quarantined_at {
            Some(since) if !volume.unchecked && now - since >= QUARANTINE_LASTS => {
                decision.volumes.push((volume.id, "its time in quarantine is over".to_owned()));
            }
            Some(_) if !volume.unchecked => {}
            _ if now - volume.last_used_at >= snapshot.inactive => {
                decision.volumes.push((volume.id, format!("no job has used it for {days} days")));
            }
            _ => {}
        }
    }
    for it in &snapshot.generations {
        if used.get(&it.lineage).is_some_and(|used_at| now - *used_at >= snapshot.inactive) {
            decision.generations.push((it.id, format!("no job of its lineage has run for {days} days")));
        }
    }
    let is_gone = |id: &VolumeId, decision: &Decision| decision.volumes.iter().any(|(gone, _)| gone == id);
    let mut idle: Vec<&IdleVolume> = snapshot.volumes.iter().filter(|it| !is_gone(&it.id, &decision)).collect();
    idle.sort_by_key(|it| (it.quarantined_at.is_none(), it.last_used_at, it.id));
    let over = snapshot.count.saturating_sub(snapshot.limit).saturating_sub(decision.volumes.len());
    for volume in idle.into_iter().take(over) {
        decision.volumes.push((volume.id, format!("there are more than {} volumes", snapshot.limit)));
    }
    if snapshot.free.is_some_and(|free| free < SHORT_OF_SPACE) && decision == Decision::default() {
        let mut oldest: Vec<_> = used.iter().filter(|(lineage, _)| !snapshot.in_use.contains(lineage)).collect();
        oldest.sort_by_key(|(_, used_at)| **used_at);
        if let Some((lineage, _)) = oldest.first() {
            let why = || "the disk is nearly full, and others were used later".to_owned();
            decision.volumes.extend(snapshot.volumes.iter().filter(|it| it.lineage == **lineage).map(|it| (it.id, why())));
            decision.generations.extend(snapshot.generations.iter().filter(|it| it.lineage == **lineage).map(|it| (it.id, why())));
        }
    }
    decision
}

/// When each lineage was last used.
fn lineages(snapshot: &Snapshot, now: DateTime<Utc>) -> BTreeMap<LineageKey, DateTime<Utc>> {
    let volumes = snapshot.volumes.iter().map(|it| (&it.lineage, it.last_used_at));
    let generations = snapshot.generations.iter().map(|it| (&it.lineage, it.last_used_at));
    let in_use = snapshot.in_use.iter().map(|lineage| (lineage, now));
    let mut used = BTreeMap::new();
    for (lineage, at) in volumes.chain(generations).chain(in_use) {
        let last = used.entry(lineage.clone()).or_insert(at);
        *last = at.max(*last);
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000, 0).unwrap() + TimeDelta::hours(hours)
    }

    fn volume(id: u128, lineage: &str, used: i64) -> IdleVolume {
        let lineage = lineage.to_owned();
        IdleVolume { id: VolumeId(Uuid::from_u128(id)), lineage, quarantined_at: None, unchecked: false, last_used_at: at(used) }
    }

    fn generation(id: u128, lineage: &str, used: i64) -> IdleGeneration {
        IdleGeneration { id: GenerationId(Uuid::from_u128(id)), lineage: lineage.to_owned(), last_used_at: at(used) }
    }

    fn snapshot(volumes: Vec<IdleVolume>) -> Snapshot {
        Snapshot { count: volumes.len(), volumes, limit: 100, inactive: TimeDelta::days(14), ..Snapshot::default() }
    }

    fn gone(decision: &Decision) -> Vec<u128> {
        decision.volumes.iter().map(|(id, _)| id.0.as_u128()).collect()
    }

    #[test]
    fn what_no_job_used_for_two_weeks_goes_and_good_states_with_their_lineage() {
        let mut s = snapshot(vec![volume(1, "a", 0), volume(2, "b", 1), volume(3, "a", 0)]);
        s.generations = vec![generation(1, "a", 0), generation(2, "b", 0), generation(3, "c", 0)];
        s.in_use = vec!["c".to_owned()];
        let decision = plan_gc_cache(&s, at(14 * 24));
        assert_eq!(gone(&decision), [1, 3]);
        assert_eq!(decision.generations.len(), 1, "the other lineages are in use");
        assert_eq!(plan_gc_cache(&s, at(14 * 24 - 1)), Decision::default());
    }

    #[test]
    fn quarantine_lasts_a_day_and_what_was_adopted_waits_for_a_job() {
        let mut s = snapshot(vec![volume(1, "a", 0), volume(2, "a", 0)]);
        s.volumes[0].quarantined_at = Some(at(0));
        s.volumes[1] = IdleVolume { unchecked: true, ..s.volumes[0].clone() };
        s.volumes[1].id = VolumeId(Uuid::from_u128(2));
        assert_eq!(gone(&plan_gc_cache(&s, at(24))), [1]);
        assert_eq!(plan_gc_cache(&s, at(23)), Decision::default());
        assert_eq!(gone(&plan_gc_cache(&s, at(15 * 24))), [1, 2]);
    }

    #[test]
    fn over_the_limit_the_least_recently_used_go_quarantine_first() {
        let mut s = snapshot(vec![volume(1, "a", 3), volume(2, "b", 1), volume(3, "c", 2)]);
        s.volumes[0].quarantined_at = Some(at(3));
        s.limit = 1;
        assert_eq!(gone(&plan_gc_cache(&s, at(4))), [1, 2]);
        s.count = 2;
        assert_eq!(gone(&plan_gc_cache(&s, at(4))), [1]);
    }

    #[test]
    fn a_full_disk_costs_the_lineage_that_was_used_least_recently() {
        let mut s = snapshot(vec![volume(1, "a", 1), volume(2, "b", 2)]);
        s.generations = vec![generation(1, "a", 1), generation(2, "b", 2)];
        s.free = Some(0.09);
        let decision = plan_gc_cache(&s, at(3));
        assert_eq!((gone(&decision), decision.generations.len()), (vec![1], 1));
        s.in_use = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(plan_gc_cache(&s, at(3)), Decision::default(), "nothing of what is in use");
        s.free = Some(0.10);
        s.in_use.clear();
        assert_eq!(plan_gc_cache(&s, at(3)), Decision::default());
    }
}

//! Which volume a job works on, and what of a lineage is kept afterwards: by value, and never by who finishes last.
//!
//! The *worth* of a volume or a generation is how many bytes it holds of the layers that the lineage's last five jobs used (DESIGN.md
//! §11). It is counted where the layers are (`vms.worth`); here it is a number.
//!
//! Not here: volumes that nobody uses any more (`gc_cache`).

use crate::domain::ids::{GenerationId, VolumeId};
use crate::domain::lineage::Copies;
use chrono::{DateTime, TimeDelta, Utc};
use std::cmp::Reverse;

/// Good states of a lineage that are kept, the best among them: what a damaged one is gone back from.
pub const GENERATIONS_KEPT: usize = 3;

/// A free volume of the lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeVolume {
    /// The volume.
    pub id: VolumeId,
    /// Its machines are in the same zone.
    pub zone: String,
    /// Bytes of what was used lately.
    pub worth: u64,
    /// When its last job ended well; none: it is empty, or has no known past.
    pub good_at: Option<DateTime<Utc>>,
    /// Nobody knows how its last job ended: it must be checked whole.
    pub unchecked: bool,
}

/// A good state of the lineage that can be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The generation.
    pub id: GenerationId,
    /// Bytes of what was used lately.
    pub worth: u64,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// Volumes can be made of it already.
    pub completed: bool,
}

/// What a job works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A free volume of its lineage.
    Reuse(VolumeId),
    /// A copy of a good state.
    Copy(GenerationId),
    /// An empty volume.
    Empty,
}

/// Chooses for a machine of `zone`. The best free volume; a copy, when no volume is free there or the best state covers much more: where
/// copies cost time, only when it covers over twice as much.
pub fn choose(volumes: &[FreeVolume], generations: &[Generation], zone: &str, copies: Copies) -> Choice {
    let here = || volumes.iter().filter(|volume| volume.zone == zone);
    let volume = here().filter(|volume| !volume.unchecked).max_by_key(|volume| (volume.worth, volume.good_at, Reverse(volume.id)));
    let best = generations.iter().filter(|it| it.completed).max_by_key(|it| (it.worth, it.made_at, it.id));
    let enough = |volume: &FreeVolume, best: &Generation| match copies {
        Copies::Cheap => volume.worth >= best.worth,
        Copies::EachAfter(_) => volume.worth.saturating_mul(2) >= best.worth,
    };
    match (volume, best) {
        (Some(volume), Some(best)) if !enough(volume, best) => Choice::Copy(best.id),
        (Some(volume), _) => Choice::Reuse(volume.id),
        (None, Some(best)) => Choice::Copy(best.id),
        (None, None) => here().max_by_key(|volume| volume.id).map_or(Choice::Empty, |volume| Choice::Reuse(volume.id)),
    }
}

/// What a job left on its volume, which was unmounted cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Bytes of what was used lately, this job's use among it.
    pub worth: u64,
    /// It holds layers that the state it began with did not.
    pub something_new: bool,
}

/// What is kept of a lineage after a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What the volume holds now becomes a generation.
    pub generation: bool,
    /// The volume stays, for the next job.
    pub volume: bool,
    /// Generations to be deleted.
    pub drop_generations: Vec<GenerationId>,
    /// Free volumes to be deleted.
    pub drop_volumes: Vec<VolumeId>,
}

/// Decides. Ties go to the newest, and the newest is what was left now.
pub fn plan_kept(left: Left, generations: &[Generation], volumes: &[FreeVolume], copies: Copies, now: DateTime<Utc>) -> Kept {
    let best = generations.iter().map(|it| it.worth).max();
    let is_best = best.is_none_or(|best| left.worth >= best);
    let newest = generations.iter().map(|it| it.made_at).max();
    let due = match copies {
        Copies::Cheap => true,
        Copies::EachAfter(pause) => {
            newest.is_none_or(|made_at| now - made_at >= TimeDelta::from_std(pause).unwrap_or(TimeDelta::MAX))
        }
    };
    let generation = is_best && due && (left.something_new || best.is_none());
    let cheap = copies == Copies::Cheap;
    let mut ranked: Vec<&Generation> = generations.iter().collect();
    ranked.sort_by_key(|it| Reverse((it.worth, it.made_at, it.id)));
    // The best, then the newest of the others.
    let mut kept: Vec<GenerationId> = ranked.iter().take(1).map(|it| it.id).collect();
    ranked.sort_by_key(|it| Reverse((it.made_at, it.id)));
    let room = GENERATIONS_KEPT - usize::from(generation);
    for it in &ranked {
        if kept.len() < room && !kept.contains(&it.id) {
            kept.push(it.id);
        }
    }
    let stale = |volume: &&FreeVolume| cheap && !volume.unchecked && volume.worth < best.unwrap_or(0).max(left.worth);
    Kept {
        generation,
        volume: !cheap || is_best,
        drop_generations: generations.iter().map(|it| it.id).filter(|id| !kept.contains(id)).collect(),
        drop_volumes: volumes.iter().filter(stale).map(|volume| volume.id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use uuid::Uuid;

    const HOURLY: Copies = Copies::EachAfter(Duration::from_secs(3600));

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000, 0).unwrap() + TimeDelta::minutes(minutes)
    }

    fn v(id: u128, zone: &str, worth: u64, good_at: i64) -> FreeVolume {
        let id = VolumeId(Uuid::from_u128(id));
        FreeVolume { id, zone: zone.to_owned(), worth, good_at: Some(at(good_at)), unchecked: false }
    }

    fn g(id: u128, worth: u64, made_at: i64) -> Generation {
        Generation { id: GenerationId(Uuid::from_u128(id)), worth, made_at: at(made_at), completed: true }
    }

    fn reuse(id: u128) -> Choice {
        Choice::Reuse(VolumeId(Uuid::from_u128(id)))
    }

    fn copy(id: u128) -> Choice {
        Choice::Copy(GenerationId(Uuid::from_u128(id)))
    }

    #[test]
    fn the_best_free_volume_of_the_zone_is_reused_and_the_newest_of_equals() {
        let free = [v(1, "a", 5, 9), v(2, "a", 7, 1), v(3, "a", 7, 2), v(4, "b", 90, 9)];
        assert_eq!(choose(&free, &[], "a", HOURLY), reuse(3));
        assert_eq!(choose(&free, &[], "c", HOURLY), Choice::Empty);
    }

    #[test]
    fn a_copy_is_made_when_none_is_free_there_or_the_best_state_is_much_better() {
        let free = [v(1, "a", 6, 9)];
        assert_eq!(choose(&[], &[g(1, 3, 1), g(2, 3, 2)], "a", HOURLY), copy(2));
        assert_eq!(choose(&free, &[g(1, 12, 1)], "a", HOURLY), reuse(1), "a copy costs time there");
        assert_eq!(choose(&free, &[g(1, 13, 1)], "a", HOURLY), copy(1));
        assert_eq!(choose(&free, &[g(1, 7, 1)], "a", Copies::Cheap), copy(1));
        let pending = Generation { completed: false, ..g(1, 90, 1) };
        assert_eq!(choose(&[], &[pending], "a", HOURLY), Choice::Empty);
    }

    #[test]
    fn what_nobody_knows_is_better_than_nothing_and_no_better() {
        let unchecked = FreeVolume { unchecked: true, good_at: None, ..v(1, "a", 99, 0) };
        assert_eq!(choose(std::slice::from_ref(&unchecked), &[], "a", Copies::Cheap), reuse(1));
        assert_eq!(choose(&[unchecked], &[g(1, 1, 1)], "a", Copies::Cheap), copy(1));
    }

    #[test]
    fn what_is_worth_most_is_kept_whoever_finishes_last() {
        let short = Left { worth: 10, something_new: true };
        let kept = plan_kept(short, &[g(1, 100, 1)], &[], Copies::Cheap, at(5));
        assert_eq!(kept, Kept::default(), "less than the best: nothing of it stays, and the best does");
        let long = Left { worth: 100, something_new: true };
        let kept = plan_kept(long, &[g(1, 10, 1), g(2, 100, 2)], &[v(1, "", 99, 3)], Copies::Cheap, at(5));
        assert!(kept.generation && kept.volume, "the newest of equals");
        assert_eq!(kept.drop_volumes.len(), 1, "a free volume that holds less is of no use where copies are cheap");
    }

    #[test]
    fn a_job_that_added_nothing_makes_no_generation() {
        let same = Left { worth: 100, something_new: false };
        let kept = plan_kept(same, &[g(1, 100, 1)], &[], Copies::Cheap, at(5));
        assert_eq!((kept.generation, kept.volume), (false, true));
        assert!(plan_kept(same, &[], &[], Copies::Cheap, at(5)).generation, "the first is always kept");
    }

    #[test]
    fn the_best_and_the_newest_generations_stay() {
        let all = [g(1, 100, 1), g(2, 10, 2), g(3, 20, 3), g(4, 30, 4)];
        let kept = plan_kept(Left { worth: 5, something_new: true }, &all, &[], Copies::Cheap, at(5));
        assert_eq!(kept.drop_generations, [GenerationId(Uuid::from_u128(2))]);
        let kept = plan_kept(Left { worth: 100, something_new: true }, &all, &[], Copies::Cheap, at(5));
        assert_eq!(kept.drop_generations, [2, 3].map(|id| GenerationId(Uuid::from_u128(id))), "with the new one it is three");
    }

    #[test]
    fn where_copies_cost_time_there_is_one_in_an_hour_and_volumes_stay() {
        let new = Left { worth: 100, something_new: true };
        let kept = plan_kept(new, &[g(1, 10, 0)], &[v(1, "a", 1, 1)], HOURLY, at(59));
        assert_eq!((kept.generation, kept.volume, kept.drop_volumes.len()), (false, true, 0));
        assert!(plan_kept(new, &[g(1, 10, 0)], &[], HOURLY, at(60)).generation);
        let worse = Left { worth: 1, something_new: true };
        assert_eq!(plan_kept(worse, &[g(1, 10, 0)], &[], HOURLY, at(90)), Kept { volume: true, ..Kept::default() });
    }
}

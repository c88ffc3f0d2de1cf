//! Rows and cache volumes held against each other, cloud first: a volume without a row is taken back for its project, a row without a
//! volume ends after two complete lists and a direct look by the caller.

use super::gc::LOST_AFTER;
use crate::domain::ids::VolumeId;
use crate::domain::tags::VolumeTags;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};

/// A row that is not deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRow {
    /// Its id, also in the volume's tags.
    pub id: VolumeId,
    /// Its volume; none while it is being made.
    pub provider_id: Option<String>,
    /// First complete list that did not show the volume.
    pub missing_at: Option<DateTime<Utc>>,
    /// When the row was made: just after that a list may not show the volume yet.
    pub created_at: DateTime<Utc>,
    /// It is to be deleted.
    pub deleting: bool,
}

/// A volume that the provider names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenVolume {
    /// The provider's name for it.
    pub provider_id: String,
    /// What it carries.
    pub tags: VolumeTags,
    /// Its machines are in the same zone.
    pub zone: String,
}

/// What a decision is made of.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Everything the provider names.
    pub volumes: Vec<SeenVolume>,
    /// Whether absence from it means anything.
    pub complete: bool,
    /// Every row of the place that is not deleted.
    pub rows: Vec<VolumeRow>,
    /// How long a new volume may be missing from a list.
    pub settles: TimeDelta,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Volumes whose row waits for them: bind them.
    pub bind: Vec<(VolumeId, String)>,
    /// Volumes without a row: make one, in quarantine.
    pub adopt: Vec<SeenVolume>,
    /// Missed for the first time.
    pub missing: Vec<VolumeId>,
    /// There again.
    pub seen_again: Vec<VolumeId>,
    /// Missed twice, since then: take a direct look, then end the row.
    pub lost: Vec<(VolumeId, String)>,
    /// To be deleted, and never made: end the row.
    pub never_made: Vec<VolumeId>,
}

/// Decides.
pub fn plan_gc_volumes(snapshot: &Snapshot, now: DateTime<Utc>) -> Decision {
    let mut decision = Decision::default();
    let rows: BTreeMap<VolumeId, &VolumeRow> = snapshot.rows.iter().map(|row| (row.id, row)).collect();
    let bound: BTreeMap<&str, &VolumeRow> =
        snapshot.rows.iter().filter_map(|row| Some((row.provider_id.as_deref()?, row))).collect();
    for volume in &snapshot.volumes {
        match (bound.get(volume.provider_id.as_str()), rows.get(&volume.tags.volume)) {
            (Some(row), _) => decision.seen_again.extend(row.missing_at.map(|_| row.id)),
            (None, Some(row)) if row.provider_id.is_none() => decision.bind.push((row.id, volume.provider_id.clone())),
            (None, _) => decision.adopt.push(volume.clone()),
        }
    }
    if !snapshot.complete {
        return decision;
    }
    let seen: BTreeSet<&str> = snapshot.volumes.iter().map(|volume| volume.provider_id.as_str()).collect();
    let settled = |row: &VolumeRow| now - row.created_at >= snapshot.settles + LOST_AFTER;
    let unmade = snapshot.rows.iter().filter(|row| row.provider_id.is_none() && row.deleting && settled(row));
    let is_seen = |row: &VolumeRow| snapshot.volumes.iter().any(|volume| volume.tags.volume == row.id);
    decision.never_made = unmade.filter(|row| !is_seen(row)).map(|row| row.id).collect();
    for (provider_id, row) in bound {
        if seen.contains(provider_id) || now - row.created_at < snapshot.settles {
            continue;
        }
        match row.missing_at {
            None => decision.missing.push(row.id),
            Some(since) if now - since >= LOST_AFTER => decision.lost.push((row.id, provider_id.to_owned())),
            Some(_) => {}
        }
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::InstallationId;
    use crate::domain::lineage::{Engine, Lineage, Store, Trust};
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn id(n: u128) -> VolumeId {
        VolumeId(Uuid::from_u128(n))
    }

    fn volume(provider_id: &str, row: u128) -> SeenVolume {
        let tags = VolumeTags {
            installation: InstallationId(Uuid::from_u128(1)),
            volume: id(row),
            lineage: Lineage {
                project_id: "p".to_owned(),
                trust: Trust::Trusted,
                engine: Engine { architecture: "x86_64".to_owned(), store: Store::Classic, major: 20 },
            },
        };
        SeenVolume { provider_id: provider_id.to_owned(), tags, zone: String::new() }
    }

    fn row(n: u128, provider_id: Option<&str>, missing_at: Option<i64>) -> VolumeRow {
        VolumeRow {
            id: id(n),
            provider_id: provider_id.map(str::to_owned),
            missing_at: missing_at.map(at),
            created_at: at(0),
            deleting: false,
        }
    }

    #[test]
    fn a_volume_goes_to_the_row_that_waits_for_it_and_without_one_back_to_its_project() {
        let s = Snapshot { volumes: vec![volume("v", 1), volume("w", 2)], rows: vec![row(1, None, None)], ..Snapshot::default() };
        let decision = plan_gc_volumes(&s, at(0));
        assert_eq!(decision.bind, [(id(1), "v".to_owned())]);
        assert_eq!(decision.adopt, [volume("w", 2)]);
    }

    #[test]
    fn a_row_is_lost_after_two_complete_lists_apart() {
        let mut s = Snapshot { rows: vec![row(1, Some("v"), None)], complete: true, ..Snapshot::default() };
        assert_eq!(plan_gc_volumes(&s, at(0)).missing, [id(1)]);
        s.rows[0].missing_at = Some(at(0));
        assert_eq!(plan_gc_volumes(&s, at(19)), Decision::default());
        assert_eq!(plan_gc_volumes(&s, at(20)).lost, [(id(1), "v".to_owned())]);
        s.complete = false;
        assert_eq!(plan_gc_volumes(&s, at(20)), Decision::default());
        s.volumes = vec![volume("v", 1)];
        assert_eq!(plan_gc_volumes(&s, at(20)).seen_again, [id(1)]);
    }

    #[test]
    fn a_row_that_was_never_made_ends_when_it_is_to_go() {
        let mut s = Snapshot { rows: vec![row(1, None, None)], complete: true, ..Snapshot::default() };
        assert_eq!(plan_gc_volumes(&s, at(99)), Decision::default(), "it may still be made");
        s.rows[0].deleting = true;
        assert_eq!(plan_gc_volumes(&s, at(19)), Decision::default());
        assert_eq!(plan_gc_volumes(&s, at(20)).never_made, [id(1)]);
    }
}

//! What an operator should look at first: each in one sentence, worst first, with the page that shows more.

use crate::clock::SKEW_MAX;
use crate::db::console_overview::Totals;
use crate::domain::lifecycle::{TaskState, VmState};
use crate::domain::plan::breaker::Breaker;
use crate::domain::plan::room::Kind;
use crate::domain::settings::{ProviderChoice, Settings};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// For programs.
    pub(super) key: &'static str,
    /// Jobs suffer from it now.
    pub(super) is_bad: bool,
    /// One sentence.
    pub(super) text: String,
    /// Where to look.
    pub(super) link: Option<(&'static str, &'static str)>,
}

/// What the sentences are made of.
pub(super) struct Facts<'a> {
    pub(super) configuration: Option<String>,
    pub(super) skew: TimeDelta,
    pub(super) settings: &'a Settings,
    pub(super) vms: &'a BTreeMap<Kind, BTreeMap<VmState, i64>>,
    pub(super) tasks: &'a BTreeMap<TaskState, i64>,
    pub(super) breakers: &'a [(Kind, String, Breaker)],
    pub(super) totals: &'a Totals,
    pub(super) is_blind: bool,
    pub(super) now: DateTime<Utc>,
}

const SETTINGS: Option<(&str, &str)> = Some(("/console/settings", "Settings"));

/// The sentences.
pub(super) fn troubles(facts: &Facts<'_>) -> Vec<Trouble> {
    let mut told = Vec::new();
    let mut tell = |key, is_bad, text: String, link| told.push(Trouble { key, is_bad, text, link });
    let waiting = facts.tasks.get(&TaskState::Queued).copied().unwrap_or(0);
    if let Some(sentence) = &facts.configuration {
        tell("configuration", true, format!("The configuration must be mended: {sentence}"), SETTINGS);
    }
    if facts.skew.abs() > SKEW_MAX {
        let ms = facts.skew.num_milliseconds();
        tell("skew", true, format!("This host's clock is {ms} ms from the database's: set it by NTP."), None);
    }
    if facts.settings.provider == ProviderChoice::None {
        let text = match waiting {
            0 => "No provider is chosen: tasks would wait.".to_owned(),
            _ => format!("No provider is chosen: {waiting} tasks wait."),
        };
        tell("no-provider", waiting > 0, text, SETTINGS);
    }
    if facts.is_blind {
        let text = "Rows were lost: nothing is launched until the provider's machines have been counted.";
        tell("blind", true, text.to_owned(), Some(("/console/events?about=machine", "Events")));
    }
    for ((executor, class), place, breaker) in facts.breakers {
        let states = facts.vms.get(&(*executor, class.clone()));
        let in_flight = [VmState::Requested, VmState::Launching, VmState::Booting];
        let in_flight: i64 = in_flight.iter().filter_map(|state| states?.get(state)).sum();
        if let Err(why) = breaker.allows(u32::try_from(in_flight).unwrap_or(u32::MAX), facts.now) {
            tell(
                "breaker",
                true,
                format!("{executor} VMs of class {class} at {place}: {why}"),
                Some(("/console/events?about=vm", "Events")),
            );
        }
    }
    if facts.settings.pause_launches {
        tell("paused", waiting > 0, format!("Launches are paused, by the settings; {waiting} tasks wait."), SETTINGS);
    }
    if facts.settings.refuse_new_tasks {
        tell("refusing", true, "New tasks are refused, by the settings.".to_owned(), SETTINGS);
    }
    let quarantined: i64 = facts.vms.values().filter_map(|states| states.get(&VmState::Quarantined)).sum();
    let totals = facts.totals;
    let counted = [
        (
            "unknown",
            totals.unknown,
            "machines whose rows were lost; they end by themselves, or by `vms terminate --unknown`",
            Some(("/console/vms", "Show")),
        ),
        ("quarantined-vms", quarantined, "VMs in quarantine", Some(("/console/vms?state=quarantined", "Show"))),
        (
            "quarantined-volumes",
            totals.quarantined_volumes,
            "volumes in quarantine",
            Some(("/console/volumes?state=quarantined", "Show")),
        ),
        (
            "missing-images",
            totals.missing_images,
            "images that the provider does not have any more",
            Some(("/console/images", "Show")),
        ),
        (
            "old-vms",
            totals.old_vms,
            "VMs older than the longest wait and the longest job together",
            Some(("/console/vms?only=old", "Show")),
        ),
    ];
    for (key, count, what, link) in counted {
        if count > 0 {
            tell(key, false, format!("{count} {what}."), link);
        }
    }
    told.sort_by_key(|trouble| !trouble.is_bad);
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::Executor;

    fn totals() -> Totals {
        Totals {
            max_vms: 1,
            max_in_flight: 1,
            max_volumes: 1,
            max_gpus: None,
            gpus: 0,
            volumes: 0,
            quarantined_volumes: 0,
            unknown: 0,
            orphans: 0,
            missing_images: 0,
            failed_tasks: 0,
            expired_tasks: 0,
            busiest_project: 0,
            held: 0,
            old_vms: 0,
        }
    }

    #[test]
    fn what_jobs_suffer_from_comes_first() {
        let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
        let kind = (Executor::Machine, "medium".to_owned());
        let breaker = Breaker { failed_at: vec![now], reason: Some("no image".to_owned()), allowance: None };
        let vms = BTreeMap::from([(kind.clone(), BTreeMap::from([(VmState::Quarantined, 2)]))]);
        let (tasks, calm) = (BTreeMap::new(), totals());
        let facts = Facts {
            configuration: None,
            skew: TimeDelta::zero(),
            settings: &settings,
            vms: &vms,
            tasks: &tasks,
            breakers: &[(kind, "here".to_owned(), breaker)],
            totals: &calm,
            is_blind: false,
            now,
        };
        let keys = |facts: &Facts<'_>| troubles(facts).iter().map(|trouble| trouble.key).collect::<Vec<_>>();
        assert_eq!(keys(&facts), ["breaker", "quarantined-vms"]);
        assert!(troubles(&facts)[0].text.contains("no image"));
        assert_eq!(keys(&Facts { configuration: None, breakers: &[], vms: &BTreeMap::new(), ..facts }), Vec::<&str>::new());
        let (none, many) = (Settings::default(), Totals { unknown: 3, missing_images: 1, ..totals() });
        let worse =
            Facts { configuration: None, settings: &none, skew: TimeDelta::seconds(-3), totals: &many, is_blind: true, ..facts };
        assert_eq!(keys(&worse), ["skew", "blind", "breaker", "no-provider", "unknown", "quarantined-vms", "missing-images"]);
    }
}

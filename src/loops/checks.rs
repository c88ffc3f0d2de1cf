//! Carries out checks of settings before a save: asks the provider that they name, as `doctor` does, and the scaler's plan what they would
//! change. Nothing is launched, ended or put in force.
//!
//! Reads: `settings_checks`, and what the scaler reads. Writes: `settings_checks`. Calls: `Provider::check`, `Provider::preflight`;
//! `domain::plan::save`. Runs: in `serve`.

use super::settings::{Open, access_secret};
use super::{About, Act, Loop, World, lease, scale};
use crate::db::settings_checks::LeasedCheck;
use crate::domain::plan::images::Registered;
use crate::domain::plan::save::{plan_save, warnings};
use crate::domain::settings::{Budget, ProviderChoice, Settings};
use crate::domain::settings_check::{CheckFinding, CheckResult, Effect, Severity};
use crate::provider::{Finding, Provider};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use std::time::Duration;

/// Another process may have the provider that this one has not.
const OTHERS_FIRST: TimeDelta = TimeDelta::seconds(5);
/// Between two tries of a process that has it not.
const AGAIN: TimeDelta = TimeDelta::seconds(1);
/// From a look that the provider throttled to the next one: it doubles with each, up to this.
const LONGEST_REST: TimeDelta = TimeDelta::seconds(16);
/// Left of a check's time for what follows the provider's answer.
const FOR_THE_REST: TimeDelta = TimeDelta::seconds(5);

/// See the module.
pub struct CheckSettings {
    /// What it reads.
    pub world: World,
    /// Makes a provider for settings that are not in force.
    pub open: Open,
}

/// Who is asked.
enum Asked {
    /// Made for these settings.
    Trial(Arc<dyn Provider>),
    /// One that needs no settings.
    Present(Arc<dyn Provider>),
    /// Nobody: VMs would come from nowhere.
    Nobody,
    /// Nobody here could have it: one sentence.
    Missing(&'static str),
}

#[async_trait]
impl Loop for CheckSettings {
    fn name(&self) -> &'static str {
        "checks"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let limit = i64::try_from(room).unwrap_or(i64::MAX);
        let act = |check: LeasedCheck| {
            let (world, open) = (self.world.clone(), self.open.clone());
            Act::new(format!("checking settings {}", check.id), About::default(), async move {
                lease::hold(&world, check.lease(), carry_out(&world, &open, &check)).await
            })
        };
        Ok(self.world.db.lease_settings_checks(now, limit).await?.into_iter().map(act).collect())
    }
}

async fn carry_out(world: &World, open: &Open, check: &LeasedCheck) -> anyhow::Result<()> {
    let now = world.clock.now();
    let asked = find(world, open, &check.proposed);
    if matches!(asked, Asked::Missing(_)) && now - check.created_at < OTHERS_FIRST {
        return Ok(world.db.release_settings_check(check, now + AGAIN).await?);
    }
    let patience = (check.deadline_at - FOR_THE_REST - now).to_std().unwrap_or_default();
    let provider = match &asked {
        Asked::Trial(provider) | Asked::Present(provider) => Some(provider.as_ref()),
        Asked::Nobody | Asked::Missing(_) => None,
    };
    let registered = match provider {
        Some(provider) => world.db.list_registered((provider.name(), provider.place())).await?,
        None => Vec::new(),
    };
    let seen = ask(&asked, &check.proposed, &registered, patience).await;
    if seen.iter().any(|finding| finding.throttled)
        && let Some(again_at) = after_a_rest(check, world.clock.now())
    {
        return Ok(world.db.release_settings_check(check, again_at).await?);
    }
    let mut findings: Vec<CheckFinding> = seen.into_iter().map(weigh).collect();
    let (effect, consequences) = consequences(world, &check.proposed, provider).await?;
    findings.extend(consequences);
    let result = CheckResult { findings, effect };
    world.db.finish_settings_check(check, &result, world.clock.now()).await.context("writing what a check came to")
}

/// When a throttled provider is asked again; none: there is no time for it before the deadline. A lease's number says which look it was.
fn after_a_rest(check: &LeasedCheck, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let rest = TimeDelta::seconds(1 << check.lease.clamp(1, 8)).min(LONGEST_REST);
    let again_at = now + rest;
    (again_at + FOR_THE_REST * 2 <= check.deadline_at).then_some(again_at)
}

fn find(world: &World, open: &Open, proposed: &Settings) -> Asked {
    if let Some(trial) = open(proposed) {
        trial.configure(proposed, access_secret(&world.sealer, proposed).as_ref());
        return Asked::Trial(trial);
    }
    match (world.provider(proposed), proposed.provider) {
        (Some(provider), _) => Asked::Present(provider),
        (None, ProviderChoice::None) => Asked::Nobody,
        (None, ProviderChoice::Ec2) if proposed.ec2.region.is_none() => Asked::Missing("Set ec2.region: no region is named."),
        (None, ProviderChoice::Ec2) => Asked::Missing("No process of this service can ask EC2: use a build with the feature ec2."),
        (None, ProviderChoice::OnHost) => {
            Asked::Missing("No process of this service makes VMs on its host: start `serve` with --data, or use `up`.")
        }
    }
}

async fn ask(asked: &Asked, proposed: &Settings, registered: &[Registered], patience: Duration) -> Vec<Finding> {
    let problem = |detail: &str| vec![Finding::new(false, "VM provider", detail)];
    let looks = async {
        match asked {
            Asked::Trial(provider) => provider.check(registered).await,
            Asked::Present(provider) => provider.preflight(proposed, registered).await,
            Asked::Nobody | Asked::Missing(_) => Vec::new(),
        }
    };
    match (asked, tokio::time::timeout(patience, looks).await) {
        (Asked::Missing(sentence), _) => problem(sentence),
        (_, Ok(findings)) => findings,
        (_, Err(_)) => problem(&format!("It did not answer within {} s: check again.", patience.as_secs())),
    }
}

fn weigh(finding: Finding) -> CheckFinding {
    let (severity, detail) = match finding {
        Finding { ok: true, detail, .. } => (Severity::Fine, detail),
        Finding { throttled: true, detail, .. } => (Severity::Warning, format!("not checked: {detail}")),
        Finding { detail, .. } => (Severity::Problem, detail),
    };
    CheckFinding { severity, what: finding.what, detail }
}

async fn consequences(
    world: &World,
    proposed: &Settings,
    provider: Option<&dyn Provider>,
) -> anyhow::Result<(Effect, Vec<CheckFinding>)> {
    let now = world.clock.now();
    let in_force = world.settings();
    let before = scale::gather(world, &in_force, world.provider(&in_force).as_deref(), now).await?;
    let mut after = scale::gather(world, proposed, provider, now).await?;
    let taken = world.db.taken().await?;
    let unlimited = Budget { vms: u32::MAX, in_flight: u32::MAX, volumes: u32::MAX };
    let budget = proposed.budget(provider.map_or(unlimited, |provider| provider.capacity()));
    if provider.is_some() && after.limits.room.is_some() {
        // What the database leaves is of the limits in force.
        after.limits.room = Some(taken.room(budget, proposed));
    }
    Ok((plan_save(&before, &after), warnings(&before, &after, &taken, budget)))
}

//! Sends launches: the row and its token were there before the call, and the same call is repeated until its answer is known.
//!
//! Reads: `launches`, `images`. Writes: `launches`, machines bound to `vms`. Calls: `domain::plan::images`, `Provider::choose`, then
//! `Provider::launch`. Runs: in `serve`.
//!
//! Not here: machines that no row waits for any more (`collect` ends them).

use super::{About, Act, Loop, World, images, lease, watch};
use crate::db::launch_attempts::After;
use crate::db::launches::{End, LeasedLaunch};
use crate::db::leases::Lease;
use crate::domain::tags::{Origin, Tags};
use crate::provider::images::offer;
use crate::provider::{LaunchSpec, Machine, MachineState, Provider, ProviderError};
use crate::telemetry::names;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use metrics::counter;
use std::time::Duration;

/// After a throttled or unclear answer.
const AGAIN: TimeDelta = TimeDelta::seconds(1);
/// After "no capacity": the provider is asked anew, with a new token.
const NO_CAPACITY_PAUSE: TimeDelta = TimeDelta::seconds(10);

/// Asked one after the other in one pass, at most.
const CANDIDATES: i32 = 32;

/// See the module.
pub struct Launch(pub World);

#[async_trait]
impl Loop for Launch {
    fn name(&self) -> &'static str {
        "launch"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in self.0.providers.all() {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            for launch in self.0.db.lease_launches((provider.name(), provider.place()), now, limit).await? {
                let (world, provider) = (self.0.clone(), provider.clone());
                acts.push(Act::new(format!("sending launch {}", launch.id), About::launch(launch.id), async move {
                    let lease = Lease::Launch(launch.id, launch.lease);
                    lease::hold(&world, lease, send(&world, provider.as_ref(), &launch)).await
                }));
            }
        }
        Ok(acts)
    }
}

async fn send(world: &World, provider: &dyn Provider, launch: &LeasedLaunch) -> anyhow::Result<()> {
    let (db, now) = (&world.db, world.clock.now());
    let settings = world.settings();
    let reserve = settings.resource_classes.get(&launch.resource_class).map_or(0, |class| class.reserve.size(launch.executor));
    let kept = settings.preallocated.base(launch.executor, &launch.resource_class, now) + reserve;
    // A replacement comes before the VM that it replaces goes: for a while there are more than are kept.
    let surge = if launch.origin == Origin::Preallocated { kept.min(settings.preallocated.cycle_at_a_time) } else { 0 };
    let needed = launch.wanted > 0 && db.is_launch_needed(launch, kept + surge, now).await?;
    if !launch.attempted && (!needed || settings.pause_launches) {
        return Ok(db.end_launch(launch.id, launch.lease, End::NotNeeded, now).await?);
    }
    if now - launch.created_at >= settings.timeouts.vm_start() {
        // Nothing came of it: no room is no failure of the VM, an answer that never came may be.
        let end = if launch.attempted { End::Failed("the provider did not make a machine in time") } else { End::NoRoom };
        return Ok(db.end_launch(launch.id, launch.lease, end, now).await?);
    }
    let Some(sealed) = &launch.bootstrap_sealed else {
        return Ok(db.end_launch(launch.id, launch.lease, End::Failed("its bootstrap identity is void"), now).await?);
    };
    let bootstrap = world.open_bootstrap(launch.id, sealed)?;
    let silent_for = Duration::from_secs(u64::try_from(launch.silent_seconds).unwrap_or_default());
    let count = u32::try_from(launch.machines).unwrap_or(1);
    let mut spec = LaunchSpec {
        client_token: String::new(),
        tags: Tags {
            installation: world.installation,
            launch: launch.id,
            executor: launch.executor,
            resource_class: launch.resource_class.clone(),
            origin: launch.origin,
            created_at: launch.created_at,
        },
        class: launch.class.clone(),
        count,
        user_data: String::new(),
        candidate: String::new(),
        image: None,
    };
    // Once chosen for this attempt it stays: the token goes with it, also when the first call was throttled.
    let mut asked = launch.candidate.clone();
    for attempt in launch.attempt..launch.attempt.saturating_add(CANDIDATES) {
        let is_first = attempt == launch.attempt;
        let attempted = launch.attempted && is_first;
        (spec.candidate, spec.image) = match asked.take() {
            Some(candidate) => (candidate, launch.image.clone()),
            None => match choose(world, provider, launch).await? {
                Ok(chosen) => chosen,
                Err((error, image)) if images::is_gone(world, provider, &error, image.as_deref()).await? => {
                    db.next_attempt(launch.id, launch.lease, &error.to_string()).await?;
                    continue;
                }
                Err((error, _)) => return record(world, launch, attempted, Err(error)).await,
            },
        };
        spec.user_data = match provider.is_bare(&spec.candidate) {
            true => world.guest.user_data_for_bare(&bootstrap, silent_for),
            false => world.guest.user_data(&bootstrap, silent_for),
        };
        spec.client_token = format!("{}-{attempt}", launch.id);
        if launch.tried || !is_first {
            let place = (provider.name(), provider.place());
            if !db.take_further_call(place, provider.launch_rate(), count, now).await? {
                return Ok(db.put_back_launch(launch.id, launch.lease, now + AGAIN).await?);
            }
        }
        db.mark_attempt(launch.id, launch.lease, &spec.candidate, spec.image.as_deref(), now).await?;
        let answer = provider.launch(&spec).await;
        tell(provider, &spec.candidate, &answer);
        match answer {
            // Where there is a choice, what was refused is remembered, and the next is asked at once.
            Err(ProviderError::NoCapacity(reason)) if !spec.candidate.is_empty() => {
                db.next_attempt(launch.id, launch.lease, &reason).await?;
            }
            // An image that vanished is not taken again.
            Err(error) if !attempted && images::is_gone(world, provider, &error, spec.image.as_deref()).await? => {
                db.next_attempt(launch.id, launch.lease, &error.to_string()).await?;
            }
            answer => {
                let recorded = record(world, launch, attempted, answer).await;
                return recorded.with_context(|| format!("recording the answer to launch {}", launch.id));
            }
        }
    }
    let tried = ProviderError::NoCapacity("none of the first candidates had room".to_owned());
    record(world, launch, false, Err(tried)).await
}

fn tell(provider: &dyn Provider, candidate: &str, answer: &Result<Vec<Machine>, ProviderError>) {
    let asked = provider.asked(candidate);
    let labels = [
        ("provider", provider.name().to_owned()),
        ("outcome", answer.as_ref().map_or_else(ProviderError::word, |_| "made").to_owned()),
        ("market", asked.market.to_owned()),
        ("instance_type", asked.instance_type),
        ("zone", asked.zone),
    ];
    counter!(names::LAUNCHES, &labels).increment(1);
}

/// What an attempt asks for, and what its machines are made of.
type Chosen = (String, Option<String>);

/// Chooses what the next attempt asks for; an error comes with the image that it may be about.
async fn choose(
    world: &World,
    provider: &dyn Provider,
    launch: &LeasedLaunch,
) -> anyhow::Result<Result<Chosen, (ProviderError, Option<String>)>> {
    let registered = world.db.list_registered((provider.name(), provider.place())).await?;
    let image = match offer(provider, &launch.class, &registered).choose(launch.id) {
        Ok(image) => image,
        Err(sentence) => return Ok(Err((ProviderError::Invalid(sentence), None))),
    };
    Ok(match provider.choose(&launch.class, image.as_deref(), launch.near.as_deref()).await {
        Ok(candidate) => {
            let image = provider.image_in(&candidate).or(image);
            Ok((candidate, image))
        }
        Err(error) => Err((error, image)),
    })
}

/// `attempted`: an earlier call with the same token may have gone out.
async fn record(
    world: &World,
    launch: &LeasedLaunch,
    attempted: bool,
    answer: Result<Vec<Machine>, ProviderError>,
) -> anyhow::Result<()> {
    let (db, now) = (&world.db, world.clock.now());
    match answer {
        Ok(machines) => {
            let ids: Vec<String> = machines.iter().map(|machine| machine.provider_id.clone()).collect();
            let bound = db.bind_machines(launch.id, &ids, now).await?;
            if bound.len() < ids.len() {
                tracing::warn!(launch = %launch.id, machines = ids.len(), rows = bound.len(), "machines without a row; they will be collected");
            }
            db.end_launch(launch.id, launch.lease, End::Answered, now).await?;
            let running = machines.iter().filter(|machine| machine.state == MachineState::Running);
            let running: Vec<_> = running.filter_map(|m| Some((*bound.get(&m.provider_id)?, m.address?, m.zone.clone()))).collect();
            watch::boot(world, &running, now).await?;
        }
        Err(ProviderError::Throttled) => {
            // It says nothing about an earlier call of this token, which may have happened.
            let after = if attempted { After::Unclear } else { After::Throttled };
            db.postpone_launch(launch.id, launch.lease, now + AGAIN, after, "throttled").await?;
        }
        Err(ProviderError::NoCapacity(reason)) => {
            db.postpone_launch(launch.id, launch.lease, now + NO_CAPACITY_PAUSE, After::Refused, &reason).await?;
        }
        Err(ProviderError::Invalid(reason)) => {
            tracing::error!(launch = %launch.id, reason, "the provider refuses this launch");
            db.end_launch(launch.id, launch.lease, End::Failed(&reason), now).await?;
        }
        Err(error @ ProviderError::Transient { .. }) => {
            db.postpone_launch(launch.id, launch.lease, now + AGAIN, After::Unclear, &error.to_string()).await?;
            return Err(error).with_context(|| format!("sending launch {}", launch.id));
        }
    }
    Ok(())
}

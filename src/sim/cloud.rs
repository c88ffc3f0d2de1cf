//! The simulated provider: keeps the contract of `Provider` under the rules of the world, answers at once, and waits for nothing
//! but its gates.

use super::Sim;
use super::faults::Fault;
use super::machines::{EndCause, Phase, SimMachine};
use super::ops;
use super::world::{World, broken, line_of};
use crate::domain::plan::images::Registered;
use crate::domain::rate::LaunchRate;
use crate::domain::resource_class::ResourceClass;
use crate::domain::secret::Secret;
use crate::domain::settings::{Budget, ProviderChoice, Settings};
use crate::provider::images::Images;
use crate::provider::reserve::Reserve;
use crate::provider::volumes::Volumes;
use crate::provider::{
    Finding, LaunchSpec, Listing, Machine, Notice, Pace, Provider, ProviderError, ProviderVolume, VolumeListing,
};
use crate::sim::buckets::Bucket;
use async_trait::async_trait;
use rand::Rng as _;

#[async_trait]
impl Provider for Sim {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn is_chosen(&self, settings: &Settings) -> bool {
        settings.provider == ProviderChoice::OnHost
    }

    fn place(&self) -> &'static str {
        "sim"
    }

    fn max_batch(&self) -> u32 {
        self.world().rules.max_batch
    }

    fn launch_rate(&self) -> Option<LaunchRate> {
        let world = self.world();
        let rate = |bucket| world.rules.rates.get(&bucket).copied();
        Some(LaunchRate { calls: rate(Bucket::LaunchCalls)?, machines: rate(Bucket::LaunchMachines)? })
    }

    fn pace(&self) -> Pace {
        self.world().rules.pace
    }

    fn leaves_remains(&self) -> bool {
        false
    }

    fn default_image(&self, _class: &ResourceClass) -> Option<String> {
        self.world().rules.image.clone()
    }

    fn images(&self) -> Option<&dyn Images> {
        Some(self)
    }

    fn capacity(&self) -> Budget {
        self.world().rules.carries
    }

    fn configure(&self, _settings: &Settings, _secret: Option<&Secret>) {}

    async fn launch(&self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        let (answer, hangs) = self
            .through(&ops::LAUNCH, |world| {
                let first = world.call_launch(spec);
                let doubled = first.is_ok() && world.strikes(&Fault::DoubleAnswer);
                let answer = if doubled { world.call_launch(spec).or(first) } else { first };
                let hangs = answer.is_ok() && world.strikes(&Fault::HangAfterLaunch);
                (answer, hangs)
            })
            .await;
        if hangs {
            std::future::pending::<()>().await;
        }
        answer
    }

    async fn list_machines(&self) -> Result<Listing, ProviderError> {
        self.through(&ops::LIST_MACHINES, |world| {
            let now = world.now;
            let listed = world.fleet.shown().filter(|machine| machine.is_listed(now)).count();
            world.call(&ops::LIST_MACHINES, world.pages(listed), String::new, |world| Ok(world.list(listed)))
        })
        .await
    }

    async fn find_machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        self.through(&ops::FIND_MACHINE, |world| {
            world.call(&ops::FIND_MACHINE, 1, || provider_id.to_owned(), |world| Ok(world.look(provider_id)))
        })
        .await
    }

    async fn find_machines(&self, provider_ids: &[String]) -> Result<Vec<Machine>, ProviderError> {
        self.through(&ops::FIND_MACHINES, |world| {
            let found: Vec<Machine> = provider_ids.iter().filter_map(|id| world.look(id)).collect();
            let units = world.looks(provider_ids.len(), found.len());
            world.call(&ops::FIND_MACHINES, units, || line_of(provider_ids), |_| Ok(found))
        })
        .await
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }

    async fn list_volumes(&self) -> Result<VolumeListing, ProviderError> {
        self.through(&ops::LIST_VOLUMES, World::list_volumes).await
    }

    async fn find_volume(&self, provider_id: &str) -> Result<Option<ProviderVolume>, ProviderError> {
        self.through(&ops::FIND_VOLUME, |world| {
            world.call(&ops::FIND_VOLUME, 1, || provider_id.to_owned(), |world| Ok(world.look_at_volume(provider_id)))
        })
        .await
    }

    async fn terminate(&self, provider_ids: &[String]) -> Result<(), ProviderError> {
        self.through(&ops::TERMINATE, |world| {
            world.call(&ops::TERMINATE, 1, || line_of(provider_ids), |world| world.terminate(provider_ids))
        })
        .await
    }

    fn reserve(&self) -> Option<&dyn Reserve> {
        Some(self)
    }

    async fn list_notices(&self) -> Result<Vec<Notice>, ProviderError> {
        self.through(&ops::LIST_NOTICES, |world| world.call(&ops::LIST_NOTICES, 1, String::new, |_| Ok(()))).await?;
        Ok(Vec::new())
    }

    async fn console(&self, provider_id: &str) -> Result<String, ProviderError> {
        self.through(&ops::CONSOLE, |world| {
            world.call(
                &ops::CONSOLE,
                1,
                || provider_id.to_owned(),
                |world| Ok(world.look(provider_id).map(|_| "simulated console".to_owned()).unwrap_or_default()),
            )
        })
        .await
    }

    /// A dry run of a launch.
    async fn check(&self, _registered: &[Registered]) -> Vec<Finding> {
        let answer = self.through(&ops::CHECK, |world| world.call(&ops::CHECK, 1, String::new, World::dry_run)).await;
        const WHAT: &str = "trial launch";
        vec![answer.map_or_else(|error| Finding::failed(WHAT, &error), |()| Finding::new(true, WHAT, "allowed"))]
    }
}

impl Sim {
    /// Stops a machine: it keeps its disk, and gives up its room and its address.
    ///
    /// # Errors
    /// `Invalid` where it does not run.
    pub async fn stop_machine(&self, provider_id: &str) -> Result<(), ProviderError> {
        self.through(&ops::STOP_MACHINE, |world| {
            world.call(&ops::STOP_MACHINE, 1, || provider_id.to_owned(), |world| world.stop(provider_id))
        })
        .await
    }

    /// Starts a stopped machine, with another address.
    ///
    /// # Errors
    /// `NoCapacity` can strike here too; `Invalid` where it is not stopped.
    pub async fn start_machine(&self, provider_id: &str) -> Result<(), ProviderError> {
        self.through(&ops::START_MACHINE, |world| {
            world.call(&ops::START_MACHINE, 1, || provider_id.to_owned(), |world| world.start(provider_id))
        })
        .await
    }
}

#[async_trait]
impl Reserve for Sim {
    async fn stop(&self, provider_id: &str, _hibernate: bool) -> Result<(), ProviderError> {
        self.stop_machine(provider_id).await
    }

    async fn start(&self, provider_id: &str) -> Result<(), ProviderError> {
        self.start_machine(provider_id).await
    }
}

impl World {
    fn call_launch(&mut self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        let units = spec.count.min(self.rules.max_batch);
        let asked = || format!("{} x{}", spec.client_token, spec.count);
        self.call(&ops::LAUNCH, units, asked, |world| world.launch(spec))
    }

    fn dry_run(&mut self) -> Result<(), ProviderError> {
        self.faults.refusal().map_or(Ok(()), |reason| Err(ProviderError::Invalid(reason)))
    }

    /// Pages of a list of so many entries; an empty one is a call too.
    pub(super) fn pages(&self, entries: usize) -> u32 {
        u32::try_from(entries.div_ceil(self.rules.page.max(1)).max(1)).unwrap_or(u32::MAX)
    }

    /// A list with what goes wrong in it.
    fn list(&mut self, listed: usize) -> Listing {
        if self.strikes(&Fault::IncompleteList) {
            return Listing { machines: Vec::new(), complete: false };
        }
        let missing = self.missing_page(listed);
        let (now, page) = (self.now, self.rules.page.max(1));
        let machines = self.fleet.shown().filter(|machine| machine.is_listed(now)).enumerate();
        let machines = machines.filter(|(at, _)| Some(at / page) != missing).map(|(_, machine)| machine.shown()).collect();
        Listing { machines, complete: missing.is_none() }
    }

    /// The page that a list of so many entries lacks, if any.
    pub(super) fn missing_page(&mut self, entries: usize) -> Option<usize> {
        let misses = self.strikes(&Fault::ListMissesPage);
        misses.then(|| self.rng.random_range(0..entries.div_ceil(self.rules.page.max(1)).max(1)))
    }

    fn look(&self, provider_id: &str) -> Option<Machine> {
        self.fleet.find(provider_id).filter(|machine| machine.is_found(self.now)).map(SimMachine::shown)
    }

    /// Calls of a shared look: one per full set of ids, and one more for each unknown id, because it fails its set. A provider
    /// spreads those over time; here they cost a full bucket at most.
    fn looks(&self, asked: usize, found: usize) -> u32 {
        let calls = asked.div_ceil(self.rules.max_ids.max(1)) + (asked - found);
        u32::try_from(calls).unwrap_or(u32::MAX).min(self.buckets.burst(Bucket::Describe))
    }

    /// The effect of a termination. An id that the cloud does not know *yet* is an unknown one: its machine lives on.
    fn terminate(&mut self, provider_ids: &[String]) -> Result<(), ProviderError> {
        if provider_ids.len() > self.rules.max_ids {
            return Err(broken("InvalidParameterValue", &format!("{} ids in one call", provider_ids.len())));
        }
        for no in provider_ids.iter().filter_map(|id| self.known(id).ok()).collect::<Vec<_>>() {
            let Some(machine) = self.fleet.get(no) else { continue };
            let until = self.now + machine.fate.shuts_down_in;
            if !matches!(machine.phase, Phase::ShuttingDown { .. } | Phase::Terminated { .. }) {
                self.fleet.set_phase(no, Phase::ShuttingDown { until, cause: EndCause::AskedByUs });
            }
        }
        Ok(())
    }
}

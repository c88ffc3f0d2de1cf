//! The strict simulated cloud keeps EC2.md, rule by rule; each test quotes the sentence that it holds the simulation to.

mod budgets;
mod caches;
mod capacity;
mod consistency;
mod faults;
mod guests;
mod history;
mod lives;
mod snapshots;
mod tokens;
mod volumes;

use chrono::TimeDelta;
use std::time::Duration;
use uuid::Uuid;
use vm_service::clock::HandClock;
use vm_service::domain::ec2::Ec2Class;
use vm_service::domain::identity::{Bootstrap, Identity};
use vm_service::domain::ids::{InstallationId, LaunchId, VolumeId};
use vm_service::domain::resource_class::ResourceClass;
use vm_service::domain::secret::Secret;
use vm_service::domain::tags::{Origin, Tags, VolumeTags};
use vm_service::domain::task::Executor;
use vm_service::guest::Guest as _;
use vm_service::provider::volumes::Volumes as _;
use vm_service::provider::{LaunchSpec, Machine, MachineState, Provider as _, ProviderError};
use vm_service::sim::{FaultRates, MachineTruth, Rules, Sim, Spread, VolumeTruth};

/// How long a launched machine waits for first contact here.
const SILENT_FOR: Duration = Duration::from_secs(1200);

/// A world and its clock.
struct Cloud {
    sim: Sim,
    clock: HandClock,
}

impl Cloud {
    /// A world with these rules in which nothing goes wrong by chance.
    fn with(rules: Rules) -> Self {
        let clock = HandClock::at(crate::support::start());
        Self { sim: Sim::strict(clock.clone(), rules, FaultRates::none(), 7), clock }
    }

    /// All rules of EC2.md.
    fn strict() -> Self {
        Self::with(Rules::default())
    }

    /// No rule but those that the test is about, and batches.
    fn easy() -> Self {
        Self::with(easy())
    }

    fn pass(&self, seconds: i64) {
        self.clock.advance(TimeDelta::seconds(seconds));
    }

    /// One machine of token `token`, which exists and may not run yet.
    async fn one(&self, token: &str) -> Machine {
        self.sim.launch(&self.spec(token, 1)).await.unwrap().remove(0)
    }

    fn spec(&self, token: &str, count: u32) -> LaunchSpec {
        LaunchSpec {
            client_token: token.to_owned(),
            tags: tags("medium"),
            class: ResourceClass {
                vcpus: 2,
                memory_mib: 4096,
                disk_gib: 20,
                limit: None,
                gpus: 0,
                ec2: Ec2Class::default(),
                reserve: Default::default(),
                price_per_hour: None,
            },
            count,
            candidate: String::new(),
            image: None,
            user_data: self.sim.user_data(&bootstrap("batch"), SILENT_FOR),
        }
    }

    async fn state(&self, machine: &Machine) -> Option<MachineState> {
        self.sim.find_machine(&machine.provider_id).await.unwrap().map(|machine| machine.state)
    }

    async fn terminate(&self, machine: &Machine) {
        self.sim.terminate(std::slice::from_ref(&machine.provider_id)).await.unwrap();
    }

    fn truth(&self, machine: &Machine) -> MachineTruth {
        self.sim.truth().into_iter().find(|truth| truth.provider_id == machine.provider_id).unwrap()
    }

    /// An empty volume of project `p` in the first zone.
    async fn volume(&self, token: &str) -> String {
        self.sim.create_volume(&crate::support::volume(&volume_tags("p"), "zone-a", token)).await.unwrap().provider_id
    }

    fn volume_truth(&self, volume: &str) -> VolumeTruth {
        self.sim.volumes_truth().into_iter().find(|truth| truth.provider_id == volume).unwrap()
    }

    /// Wishes a volume of project `p` onto a machine.
    async fn attach(&self, volume: &str, machine: &Machine) -> Result<(), ProviderError> {
        self.sim.attach_volume(volume, &machine.provider_id, &crate::support::lineage("p")).await
    }

    async fn listed(&self) -> usize {
        self.sim.list_machines().await.unwrap().machines.len()
    }
}

fn easy() -> Rules {
    Rules { max_batch: 1000, ..Rules::obliging() }
}

fn after(seconds: i64) -> Spread {
    Spread::exactly(TimeDelta::seconds(seconds))
}

fn tags(class: &str) -> Tags {
    Tags {
        installation: InstallationId(Uuid::from_u128(42)),
        launch: LaunchId(Uuid::from_u128(1)),
        executor: Executor::Machine,
        resource_class: class.to_owned(),
        origin: Origin::OnDemand,
        created_at: crate::support::start(),
    }
}

fn volume_tags(project: &str) -> VolumeTags {
    VolumeTags {
        installation: InstallationId(Uuid::from_u128(42)),
        volume: VolumeId(Uuid::from_u128(1)),
        lineage: crate::support::lineage(project),
    }
}

fn bootstrap(name: &str) -> Bootstrap {
    Bootstrap {
        host_private: Secret::new("-"),
        host_public: format!("host of {name}"),
        login_private: Secret::new("-"),
        login_public: format!("login of {name}"),
    }
}

fn identity(name: &str) -> Identity {
    let Bootstrap { host_private, host_public, login_private, login_public } = bootstrap(name);
    Identity { host_private, host_public, login_private, login_public, docker: None }
}

/// The AWS code in a refusal.
fn refusal<T: std::fmt::Debug>(answer: Result<T, ProviderError>) -> String {
    match answer {
        Err(ProviderError::Invalid(reason)) => reason.split(':').next().unwrap().to_owned(),
        other => panic!("not refused: {other:?}"),
    }
}

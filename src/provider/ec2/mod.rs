//! Machines of Amazon EC2, one region each. It keeps AWS's rules: what it may ask how fast, what a lost answer means, and that "absent"
//! is never concluded from one error.
//!
//! | file | idea |
//! | --- | --- |
//! | `connection` | who we are and where EC2 is |
//! | `candidates`, `images`, `zones`, `launch`, `fleet` | from a resource class to one RunInstances, or CreateFleet, that says everything |
//! | `registered` | AMIs that are looked at before they are registered, and deleted |
//! | `machines`, `tags` | instances, seen and ended in shared calls |
//! | `notices` | what AWS announces about them |
//! | `check`, `policy` | whether it can work in this account, and what it must be allowed there |
//! | `reserve` | instances that are stopped and started again |
//! | `volumes`, `snapshots` | EBS volumes and their snapshots |
//! | `ebs` | snapshots block by block: an image is written as one, two are compared |
//! | `budget`, `refusal` | how fast calls may be made, and what an error means |
//!
//! Reads, writes: the region's EC2. Calls: the AWS SDK, whose own retries are off. Runs: from `loops` and `admin`.

mod budget;
mod candidates;
mod check;
mod connection;
pub mod ebs;
mod fleet;
mod images;
mod launch;
mod machines;
mod notices;
pub mod policy;
mod refusal;
mod registered;
mod reserve;
mod snapshots;
mod tags;
mod volumes;
mod zones;

use super::images::{Images, NamedImages};
use super::reserve::Reserve;
use super::volumes::Volumes;
use super::{Asked, Finding, LaunchSpec, Listing, Machine, Notice, Pace, Provider, ProviderError, ProviderVolume, VolumeListing};
use crate::domain::ec2::Ec2Settings;
use crate::domain::ids::InstallationId;
use crate::domain::outbound::Outbound;
use crate::domain::plan::images::Registered;
use crate::domain::rate::{LaunchRate, Rate};
use crate::domain::resource_class::ResourceClass;
use crate::domain::secret::Secret;
use crate::domain::settings::{self, ProviderChoice, Settings};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_ec2::Client;
use connection::Connection;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::OnceCell;

/// EC2 in one region.
pub struct Ec2 {
    installation: InstallationId,
    region: String,
    outbound: Outbound,
    surroundings: OnceCell<SdkConfig>,
    connection: RwLock<Arc<Connection>>,
    /// What can be asked for, by name.
    classes: RwLock<Arc<BTreeMap<String, ResourceClass>>>,
    memory: candidates::Memory,
    images: images::Images,
    zones: zones::Zones,
    templates: fleet::Templates,
    budget: budget::Budget,
}

impl Ec2 {
    /// EC2 in this region. Nothing is asked yet.
    pub fn new(installation: InstallationId, region: impl Into<String>, outbound: Outbound) -> Self {
        Self {
            installation,
            region: region.into(),
            outbound,
            surroundings: OnceCell::new(),
            connection: RwLock::new(Arc::new(Connection::new(Ec2Settings::default(), None))),
            classes: RwLock::default(),
            memory: candidates::Memory::default(),
            images: images::Images::default(),
            zones: zones::Zones::default(),
            templates: fleet::Templates::default(),
            budget: budget::Budget::default(),
        }
    }

    fn connection(&self) -> Arc<Connection> {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn classes(&self) -> Arc<BTreeMap<String, ResourceClass>> {
        self.classes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn client(&self) -> Client {
        let surroundings = self.surroundings.get_or_init(|| connection::surroundings(&self.region, &self.outbound)).await;
        self.connection().client(surroundings, &self.outbound).await
    }

    async fn ebs_client(&self) -> aws_sdk_ebs::Client {
        let surroundings = self.surroundings.get_or_init(|| connection::surroundings(&self.region, &self.outbound)).await;
        self.connection().ebs_client(surroundings, &self.outbound).await
    }
}

#[async_trait]
impl Provider for Ec2 {
    fn name(&self) -> &'static str {
        "ec2"
    }

    fn is_chosen(&self, settings: &Settings) -> bool {
        settings.provider == ProviderChoice::Ec2 && settings.ec2.region.as_ref() == Some(&self.region)
    }

    fn place(&self) -> &str {
        &self.region
    }

    fn max_batch(&self) -> u32 {
        1000
    }

    fn launch_rate(&self) -> Option<LaunchRate> {
        let rate = |burst| Rate { burst, per_second: 2.0 };
        Some(LaunchRate { calls: rate(5), machines: rate(1000) })
    }

    fn pace(&self) -> Pace {
        Pace {
            list: Duration::from_secs(30),
            watch: Duration::from_secs(2),
            watch_ends: Duration::from_secs(10),
            first_look: Duration::from_secs(5),
            terminate: Duration::from_secs(5),
            settles: Duration::from_secs(300),
            // Two minutes of notice are not to be half over; other events are announced days before.
            notices: Some(Duration::from_secs(if self.may_have_spot() { 30 } else { 60 })),
        }
    }

    fn leaves_remains(&self) -> bool {
        false
    }

    /// Canonical's newest, which is found at the launch.
    fn default_image(&self, _class: &ResourceClass) -> Option<String> {
        None
    }

    fn named_images(&self, class: &ResourceClass) -> NamedImages {
        let of_settings = self.connection().settings.images.get(&self.region).cloned();
        NamedImages { of_class: class.ec2.images.get(&self.region).cloned(), of_settings }
    }

    fn capacity(&self) -> settings::Budget {
        settings::Budget { vms: 100, in_flight: 50, volumes: 200 }
    }

    fn configure(&self, settings: &Settings, secret: Option<&Secret>) {
        // Settings of another region leave this one as it was: its machines stay in care.
        if settings.ec2.region.as_ref() != Some(&self.region) {
            return;
        }
        *self.classes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings.resource_classes.clone());
        if self.connection().is_of(&settings.ec2, secret) {
            return;
        }
        let connection = Arc::new(Connection::new(settings.ec2.clone(), secret.cloned()));
        *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    async fn choose(&self, class: &ResourceClass, image: Option<&str>, near: Option<&str>) -> Result<String, ProviderError> {
        let parameters = self.parameters(class, image, near).await?;
        serde_json::to_string(&parameters).map_err(|error| ProviderError::transient("writing a candidate", error))
    }

    fn is_bare(&self, candidate: &str) -> bool {
        serde_json::from_str::<candidates::Parameters>(candidate).is_ok_and(|asked| asked.bare)
    }

    fn image_in(&self, candidate: &str) -> Option<String> {
        Some(serde_json::from_str::<candidates::Parameters>(candidate).ok()?.image)
    }

    fn asked(&self, candidate: &str) -> Asked {
        let Ok(asked) = serde_json::from_str::<candidates::Parameters>(candidate) else { return Asked::default() };
        let market = if asked.spot { "spot" } else { "on_demand" };
        if !asked.fleet.is_empty() {
            return Asked { market, instance_type: "fleet".to_owned(), zone: "fleet".to_owned() };
        }
        Asked { market, instance_type: asked.instance_type, zone: self.zones.find(&asked.subnet).unwrap_or(asked.subnet) }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        self.run_instances(spec).await
    }

    async fn list_machines(&self) -> Result<Listing, ProviderError> {
        self.list().await
    }

    async fn find_machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        self.find(provider_id).await
    }

    async fn find_machines(&self, provider_ids: &[String]) -> Result<Vec<Machine>, ProviderError> {
        self.find_many(provider_ids).await
    }

    async fn list_notices(&self) -> Result<Vec<Notice>, ProviderError> {
        self.notices().await
    }

    async fn terminate(&self, provider_ids: &[String]) -> Result<(), ProviderError> {
        self.end(provider_ids).await
    }

    async fn list_volumes(&self) -> Result<VolumeListing, ProviderError> {
        self.list_cache_volumes().await
    }

    async fn find_volume(&self, provider_id: &str) -> Result<Option<ProviderVolume>, ProviderError> {
        self.find_cache_volume(provider_id).await
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }

    fn images(&self) -> Option<&dyn Images> {
        Some(self)
    }

    fn reserve(&self) -> Option<&dyn Reserve> {
        Some(self)
    }

    async fn console(&self, provider_id: &str) -> Result<String, ProviderError> {
        self.console_of(provider_id).await
    }

    async fn check(&self, registered: &[Registered]) -> Vec<Finding> {
        check::check(self, registered).await
    }
}

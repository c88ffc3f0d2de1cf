//! A provider whose calls are counted and timed, each by its class; it does nothing else, and forgets no method of the contract.
//!
//! What a call answered is told by the words of [`ProviderError`]: `ok`, `no_capacity`, `throttled`, `refused`, `unclear`.
//!
//! Not here: what each process may ask of AWS (`ec2::budget`); a call that it held back counts as throttled.

use super::images::{Images, NamedImages, ProviderImage};
use super::reserve::Reserve;
use super::volumes::{Copies, ProviderSnapshot, SnapshotListing, SnapshotSpec, Space, VolumeSpec, Volumes};
use super::{Asked, Finding, LaunchSpec, Listing, Machine, Notice, Pace, Provider, ProviderError, ProviderVolume, VolumeListing};
use crate::domain::ec2::Architecture;
use crate::domain::image::ImageSource;
use crate::domain::lineage::Lineage;
use crate::domain::plan::images::Registered;
use crate::domain::rate::LaunchRate;
use crate::domain::resource_class::ResourceClass;
use crate::domain::secret::Secret;
use crate::domain::settings::{Budget, Settings};
use crate::telemetry::tell;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// See the module.
pub struct Metered(Arc<dyn Provider>);

impl Metered {
    /// The same provider, counted.
    pub fn new(inner: Arc<dyn Provider>) -> Self {
        Self(inner)
    }

    async fn timed<T>(
        &self,
        class: &'static str,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let began = Instant::now();
        let answer = call.await;
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(error) => error.word(),
        };
        tell::provider_call(self.0.name(), class, outcome, began.elapsed());
        answer
    }

    fn kept(&self) -> Result<&dyn Volumes, ProviderError> {
        self.0.volumes().ok_or_else(|| ProviderError::Invalid(format!("the provider {} keeps no volumes", self.0.name())))
    }

    fn registry(&self) -> Result<&dyn Images, ProviderError> {
        self.0.images().ok_or_else(|| ProviderError::Invalid(format!("the provider {} has no images", self.0.name())))
    }

    fn stopper(&self) -> Result<&dyn Reserve, ProviderError> {
        self.0.reserve().ok_or_else(|| ProviderError::Invalid(format!("the provider {} stops no machines", self.0.name())))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a default here would hide what the provider says")]
impl Provider for Metered {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn is_chosen(&self, settings: &Settings) -> bool {
        self.0.is_chosen(settings)
    }

    fn place(&self) -> &str {
        self.0.place()
    }

    fn max_batch(&self) -> u32 {
        self.0.max_batch()
    }

    fn launch_rate(&self) -> Option<LaunchRate> {
        self.0.launch_rate()
    }

    fn pace(&self) -> Pace {
        self.0.pace()
    }

    fn leaves_remains(&self) -> bool {
        self.0.leaves_remains()
    }

    fn default_image(&self, class: &ResourceClass) -> Option<String> {
        self.0.default_image(class)
    }

    fn named_images(&self, class: &ResourceClass) -> NamedImages {
        self.0.named_images(class)
    }

    fn architecture(&self, class: &ResourceClass) -> Architecture {
        self.0.architecture(class)
    }

    fn capacity(&self) -> Budget {
        self.0.capacity()
    }

    fn configure(&self, settings: &Settings, secret: Option<&Secret>) {
        self.0.configure(settings, secret);
    }

    async fn choose(&self, class: &ResourceClass, image: Option<&str>, near: Option<&str>) -> Result<String, ProviderError> {
        self.0.choose(class, image, near).await
    }

    fn image_in(&self, candidate: &str) -> Option<String> {
        self.0.image_in(candidate)
    }

    fn is_bare(&self, candidate: &str) -> bool {
        self.0.is_bare(candidate)
    }

    fn asked(&self, candidate: &str) -> Asked {
        self.0.asked(candidate)
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        self.timed("launch", self.0.launch(spec)).await
    }

    async fn list_machines(&self) -> Result<Listing, ProviderError> {
        self.timed("list_machines", self.0.list_machines()).await
    }

    async fn find_machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        self.timed("find_machine", self.0.find_machine(provider_id)).await
    }

    async fn find_machines(&self, provider_ids: &[String]) -> Result<Vec<Machine>, ProviderError> {
        self.timed("find_machines", self.0.find_machines(provider_ids)).await
    }

    async fn list_notices(&self) -> Result<Vec<Notice>, ProviderError> {
        self.timed("list_notices", self.0.list_notices()).await
    }

    async fn terminate(&self, provider_ids: &[String]) -> Result<(), ProviderError> {
        self.timed("terminate", self.0.terminate(provider_ids)).await
    }

    async fn list_volumes(&self) -> Result<VolumeListing, ProviderError> {
        self.timed("list_volumes", self.0.list_volumes()).await
    }

    async fn find_volume(&self, provider_id: &str) -> Result<Option<ProviderVolume>, ProviderError> {
        self.timed("find_volume", self.0.find_volume(provider_id)).await
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        self.0.volumes().map(|_| self as &dyn Volumes)
    }

    fn images(&self) -> Option<&dyn Images> {
        self.0.images().map(|_| self as &dyn Images)
    }

    fn reserve(&self) -> Option<&dyn Reserve> {
        self.0.reserve().map(|_| self as &dyn Reserve)
    }

    async fn channel(&self, provider_id: &str) -> Result<Option<UnixStream>, ProviderError> {
        self.0.channel(provider_id).await
    }

    async fn console(&self, provider_id: &str) -> Result<String, ProviderError> {
        self.timed("console", self.0.console(provider_id)).await
    }

    async fn check(&self, registered: &[Registered]) -> Vec<Finding> {
        self.0.check(registered).await
    }

    async fn preflight(&self, settings: &Settings, registered: &[Registered]) -> Vec<Finding> {
        self.0.preflight(settings, registered).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "as above")]
impl Volumes for Metered {
    fn copies(&self) -> Copies {
        self.0.volumes().map_or(Copies::EachAfter(Duration::MAX), Volumes::copies)
    }

    async fn space(&self) -> Result<Option<Space>, ProviderError> {
        self.kept()?.space().await
    }

    fn serial(&self, volume: &str) -> String {
        self.0.volumes().map(|volumes| volumes.serial(volume)).unwrap_or_default()
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<ProviderVolume, ProviderError> {
        self.timed("create_volume", self.kept()?.create_volume(spec)).await
    }

    async fn attach_volume(&self, volume: &str, machine: &str, owner: &Lineage) -> Result<(), ProviderError> {
        self.timed("attach_volume", self.kept()?.attach_volume(volume, machine, owner)).await
    }

    async fn detach_volume(&self, volume: &str, machine: &str) -> Result<(), ProviderError> {
        self.timed("detach_volume", self.kept()?.detach_volume(volume, machine)).await
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), ProviderError> {
        self.timed("delete_volume", self.kept()?.delete_volume(volume)).await
    }

    async fn snapshot_volume(&self, volume: &str, spec: &SnapshotSpec) -> Result<String, ProviderError> {
        self.timed("snapshot_volume", self.kept()?.snapshot_volume(volume, spec)).await
    }

    async fn find_snapshot(&self, snapshot: &str) -> Result<Option<ProviderSnapshot>, ProviderError> {
        self.timed("find_snapshot", self.kept()?.find_snapshot(snapshot)).await
    }

    async fn list_snapshots(&self) -> Result<SnapshotListing, ProviderError> {
        self.timed("list_snapshots", self.kept()?.list_snapshots()).await
    }

    async fn delete_snapshot(&self, snapshot: &str) -> Result<(), ProviderError> {
        self.timed("delete_snapshot", self.kept()?.delete_snapshot(snapshot)).await
    }
}

#[async_trait]
impl Images for Metered {
    fn place_of(&self, source: &ImageSource) -> Option<String> {
        self.0.images()?.place_of(source)
    }

    async fn find_image(&self, place: &str, image: &str) -> Result<Option<ProviderImage>, ProviderError> {
        self.timed("find_image", self.registry()?.find_image(place, image)).await
    }

    async fn delete_image(&self, image: &str, snapshots: &[String]) -> Result<(), ProviderError> {
        self.timed("delete_image", self.registry()?.delete_image(image, snapshots)).await
    }
}

#[async_trait]
impl Reserve for Metered {
    async fn stop(&self, provider_id: &str, hibernate: bool) -> Result<(), ProviderError> {
        self.timed("stop_machine", self.stopper()?.stop(provider_id, hibernate)).await
    }

    async fn start(&self, provider_id: &str) -> Result<(), ProviderError> {
        self.timed("start_machine", self.stopper()?.start(provider_id)).await
    }
}

//! Images of the simulated cloud: what machines made of one do, and who may delete it.

use super::Sim;
use super::journal::Told;
use super::machines::SimMachine;
use super::ops;
use super::world::{World, broken};
use crate::domain::ec2::Architecture;
use crate::domain::image::ImageSource;
use crate::provider::images::{Images, ProviderImage};
use crate::provider::{MachineState, Provider as _, ProviderError};
use async_trait::async_trait;
use chrono::TimeDelta;

/// The truth about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimImage {
    /// Of its machines.
    pub architecture: Architecture,
    /// Its machines answer; otherwise they run, and never answer.
    pub boots: bool,
    /// So much later than others.
    pub slower: TimeDelta,
    /// Why no machine can be made of it.
    pub unusable: Option<String>,
    /// It carries our tag.
    pub ours: bool,
}

impl Default for SimImage {
    fn default() -> Self {
        Self { architecture: Architecture::X86_64, boots: true, slower: TimeDelta::zero(), unusable: None, ours: true }
    }
}

impl Told for SimImage {
    fn told(&self) -> String {
        self.unusable.clone().unwrap_or_else(|| "usable".to_owned())
    }
}

impl Sim {
    /// Puts an image there, or changes it.
    pub fn put_image(&self, name: &str, image: SimImage) {
        self.world().images.insert(name.to_owned(), image);
    }

    /// Takes an image away, as somebody else would.
    pub fn drop_image(&self, name: &str) {
        self.world().images.remove(name);
    }

    /// The names of the images that there are, beside the default.
    pub fn image_names(&self) -> Vec<String> {
        self.world().images.keys().cloned().collect()
    }
}

impl World {
    fn is_in_use(&self, image: &str) -> bool {
        let alive = |machine: &SimMachine| machine.state() != MachineState::Terminated;
        self.fleet.all().iter().any(|machine| alive(machine) && machine.image.as_deref() == Some(image))
    }
}

#[async_trait]
impl Images for Sim {
    fn place_of(&self, source: &ImageSource) -> Option<String> {
        match source {
            ImageSource::Folder { host, .. } => {
                host.as_ref().is_none_or(|host| host == self.place()).then(|| self.place().to_owned())
            }
            ImageSource::Ami { region, .. } => (region == "sim-1").then(|| self.place().to_owned()),
        }
    }

    async fn find_image(&self, _place: &str, image: &str) -> Result<Option<ProviderImage>, ProviderError> {
        self.through(&ops::FIND_IMAGE, |world| {
            let found = world.images.get(image).cloned();
            world.call(&ops::FIND_IMAGE, 1, || image.to_owned(), |_| Ok(found)).map(|found| {
                found.map(|image| ProviderImage {
                    architecture: Some(image.architecture),
                    unusable: image.unusable,
                    snapshots: Vec::new(),
                    warnings: if image.ours { Vec::new() } else { vec!["It is not ours.".to_owned()] },
                })
            })
        })
        .await
    }

    async fn delete_image(&self, image: &str, _snapshots: &[String]) -> Result<(), ProviderError> {
        self.through(&ops::DELETE_IMAGE, |world| {
            world.call(
                &ops::DELETE_IMAGE,
                1,
                || image.to_owned(),
                |world| match world.images.get(image) {
                    Some(it) if !it.ours => Err(broken("UnauthorizedOperation", "it does not carry our tag")),
                    // A host's own rule: a machine's disk lies on that of its image.
                    Some(_) if world.is_in_use(image) => Err(broken("InvalidAMI.InUse", "a machine is made of it")),
                    Some(_) => {
                        world.images.remove(image);
                        Ok(())
                    }
                    None => Ok(()),
                },
            )
        })
        .await
    }
}

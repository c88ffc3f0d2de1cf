//! Which image a launch takes, whether a free VM is still made of what a launch would take, and whether a candidate may be promoted.
//!
//! Not here: which images are collected (`gc_images`).

use crate::domain::ec2::Architecture;
use crate::domain::ids::{ImageId, LaunchId};
use crate::domain::image::{ImageFigures, ImageKind};
use crate::domain::lifecycle::ImageState;
use std::collections::BTreeSet;

/// An image that is registered at a place, and not deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id.
    pub id: ImageId,
    /// What launches name.
    pub provider_id: String,
    /// Of its machines.
    pub architecture: Architecture,
    /// What it is for.
    pub kind: ImageKind,
    /// Where it is.
    pub state: ImageState,
    /// Percent of the launches that it fits.
    pub share: u32,
    /// The provider does not have it any more.
    pub missing: bool,
}

impl Registered {
    /// A launch may take it, now or when it gets a share.
    pub fn is_offered(&self) -> bool {
        matches!(self.state, ImageState::Candidate | ImageState::Promoted)
    }
}

/// What there is to choose from for a class at a place.
#[derive(Clone, Debug, Default)]
pub struct Offer<'a> {
    /// What the class names.
    pub of_class: Option<String>,
    /// What the settings name for classes that name none.
    pub of_settings: Option<String>,
    /// What the provider takes by itself; none: it is found at the launch.
    pub default: Option<String>,
    /// What VMs of the class are made of.
    pub kind: ImageKind,
    /// Of its machines.
    pub architecture: Architecture,
    /// All that is registered at the place, oldest first.
    pub registered: &'a [Registered],
}

impl Offer<'_> {
    /// The image of this launch; none: what the provider takes by itself. The same launch is answered the same as long as the offer is.
    ///
    /// The order: what the class names, what the settings name, a candidate by its share, the promoted one, the provider's default. A
    /// class with GPUs takes what the settings name for all classes last: it is hardly made for them.
    ///
    /// # Errors
    /// One sentence for an operator: no image may be taken.
    pub fn choose(&self, launch: LaunchId) -> Result<Option<String>, String> {
        self.take(drawn(launch))
    }

    /// What launches take that no candidate gets; see [`Offer::choose`].
    ///
    /// # Errors
    /// As there.
    pub fn usual(&self) -> Result<Option<String>, String> {
        self.take(100)
    }

    fn take(&self, drawn: u32) -> Result<Option<String>, String> {
        let gpus = self.kind == ImageKind::Gpu;
        let named = self.of_class.as_ref().or(self.of_settings.as_ref().filter(|_| !gpus));
        if let Some(named) = named {
            return self.good(named, "which the settings name");
        }
        let mut below = 0;
        for candidate in self.fitting(ImageState::Candidate) {
            below += candidate.share;
            if drawn < below {
                return Ok(Some(candidate.provider_id.clone()));
            }
        }
        if let Some(promoted) = self.fitting(ImageState::Promoted).next() {
            return Ok(Some(promoted.provider_id.clone()));
        }
        match (&self.of_settings, &self.default) {
            (Some(named), _) if gpus => self.good(named, "which the settings name"),
            (None, _) if gpus => {
                Err("A class with GPUs needs an image of the kind gpu: register one and promote it (`vm-service image`), \
                                      or name one in the class (ec2.images)."
                    .to_owned())
            }
            (_, Some(default)) => self.good(default, "which new VMs are made of"),
            (_, None) => Ok(None),
        }
    }

    /// A retired image is never taken, whoever names it.
    fn good(&self, name: &str, who: &str) -> Result<Option<String>, String> {
        let known = self.registered.iter().find(|image| image.provider_id == name);
        match known {
            Some(image) if image.missing => Err(format!("The image {name}, {who}, is gone: name another, or promote one.")),
            Some(image) if matches!(image.state, ImageState::Retired | ImageState::Deleting) => {
                Err(format!("The image {name}, {who}, is retired: name another, or promote one."))
            }
            _ => Ok(Some(name.to_owned())),
        }
    }

    fn fitting(&self, state: ImageState) -> impl Iterator<Item = &Registered> {
        let fits = move |image: &&Registered| {
            image.state == state && !image.missing && (image.kind, image.architecture) == (self.kind, self.architecture)
        };
        self.registered.iter().filter(fits)
    }

    /// Some launches take another image than others.
    pub fn is_shared(&self) -> bool {
        let all: BTreeSet<_> = (0..100).map(|drawn| self.take(drawn)).collect();
        all.len() > 1
    }

    /// What a free VM may be made of.
    pub fn fit(&self) -> Fit {
        let mut fit = Fit { registered: self.registered.iter().map(|image| image.provider_id.clone()).collect(), ..Fit::default() };
        for drawn in 0..100 {
            match self.take(drawn) {
                Ok(Some(name)) => drop(fit.images.insert(name)),
                // Nothing better can be launched.
                Err(_) => fit.anything = true,
                Ok(None) => fit.default = true,
            }
        }
        fit
    }
}

/// 0 to 99, evenly over any ids: also over those that follow one another (the multiplier is that of Fibonacci hashing).
fn drawn(launch: LaunchId) -> u32 {
    let (high, low) = launch.0.as_u64_pair();
    let mixed = (high ^ low).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u32::try_from((u128::from(mixed) * 100) >> 64).unwrap_or(0)
}

/// What a free VM may be made of, so that no launch is needed to replace it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    images: BTreeSet<String>,
    registered: BTreeSet<String>,
    /// The provider's own, whose name is not known: any that is not registered.
    default: bool,
    anything: bool,
}

impl Fit {
    /// Made of something that a launch would not take; of an unknown image that cannot be said.
    pub fn is_outdated(&self, image: Option<&str>) -> bool {
        let Some(image) = image else { return false };
        !self.anything && !self.images.contains(image) && (!self.default || self.registered.contains(image))
    }
}

/// Boots that are enough to compare times.
const ENOUGH: u32 = 3;

/// Whether a candidate may take the place of the promoted image.
///
/// # Errors
/// One sentence: nothing was measured, or clearly worse.
pub fn may_promote(candidate: &ImageFigures, promoted: Option<&ImageFigures>) -> Result<(), String> {
    if candidate.ready == 0 {
        let tried = match candidate.failed {
            0 => "none was tried".to_owned(),
            failed => format!("{failed} failed"),
        };
        return Err(format!("No VM of it has become ready yet ({tried}): give it a share of the launches first."));
    }
    let Some(promoted) = promoted else { return Ok(()) };
    let (failed, others) =
        (percent(candidate.failed, candidate.failed + candidate.ready), percent(promoted.failed, promoted.failed + promoted.ready));
    if candidate.failed >= 2 && failed > others + 10 {
        return Err(format!("Clearly worse: {failed} % of its boots failed, of the promoted image's {others} %."));
    }
    if let (Some(own), Some(other)) = (candidate.median_ms, promoted.median_ms)
        && candidate.ready >= ENOUGH
        && promoted.ready >= ENOUGH
        && own > other + other / 2
        && own > other + 5_000
    {
        return Err(format!(
            "Clearly worse: half of its VMs took over {} s to be ready, of the promoted image's {} s.",
            own / 1000,
            other / 1000
        ));
    }
    let (failed, others) = (percent(candidate.tasks_failed, candidate.tasks), percent(promoted.tasks_failed, promoted.tasks));
    if candidate.tasks_failed >= 2 && failed > others + 5 {
        return Err(format!(
            "Clearly worse: {failed} % of its tasks ended for reasons of the infrastructure, of the promoted image's {others} %."
        ));
    }
    Ok(())
}

fn percent(part: u32, whole: u32) -> u32 {
    (part * 100).checked_div(whole).unwrap_or(0)
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;

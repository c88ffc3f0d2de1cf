//! Images beside the one that new machines are made of by default: `DIR/HASH` next to `DIR/current`, each named by the hash in its manifest.
//!
//! Reads: the image folder; each machine's plan, which names the image that it runs from (a disk that a guest wrote is never opened).
//! Writes: an image that is deleted is first moved aside, so that none is ever there by half. Not here: what is in one (`image`).

use super::folder::Folders;
use super::image::Image;
use super::{OnHost, blocking, keeper};
use crate::domain::ec2::Architecture;
use crate::domain::image::ImageSource;
use crate::provider::images::{Images, ProviderImage};
use crate::provider::{Provider as _, ProviderError};
use anyhow::Context as _;
use async_trait::async_trait;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

impl OnHost {
    /// The image of this name, or the one of new machines.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub(super) fn open_image(&self, name: Option<&str>) -> Result<Image, String> {
        let current = Image::open(&self.config.images);
        let Some(name) = name else { return current };
        if let Ok(image) = current
            && image.manifest.hash == name
        {
            return Ok(image);
        }
        let folder = self.image_folder(name).ok_or_else(|| format!("\"{name}\" is no name of an image folder"))?;
        let image = Image::open(&folder)?;
        if image.manifest.hash == name {
            return Ok(image);
        }
        Err(format!("The image in {} calls itself {}: give the folder that name.", folder.display(), image.manifest.hash))
    }

    /// Beside `current`; a name leads nowhere else.
    fn image_folder(&self, name: &str) -> Option<PathBuf> {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let beside = self.config.images.parent()?;
        (plain && !name.is_empty() && !name.starts_with('.')).then(|| beside.join(name))
    }
}

#[async_trait]
impl Images for OnHost {
    fn place_of(&self, source: &ImageSource) -> Option<String> {
        match source {
            ImageSource::Folder { host, .. } if host.as_ref().is_none_or(|host| host == self.place()) => {
                Some(self.place().to_owned())
            }
            _ => None,
        }
    }

    async fn find_image(&self, _place: &str, image: &str) -> Result<Option<ProviderImage>, ProviderError> {
        let is_there = self.image_folder(image).is_some_and(|folder| folder.exists());
        let opened = self.open_image(Some(image));
        if opened.is_err() && !is_there {
            return Ok(None);
        }
        Ok(Some(ProviderImage {
            architecture: opened
                .as_ref()
                .ok()
                .and_then(|image| image.manifest.architecture.as_deref()?.parse::<Architecture>().ok()),
            unusable: opened.err().map(|why| why.trim_end_matches('.').to_owned()),
            snapshots: Vec::new(),
            warnings: Vec::new(),
        }))
    }

    async fn delete_image(&self, image: &str, _snapshots: &[String]) -> Result<(), ProviderError> {
        let Some(folder) = self.image_folder(image) else { return Ok(()) };
        let (current, folders) = (self.config.images.clone(), self.folders.clone());
        let done = blocking(move || remove(&folder, &current, &folders)).await;
        done.map_err(|error| ProviderError::transient("removing an image", error))?.map_err(ProviderError::Invalid)
    }
}

/// Removes an image that nothing needs; the inner error says why it is kept.
fn remove(folder: &Path, current: &Path, folders: &Folders) -> anyhow::Result<Result<(), String>> {
    let aside = folder.with_file_name(format!(".trash-{}", folder.file_name().unwrap_or_default().to_string_lossy()));
    if let Ok(real) = folder.canonicalize() {
        if current.canonicalize().is_ok_and(|it| it == real) {
            return Ok(Err(format!("{} leads to it", current.display())));
        }
        if std::fs::symlink_metadata(folder)?.is_symlink() {
            return Ok(Err(format!("{} is a link", folder.display())));
        }
        if let Some(machine) = user(&real, folders)? {
            return Ok(Err(format!("machine {machine} runs from it")));
        }
        match std::fs::rename(folder, &aside) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Err(format!("it may not be removed: {error}"))),
            renamed => renamed.with_context(|| folder.display().to_string())?,
        }
        // A machine may have been started from it since.
        if let Some(machine) = user(&real, folders)? {
            std::fs::rename(&aside, folder)?;
            return Ok(Err(format!("machine {machine} runs from it")));
        }
    }
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Ok(())),
        removed => Ok(Ok(removed.with_context(|| aside.display().to_string())?)),
    }
}

/// A machine whose plan names a file of this image.
fn user(image: &Path, folders: &Folders) -> anyhow::Result<Option<String>> {
    let inside = format!("{}/", image.display());
    for machine in folders.names()? {
        let plan = match std::fs::read(folders.machine(&machine).join(keeper::PLAN)) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            plan => plan.with_context(|| machine.clone())?,
        };
        if String::from_utf8_lossy(&plan).contains(&inside) {
            return Ok(Some(machine));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;

//! `vm-service iam-policy`: prints the least that AWS must allow this installation, ready to be attached to its role or user.

use crate::domain::ids::InstallationId;
use crate::domain::settings::Settings;
use crate::provider::ec2::policy::{self, Features, ROLE};
use anyhow::Context as _;
use clap::ValueEnum;
use std::io::Write;

/// What can be asked for beside what the settings switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum More {
    /// Stopped machines that are started for jobs.
    Reserve,
    /// Cache volumes that are filled from outside.
    Seed,
    /// Retired images that are deleted when nothing needs them.
    Images,
}

/// What the policy is to allow.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Everything, whatever the settings say.
    pub all: bool,
    /// Beside what the settings switch on.
    pub more: Vec<More>,
    /// Another region than that of the settings.
    pub region: Option<String>,
}

/// Prints the policy, and on `notes` what must still be done with it.
///
/// # Errors
/// The region is not known, or an output is closed.
pub fn print(
    settings: &Settings,
    installation: InstallationId,
    wanted: &Wanted,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let region = wanted.region.as_ref().or(settings.ec2.region.as_ref());
    let region = region.context("ec2.region is not set: set it in the settings, or give --region")?;
    let features = features(settings, wanted);
    serde_json::to_writer_pretty(&mut *out, &policy::policy(&features, installation, region))?;
    writeln!(out)?;
    if features.instance_profile {
        let profile = settings.ec2.instance_profile.as_deref().unwrap_or("of the settings");
        writeln!(
            notes,
            "# Put the ARN of the role in the instance profile {profile} in the place of the one that ends with {ROLE} \
             (aws iam get-instance-profile shows it)."
        )?;
    }
    if features.spot {
        writeln!(
            notes,
            "# Spot needs a role of AWS's own, made once in an account by an administrator: \
             aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
        )?;
    }
    Ok(())
}

fn features(settings: &Settings, wanted: &Wanted) -> Features {
    if wanted.all {
        return Features::ALL;
    }
    let asked = |more| wanted.more.contains(&more);
    let set = Features::of(settings);
    Features { reserve: set.reserve || asked(More::Reserve), seed: asked(More::Seed), images: asked(More::Images), ..set }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn printed(settings: &Settings, wanted: &Wanted) -> anyhow::Result<(String, String)> {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        print(settings, InstallationId(Uuid::nil()), wanted, &mut out, &mut notes)?;
        Ok((String::from_utf8(out)?, String::from_utf8(notes)?))
    }

    #[test]
    fn what_is_not_asked_for_is_not_in_it() {
        let mut settings = Settings::default();
        settings.ec2.region = Some("eu-west-1".to_owned());
        let (plain, notes) = printed(&settings, &Wanted::default()).unwrap();
        assert!(
            plain.contains("AttachVolume\"") && !plain.contains("StopInstances") && !plain.contains("ebs:"),
            "any task may ask for a cache: {plain}"
        );
        assert_eq!(notes, "");
        let (more, _) = printed(&settings, &Wanted { more: vec![More::Reserve], ..Wanted::default() }).unwrap();
        assert!(more.contains("StopInstances") && !more.contains("ebs:"), "{more}");
        settings.resource_classes.get_mut("medium").unwrap().reserve.machine = 1;
        assert!(printed(&settings, &Wanted::default()).unwrap().0.contains("StopInstances"), "the settings switch it on");
        let (all, notes) = printed(&settings, &Wanted { all: true, ..Wanted::default() }).unwrap();
        assert!(all.contains("ebs:StartSnapshot") && all.contains(ROLE) && notes.contains(ROLE), "{all}");
        assert!(serde_json::from_str::<serde_json::Value>(&all).is_ok());
    }

    #[test]
    fn the_region_comes_from_the_settings_or_the_command() {
        let settings = Settings::default();
        assert!(printed(&settings, &Wanted::default()).unwrap_err().to_string().contains("--region"));
        let wanted = Wanted { region: Some("eu-west-3".to_owned()), ..Wanted::default() };
        assert!(printed(&settings, &wanted).unwrap().0.contains("eu-west-3"));
    }
}

//! Providers that the settings bring about: a region joins when the settings name it, and at the start each region that still has
//! machines or launches in care, with the newest settings that were made for it.

use super::service::Parts;
use crate::domain::ids::InstallationId;
use crate::domain::outbound::Outbound;
use crate::domain::settings::Settings;
use crate::loops::settings::Open;
use crate::provider::Provider;
use std::sync::Arc;

/// For this installation.
pub(super) fn opener(installation: InstallationId, outbound: Outbound) -> Open {
    Arc::new(move |settings| open(installation, &outbound, settings))
}

#[cfg(feature = "ec2")]
fn open(installation: InstallationId, outbound: &Outbound, settings: &Settings) -> Option<Arc<dyn Provider>> {
    use crate::domain::settings::ProviderChoice;
    use crate::provider::ec2::Ec2;

    let region = settings.ec2.region.as_ref().filter(|_| settings.provider == ProviderChoice::Ec2)?;
    Some(Arc::new(Ec2::new(installation, region, outbound.clone())))
}

/// This build has no cloud.
#[cfg(not(feature = "ec2"))]
fn open(_: InstallationId, _: &Outbound, _: &Settings) -> Option<Arc<dyn Provider>> {
    None
}

/// Opens the regions in care.
pub(super) async fn open_those_in_care(parts: &Parts) -> anyhow::Result<()> {
    let open = opener(parts.installation, parts.outbound.clone());
    for region in parts.db.list_places_in_care("ec2").await? {
        let Some(settings) = parts.db.find_settings_of_region(&region).await? else {
            tracing::error!(region, "machines are in care there, and no settings say how to reach them");
            continue;
        };
        let Some(provider) = open(&settings) else {
            tracing::error!(region, "machines are in care there, and this build has no EC2 provider: use one with the feature ec2");
            continue;
        };
        provider.configure(&settings, crate::loops::settings::access_secret(&parts.sealer, &settings).as_ref());
        parts.providers.add(provider);
    }
    Ok(())
}

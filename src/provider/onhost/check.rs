//! Says whether this host can make VMs, and what to change; makes none that outlasts the call.
//!
//! Calls: `qemu-system-x86_64 --version`, `qemu-img --version`, `passt --version`; the KVM probe when its answer is not known yet.

use super::address::Doors;
use super::image::Image;
use super::process::run;
use super::{OnHost, host, kvm, launch, passt, qemu};
use crate::domain::plan::images::{Offer, Registered};
use crate::domain::settings::VmNetwork;
use crate::provider::Finding;
use std::time::{Duration, Instant};

/// `-netdev stream`, which leads to passt, came with it.
const OLDEST_QEMU: (u32, u32) = (7, 2);
/// Room for what a few VMs write.
const LEAST_BYTES: u64 = 10 << 30;
const DEADLINE: Duration = Duration::from_secs(5);
/// Software emulation takes about 3 s on a quiet host, and many times that beside VMs at work.
const PROBE_WITHIN: Duration = Duration::from_secs(40);
const GET_QEMU: &str = "install QEMU 7.2 or newer: apt-get install qemu-system-x86 qemu-utils";

/// `network`: what the VMs are to reach; `doors`: where they are to answer.
pub(super) async fn check(
    on_host: &OnHost,
    network: VmNetwork,
    doors: anyhow::Result<Doors>,
    registered: &[Registered],
) -> Vec<Finding> {
    let (emulator, images) = tokio::join!(program(qemu::PROGRAM), program("qemu-img"));
    let image = image(on_host, registered);
    let processors = processors(on_host, image.as_ref().ok()).await;
    let image = match image {
        Ok(image) => Finding::new(true, "VM image", format!("{} ({})", image.disk.display(), image.manifest.hash)),
        Err(detail) => Finding::new(false, "VM image", detail),
    };
    vec![emulator, images, image, reach(network).await, folder(on_host), ports(doors), processors]
}

async fn program(name: &str) -> Finding {
    match run(name, &["--version"], DEADLINE).await {
        Err(error) => Finding::new(false, name, format!("{error:#}; {GET_QEMU}")),
        Ok(text) => {
            let line = text.lines().next().unwrap_or_default().to_owned();
            match version(&line) {
                Some(found) if found >= OLDEST_QEMU => Finding::new(true, name, line),
                _ => Finding::new(false, name, format!("{line}: too old or unknown; {GET_QEMU}")),
            }
        }
    }
}

/// The first `X.Y` behind the word "version".
fn version(line: &str) -> Option<(u32, u32)> {
    let mut parts = line.split_once("version ")?.1.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The one that launches take: on one host it is the same for every class.
fn image(on_host: &OnHost, registered: &[Registered]) -> Result<Image, String> {
    let default = on_host.open_image(None).ok().map(|image| image.manifest.hash);
    let architecture = std::env::consts::ARCH.parse().unwrap_or_default();
    let offer = Offer { default, architecture, registered, ..Offer::default() };
    on_host.open_image(offer.usual()?.as_deref())
}

async fn reach(network: VmNetwork) -> Finding {
    const WHAT: &str = "network of the VMs";
    match network {
        VmNetwork::Closed => Finding::new(true, WHAT, "closed: only the forwarded ports"),
        VmNetwork::Open if !host::has_program(passt::PROGRAM) => Finding::new(false, WHAT, launch::NO_PASST),
        VmNetwork::Open => match run(passt::PROGRAM, &["--version"], DEADLINE).await {
            Ok(text) => Finding::new(
                true,
                WHAT,
                format!("open, by {}; name servers: {:?}", text.lines().next().unwrap_or_default(), passt::Dns::of_host()),
            ),
            Err(error) => Finding::new(false, WHAT, format!("{error:#}; {}", launch::NO_PASST)),
        },
    }
}

fn folder(on_host: &OnHost) -> Finding {
    const WHAT: &str = "data folder";
    let data = &on_host.config.data;
    let tried = super::folder::write_whole(&data.join("check"), b"").and_then(|()| Ok(host::free_bytes(data)?));
    match tried {
        Ok(free) if free >= LEAST_BYTES => Finding::new(true, WHAT, format!("{}: {} GiB free", data.display(), free >> 30)),
        Ok(free) => {
            Finding::new(false, WHAT, format!("{}: only {} MiB free; VMs need 10 GiB and more", data.display(), free >> 20))
        }
        Err(error) => Finding::new(false, WHAT, format!("{} cannot be written: {error:#}", data.display())),
    }
}

fn ports(doors: anyhow::Result<Doors>) -> Finding {
    const WHAT: &str = "addresses of the VMs";
    match doors {
        Ok(doors) => Finding::new(doors.ports.is_ok(), WHAT, doors.explain()),
        Err(error) => Finding::new(false, WHAT, format!("{error:#}")),
    }
}

async fn processors(on_host: &OnHost, image: Option<&Image>) -> Finding {
    const WHAT: &str = "processors of the VMs";
    match image {
        None => Finding::new(true, WHAT, "not known before there is an image"),
        Some(image) => match on_host.accelerator(image, super::PROBE_PATIENCE).await {
            Ok(choice) => Finding::new(true, WHAT, format!("{:?}: {}", choice.accelerator, choice.reason)),
            Err(error) => Finding::new(true, WHAT, error.to_string()),
        },
    }
}

/// Boots a VM without a disk up to its first program, whatever earlier probes have said.
pub(super) async fn probe_boot(on_host: &OnHost, registered: &[Registered]) -> Finding {
    const WHAT: &str = "probe boot";
    let image = match image(on_host, registered) {
        Ok(image) => image,
        Err(detail) => return Finding::new(false, WHAT, format!("not tried: {detail}")),
    };
    let accelerator = match on_host.accelerator(&image, super::PROBE_PATIENCE).await {
        Ok(choice) => choice.accelerator,
        Err(error) => return Finding::new(false, WHAT, format!("not tried: {error}")),
    };
    let began = Instant::now();
    match kvm::probe(accelerator, &image, PROBE_WITHIN).await {
        Ok(()) => {
            let seconds = began.elapsed().as_secs_f64();
            Finding::new(true, WHAT, format!("a VM without a disk booted in {seconds:.1} s ({accelerator:?})"))
        }
        Err(error) => Finding::new(false, WHAT, format!("a VM without a disk did not boot ({accelerator:?}): {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_qemu_writes_them() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"), Some((7, 2)));
        assert_eq!(version("qemu-img version 10.0.2"), Some((10, 0)));
        assert_eq!(version("something else"), None);
    }
}

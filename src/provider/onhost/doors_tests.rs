//! The machines' addresses follow the settings, and a network that is not this host's is told before it is saved.

use super::address::{Pool, Ports};
use super::{OnHost, OnHostConfig};
use crate::domain::ids::InstallationId;
use crate::domain::settings::Settings;
use crate::provider::{Finding, Provider as _};
use std::path::Path;
use uuid::Uuid;

async fn open(data: &Path) -> OnHost {
    let (ours, images) = (InstallationId(Uuid::from_u128(1)), data.join("no-images"));
    OnHost::open(OnHostConfig::new(data.to_owned(), ours, images, "test-host".to_owned(), Vec::new())).await.unwrap()
}

fn settings(addresses: &str) -> Settings {
    let mut settings = Settings::default();
    settings.on_host.addresses = addresses.to_owned();
    settings
}

fn addresses(findings: Vec<Finding>) -> Finding {
    findings.into_iter().find(|finding| finding.what == "addresses of the VMs").unwrap()
}

#[tokio::test]
async fn new_machines_have_addresses_of_the_settings_network() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path()).await;
    let usual = Pool { first: [127, 64, 0, 1].into(), count: 0x3f_fffe };
    assert_eq!(on_host.doors().unwrap().pool, usual, "before the settings are heard of");
    on_host.configure(&settings("127.200.3.0/24"), None);
    let doors = on_host.doors().unwrap();
    assert!(doors.pool == Pool { first: [127, 200, 3, 1].into(), count: 254 } && doors.ports.is_ok(), "{doors:?}");
    let said = addresses(on_host.check(&[]).await);
    assert!(said.ok && said.detail.contains("254 addresses from 127.200.3.1"), "{said:?}");
}

/// TEST-NET-3 (RFC 5737): nobody's.
#[tokio::test]
async fn a_network_that_is_not_this_hosts_is_told_and_used_as_soon_as_it_is() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path()).await;
    let wrong = addresses(on_host.preflight(&settings("203.0.113.0/24"), &[]).await);
    assert!(!wrong.ok && wrong.detail.contains("203.0.113.1: is it an address of this host?"), "{wrong:?}");
    assert!(addresses(on_host.check(&[]).await).ok, "a check changes nothing");
    on_host.configure(&settings("203.0.113.0/24"), None);
    assert!(on_host.doors().unwrap().ports.is_err());
    // It is looked at again each time: here as if the host had been given the addresses.
    on_host.doors.write().unwrap().pool = Pool { first: [127, 200, 4, 1].into(), count: 6 };
    assert!(matches!(on_host.doors().unwrap().ports, Ok(Ports { .. })));
}

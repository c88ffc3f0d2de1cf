//! What moto really has, read past the proxy.

use super::xml::{find, items, parse, text};
use roxmltree::Node;
use std::collections::BTreeMap;

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) id: String,
    /// `running`, `stopped`, `terminated` …; moto's machines run at once, whatever the proxy shows.
    pub(crate) state: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) subnet: String,
    pub(crate) zone: String,
    pub(crate) instance_type: String,
    /// The launch token.
    pub(crate) token: String,
    pub(crate) spot: bool,
    pub(crate) address: String,
    /// Volumes by device name.
    pub(crate) devices: BTreeMap<String, String>,
}

impl Truth {
    /// It is a machine that costs something.
    pub(crate) fn lives(&self) -> bool {
        self.state != "terminated"
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeTruth {
    pub(crate) id: String,
    /// `available` or `in-use`.
    pub(crate) state: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) zone: String,
    pub(crate) snapshot: String,
    pub(crate) encrypted: bool,
    /// The instance that it is attached to, and the device name.
    pub(crate) attached: Option<(String, String)>,
}

/// The tags of an entry of a list.
fn tags(item: Node<'_, '_>) -> BTreeMap<String, String> {
    let pair = |tag: Node<'_, '_>| (text(tag, &["key"]).to_owned(), text(tag, &["value"]).to_owned());
    items(item, &["tagSet"]).into_iter().map(pair).collect()
}

/// The instances of an answer of `DescribeInstances`, and the token of its next page.
pub(super) fn instances(source: &str) -> (Vec<Truth>, Option<String>) {
    let document = parse(source);
    let root = document.root_element();
    let reservations = items(root, &["reservationSet"]);
    let all = reservations.into_iter().flat_map(|reservation| items(reservation, &["instancesSet"]));
    (all.map(instance).collect(), next(root))
}

fn next(root: Node<'_, '_>) -> Option<String> {
    Some(text(root, &["nextToken"])).filter(|token| !token.is_empty()).map(str::to_owned)
}

/// One instance.
pub(super) fn instance(item: Node<'_, '_>) -> Truth {
    let get = |path: &[&str]| text(item, path).to_owned();
    let device = |d: Node<'_, '_>| (text(d, &["deviceName"]).to_owned(), text(d, &["ebs", "volumeId"]).to_owned());
    Truth {
        id: get(&["instanceId"]),
        state: get(&["instanceState", "name"]),
        tags: tags(item),
        subnet: get(&["subnetId"]),
        zone: get(&["placement", "availabilityZone"]),
        instance_type: get(&["instanceType"]),
        token: get(&["clientToken"]),
        spot: text(item, &["instanceLifecycle"]) == "spot",
        address: get(&["privateIpAddress"]),
        devices: items(item, &["blockDeviceMapping"]).into_iter().map(device).collect(),
    }
}

/// The volumes of an answer of `DescribeVolumes`.
pub(super) fn volumes(source: &str) -> Vec<VolumeTruth> {
    let document = parse(source);
    let volume = |item: Node<'_, '_>| {
        let get = |path: &[&str]| text(item, path).to_owned();
        let attachment = find(item, &["attachmentSet", "item"]);
        VolumeTruth {
            id: get(&["volumeId"]),
            state: get(&["status"]),
            tags: tags(item),
            zone: get(&["availabilityZone"]),
            snapshot: get(&["snapshotId"]),
            encrypted: text(item, &["encrypted"]) == "true",
            attached: attachment.map(|a| (text(a, &["instanceId"]).to_owned(), text(a, &["device"]).to_owned())),
        }
    };
    items(document.root_element(), &["volumeSet"]).into_iter().map(volume).collect()
}

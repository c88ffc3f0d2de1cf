//! What a task asks for by name: the size of a VM and the disk under it.

use super::ec2::Ec2Class;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One resource class, as operators set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceClass {
    /// Virtual CPUs, 1 to 128.
    #[garde(range(min = 1, max = 128))]
    pub vcpus: u32,
    /// Memory in MiB, 512 to 1048576.
    #[garde(range(min = 512, max = 1_048_576))]
    pub memory_mib: u32,
    /// Root disk in GiB, 10 to 16384 (never smaller than the image).
    #[garde(range(min = 10, max = 16_384))]
    pub disk_gib: u32,
    /// At most this many VMs of the class at a time; none: only the limit in all.
    #[garde(range(min = 1, max = 100_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// What its VMs are on Amazon EC2.
    #[garde(dive)]
    #[serde(default)]
    pub ec2: Ec2Class,
}

impl ResourceClass {
    /// Whether a VM of this class is as one of the other; limits do not make a VM.
    pub fn makes_the_same(&self, other: &Self) -> bool {
        let Self { vcpus, memory_mib, disk_gib, limit: _, ec2 } = other;
        (self.vcpus, self.memory_mib, self.disk_gib, &self.ec2) == (*vcpus, *memory_mib, *disk_gib, ec2)
    }
}

/// The classes of a fresh installation. `medium` is what a task gets that names none.
pub fn default_classes() -> BTreeMap<String, ResourceClass> {
    let class = |vcpus, memory_mib| ResourceClass { vcpus, memory_mib, disk_gib: 20, limit: None, ec2: Ec2Class::default() };
    BTreeMap::from([("medium".to_owned(), class(2, 4096)), ("large".to_owned(), class(4, 8192))])
}

/// The class of a task that names none.
pub const DEFAULT_CLASS: &str = "medium";

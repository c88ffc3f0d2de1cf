//! What a task asks for by name: the size of a VM and the disk under it.

use super::ec2::{Ec2Class, Market};
use super::task::Executor;
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
    /// GPUs of each of its VMs, 0 to 16; its image is then one of the kind `gpu`, and a VM is free only when they have been seen to work.
    #[garde(range(max = 16))]
    #[serde(default, skip_serializing_if = "is_none")]
    pub gpus: u32,
    /// What its VMs are on Amazon EC2.
    #[garde(dive)]
    #[serde(default)]
    pub ec2: Ec2Class,
    /// VMs of the class that are stopped, and started when none is free.
    #[garde(dive, custom(can_be_stopped(&self.ec2)))]
    #[serde(default)]
    pub reserve: Reserve,
    /// What one of its VMs costs an hour, in your currency, up to 4000; none: unknown, and in no sum.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub price_per_hour: Option<Price>,
}

/// Money, in millionths of any currency's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Price(u32);

impl Price {
    /// In millionths.
    pub const fn micros(self) -> u32 {
        self.0
    }
}

impl TryFrom<f64> for Price {
    type Error = &'static str;

    fn try_from(units: f64) -> Result<Self, Self::Error> {
        let out_of_range = "is not a price from 0 to 4000, such as 0.096";
        if !(0.0..=4000.0).contains(&units) {
            return Err(out_of_range);
        }
        format!("{:.0}", units * 1e6).parse().map(Self).map_err(|_| out_of_range)
    }
}

impl From<Price> for f64 {
    fn from(price: Price) -> Self {
        Self::from(price.0) / 1e6
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_none(gpus: &u32) -> bool {
    *gpus == 0
}

/// VMs that are ready but for a start: they cost their disks only. Kept where the provider can stop machines, which is on Amazon EC2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reserve {
    /// For machine jobs.
    #[garde(range(max = 1_000))]
    pub machine: u32,
    /// For remote Docker.
    #[garde(range(max = 1_000))]
    pub remote_docker: u32,
    /// They keep their memory on their disk and go on where they stood. Image, instance type and disk must be fit for it:
    /// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hibernating-prerequisites.html>.
    #[garde(skip)]
    pub hibernate: bool,
}

impl Reserve {
    /// How many for this executor.
    pub const fn size(&self, executor: Executor) -> u32 {
        match executor {
            Executor::Machine => self.machine,
            Executor::RemoteDocker => self.remote_docker,
        }
    }
}

/// A stopped spot machine keeps a request that may bring it back by itself.
fn can_be_stopped(ec2: &Ec2Class) -> impl FnOnce(&Reserve, &()) -> garde::Result {
    let on_demand = ec2.market == Market::OnDemand;
    move |reserve, ()| match reserve.machine + reserve.remote_docker {
        0 => Ok(()),
        _ if on_demand => Ok(()),
        _ => Err(garde::Error::new("needs the market \"on_demand\": spot VMs are never stopped")),
    }
}

impl ResourceClass {
    /// Whether a VM of this class is as one of the other; numbers of VMs and prices do not make a VM.
    pub fn makes_the_same(&self, other: &Self) -> bool {
        let Self { vcpus, memory_mib, disk_gib, limit: _, gpus, ec2, reserve, price_per_hour: _ } = other;
        let of = (*vcpus, *memory_mib, *disk_gib, *gpus, ec2, reserve.hibernate);
        (self.vcpus, self.memory_mib, self.disk_gib, self.gpus, &self.ec2, self.reserve.hibernate) == of
    }
}

/// The classes of a fresh installation. `medium` is what a task gets that names none.
pub fn default_classes() -> BTreeMap<String, ResourceClass> {
    let class = |vcpus, memory_mib| ResourceClass {
        vcpus,
        memory_mib,
        disk_gib: 20,
        limit: None,
        gpus: 0,
        ec2: Ec2Class::default(),
        reserve: Reserve::default(),
        price_per_hour: None,
    };
    BTreeMap::from([("medium".to_owned(), class(2, 4096)), ("large".to_owned(), class(4, 8192))])
}

/// The class of a task that names none.
pub const DEFAULT_CLASS: &str = "medium";

#[cfg(test)]
mod tests {
    use super::*;
    use garde::Validate as _;

    #[test]
    fn spot_vms_are_never_in_a_reserve() {
        let mut class = default_classes()["medium"].clone();
        class.ec2.market = Market::SpotThenOnDemand;
        class.validate().unwrap();
        class.reserve.remote_docker = 1;
        assert!(class.validate().unwrap_err().to_string().contains("reserve: needs the market \"on_demand\""));
        class.ec2.market = Market::OnDemand;
        class.validate().unwrap();
    }
}

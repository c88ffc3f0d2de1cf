//! What an operator says about Amazon EC2: in the settings as a whole, and for one resource class.
//!
//! The secret half of an access key is plain only on its way in: `http` seals it, and what is kept and shown is sealed.
//!
//! Not here: what is made of it (`provider::ec2`).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Amazon EC2, as operators set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ec2Settings {
    /// Region, such as `eu-west-1`.
    #[garde(inner(custom(is_region)))]
    pub region: Option<String>,
    /// Subnets that VMs are launched into, the preferred ones first; each lies in one zone, and more zones have more capacity.
    #[garde(length(max = 16), inner(custom(is_id("subnet-"))))]
    pub subnets: Vec<String>,
    /// Security group of all VMs: lets the service in on the SSH port and 2376.
    #[garde(inner(custom(is_id("sg-"))))]
    pub security_group: Option<String>,
    /// Type of VMs whose class names none.
    #[garde(custom(is_instance_type))]
    pub instance_type: String,
    /// Own images by region, for classes that name none; without one: the default image of the region.
    #[garde(custom(are_images))]
    pub images: BTreeMap<String, String>,
    /// Where the SSH server of the images listens.
    #[garde(range(min = 1))]
    pub ssh_port: u16,
    /// VMs are reached at their public address.
    #[garde(skip)]
    pub public_ip: bool,
    /// Name of the instance profile that VMs get; none: jobs have no rights in AWS.
    #[garde(inner(length(min = 1, max = 128), custom(is_name)))]
    pub instance_profile: Option<String>,
    /// How the service signs in.
    #[garde(dive)]
    pub authentication: Authentication,
    /// Type of cache volumes.
    #[garde(skip)]
    pub volume_type: DiskType,
    /// Another address of the EC2 API than Amazon's, a URL.
    #[garde(inner(custom(is_endpoint)))]
    pub endpoint: Option<String>,
}

/// What a volume is on Amazon EBS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskType {
    /// General purpose, the same speed at every size.
    #[default]
    Gp3,
    /// General purpose, the larger the faster.
    Gp2,
    /// For throughput, on magnetic disks; 125 GiB at least.
    St1,
}

impl Default for Ec2Settings {
    fn default() -> Self {
        Self {
            region: None,
            subnets: Vec::new(),
            security_group: None,
            instance_type: "m5.large".to_owned(),
            images: BTreeMap::new(),
            ssh_port: 22,
            public_ip: false,
            instance_profile: None,
            authentication: Authentication::default(),
            volume_type: DiskType::default(),
            endpoint: None,
        }
    }
}

/// How the service signs in to AWS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Authentication {
    /// As the machine that it runs on: instance profile, task role, or the environment.
    #[default]
    InstanceProfile,
    /// With a key of its own.
    AccessKey(#[garde(dive)] AccessKey),
}

/// An access key. One of the last two fields is there: `secret` in what is sent to the service, `sealed` in what it keeps and shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// Its public half.
    #[garde(length(min = 16, max = 128), custom(is_name))]
    pub id: String,
    /// Its secret half; never kept, never shown.
    #[garde(inner(length(min = 1, max = 256)))]
    #[serde(default, skip_serializing)]
    pub secret: Option<String>,
    /// Its secret half, sealed by the service; sent back unchanged, the key stays as it is.
    #[garde(inner(length(min = 1, max = 1024)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What the VMs of one resource class are on EC2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ec2Class {
    /// Instance types, the preferred ones first: the next is taken where one has no capacity. None: the type of the settings.
    #[garde(length(max = 16), inner(custom(is_instance_type)))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instance_types: Vec<String>,
    /// Its own images by region; without one: the images of the settings.
    #[garde(custom(are_images))]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// How its VMs are paid for.
    #[garde(skip)]
    pub market: Market,
    /// Of its instance types: decides about the default image.
    #[garde(skip)]
    pub architecture: Architecture,
}

/// How VMs are paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Market {
    /// At the full price.
    #[default]
    OnDemand,
    /// Cheaper, and taken away at two minutes' notice; nothing else, also when there is no capacity.
    Spot,
    /// Spot, and on demand where there is no spot capacity.
    SpotThenOnDemand,
}

/// Of processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Intel and AMD, 64 bits.
    #[default]
    X86_64,
    /// ARM, 64 bits.
    Arm64,
}

impl Architecture {
    /// The word in the database, in answers, and in EC2's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

impl std::str::FromStr for Architecture {
    type Err = String;

    /// Debian's and Linux' own words are known too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "x86_64" | "amd64" => Ok(Self::X86_64),
            "arm64" | "aarch64" => Ok(Self::Arm64),
            other => Err(format!("\"{other}\" is not one of x86_64, arm64")),
        }
    }
}

fn refuse(sentence: &str) -> garde::Result {
    Err(garde::Error::new(sentence))
}

fn is_region(text: &str, _: &()) -> garde::Result {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if plain && (3..=32).contains(&text.len()) && text.contains('-') {
        Ok(())
    } else {
        refuse("is not a region such as \"eu-west-1\"")
    }
}

/// Ids are the prefix and 8 or 17 hexadecimal digits.
fn is_id(prefix: &'static str) -> impl FnOnce(&String, &()) -> garde::Result {
    move |text, ()| {
        let digits =
            text.strip_prefix(prefix).filter(|rest| rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        match digits.map(str::len) {
            Some(8 | 17) => Ok(()),
            _ => refuse(&format!("is not an id such as \"{prefix}0123456789abcdef0\": 8 or 17 hexadecimal digits")),
        }
    }
}

fn are_images(images: &BTreeMap<String, String>, context: &()) -> garde::Result {
    for (region, image) in images {
        is_region(region, context)?;
        is_id("ami-")(image, context)?;
    }
    Ok(())
}

fn is_instance_type(text: &str, _: &()) -> garde::Result {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b));
    if plain && text.len() <= 32 && text.contains('.') { Ok(()) } else { refuse("is not an instance type such as \"m5.large\"") }
}

fn is_name(text: &str, _: &()) -> garde::Result {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b));
    if plain { Ok(()) } else { refuse("has letters, digits and + = , . @ _ - only") }
}

fn is_endpoint(text: &str, _: &()) -> garde::Result {
    let has_host = ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    let plain = text.bytes().all(|b| b.is_ascii_graphic());
    if has_host && plain && text.len() <= 2048 { Ok(()) } else { refuse("is not a URL such as \"https://ec2.internal:8443\"") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use garde::Validate as _;

    #[test]
    fn what_is_no_id_is_refused_by_name() {
        let good = Ec2Settings {
            region: Some("eu-west-1".to_owned()),
            subnets: vec!["subnet-0123456789abcdef0".to_owned(), "subnet-01234567".to_owned()],
            security_group: Some("sg-0123456789abcdef0".to_owned()),
            ..Ec2Settings::default()
        };
        good.validate().unwrap();
        // The guide's tables of images have one id with a digit too many and one with too few.
        for id in ["ami-09cbcfce446101b4ea", "ami-0bd22dc30fa260b", "ami-0d1cbc2cc307551OA"] {
            let bad = Ec2Settings { images: BTreeMap::from([("eu-west-2".to_owned(), id.to_owned())]), ..good.clone() };
            assert!(bad.validate().unwrap_err().to_string().contains("images"), "{id}");
        }
        let bad = Ec2Settings { region: Some("Ireland".to_owned()), ..good };
        assert!(bad.validate().unwrap_err().to_string().contains("region"));
    }

    /// `ami/defaults.md` tells operators of them.
    #[test]
    fn two_of_the_guides_images_are_malformed() {
        let table = include_str!("../../ami/guide-images.csv");
        let rows: Vec<(&str, &str)> = table.lines().skip(1).map(|line| line.split_once(',').unwrap()).collect();
        let regions: BTreeMap<&str, &str> = rows.iter().copied().collect();
        assert_eq!((table.lines().next(), rows.len(), regions.len()), (Some("region,image"), 14, 14));
        assert!(regions.keys().all(|region| is_region(region, &()).is_ok()), "{regions:?}");
        let is_image = |id: &str| is_id("ami-")(&id.to_owned(), &()).is_ok();
        let malformed: Vec<&str> = regions.iter().filter(|(_, id)| !is_image(id)).map(|(region, _)| *region).collect();
        assert_eq!(malformed, ["eu-central-1", "eu-west-2"]);
    }

    #[test]
    fn the_secret_half_is_neither_kept_nor_shown() {
        let text = r#"{"access_key": {"id": "AKIAIOSFODNN7EXAMPLE", "secret": "hush"}}"#;
        let read: Authentication = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"access_key":{"id":"AKIAIOSFODNN7EXAMPLE"}}"#);
        assert!(!format!("{read:?}").contains("hush"));
    }
}

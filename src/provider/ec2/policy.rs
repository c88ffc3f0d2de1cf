//! The least that AWS must allow the service, in AWS's policy language: what it makes must carry the tag of this installation from the call
//! that makes it, and only what carries that tag may be changed or ended.
//!
//! Sources: <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html> (resources and condition keys of each
//! action), <https://docs.aws.amazon.com/ebs/latest/userguide/ebsapi-permissions.html> (EBS direct).
//!
//! Not here: what the settings say (`domain::ec2`); whether it is allowed (`check`).

use super::candidates;
use super::tags::INSTALLATION;
use crate::domain::ec2::Market;
use crate::domain::ids::InstallationId;
use crate::domain::settings::Settings;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Stands for the role behind the instance profile, until its ARN is put in.
pub const ROLE: &str = "ROLE-OF-THE-INSTANCE-PROFILE";

/// What the service does on EC2 beside launching, watching and terminating, which it always does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Spot machines.
    pub spot: bool,
    /// Classes leave AWS a choice of types.
    pub fleet: bool,
    /// Machines get an instance profile.
    pub instance_profile: bool,
    /// Cache volumes and their snapshots.
    pub volumes: bool,
    /// Stopped machines that are started for jobs.
    pub reserve: bool,
    /// Cache volumes that are filled from outside, over the EBS direct API.
    pub seed: bool,
    /// Retired images are deleted, with their snapshots.
    pub images: bool,
}

impl Features {
    /// Everything.
    pub const ALL: Self =
        Self { spot: true, fleet: true, instance_profile: true, volumes: true, reserve: true, seed: true, images: true };

    /// What these settings switch on.
    pub fn of(settings: &Settings) -> Self {
        let spot = settings.resource_classes.values().any(|class| class.ec2.market != Market::OnDemand);
        let reserve = settings.resource_classes.values().any(|class| class.reserve.machine + class.reserve.remote_docker > 0);
        let fleet = settings.resource_classes.values().any(|class| candidates::has_choice(&settings.ec2, &class.ec2));
        Self { spot, fleet, reserve, instance_profile: settings.ec2.instance_profile.is_some(), volumes: true, ..Self::default() }
    }
}

/// The policy of one installation in one region: a document of version 2012-10-17.
pub fn policy(features: &Features, installation: InstallationId, region: &str) -> Value {
    let place = Place { installation: installation.to_string(), region: region.to_owned(), partition: partition(region) };
    let mut statements = vec![place.look(features), place.launch(features), place.launch_from(features), place.tag(features)];
    statements.push(place.change_ours("Ours", &["TerminateInstances", "GetConsoleOutput"], &[place.own("instance")]));
    if features.fleet {
        statements.push(place.make("Templates", &ec2(&["CreateLaunchTemplate"]), &[place.own("launch-template")]));
        statements.push(place.change_ours("LaunchFromTemplates", launches(features), &[place.own("launch-template")]));
    }
    if features.instance_profile {
        statements.push(place.pass_role());
    }
    if features.reserve {
        statements.push(place.change_ours("Reserve", &["StartInstances", "StopInstances"], &[place.own("instance")]));
    }
    if features.volumes {
        statements.extend(place.volumes());
    }
    if features.seed {
        statements.extend(place.seed());
    }
    if features.images {
        let of_images = [place.public("image"), place.public("snapshot")];
        statements.push(place.change_ours("Images", &["DeregisterImage", "DeleteSnapshot"], &of_images));
    }
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// The actions that the policy allows, such as `ec2:RunInstances`.
pub fn actions(features: &Features) -> BTreeSet<String> {
    let policy = policy(features, InstallationId(Uuid::nil()), "eu-west-1");
    let statements = policy["Statement"].as_array().into_iter().flatten();
    let names = statements.flat_map(|it| it["Action"].as_array().into_iter().flatten());
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Amazon's separate clouds have names of their own in ARNs.
fn partition(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// Where, and whose.
struct Place {
    installation: String,
    region: String,
    partition: &'static str,
}

impl Place {
    /// What exists and belongs to nobody in particular can be looked at in this region; these actions know no resources.
    fn look(&self, features: &Features) -> Value {
        let mut names = vec![
            "DescribeImages",
            "DescribeInstanceStatus",
            "DescribeInstanceTypeOfferings",
            "DescribeInstanceTypes",
            "DescribeInstances",
            "DescribeSecurityGroups",
            "DescribeSubnets",
            "DescribeVolumes",
        ];
        if features.spot {
            names.push("DescribeSpotInstanceRequests");
        }
        if features.volumes || features.seed || features.images {
            names.push("DescribeSnapshots");
        }
        let here = json!({ "StringEquals": { "aws:RequestedRegion": self.region } });
        allow("Look", &ec2(&names), &["*".to_owned()], Some(here))
    }

    /// Machines, and all that comes with them, only with our tag.
    fn launch(&self, features: &Features) -> Value {
        let mut made = vec![self.own("instance"), self.own("volume"), self.own("network-interface")];
        if features.spot {
            made.push(self.own("spot-instances-request"));
        }
        if features.fleet {
            made.push(self.own("fleet"));
        }
        self.make("Launch", &ec2(launches(features)), &made)
    }

    /// What a launch uses and does not make.
    fn launch_from(&self, features: &Features) -> Value {
        let used = [self.public("image"), self.public("snapshot"), self.own("subnet"), self.own("security-group")];
        let here = json!({ "StringEquals": { "aws:RequestedRegion": self.region } });
        allow("LaunchFrom", &ec2(launches(features)), &used, Some(here))
    }

    /// Tags only in the call that makes a thing: nobody can make a stranger's machine ours.
    fn tag(&self, features: &Features) -> Value {
        let mut calls = launches(features).to_vec();
        let mut made = vec![self.own("instance"), self.own("volume"), self.own("network-interface")];
        if features.fleet {
            calls.push("CreateLaunchTemplate");
            made.extend([self.own("fleet"), self.own("launch-template")]);
        }
        if features.spot {
            made.push(self.own("spot-instances-request"));
        }
        if features.volumes {
            calls.extend(["CreateVolume", "CreateSnapshot"]);
        }
        if features.seed {
            calls.push("StartSnapshot");
        }
        if features.volumes || features.seed {
            made.push(self.public("snapshot"));
        }
        let condition = json!({ "StringEquals": { self.request_tag(): self.installation, "ec2:CreateAction": calls } });
        allow("Tag", &ec2(&["CreateTags"]), &made, Some(condition))
    }

    /// The right to give machines one role, and no other.
    fn pass_role(&self) -> Value {
        let role = format!("arn:{}:iam::ACCOUNT:role/{ROLE}", self.partition);
        let service = if self.partition == "aws-cn" { "ec2.amazonaws.com.cn" } else { "ec2.amazonaws.com" };
        let condition = json!({ "StringEquals": { "iam:PassedToService": service } });
        allow("PassRole", &["iam:PassRole".to_owned()], &[role], Some(condition))
    }

    fn volumes(&self) -> [Value; 4] {
        let ours = [self.own("instance"), self.own("volume")];
        [
            self.make("MakeVolumes", &ec2(&["CreateVolume"]), &[self.own("volume")]),
            self.make("MakeSnapshots", &ec2(&["CreateSnapshot"]), &[self.public("snapshot")]),
            self.change_ours("UseVolumes", &["AttachVolume", "DetachVolume", "DeleteVolume"], &ours),
            self.change_ours(
                "UseSnapshots",
                &["CreateVolume", "CreateSnapshot", "DeleteSnapshot"],
                &[self.own("volume"), self.public("snapshot")],
            ),
        ]
    }

    fn seed(&self) -> [Value; 2] {
        let named = |names: &[&str]| names.iter().map(|name| format!("ebs:{name}")).collect::<Vec<_>>();
        let of_snapshots = ["PutSnapshotBlock", "CompleteSnapshot", "ListSnapshotBlocks", "ListChangedBlocks", "GetSnapshotBlock"];
        let ours = json!({ "StringEquals": { self.resource_tag(): self.installation } });
        [
            self.make("StartSeeds", &named(&["StartSnapshot"]), &[self.public("snapshot")]),
            allow("FillSeeds", &named(&of_snapshots), &[self.public("snapshot")], Some(ours)),
        ]
    }

    /// Actions that make things, only with our tag in the call.
    fn make(&self, name: &str, actions: &[String], made: &[String]) -> Value {
        allow(name, actions, made, Some(json!({ "StringEquals": { self.request_tag(): self.installation } })))
    }

    /// Actions of EC2 on what carries our tag.
    fn change_ours(&self, name: &str, actions: &[&str], on: &[String]) -> Value {
        allow(name, &ec2(actions), on, Some(json!({ "StringEquals": { self.resource_tag(): self.installation } })))
    }

    fn request_tag(&self) -> String {
        format!("aws:RequestTag/{INSTALLATION}")
    }

    fn resource_tag(&self) -> String {
        format!("aws:ResourceTag/{INSTALLATION}")
    }

    /// Everything of a kind in this region that belongs to the account.
    fn own(&self, kind: &str) -> String {
        format!("arn:{}:ec2:{}:*:{kind}/*", self.partition, self.region)
    }

    /// The same for kinds that have no account in their ARN.
    fn public(&self, kind: &str) -> String {
        format!("arn:{}:ec2:{}::{kind}/*", self.partition, self.region)
    }
}

/// The calls that make machines.
fn launches(features: &Features) -> &'static [&'static str] {
    if features.fleet { &["RunInstances", "CreateFleet"] } else { &["RunInstances"] }
}

fn ec2(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("ec2:{name}")).collect()
}

fn allow(name: &str, actions: &[String], on: &[String], condition: Option<Value>) -> Value {
    let mut statement = json!({ "Sid": name, "Effect": "Allow", "Action": actions, "Resource": on });
    if let Some(condition) = condition {
        statement["Condition"] = condition;
    }
    statement
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;

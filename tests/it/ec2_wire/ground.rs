//! What an operator sets up before the service runs: a network with two zones and a security group. Images are moto's from its start.

use super::params::Params;
use super::upstream::post;
use super::wire::REGION;
use super::xml::{parse, text};

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) id: String,
    pub(crate) zone: String,
}

pub(super) struct Ground {
    pub(super) subnets: Vec<Subnet>,
    pub(super) security_group: String,
}

/// Calls that must succeed.
struct Operator<'a> {
    http: &'a reqwest::Client,
    moto: &'a str,
}

impl Operator<'_> {
    async fn ask(&self, action: &str, params: &[(&str, &str)]) -> String {
        let (status, body) = post(self.http, self.moto, action, &params.iter().copied().collect::<Params>()).await;
        assert_eq!(status, 200, "{action}: {body}");
        body
    }

    /// The same; the text at a path of its answer.
    async fn get(&self, action: &str, params: &[(&str, &str)], path: &[&str]) -> String {
        text(parse(&self.ask(action, params).await).root_element(), path).to_owned()
    }
}

/// Makes it in an empty moto.
pub(super) async fn prepare(http: &reqwest::Client, moto: &str) -> Ground {
    let operator = Operator { http, moto };
    let vpc = operator.get("CreateVpc", &[("CidrBlock", "10.20.0.0/16")], &["vpc", "vpcId"]).await;
    let mut subnets = Vec::new();
    for (letter, block) in [("a", "10.20.0.0/20"), ("b", "10.20.16.0/20")] {
        let zone = format!("{REGION}{letter}");
        let params = [("VpcId", vpc.as_str()), ("CidrBlock", block), ("AvailabilityZone", &zone)];
        let id = operator.get("CreateSubnet", &params, &["subnet", "subnetId"]).await;
        subnets.push(Subnet { id, zone });
    }
    let params = [("GroupName", "vm-service"), ("GroupDescription", "guests"), ("VpcId", &vpc)];
    let security_group = operator.get("CreateSecurityGroup", &params, &["groupId"]).await;
    for port in ["22", "2376"] {
        let params = [
            ("GroupId", security_group.as_str()),
            ("IpPermissions.1.IpProtocol", "tcp"),
            ("IpPermissions.1.FromPort", port),
            ("IpPermissions.1.ToPort", port),
            ("IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/8"),
        ];
        operator.ask("AuthorizeSecurityGroupIngress", &params).await;
    }
    Ground { subnets, security_group }
}

//! Whether the subnets and the security group fit each other, have room, and let the service in: judged from what EC2 says of them.

use super::finding;
use crate::provider::Finding;
use aws_sdk_ec2::types::{IpPermission, SecurityGroup, Subnet};
use std::collections::BTreeSet;

pub(super) const SUBNETS: &str = "subnets";
pub(super) const GROUP: &str = "security group";
/// The Docker engine over TLS.
const DOCKER: i32 = 2376;

/// `found` is what EC2 knows of those that are `wanted`.
pub(super) fn judge_subnets(wanted: &[String], found: &[Subnet]) -> Finding {
    if wanted.is_empty() {
        return finding(false, SUBNETS, "none is set: set ec2.subnets in the settings");
    }
    let (mut seen, mut wrong) = (Vec::new(), Vec::new());
    for id in wanted {
        let Some(subnet) = found.iter().find(|it| it.subnet_id() == Some(id)) else {
            wrong.push(format!("there is no subnet {id} in this account and region: take it out of ec2.subnets"));
            continue;
        };
        let free = subnet.available_ip_address_count().unwrap_or_default();
        seen.push(format!("{id} in {}: {free} addresses free", subnet.availability_zone().unwrap_or("an unknown zone")));
        if free == 0 {
            wrong.push(format!("{id} has no address free: add another subnet to ec2.subnets"));
        }
    }
    let vpcs: BTreeSet<&str> = vpcs(found);
    if vpcs.len() > 1 {
        wrong.push(format!("they lie in several VPCs ({}): keep those of one in ec2.subnets", list(vpcs)));
    } else if let Some(vpc) = vpcs.first() {
        seen.push(format!("all in {vpc}"));
    }
    told(SUBNETS, seen, wrong)
}

/// `group` is what EC2 knows of it.
pub(super) fn judge_group(id: &str, group: Option<&SecurityGroup>, subnets: &[Subnet], ssh_port: u16) -> Finding {
    let Some(group) = group else {
        let detail = format!("there is no {id} in this account and region: set another as ec2.security_group in the settings");
        return finding(false, GROUP, detail);
    };
    let (mut seen, mut wrong) = (vec![id.to_owned()], Vec::new());
    let vpc = group.vpc_id().unwrap_or_default();
    let others: BTreeSet<&str> = vpcs(subnets).into_iter().filter(|it| *it != vpc).collect();
    if !others.is_empty() {
        wrong.push(format!("{id} lies in {vpc} and subnets lie in {}: set a security group of their VPC", list(others)));
    }
    for port in [i32::from(ssh_port), DOCKER] {
        let from: BTreeSet<String> = group.ip_permissions().iter().filter(|rule| lets_in(rule, port)).flat_map(sources).collect();
        if from.is_empty() {
            wrong.push(format!(
                "{id} lets nobody in on TCP {port}: add an inbound rule for it from where this service and its callers are"
            ));
        } else {
            seen.push(format!("TCP {port} from {}", list(from.iter().map(String::as_str))));
        }
    }
    told(GROUP, seen, wrong)
}

fn told(what: &str, seen: Vec<String>, wrong: Vec<String>) -> Finding {
    let ok = wrong.is_empty();
    finding(ok, what, if ok { seen } else { wrong }.join("; "))
}

fn vpcs(subnets: &[Subnet]) -> BTreeSet<&str> {
    subnets.iter().filter_map(Subnet::vpc_id).collect()
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn lets_in(rule: &IpPermission, port: i32) -> bool {
    match rule.ip_protocol() {
        // All protocols have all ports.
        Some("-1") => true,
        Some("tcp") => (rule.from_port().unwrap_or(0)..=rule.to_port().unwrap_or(65535)).contains(&port),
        _ => false,
    }
}

/// Whom a rule lets in: addresses, lists of them, and security groups.
fn sources(rule: &IpPermission) -> Vec<String> {
    let v4 = rule.ip_ranges().iter().filter_map(|it| it.cidr_ip());
    let v6 = rule.ipv6_ranges().iter().filter_map(|it| it.cidr_ipv6());
    let lists = rule.prefix_list_ids().iter().filter_map(|it| it.prefix_list_id());
    let groups = rule.user_id_group_pairs().iter().filter_map(|it| it.group_id());
    v4.chain(v6).chain(lists).chain(groups).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::{IpRange, UserIdGroupPair};

    fn subnet(id: &str, vpc: &str, free: i32) -> Subnet {
        Subnet::builder().subnet_id(id).vpc_id(vpc).availability_zone("eu-west-1a").available_ip_address_count(free).build()
    }

    fn group(rules: Vec<IpPermission>) -> SecurityGroup {
        SecurityGroup::builder().group_id("sg-1").vpc_id("vpc-1").set_ip_permissions(Some(rules)).build()
    }

    fn rule(protocol: &str, from: i32, to: i32) -> aws_sdk_ec2::types::builders::IpPermissionBuilder {
        IpPermission::builder().ip_protocol(protocol).from_port(from).to_port(to)
    }

    fn both() -> Vec<String> {
        vec!["subnet-1".to_owned(), "subnet-2".to_owned()]
    }

    #[test]
    fn subnets_exist_have_room_and_one_vpc() {
        let good = judge_subnets(&both(), &[subnet("subnet-1", "vpc-1", 9), subnet("subnet-2", "vpc-1", 4091)]);
        assert_eq!(
            (good.ok, good.detail.as_str()),
            (true, "subnet-1 in eu-west-1a: 9 addresses free; subnet-2 in eu-west-1a: 4091 addresses free; all in vpc-1")
        );
        for (found, expected) in [
            (vec![subnet("subnet-1", "vpc-1", 9)], "there is no subnet subnet-2"),
            (vec![subnet("subnet-1", "vpc-1", 9), subnet("subnet-2", "vpc-1", 0)], "subnet-2 has no address free"),
            (vec![subnet("subnet-1", "vpc-1", 9), subnet("subnet-2", "vpc-2", 9)], "several VPCs (vpc-1, vpc-2)"),
        ] {
            let bad = judge_subnets(&both(), &found);
            assert!(!bad.ok && bad.detail.contains(expected), "{bad:?}");
        }
        assert!(!judge_subnets(&[], &[subnet("subnet-1", "vpc-1", 9)]).ok);
    }

    #[test]
    fn a_group_lets_both_ports_in() {
        let anywhere = IpRange::builder().cidr_ip("0.0.0.0/0").build();
        let callers = UserIdGroupPair::builder().group_id("sg-callers").build();
        let subnets = [subnet("subnet-1", "vpc-1", 9)];
        let ssh = || rule("tcp", 20, 25).ip_ranges(anywhere.clone()).build();
        let rules = vec![ssh(), rule("tcp", 2376, 2376).user_id_group_pairs(callers.clone()).build()];
        let good = judge_group("sg-1", Some(&group(rules)), &subnets, 22);
        assert_eq!((good.ok, good.detail.as_str()), (true, "sg-1; TCP 22 from 0.0.0.0/0; TCP 2376 from sg-callers"));
        let all = IpPermission::builder().ip_protocol("-1").user_id_group_pairs(callers).build();
        assert!(judge_group("sg-1", Some(&group(vec![all])), &subnets, 22).ok);
        let nobody = rule("tcp", 2376, 2376).build();
        let udp = rule("udp", 2376, 2376).ip_ranges(anywhere.clone()).build();
        let bad = judge_group("sg-1", Some(&group(vec![ssh(), nobody, udp])), &subnets, 22);
        assert!(!bad.ok && bad.detail.contains("nobody in on TCP 2376") && !bad.detail.contains("TCP 22:"), "{bad:?}");
        let elsewhere = judge_group("sg-1", Some(&group(vec![ssh()])), &[subnet("subnet-1", "vpc-2", 9)], 22);
        assert!(!elsewhere.ok && elsewhere.detail.contains("sg-1 lies in vpc-1 and subnets lie in vpc-2"), "{elsewhere:?}");
        let other = judge_group("sg-1", Some(&group(vec![ssh()])), &subnets, 2222);
        assert!(other.detail.contains("TCP 2222:") && other.detail.contains("TCP 2376:"), "{other:?}");
        assert!(!judge_group("sg-1", None, &subnets, 22).ok);
    }
}

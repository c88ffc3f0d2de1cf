//! Says whether machines can be made in this account and region, and what to change; makes none.
//!
//! What would make or end something is asked for as a dry run. Each topic is one [`Finding`]; when EC2 cannot be asked at all, that is the
//! only one.
//!
//! Calls: DescribeSubnets, DescribeSecurityGroups, DescribeImages, DescribeInstanceTypes, DescribeInstanceTypeOfferings,
//! DescribeInstances, DescribeVolumes; RunInstances, CreateLaunchTemplate, TerminateInstances, StopInstances and StartInstances as dry runs.
//!
//! Not here: what must be allowed (`policy`).

mod classes;
mod network;
mod trials;

use super::Ec2;
use super::machines::filter;
use super::refusal::{Kind, Refusal};
use crate::domain::ec2::{Authentication, Ec2Settings};
use crate::domain::plan::images::Registered;
use crate::provider::Finding;
use aws_sdk_ec2::types::{SecurityGroup, Subnet};

/// The fewest entries of a page that DescribeSubnets takes.
const SMALLEST_PAGE: i32 = 5;

pub(super) async fn check(ec2: &Ec2, registered: &[Registered]) -> Vec<Finding> {
    let connection = ec2.connection();
    let settings = &connection.settings;
    if connection.lacks_secret() {
        let detail = "the secret half of the access key cannot be opened with the sealing keys of this machine: set \
                      VM_SERVICE_SEALING_KEYS as the service has it, or save the settings with the secret once more";
        return vec![finding(false, "EC2", detail)];
    }
    let subnets = match ec2.read_subnets(&settings.subnets).await {
        Ok(subnets) => subnets,
        Err(refusal) => return vec![refused("EC2", &ec2.region, &refusal)],
    };
    let mut findings = vec![
        finding(true, "EC2", format!("{} answers; signed in {}", ec2.region, signed_in(settings))),
        network::judge_subnets(&settings.subnets, &subnets),
    ];
    findings.push(match &settings.security_group {
        None => finding(false, network::GROUP, "none is set: set ec2.security_group in the settings"),
        Some(id) => match ec2.read_security_group(id).await {
            Ok(group) => network::judge_group(id, group.as_ref(), &subnets, settings.ssh_port),
            Err(refusal) => refused(network::GROUP, "", &refusal),
        },
    });
    let (of_classes, plans) = classes::check(ec2, settings, &subnets, registered).await;
    findings.extend(of_classes);
    let launched = trials::launch(ec2, &plans).await;
    // Only where a dry run was seen to be one: a machine may have a job.
    let knows_dry_runs = launched.iter().all(|finding| finding.ok);
    findings.extend(launched);
    findings.extend(trials::template(ec2, &plans).await);
    findings.extend(trials::change(ec2, knows_dry_runs).await);
    findings.push(trials::list_volumes(ec2).await);
    findings
}

fn finding(ok: bool, what: &str, detail: impl Into<String>) -> Finding {
    Finding::new(ok, what, detail)
}

/// What AWS said in place of an answer about `asked`; empty: about all of it.
fn refused(what: &str, asked: &str, refusal: &Refusal) -> Finding {
    let advice = refusal.advice();
    let detail = if asked.is_empty() { advice } else { format!("{asked}: {advice}") };
    Finding { throttled: refusal.kind == Kind::Throttled, ..finding(false, what, detail) }
}

fn signed_in(settings: &Ec2Settings) -> String {
    match &settings.authentication {
        Authentication::AccessKey(key) => format!("with the access key {}", key.id),
        Authentication::InstanceProfile => "as this machine or its environment says".to_owned(),
    }
}

impl Ec2 {
    /// Those of these subnets that there are. EC2 is asked also when there are no ids: to see that it answers.
    async fn read_subnets(&self, ids: &[String]) -> Result<Vec<Subnet>, Refusal> {
        let call = self.client().await.describe_subnets();
        let call = match ids {
            [] => call.max_results(SMALLEST_PAGE),
            // By filter and not by id: one unknown id would fail the whole call.
            ids => call.filters(filter("subnet-id", ids.iter().cloned())),
        };
        let answer = self.budget.read.call(call.send()).await?;
        let wanted = |it: &Subnet| ids.iter().any(|id| it.subnet_id() == Some(id));
        Ok(answer.subnets.unwrap_or_default().into_iter().filter(wanted).collect())
    }

    async fn read_security_group(&self, id: &str) -> Result<Option<SecurityGroup>, Refusal> {
        let call = self.client().await.describe_security_groups().filters(filter("group-id", [id.to_owned()]));
        let answer = self.budget.read.call(call.send()).await?;
        Ok(answer.security_groups.unwrap_or_default().into_iter().next())
    }
}

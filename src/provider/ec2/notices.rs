//! What AWS announces: scheduled events of instances, and spot instances that are taken back in two minutes.
//!
//! Sources: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-instances-status-check_sched.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html>.

use super::machines::filter;
use super::{Ec2, tags};
use crate::domain::ec2::Market;
use crate::provider::{Notice, ProviderError};
use aws_sdk_ec2::types::InstanceStatusEvent;
use chrono::DateTime;

/// Every scheduled event that ends or interrupts an instance.
const EVENTS: [&str; 5] = ["instance-reboot", "system-reboot", "system-maintenance", "instance-retirement", "instance-stop"];
/// Entries of one page, at most.
const PAGE: i32 = 1000;

impl Ec2 {
    /// What is announced now.
    pub(super) async fn notices(&self) -> Result<Vec<Notice>, ProviderError> {
        let mut notices = self.scheduled().await?;
        if self.may_have_spot() {
            notices.extend(self.taken_back().await?);
        }
        Ok(notices)
    }

    /// Whether a class asks for spot machines.
    pub(super) fn may_have_spot(&self) -> bool {
        self.classes().values().any(|class| class.ec2.market != Market::OnDemand)
    }

    async fn scheduled(&self) -> Result<Vec<Notice>, ProviderError> {
        let announced = filter("event.code", EVENTS.map(str::to_owned));
        let call = self.client().await.describe_instance_status().filters(announced).include_all_instances(true).max_results(PAGE);
        let mut pages = call.into_paginator().send();
        let mut notices = Vec::new();
        loop {
            let page = self.budget.read.call(async { pages.next().await.transpose() }).await;
            let page = page.map_err(|refusal| refusal.into_error("looking for scheduled events"))?;
            let Some(page) = page else { return Ok(notices) };
            for status in page.instance_statuses() {
                let event = status.events().iter().find(|event| !is_over(event));
                if let (Some(id), Some(event)) = (status.instance_id(), event) {
                    notices.push(Notice { provider_id: id.to_owned(), what: sentence(event) });
                }
            }
            if page.next_token().is_none() {
                return Ok(notices);
            }
        }
    }

    async fn taken_back(&self) -> Result<Vec<Notice>, ProviderError> {
        let ours = filter(format!("tag:{}", tags::INSTALLATION), [self.installation.to_string()]);
        let marked = filter("status-code", ["marked-for-termination".to_owned(), "marked-for-stop".to_owned()]);
        let call = self.client().await.describe_spot_instance_requests().filters(ours).filters(marked);
        let answer = self.budget.read.call(call.send()).await;
        let answer = answer.map_err(|refusal| refusal.into_error("looking for spot interruptions"))?;
        let requests = answer.spot_instance_requests().iter();
        let machines = requests.filter_map(|request| request.instance_id()).map(str::to_owned);
        Ok(machines
            .map(|provider_id| Notice { provider_id, what: "AWS takes this spot machine back within two minutes.".to_owned() })
            .collect())
    }
}

/// AWS keeps an event in the list for a week after it.
fn is_over(event: &InstanceStatusEvent) -> bool {
    event.description().is_some_and(|text| text.starts_with("[Completed]") || text.starts_with("[Canceled]"))
}

fn sentence(event: &InstanceStatusEvent) -> String {
    let code = event.code().map_or("an event", |code| code.as_str());
    let at = event.not_before().and_then(|at| DateTime::from_timestamp(at.secs(), 0));
    let at = at.map_or_else(|| "soon".to_owned(), |at| format!("from {} on", at.format("%Y-%m-%d %H:%M UTC")));
    format!("AWS has scheduled {code} {at}: {}", event.description().unwrap_or("no reason is given"))
}

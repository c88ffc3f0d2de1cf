//! In which availability zone each subnet is: asked once, kept for ever, because a subnet never moves.
//!
//! A zone is only ever a preference, so what cannot be asked now changes nothing but the order of candidates.

use super::Ec2;
use super::machines::filter;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Zone by subnet, as far as it was asked.
#[derive(Debug, Default)]
pub(super) struct Zones(Mutex<BTreeMap<String, String>>);

impl Zones {
    /// The zone of this subnet, if it was asked before.
    pub(super) fn find(&self, subnet: &str) -> Option<String> {
        self.known().get(subnet).cloned()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ec2 {
    /// The zone of each of these subnets: one DescribeSubnets after the settings name one that is not known yet. Those that AWS does not
    /// know, or would not tell now, are missing.
    pub(super) async fn zones_of(&self, subnets: &[String]) -> BTreeMap<String, String> {
        let unknown: Vec<String> = {
            let known = self.zones.known();
            subnets.iter().filter(|subnet| !known.contains_key(*subnet)).cloned().collect()
        };
        if !unknown.is_empty() {
            // By filter: one unknown id fails a whole call by id.
            let call = self.client().await.describe_subnets().filters(filter("subnet-id", unknown));
            match self.budget.read.call(call.send()).await {
                Ok(answer) => {
                    let told = answer.subnets.unwrap_or_default();
                    self.zones.known().extend(told.into_iter().filter_map(|it| Some((it.subnet_id?, it.availability_zone?))));
                }
                Err(refusal) => {
                    tracing::warn!(why = refusal.advice(), "the zones of the subnets are not known: none is preferred now")
                }
            }
        }
        let known = self.zones.known();
        subnets.iter().filter_map(|subnet| Some((subnet.clone(), known.get(subnet)?.clone()))).collect()
    }
}

//! Instances that are stopped and started again. Only on-demand ones are ever asked: a stopped spot instance keeps a request that may
//! bring it back by itself (EC2.md, machines), so classes on the spot market have no reserve (`domain::resource_class`).

use super::Ec2;
use super::refusal::{Kind, Refusal};
use crate::provider::ProviderError;
use crate::provider::reserve::Reserve;
use async_trait::async_trait;

#[async_trait]
impl Reserve for Ec2 {
    async fn stop(&self, provider_id: &str, hibernate: bool) -> Result<(), ProviderError> {
        self.budget.change.take()?;
        let call = self.client().await.stop_instances().instance_ids(provider_id);
        let call = if hibernate { call.hibernate(true) } else { call };
        match call.send().await.map_err(Refusal::of) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal.into_error("stopping an instance")),
        }
    }

    async fn start(&self, provider_id: &str) -> Result<(), ProviderError> {
        self.budget.change.take()?;
        match self.client().await.start_instances().instance_ids(provider_id).send().await.map_err(Refusal::of) {
            Ok(_) => Ok(()),
            // Listed as stopped and still on its way there: not yet.
            Err(refusal) if refusal.code == "IncorrectInstanceState" && refusal.kind == Kind::Invalid => {
                Err(ProviderError::NoCapacity(refusal.message))
            }
            Err(refusal) => Err(refusal.into_error("starting an instance")),
        }
    }
}

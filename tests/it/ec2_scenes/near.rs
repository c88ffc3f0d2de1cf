//! A launch that wants a cache volume goes to the volume's zone, where that is one of several equals.

use super::alone::Alone;
use crate::ec2_wire::faults::Fault;
use crate::ec2_wire::rules::Rules;
use vm_service::domain::tags::Origin;
use vm_service::provider::{LaunchSpec, Provider as _, ProviderError};

impl Alone {
    /// The zone of one machine of class `medium` that is best near there.
    async fn launched_near(&self, token: &str, near: Option<&str>) -> Result<String, ProviderError> {
        let class = self.settings.resource_classes["medium"].clone();
        let candidate = self.ec2.choose(&class, self.ec2.named_images(&class).first().as_deref(), near).await?;
        let tags = self.tags(Origin::OnDemand);
        let (client_token, user_data) = (token.to_owned(), super::alone::USER_DATA.to_owned());
        let made = self
            .ec2
            .launch(&LaunchSpec { client_token, tags, class, count: 1, user_data, candidate, image: None })
            .await?
            .remove(0);
        let all = self.cloud.instances().await;
        Ok(all.into_iter().find(|it| it.id == made.provider_id).unwrap().zone)
    }
}

#[tokio::test]
async fn the_near_zone_comes_first_and_the_zones_are_asked_once() {
    let alone = Alone::new(Rules::default()).await;
    let zones: Vec<String> = alone.cloud.subnets().into_iter().map(|it| it.zone).collect();
    assert_eq!(alone.launched_near("any", None).await.unwrap(), zones[0]);
    assert_eq!(alone.cloud.calls("DescribeSubnets").len(), 0, "nobody asks where it does not matter");
    assert_eq!(alone.launched_near("b", Some(&zones[1])).await.unwrap(), zones[1]);
    assert_eq!(alone.launched_near("a", Some(&zones[0])).await.unwrap(), zones[0]);
    assert_eq!(alone.launched_near("c", Some("eu-west-1c")).await.unwrap(), zones[0]);
    assert_eq!(alone.cloud.calls("DescribeSubnets").len(), 1);
    // No room there: the next best.
    alone.cloud.inject(Fault::no_capacity("RunInstances").in_zone(&zones[1]));
    assert!(matches!(alone.launched_near("d", Some(&zones[1])).await, Err(ProviderError::NoCapacity(_))));
    assert_eq!(alone.launched_near("e", Some(&zones[1])).await.unwrap(), zones[0]);
}

/// A preference holds up no launch.
#[tokio::test]
async fn zones_that_cannot_be_asked_are_not_preferred() {
    let alone = Alone::new(Rules::default()).await;
    let zones: Vec<String> = alone.cloud.subnets().into_iter().map(|it| it.zone).collect();
    alone.cloud.inject(Fault::unauthorized("DescribeSubnets"));
    assert_eq!(alone.launched_near("a", Some(&zones[1])).await.unwrap(), zones[0]);
    assert_eq!(alone.launched_near("b", Some(&zones[1])).await.unwrap(), zones[1], "asked again");
}

#[tokio::test]
async fn a_fleet_has_the_near_zone_first_within_each_type() {
    let mut alone = Alone::new(Rules::default()).await;
    let types = ["m7i.large", "m6i.large"].map(str::to_owned).to_vec();
    alone.set(|settings| settings.resource_classes.get_mut("medium").unwrap().ec2.instance_types = types);
    let subnets = alone.cloud.subnets();
    assert_eq!(alone.launched_near("f", Some(&subnets[1].zone)).await.unwrap(), subnets[1].zone);
    let fleet = alone.cloud.calls("CreateFleet").remove(0);
    let entries = fleet.params.entries("LaunchTemplateConfigs.1.Overrides");
    let get = |name: &str| -> Vec<&str> { entries.iter().map(|it| fleet.params.get(&format!("{it}.{name}")).unwrap()).collect() };
    assert_eq!(get("InstanceType"), ["m7i.large", "m7i.large", "m6i.large", "m6i.large"]);
    let (far, near) = (subnets[0].id.as_str(), subnets[1].id.as_str());
    assert_eq!(get("SubnetId"), [near, far, near, far]);
    assert_eq!(get("Priority"), ["0.0", "1.0", "2.0", "3.0"]);
}

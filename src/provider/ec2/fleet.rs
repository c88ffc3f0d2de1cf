//! One CreateFleet where a class allows several instance types: AWS looks for room in all of them and in all subnets at once, on demand in
//! the operator's order, on the spot market where interruptions are fewest and in that order otherwise. Subnets of a near zone have the
//! better priorities of their type; on the spot market that is AWS's best effort.
//!
//! The fleet is *instant*: it launches once and is nothing afterwards. What is the same in every launch stands in a launch template, one for
//! each combination of disk, network and profile, named by its content and made once; what differs is in the call: user data, tags, image,
//! types and subnets.
//!
//! Sources: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateFleet.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-fleet-allocation-strategy.html>.

use super::candidates::{Candidate, Parameters};
use super::refusal::Refusal;
use super::{Ec2, launch, tags};
use crate::provider::{LaunchSpec, Machine, MachineState, ProviderError};
use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_ec2::operation::create_launch_template::builders::CreateLaunchTemplateFluentBuilder;
use aws_sdk_ec2::types::{
    CreateFleetError, DefaultTargetCapacityType, FleetLaunchTemplateConfigRequest, FleetLaunchTemplateOverridesRequest,
    FleetLaunchTemplateSpecificationRequest, FleetOnDemandAllocationStrategy, FleetType, InstanceType,
    LaunchTemplateInstanceMetadataEndpointState, LaunchTemplateTagSpecificationRequest, OnDemandOptionsRequest,
    RequestLaunchTemplateData, ResourceType, SpotAllocationStrategy, SpotInstanceInterruptionBehavior, SpotOptionsRequest,
    TagSpecification, TargetCapacitySpecificationRequest,
};
use aws_sdk_ec2::types::{
    LaunchTemplateBlockDeviceMappingRequest, LaunchTemplateEbsBlockDeviceRequest, LaunchTemplateHibernationOptionsRequest,
    LaunchTemplateHttpTokensState, LaunchTemplateIamInstanceProfileSpecificationRequest,
    LaunchTemplateInstanceMetadataOptionsRequest, LaunchTemplateInstanceNetworkInterfaceSpecificationRequest, ShutdownBehavior,
    VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// Launch templates that are known to be there.
#[derive(Debug, Default)]
pub(super) struct Templates(Mutex<BTreeSet<String>>);

impl Ec2 {
    /// Asks for machines of any of these types, in any of these subnets.
    pub(super) async fn create_fleet(&self, spec: &LaunchSpec, asked: &Parameters) -> Result<Vec<Machine>, ProviderError> {
        let template = self.ensure_template(asked).await?;
        let overrides = asked.fleet.iter().zip(0_u32..).map(|(option, nth)| {
            FleetLaunchTemplateOverridesRequest::builder()
                .instance_type(InstanceType::from(option.instance_type.as_str()))
                .subnet_id(&option.subnet)
                .image_id(&asked.image)
                .priority(f64::from(nth))
                .build()
        });
        let from = FleetLaunchTemplateSpecificationRequest::builder()
            .launch_template_name(&template)
            .version("$Default")
            .launch_template_specification_user_data(BASE64.encode(&spec.user_data));
        let config = FleetLaunchTemplateConfigRequest::builder()
            .launch_template_specification(from.build())
            .set_overrides(Some(overrides.collect()));
        let market = if asked.spot { DefaultTargetCapacityType::Spot } else { DefaultTargetCapacityType::OnDemand };
        let capacity = TargetCapacitySpecificationRequest::builder()
            .total_target_capacity(i32::try_from(spec.count).unwrap_or(i32::MAX))
            .default_target_capacity_type(market);
        let tagged = |of| TagSpecification::builder().resource_type(of).set_tags(Some(tags::write(&spec.tags))).build();
        let call = self
            .client()
            .await
            .create_fleet()
            .client_token(&spec.client_token)
            .r#type(FleetType::Instant)
            .launch_template_configs(config.build())
            .target_capacity_specification(capacity.build())
            .set_tag_specifications(Some([ResourceType::Fleet, ResourceType::Instance].map(tagged).to_vec()));
        let call = match asked.spot {
            true => call.spot_options(
                SpotOptionsRequest::builder()
                    .allocation_strategy(SpotAllocationStrategy::CapacityOptimizedPrioritized)
                    .instance_interruption_behavior(SpotInstanceInterruptionBehavior::Terminate)
                    .build(),
            ),
            false => call.on_demand_options(
                OnDemandOptionsRequest::builder().allocation_strategy(FleetOnDemandAllocationStrategy::Prioritized).build(),
            ),
        };
        let answer = match call.send().await.map_err(Refusal::of) {
            Ok(answer) => answer,
            Err(refusal) => {
                if refusal.code.starts_with("InvalidLaunchTemplate") {
                    self.templates.known().remove(&template);
                }
                return Err(self.remember(&asked.candidate(), &spec.class, refusal));
            }
        };
        let ids: Vec<String> =
            answer.instances.unwrap_or_default().into_iter().flat_map(|it| it.instance_ids.unwrap_or_default()).collect();
        let mut refused = None;
        for error in answer.errors.unwrap_or_default() {
            let met = met(&error, asked);
            refused = Some(self.remember(&met, &spec.class, of_fleet(error)));
        }
        match refused {
            Some(error) if ids.is_empty() => Err(nothing_made(error)),
            _ => Ok(ids.into_iter().map(|id| just_made(id, spec)).collect()),
        }
    }

    /// The name of the template for such machines; it is there afterwards.
    async fn ensure_template(&self, asked: &Parameters) -> Result<String, ProviderError> {
        let data = template(asked, &self.common_tags());
        let name = format!("vm-service-{}-{}", self.installation, digest_of(&format!("{data:?}")));
        if self.templates.known().contains(&name) {
            return Ok(name);
        }
        let call = self.create_template(&name, data).await;
        match self.budget.change.call(call.send()).await {
            Err(refusal) if !refusal.code.starts_with("InvalidLaunchTemplateName.AlreadyExists") => {
                Err(refusal.into_error("making a launch template"))
            }
            Ok(_) | Err(_) => {
                self.templates.known().insert(name.clone());
                Ok(name)
            }
        }
    }

    /// What AWS would say to the template of such machines; nothing is made.
    pub(super) async fn try_template(&self, asked: &Parameters) -> Option<Refusal> {
        let call = self.create_template("vm-service-trial", template(asked, &self.common_tags())).await.dry_run(true);
        self.budget.change.call(call.send()).await.err()
    }

    async fn create_template(&self, name: &str, data: RequestLaunchTemplateData) -> CreateLaunchTemplateFluentBuilder {
        let ours = TagSpecification::builder().resource_type(ResourceType::LaunchTemplate).set_tags(Some(self.common_tags()));
        let call = self.client().await.create_launch_template().client_token(digest_of(name)).launch_template_name(name);
        call.launch_template_data(data).tag_specifications(ours.build())
    }

    fn common_tags(&self) -> Vec<aws_sdk_ec2::types::Tag> {
        tags::write_common(self.installation)
    }
}

impl Templates {
    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every machine of such a launch has; the same as in a single RunInstances (`launch`).
fn template(asked: &Parameters, ours: &[aws_sdk_ec2::types::Tag]) -> RequestLaunchTemplateData {
    let metadata = LaunchTemplateInstanceMetadataOptionsRequest::builder()
        .http_endpoint(LaunchTemplateInstanceMetadataEndpointState::Enabled)
        .http_tokens(LaunchTemplateHttpTokensState::Required)
        .http_put_response_hop_limit(launch::HOP_LIMIT);
    let disk = LaunchTemplateEbsBlockDeviceRequest::builder()
        .volume_size(i32::try_from(asked.disk_gib).unwrap_or(i32::MAX))
        .volume_type(VolumeType::Gp3)
        .encrypted(true)
        .delete_on_termination(true);
    let network = LaunchTemplateInstanceNetworkInterfaceSpecificationRequest::builder()
        .device_index(0)
        .groups(&asked.security_group)
        .associate_public_ip_address(asked.public_ip)
        .delete_on_termination(true);
    let mut made = vec![ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface];
    if asked.spot {
        made.push(ResourceType::SpotInstancesRequest);
    }
    let tagged = |of| LaunchTemplateTagSpecificationRequest::builder().resource_type(of).set_tags(Some(ours.to_vec())).build();
    let data = RequestLaunchTemplateData::builder()
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(metadata.build())
        .block_device_mappings(
            LaunchTemplateBlockDeviceMappingRequest::builder().device_name(&asked.root_device).ebs(disk.build()).build(),
        )
        .network_interfaces(network.build())
        .set_tag_specifications(Some(made.into_iter().map(tagged).collect()));
    let data = match &asked.instance_profile {
        Some(name) => data.iam_instance_profile(LaunchTemplateIamInstanceProfileSpecificationRequest::builder().name(name).build()),
        None => data,
    };
    match asked.hibernate {
        true => data.hibernation_options(LaunchTemplateHibernationOptionsRequest::builder().configured(true).build()).build(),
        false => data.build(),
    }
}

/// Sixteen hexadecimal digits of its hash.
fn digest_of(text: &str) -> String {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().iter().take(8).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

/// Which of the options an error is about.
fn met(error: &CreateFleetError, asked: &Parameters) -> Candidate {
    let about = error.launch_template_and_overrides().and_then(|it| it.overrides());
    let option = about.and_then(|it| {
        let is = |option: &&Candidate| {
            it.instance_type().is_some_and(|name| name.as_str() == option.instance_type)
                && it.subnet_id().is_none_or(|subnet| subnet == option.subnet)
        };
        asked.fleet.iter().find(is)
    });
    option.cloned().unwrap_or_else(|| asked.candidate())
}

fn of_fleet(error: CreateFleetError) -> Refusal {
    Refusal::saying(error.error_code.unwrap_or_default(), error.error_message.unwrap_or_default())
}

/// A fleet was made without machines. Its token gives the same empty answer for ever, so the next call is another attempt, whatever the
/// error was.
fn nothing_made(error: ProviderError) -> ProviderError {
    match error {
        ProviderError::Throttled | ProviderError::Transient { .. } => {
            ProviderError::NoCapacity(format!("the fleet came without machines: {error}"))
        }
        ProviderError::NoCapacity(_) | ProviderError::Invalid(_) => error,
    }
}

fn just_made(provider_id: String, spec: &LaunchSpec) -> Machine {
    Machine { provider_id, tags: spec.tags.clone(), state: MachineState::Pending, address: None, zone: None, why_ended: None }
}

#[cfg(test)]
mod tests {
    use super::super::refusal::Kind;
    use super::*;

    #[test]
    fn a_template_is_named_by_what_is_in_it() {
        let asked = Parameters { disk_gib: 20, security_group: "sg-1".to_owned(), ..Parameters::default() };
        let name = |asked: &Parameters| digest_of(&format!("{:?}", template(asked, &[])));
        let other = Parameters { disk_gib: 30, ..asked.clone() };
        let elsewhere = Parameters { subnet: "subnet-2".to_owned(), image: "ami-2".to_owned(), ..asked.clone() };
        assert_ne!(name(&asked), name(&other));
        assert_eq!(name(&asked), name(&elsewhere), "what is in the call is not in it");
        assert_eq!(name(&asked).len(), 16);
    }

    #[test]
    fn an_error_is_about_the_option_that_it_names() {
        let option = |name: &str, subnet: &str| Candidate { instance_type: name.to_owned(), subnet: subnet.to_owned(), spot: true };
        let fleet = vec![option("a.large", "s1"), option("b.large", "s1"), option("b.large", "s2")];
        let asked =
            Parameters { instance_type: "a.large".to_owned(), subnet: "s1".to_owned(), spot: true, fleet, ..Parameters::default() };
        let overrides = aws_sdk_ec2::types::FleetLaunchTemplateOverrides::builder()
            .instance_type(InstanceType::from("b.large"))
            .subnet_id("s2")
            .build();
        let about = aws_sdk_ec2::types::LaunchTemplateAndOverridesResponse::builder().overrides(overrides).build();
        let error = CreateFleetError::builder().launch_template_and_overrides(about).build();
        assert_eq!(met(&error, &asked), option("b.large", "s2"));
        assert_eq!(met(&CreateFleetError::builder().build(), &asked), option("a.large", "s1"));
        let error = CreateFleetError::builder().error_code("InsufficientInstanceCapacity").build();
        assert_eq!(of_fleet(error).kind, Kind::NoCapacity);
    }

    #[test]
    fn an_empty_fleet_is_never_asked_for_again_with_its_token() {
        for code in ["RequestLimitExceeded", "InternalError", "InsufficientInstanceCapacity"] {
            let error = of_fleet(CreateFleetError::builder().error_code(code).build()).into_error("launching");
            assert!(matches!(nothing_made(error), ProviderError::NoCapacity(_)), "{code}");
        }
        let error = of_fleet(CreateFleetError::builder().error_code("UnauthorizedOperation").build()).into_error("launching");
        assert!(matches!(nothing_made(error), ProviderError::Invalid(_)));
    }
}

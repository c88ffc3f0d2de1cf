//! One RunInstances: everything that must be said of a machine is said in the call that makes it, so there is no moment in which it is
//! untagged, unencrypted, or would outlive its shutdown.

use super::candidates::{self, Candidate, Parameters};
use super::images::Image;
use super::refusal::{Kind, Refusal};
use super::{Ec2, tags};
use crate::domain::ec2::Ec2Settings;
use crate::domain::resource_class::ResourceClass;
use crate::domain::tags::Tags;
use crate::provider::{LaunchSpec, Machine, ProviderError};
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HibernationOptionsRequest, HttpTokensState, IamInstanceProfileSpecification,
    InstanceInterruptionBehavior, InstanceMarketOptionsRequest, InstanceMetadataEndpointState, InstanceMetadataOptionsRequest,
    InstanceNetworkInterfaceSpecification, InstanceType, MarketType, ResourceType, ShutdownBehavior, SpotInstanceType,
    SpotMarketOptions, TagSpecification, VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::time::Instant;

/// 1 by default, and an image's flag can silently make it 2: then containers reach it.
pub(super) const HOP_LIMIT: i32 = 1;

impl Ec2 {
    /// What the next attempt of this class asks for, made of `image`, or of the newest of Canonical's; subnets of the zone `near` are better than others of the same type and market.
    pub(super) async fn parameters(
        &self,
        class: &ResourceClass,
        image: Option<&str>,
        near: Option<&str>,
    ) -> Result<Parameters, ProviderError> {
        let connection = self.connection();
        let settings = &connection.settings;
        let missing = |what: &str| ProviderError::Invalid(format!("{what} is not set: set it in the settings"));
        let security_group = settings.security_group.clone().ok_or_else(|| missing("ec2.security_group"))?;
        if settings.subnets.is_empty() {
            return Err(missing("ec2.subnets"));
        }
        let mut all = candidates::all(settings, &class.ec2);
        if let Some(near) = near.filter(|_| settings.subnets.len() > 1) {
            candidates::prefer(&mut all, near, &self.zones_of(&settings.subnets).await);
        }
        let first = self.memory.first(&all, Instant::now()).map_err(ProviderError::NoCapacity)?;
        let image = self.image_for(image, class.ec2.architecture).await?;
        let mut parameters = parameters(settings, &security_group, class, first, image);
        if candidates::has_choice(settings, &class.ec2) {
            parameters.fleet = self.memory.open(&all, first.spot);
        }
        Ok(parameters)
    }

    /// Asks for machines.
    pub(super) async fn run_instances(&self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        let parameters: Parameters = serde_json::from_str(&spec.candidate)
            .map_err(|error| ProviderError::Invalid(format!("the launch's candidate cannot be read: {error}")))?;
        if !parameters.fleet.is_empty() {
            return self.create_fleet(spec, &parameters).await;
        }
        let answer = request(&self.client().await, spec, &parameters).send().await.map_err(Refusal::of);
        match answer {
            Ok(made) => Ok(made.instances.unwrap_or_default().iter().map(|it| self.machine(it)).collect()),
            Err(Refusal { kind: Kind::Ended, .. }) => Ok(Vec::new()),
            Err(refusal) => Err(self.remember(&parameters.candidate(), &spec.class, refusal)),
        }
    }

    pub(super) fn remember(&self, candidate: &Candidate, class: &ResourceClass, refusal: Refusal) -> ProviderError {
        let market = if candidate.spot { "spot" } else { "on demand" };
        let what = format!("{} {market} in {}", candidate.instance_type, candidate.subnet);
        let why = format!("{what}: {}: {}", refusal.code, refusal.message);
        match refusal.kind {
            Kind::NoCapacity => {
                tracing::warn!(why, "there is no room in this place: others are asked, and this one again in some minutes");
                self.memory.note_no_capacity(candidate, &why, Instant::now());
            }
            Kind::Quota => {
                tracing::error!(
                    code = refusal.code,
                    what,
                    "the account's quota is used up: ask AWS for more (Service Quotas, EC2)"
                );
                let all = candidates::all(&self.connection().settings, &class.ec2);
                self.memory.note_quota(&all, candidate, &why, Instant::now());
            }
            _ => {}
        }
        refusal.into_error(&format!("launching {what}"))
    }
}

/// All that is asked for when this candidate is.
pub(super) fn parameters(
    settings: &Ec2Settings,
    security_group: &str,
    class: &ResourceClass,
    candidate: &Candidate,
    image: Image,
) -> Parameters {
    Parameters {
        instance_type: candidate.instance_type.clone(),
        subnet: candidate.subnet.clone(),
        spot: candidate.spot,
        bare: image.bare,
        image: image.id,
        root_device: image.root_device,
        disk_gib: class.disk_gib.max(image.disk_gib),
        security_group: security_group.to_owned(),
        public_ip: settings.public_ip,
        instance_profile: settings.instance_profile.clone(),
        fleet: Vec::new(),
        hibernate: class.reserve.hibernate && !candidate.spot,
    }
}

pub(super) fn request(client: &aws_sdk_ec2::Client, spec: &LaunchSpec, asked: &Parameters) -> RunInstancesFluentBuilder {
    let metadata = InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(HOP_LIMIT);
    let disk = EbsBlockDevice::builder()
        .volume_size(i32::try_from(asked.disk_gib).unwrap_or(i32::MAX))
        .volume_type(VolumeType::Gp3)
        .encrypted(true)
        .delete_on_termination(true);
    let network = InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .subnet_id(&asked.subnet)
        .groups(&asked.security_group)
        .associate_public_ip_address(asked.public_ip)
        .delete_on_termination(true);
    let call = client
        .run_instances()
        .client_token(&spec.client_token)
        .min_count(1)
        .max_count(i32::try_from(spec.count).unwrap_or(i32::MAX))
        .image_id(&asked.image)
        .instance_type(InstanceType::from(asked.instance_type.as_str()))
        .user_data(BASE64.encode(&spec.user_data))
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(metadata.build())
        .block_device_mappings(BlockDeviceMapping::builder().device_name(&asked.root_device).ebs(disk.build()).build())
        .network_interfaces(network.build())
        .set_tag_specifications(Some(tagged(&spec.tags, asked.spot)));
    let call = match &asked.instance_profile {
        Some(name) => call.iam_instance_profile(IamInstanceProfileSpecification::builder().name(name).build()),
        None => call,
    };
    let call = match asked.hibernate {
        true => call.hibernation_options(HibernationOptionsRequest::builder().configured(true).build()),
        false => call,
    };
    if !asked.spot {
        return call;
    }
    // One-time: a persistent request would bring back what was terminated.
    let spot = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate);
    let market = InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(spot.build());
    call.instance_market_options(market.build())
}

/// Everything that the call makes is tagged by it.
fn tagged(ours: &Tags, spot: bool) -> Vec<TagSpecification> {
    let mut made = vec![ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface];
    if spot {
        made.push(ResourceType::SpotInstancesRequest);
    }
    let with_tags = |of| TagSpecification::builder().resource_type(of).set_tags(Some(tags::write(ours))).build();
    made.into_iter().map(with_tags).collect()
}

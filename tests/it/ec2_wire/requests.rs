//! Requests that keep model and policy, for the tests of the wire to break one thing at a time.

use super::proxy::Cloud;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::create_volume::builders::CreateVolumeFluentBuilder;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, InstanceMarketOptionsRequest, InstanceMetadataOptionsRequest,
    InstanceType, MarketType, ResourceType, ShutdownBehavior, Tag, TagSpecification, VolumeType,
};
use base64::Engine as _;

/// The tags of our installation for one kind of resource.
pub(super) fn tags(kind: ResourceType) -> TagSpecification {
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let ours = [tag("ManagedBy", "vm-service"), tag("vm-service:installation", "42")];
    TagSpecification::builder().resource_type(kind).set_tags(Some(ours.to_vec())).build()
}

/// A root disk as it must be.
pub(super) fn disk() -> EbsBlockDevice {
    EbsBlockDevice::builder().encrypted(true).delete_on_termination(true).volume_size(20).volume_type(VolumeType::Gp3).build()
}

pub(super) fn root(disk: EbsBlockDevice) -> BlockDeviceMapping {
    BlockDeviceMapping::builder().device_name("/dev/sda1").ebs(disk).build()
}

pub(super) fn metadata() -> InstanceMetadataOptionsRequest {
    InstanceMetadataOptionsRequest::builder().http_tokens(HttpTokensState::Required).http_put_response_hop_limit(1).build()
}

/// One on-demand machine in the first zone.
pub(super) fn launch(cloud: &Cloud, token: &str) -> RunInstancesFluentBuilder {
    cloud
        .ec2()
        .run_instances()
        .image_id(cloud.image())
        .instance_type(InstanceType::M7iLarge)
        .min_count(1)
        .max_count(1)
        .client_token(token)
        .subnet_id(&cloud.subnets()[0].id)
        .security_group_ids(cloud.security_group())
        .metadata_options(metadata())
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .block_device_mappings(root(disk()))
        .user_data(base64::engine::general_purpose::STANDARD.encode("#cloud-config"))
        .tag_specifications(tags(ResourceType::Instance))
        .tag_specifications(tags(ResourceType::Volume))
}

/// The same on the spot market.
pub(super) fn launch_spot(cloud: &Cloud, token: &str) -> RunInstancesFluentBuilder {
    let spot = InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).build();
    launch(cloud, token).instance_market_options(spot).tag_specifications(tags(ResourceType::SpotInstancesRequest))
}

/// An empty volume of 10 GiB.
pub(super) fn volume(cloud: &Cloud, zone: usize, token: &str) -> CreateVolumeFluentBuilder {
    let call = cloud.ec2().create_volume().availability_zone(&cloud.subnets()[zone].zone).size(10).volume_type(VolumeType::Gp3);
    call.encrypted(true).client_token(token).tag_specifications(tags(ResourceType::Volume))
}

/// Launches and gives the ids.
pub(super) async fn launched(call: RunInstancesFluentBuilder) -> Vec<String> {
    let answer = call.send().await.unwrap();
    answer.instances().iter().map(|instance| instance.instance_id().unwrap().to_owned()).collect()
}

/// Makes a volume and gives its id.
pub(super) async fn made(call: CreateVolumeFluentBuilder) -> String {
    call.send().await.unwrap().volume_id().unwrap().to_owned()
}

/// AWS's code of an error; `cut` where there was no answer, `fine` where there was a good one.
pub(super) fn code<T, E: ProvideErrorMetadata>(answer: Result<T, SdkError<E>>) -> String {
    match answer {
        Ok(_) => "fine".to_owned(),
        Err(SdkError::ServiceError(error)) => error.into_err().code().unwrap_or("no code").to_owned(),
        Err(SdkError::DispatchFailure(_)) => "cut".to_owned(),
        Err(_) => "another failure".to_owned(),
    }
}

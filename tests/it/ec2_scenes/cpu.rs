//! Processor time that the provider takes for a machine, beside the bare SDK with the same calls; `make bench` runs it.
//!
//! *A machine*: asked for with 99 others in one launch, seen with them as often as while it starts in life (each 2 s from 5 s to 18 s after
//! its launch), ended with them, and seen once more. *Processor time*: user and system time, from /proc, of all threads of this process but
//! those of the wire, which has a runtime and threads of its own; moto is another process. The two alternate, so that a host that slows
//! down slows both; the build is the unoptimised one that `make up` runs.

use super::alone::{Alone, USER_DATA};
use crate::ec2_doctor::OURS;
use crate::ec2_wire::rules::Rules;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, Filter, HttpTokensState, InstanceMetadataEndpointState, InstanceMetadataOptionsRequest,
    InstanceNetworkInterfaceSpecification, InstanceType, ResourceType, ShutdownBehavior, Tag, TagSpecification, VolumeType,
};
use base64::Engine as _;
use tokio::runtime::Builder;
use vm_service::provider::Provider as _;

const MACHINES: u32 = 100;
const LOOKS: usize = 7;
/// The first of each is not counted: connections are made in it.
const ROUNDS: u32 = 11;
/// Of the wire's threads.
const WIRE: &str = "wire";
/// USER_HZ: what /proc counts processor time in on every Linux that this runs on, proc(5).
const TICKS_PER_SECOND: f64 = 100.0;

#[test]
#[ignore = "measures: by make bench"]
fn of_a_launched_machine() {
    let wire = Builder::new_multi_thread().worker_threads(1).thread_name(WIRE).enable_all().build().unwrap();
    let alone = wire.block_on(Alone::new(Rules { held_by_us: true, ..Rules::default() }));
    let ours = Builder::new_current_thread().enable_all().build().unwrap();
    let sdk = alone.cloud.ec2();
    let (mut provider, mut bare) = (0.0, 0.0);
    for round in 0..ROUNDS {
        let calls = alone.cloud.journal().len();
        let begun = processor_seconds();
        ours.block_on(by_the_provider(&alone, &format!("provider-{round}")));
        let (between, calls_between) = (processor_seconds(), alone.cloud.journal().len());
        ours.block_on(by_the_sdk(&alone, &sdk, &format!("bare-{round}")));
        if round > 0 {
            provider += between - begun;
            bare += processor_seconds() - between;
            assert_eq!(calls_between - calls, alone.cloud.journal().len() - calls_between, "the same calls");
        }
    }
    let counted = f64::from(MACHINES * (ROUNDS - 1));
    println!("# {counted} machines each, {MACHINES} a launch, {LOOKS} looks while they start; unoptimised build");
    println!("figure ec2_provider_cpu_per_vm {:.2} ms", provider / counted * 1000.0);
    println!("figure ec2_bare_sdk_cpu_per_vm {:.2} ms", bare / counted * 1000.0);
    println!("figure ec2_provider_cpu_ratio {:.3} of_bare_sdk", provider / bare);
}

async fn by_the_provider(alone: &Alone, token: &str) {
    let ids = alone.machines(token, MACHINES).await;
    for _ in 0..LOOKS {
        assert_eq!(alone.ec2.find_machines(&ids).await.unwrap().len(), ids.len());
    }
    alone.ec2.terminate(&ids).await.unwrap();
    alone.ec2.find_machines(&ids).await.unwrap();
}

/// The requests that the provider makes, and nothing done with the answers but that they are read.
async fn by_the_sdk(alone: &Alone, sdk: &aws_sdk_ec2::Client, token: &str) {
    let made = request(alone, sdk, token).send().await.unwrap();
    let ids: Vec<String> = made.instances().iter().map(|it| it.instance_id().unwrap().to_owned()).collect();
    let look = || {
        let these = Filter::builder().name("instance-id").set_values(Some(ids.clone())).build();
        sdk.describe_instances().filters(these).max_results(1000).send()
    };
    for _ in 0..LOOKS {
        assert_eq!(look().await.unwrap().reservations()[0].instances().len(), ids.len());
    }
    sdk.terminate_instances().set_instance_ids(Some(ids.clone())).send().await.unwrap();
    look().await.unwrap();
}

fn request(
    alone: &Alone,
    sdk: &aws_sdk_ec2::Client,
    token: &str,
) -> aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder {
    let metadata = InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(1);
    let disk = EbsBlockDevice::builder().volume_size(20).volume_type(VolumeType::Gp3).encrypted(true).delete_on_termination(true);
    let network = InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .subnet_id(&alone.cloud.subnets()[0].id)
        .groups(alone.cloud.security_group())
        .associate_public_ip_address(false)
        .delete_on_termination(true);
    let ours = [
        ("Name", "vm-service machine medium"),
        ("ManagedBy", "vm-service"),
        ("vm-service:installation", &OURS.to_string()),
        ("vm-service:launch", "00000000-0000-0000-0000-000000000007"),
        ("vm-service:executor", "machine"),
        ("vm-service:class", "medium"),
        ("vm-service:origin", "on_demand"),
        ("vm-service:created-at", "1970-01-01T00:00:00.000000Z"),
    ];
    let tags: Vec<Tag> = ours.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
    let tagged = [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface]
        .map(|kind| TagSpecification::builder().resource_type(kind).set_tags(Some(tags.clone())).build());
    sdk.run_instances()
        .client_token(token)
        .min_count(1)
        .max_count(i32::try_from(MACHINES).unwrap())
        .image_id(alone.cloud.image())
        .instance_type(InstanceType::M5Large)
        .user_data(base64::engine::general_purpose::STANDARD.encode(USER_DATA))
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(metadata.build())
        .block_device_mappings(BlockDeviceMapping::builder().device_name("/dev/sda1").ebs(disk.build()).build())
        .network_interfaces(network.build())
        .set_tag_specifications(Some(tagged.to_vec()))
}

/// Of all threads of this process but the wire's.
fn processor_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let ticks = threads.filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        // The name stands in brackets; utime and stime are fields 14 and 15 of proc(5).
        let (name, fields) = stat.rsplit_once(')')?;
        let fields: Vec<f64> = fields.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap()).collect();
        (!name.ends_with(&format!("({WIRE}"))).then(|| fields[0] + fields[1])
    });
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

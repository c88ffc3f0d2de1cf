//! One mistake at a time in what a class names, and what is said of it.

use super::*;
use aws_sdk_ec2::types::{ArchitectureType, ArchitectureValues, InstanceType, ProcessorInfo};

fn image(id: &str, architecture: ArchitectureValues, state: ImageState, root: DeviceType) -> types::Image {
    types::Image::builder().image_id(id).architecture(architecture).state(state).root_device_type(root).build()
}

fn catalogue() -> Catalogue {
    let images = [
        image("ami-good", ArchitectureValues::X8664, ImageState::Available, DeviceType::Ebs),
        image("ami-arm", ArchitectureValues::Arm64, ImageState::Available, DeviceType::Ebs),
        image("ami-pending", ArchitectureValues::X8664, ImageState::Pending, DeviceType::Ebs),
        image("ami-store", ArchitectureValues::X8664, ImageState::Available, DeviceType::InstanceStore),
    ];
    let of = |name: &str, architecture| {
        let processor = ProcessorInfo::builder().supported_architectures(architecture).build();
        InstanceTypeInfo::builder().instance_type(InstanceType::from(name)).processor_info(processor).build()
    };
    let types = [
        of("m5.large", ArchitectureType::X8664),
        of("m6g.large", ArchitectureType::Arm64),
        of("p5.48xlarge", ArchitectureType::X8664),
        of("c5.large", ArchitectureType::X8664),
    ];
    let offered = [("m5.large", "a"), ("m5.large", "b"), ("m6g.large", "a"), ("c5.large", "b")];
    Catalogue {
        newest: BTreeMap::new(),
        images: images.into_iter().map(|it| (it.image_id().unwrap().to_owned(), it)).collect(),
        types: types.into_iter().map(|it| (it.instance_type().unwrap().as_str().to_owned(), it)).collect(),
        offered: offered.into_iter().map(|(name, zone)| (name.to_owned(), zone.to_owned())).collect(),
    }
}

fn judged(image: Option<&str>, architecture: Architecture, types: &[&str]) -> Result<String, String> {
    let types: Vec<String> = types.iter().map(|&name| name.to_owned()).collect();
    judge("eu-west-1", Ok(image.map(str::to_owned)), architecture, &types, &BTreeSet::from(["a", "b"]), &catalogue())
        .map(|(_, seen)| seen)
}

#[test]
fn what_fits_is_told() {
    use Architecture::{Arm64, X86_64};
    assert_eq!(
        judged(Some("ami-good"), X86_64, &["m5.large", "c5.large"]).unwrap(),
        "ami-good, x86_64, root disk of 0 GiB; m5.large in a, b; c5.large in b (not in a: launches go to the others)"
    );
    assert!(judged(Some("ami-arm"), Arm64, &["m6g.large"]).is_ok());
}

#[test]
fn each_mistake_is_told_with_what_to_change() {
    use Architecture::X86_64;
    for (image, name, expected) in [
        (None, "m5.large", "no image is set for eu-west-1, and Canonical publishes none there"),
        (Some("ami-gone"), "m5.large", "there is no image ami-gone in eu-west-1"),
        (Some("ami-arm"), "m5.large", "ami-arm is for arm64 and the class for x86_64: set another as ec2.images.eu-west-1"),
        (Some("ami-pending"), "m5.large", "ami-pending is pending: wait"),
        (Some("ami-store"), "m5.large", "the root disk of ami-store is not on EBS"),
        (Some("ami-good"), "m9.large", "this region has no instance type m9.large"),
        (Some("ami-good"), "m6g.large", "m6g.large runs arm64 and the class is for x86_64"),
        (Some("ami-good"), "p5.48xlarge", "p5.48xlarge is not offered in a, b"),
    ] {
        let why = judged(image, X86_64, &[name]).unwrap_err();
        assert!(why.starts_with(expected) && !why.contains("; "), "{why}");
    }
    let both = judged(Some("ami-gone"), X86_64, &["m5.large", "m9.large"]).unwrap_err();
    assert!(both.contains("ami-gone") && both.contains("; this region has no instance type m9.large"), "{both}");
}

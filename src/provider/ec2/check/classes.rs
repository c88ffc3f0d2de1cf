//! Whether each resource class can be made: its image is there and fits, its instance types exist, fit, and are offered in the zones of
//! the subnets. A type that only some of the zones have is fine: launches fall through to those.

use super::super::Ec2;
use super::super::candidates::{self, Candidate, Parameters};
use super::super::images::{Image, none_published};
use super::super::launch;
use super::super::machines::{FILTER_VALUES, filter};
use super::super::refusal::Refusal;
use super::{finding, refused};
use crate::domain::ec2::{Architecture, Ec2Settings};
use crate::domain::plan::images::Registered;
use crate::domain::resource_class::ResourceClass;
use crate::provider::Finding;
use crate::provider::images::offer;
use aws_sdk_ec2::types::{self, DeviceType, ImageState, InstanceTypeInfo, LocationType, Subnet};
use std::collections::{BTreeMap, BTreeSet};

/// A launch that the classes lead to.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) class: ResourceClass,
    pub(super) parameters: Parameters,
}

/// What the region has of what the classes name.
#[derive(Default)]
struct Catalogue {
    images: BTreeMap<String, types::Image>,
    /// Canonical's newest, where a class names none.
    newest: BTreeMap<Architecture, String>,
    types: BTreeMap<String, InstanceTypeInfo>,
    /// Instance type and zone.
    offered: BTreeSet<(String, String)>,
}

/// A finding for each class, and the different launches that those without a mistake lead to: of each market the first.
pub(super) async fn check(
    ec2: &Ec2,
    settings: &Ec2Settings,
    subnets: &[Subnet],
    registered: &[Registered],
) -> (Vec<Finding>, Vec<Plan>) {
    let classes = ec2.classes();
    // What its launches take; none: Canonical's newest.
    let image_of = |class: &ResourceClass| offer(ec2, class, registered).usual();
    let zones: BTreeSet<&str> = subnets.iter().filter_map(Subnet::availability_zone).collect();
    let images: BTreeSet<String> = classes.values().filter_map(|class| image_of(class).ok()?).collect();
    let types: BTreeSet<String> = classes.values().flat_map(|it| candidates::types(settings, &it.ec2)).cloned().collect();
    let read = async {
        let mut catalogue = ec2.read_catalogue(images, types, &zones).await?;
        let without = classes.values().filter(|class| image_of(class) == Ok(None)).map(|class| class.ec2.architecture);
        for architecture in without.collect::<BTreeSet<_>>() {
            if let Some((id, image)) = ec2.newest(architecture).await? {
                catalogue.images.insert(id.clone(), image);
                catalogue.newest.insert(architecture, id);
            }
        }
        Ok::<Catalogue, Refusal>(catalogue)
    };
    let catalogue = match read.await {
        Ok(catalogue) => catalogue,
        Err(refusal) => return (vec![refused("resource classes", "", &refusal)], Vec::new()),
    };
    let zone_of = |id: &str| subnets.iter().find(|it| it.subnet_id() == Some(id))?.availability_zone().map(str::to_owned);
    let offers =
        |it: &Candidate| zone_of(&it.subnet).is_some_and(|zone| catalogue.offered.contains(&(it.instance_type.clone(), zone)));
    let (mut findings, mut plans) = (Vec::new(), Vec::<Plan>::new());
    for (name, class) in classes.iter() {
        let newest = || catalogue.newest.get(&class.ec2.architecture).cloned();
        let id = image_of(class).map(|id| id.or_else(newest));
        let types = candidates::types(settings, &class.ec2);
        let judged = judge(&ec2.region, id, class.ec2.architecture, types, &zones, &catalogue);
        let what = format!("class {name}");
        match judged {
            Err(wrong) => findings.push(finding(false, &what, wrong)),
            Ok((image, seen)) => {
                findings.push(finding(true, &what, seen));
                for parameters in first_of_each_market(settings, class, &image, &offers) {
                    if !plans.iter().any(|plan| plan.parameters == parameters) {
                        plans.push(Plan { name: name.clone(), class: class.clone(), parameters });
                    }
                }
            }
        }
    }
    (findings, plans)
}

fn first_of_each_market(
    settings: &Ec2Settings,
    class: &ResourceClass,
    image: &Image,
    offers: &impl Fn(&Candidate) -> bool,
) -> Vec<Parameters> {
    let Some(group) = &settings.security_group else { return Vec::new() };
    let all = candidates::all(settings, &class.ec2);
    let first = |spot| all.iter().find(|candidate| candidate.spot == spot && offers(candidate));
    [false, true].into_iter().filter_map(first).map(|it| launch::parameters(settings, group, class, it, image.clone())).collect()
}

/// What there is of a class, or all that is wrong with it.
fn judge(
    region: &str,
    image: Result<Option<String>, String>,
    wanted: Architecture,
    types: &[String],
    zones: &BTreeSet<&str>,
    catalogue: &Catalogue,
) -> Result<(Image, String), String> {
    let (mut seen, mut wrong) = (Vec::new(), Vec::new());
    let image = image.and_then(|image| judge_image(region, image.as_deref(), wanted, catalogue));
    match &image {
        Ok(image) => {
            seen.push(format!("{}, {}, root disk of {} GiB", image.id, word(wanted), image.disk_gib));
            if image.bare {
                seen.push(format!(
                    "which is Canonical's own: each VM is prepared at its first boot, and one built with the scripts in ami/ and \
                     promoted, or set as ec2.images.{region}, is faster"
                ));
            }
        }
        Err(why) => wrong.push(why.clone()),
    }
    for name in types {
        match judge_type(name, wanted, zones, catalogue) {
            Ok(text) => seen.push(text),
            Err(why) => wrong.push(why),
        }
    }
    match image {
        Ok(image) if wrong.is_empty() => Ok((image, seen.join("; "))),
        _ => Err(wrong.join("; ")),
    }
}

fn judge_image(region: &str, id: Option<&str>, wanted: Architecture, catalogue: &Catalogue) -> Result<Image, String> {
    let other = format!("set another as ec2.images.{region}");
    let Some(id) = id else {
        return Err(none_published(region));
    };
    let Some(image) = catalogue.images.get(id) else {
        return Err(format!("there is no image {id} in {region}, or this account may not use it: {other}"));
    };
    let has = image.architecture().map_or("unknown", |it| it.as_str());
    let state = image.state().map_or("unknown", ImageState::as_str);
    if has != word(wanted) {
        return Err(format!(
            "{id} is for {has} and the class for {}: {other}, or change ec2.architecture of the class",
            word(wanted)
        ));
    }
    if state != ImageState::Available.as_str() {
        return Err(format!("{id} is {state}: wait until it is available, or {other}"));
    }
    if image.root_device_type() != Some(&DeviceType::Ebs) {
        return Err(format!("the root disk of {id} is not on EBS: {other}"));
    }
    Ok(Image::of(id.to_owned(), image))
}

fn judge_type(name: &str, wanted: Architecture, zones: &BTreeSet<&str>, catalogue: &Catalogue) -> Result<String, String> {
    let other = "set other ec2.instance_types of the class, or another ec2.instance_type";
    let Some(found) = catalogue.types.get(name) else {
        return Err(format!("this region has no instance type {name}: {other}"));
    };
    let fits: Vec<&str> =
        found.processor_info().map(|it| it.supported_architectures()).unwrap_or_default().iter().map(|it| it.as_str()).collect();
    if !fits.contains(&word(wanted)) {
        return Err(format!("{name} runs {} and the class is for {}: {other}", fits.join(", "), word(wanted)));
    }
    if zones.is_empty() {
        return Ok(format!("{name}, in zones that are not known without a subnet"));
    }
    let (here, not_here): (Vec<&str>, Vec<&str>) =
        zones.iter().partition(|zone| catalogue.offered.contains(&(name.to_owned(), (**zone).to_owned())));
    match (here.as_slice(), not_here.as_slice()) {
        ([], _) => Err(format!("{name} is not offered in {}: {other}, or add a subnet in a zone that has it", not_here.join(", "))),
        (_, []) => Ok(format!("{name} in {}", here.join(", "))),
        _ => Ok(format!("{name} in {} (not in {}: launches go to the others)", here.join(", "), not_here.join(", "))),
    }
}

/// As EC2 writes it.
fn word(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "x86_64",
        Architecture::Arm64 => "arm64",
    }
}

impl Ec2 {
    /// In calls of as many names as a filter takes. The pages of one call count as one: there is hardly ever a second.
    async fn read_catalogue(
        &self,
        images: BTreeSet<String>,
        types: BTreeSet<String>,
        zones: &BTreeSet<&str>,
    ) -> Result<Catalogue, Refusal> {
        let client = self.client().await;
        let mut catalogue = Catalogue::default();
        let images: Vec<String> = images.into_iter().collect();
        for some in images.chunks(FILTER_VALUES) {
            let call = client.describe_images().filters(filter("image-id", some.iter().cloned()));
            let found = self.budget.read.call(call.into_paginator().items().send().try_collect()).await?;
            catalogue.images.extend(found.into_iter().filter_map(|it| Some((it.image_id()?.to_owned(), it))));
        }
        let types: Vec<String> = types.into_iter().collect();
        for some in types.chunks(FILTER_VALUES) {
            let call = client.describe_instance_types().filters(filter("instance-type", some.iter().cloned()));
            let found = self.budget.read.call(call.into_paginator().items().send().try_collect()).await?;
            catalogue.types.extend(found.into_iter().filter_map(|it| Some((it.instance_type()?.as_str().to_owned(), it))));
            if zones.is_empty() {
                continue;
            }
            let call = client
                .describe_instance_type_offerings()
                .location_type(LocationType::AvailabilityZone)
                .filters(filter("instance-type", some.iter().cloned()))
                .filters(filter("location", zones.iter().map(|zone| (*zone).to_owned())));
            let found = self.budget.read.call(call.into_paginator().items().send().try_collect()).await?;
            let pair = |it: types::InstanceTypeOffering| Some((it.instance_type()?.as_str().to_owned(), it.location()?.to_owned()));
            catalogue.offered.extend(found.into_iter().filter_map(pair));
        }
        Ok(catalogue)
    }
}

#[cfg(test)]
#[path = "classes_tests.rs"]
mod tests;

//! AMIs over the foreign wire: looked at before they are registered, launched when they are promoted, left alone when they vanish, and
//! deregistered with their snapshots when they were retired long ago. Only those that carry our tag.

use super::alone::Alone;
use super::scene::Scene;
use crate::ec2_wire::proxy::Cloud;
use crate::ec2_wire::rules::Rules;
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::domain::ec2::Architecture;
use vm_service::domain::ids::{ImageId, InstallationId};
use vm_service::domain::image::{ImageFacts, ImageKind, ImageSource, WantedImage};
use vm_service::domain::lifecycle::ImageState;
use vm_service::provider::ProviderError;
use vm_service::provider::images::Images as _;

/// What stands between two tags of an answer, the first time.
fn between<'a>(answer: &'a str, tag: &str) -> &'a str {
    let (_, rest) = answer.split_once(&format!("<{tag}>")).unwrap_or_else(|| panic!("no {tag}: {answer}"));
    rest.split_once("</").unwrap().0
}

/// An AMI of the account with its snapshot, made by somebody's builder; tagged for this installation.
async fn built(cloud: &Cloud, name: &str, tagged_for: Option<InstallationId>) -> (String, String) {
    let source = cloud.image();
    let copy = [("SourceImageId", source.as_str()), ("SourceRegion", cloud.region()), ("Name", name)];
    let image = between(&cloud.behind_our_back("CopyImage", &copy).await, "imageId").to_owned();
    let snapshot = between(&cloud.behind_our_back("DescribeImages", &[("ImageId.1", &image)]).await, "snapshotId").to_owned();
    if let Some(installation) = tagged_for {
        let value = installation.to_string();
        let tags = [
            ("ResourceId.1", image.as_str()),
            ("ResourceId.2", &snapshot),
            ("Tag.1.Key", "vm-service:installation"),
            ("Tag.1.Value", &value),
        ];
        cloud.behind_our_back("CreateTags", &tags).await;
    }
    (image, snapshot)
}

/// One of ours goes.
pub(super) async fn deleted(alone: &Alone) {
    let (image, snapshot) = built(&alone.cloud, "ours", Some(crate::ec2_doctor::OURS)).await;
    assert_eq!(alone.ec2.find_image(alone.cloud.region(), &image).await.unwrap().unwrap().snapshots, [snapshot]);
    alone.ec2.delete_image(&image, &[]).await.unwrap();
}

fn wanted(cloud: &Cloud, id: &str) -> WantedImage {
    WantedImage {
        source: ImageSource::Ami { region: cloud.region().to_owned(), id: id.to_owned() },
        name: "guest".to_owned(),
        kind: ImageKind::Base,
        architecture: Architecture::X86_64,
        facts: ImageFacts::default(),
    }
}

impl Scene {
    /// Nothing in the settings names an image.
    async fn unnamed(&self) {
        self.set(|settings| settings.ec2.images.clear()).await;
    }

    async fn registered(&self, id: &str) -> ImageId {
        self.bench.register(vec![wanted(&self.cloud, id)], 0).await.unwrap()[0]
    }

    /// The images of all launches so far.
    fn launched(&self) -> Vec<String> {
        self.cloud.calls("RunInstances").iter().map(|call| call.params.get("ImageId").unwrap().to_owned()).collect()
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_ami_is_looked_at_registered_launched_and_deleted_with_its_snapshot(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.unnamed().await;
    let ours = scene.bench.world.installation;
    let (old, old_snapshot) = built(&scene.cloud, "old", Some(ours)).await;
    let (new, new_snapshot) = built(&scene.cloud, "new", Some(ours)).await;
    let unknown = scene.bench.register(vec![wanted(&scene.cloud, &old), wanted(&scene.cloud, "ami-0123456789abcdef0")], 0).await;
    assert!(unknown.unwrap_err().contains("There is no image ami-0123456789abcdef0"));
    let arm = WantedImage { architecture: Architecture::Arm64, ..wanted(&scene.cloud, &old) };
    assert!(scene.bench.register(vec![arm], 0).await.unwrap_err().contains("is for x86_64, and its manifest says arm64"));
    let image = scene.registered(&old).await;
    let facts = scene.bench.view(image).await.facts;
    assert_eq!((facts.snapshots, facts.warnings), (vec![old_snapshot.clone()], Vec::<String>::new()));

    scene.bench.promote(image).await;
    let (task, _) = scene.job().await;
    assert_eq!(scene.launched(), [old.as_str()]);
    let next = scene.registered(&new).await;
    scene.bench.promote(next).await;
    scene.bench.clock.advance(TimeDelta::days(15));
    scene.turn(2).await;
    assert_eq!(scene.cloud.calls("DeregisterImage").len(), 0, "a machine is made of it");
    scene.bench.db.release_task(task, scene.bench.now()).await.unwrap();
    scene.ends_clean().await;
    scene.bench.clock.advance(TimeDelta::minutes(6));
    scene.turn(2).await;
    let called = |action: &str, name: &str| -> Vec<String> {
        scene.cloud.calls(action).iter().map(|call| call.params.get(name).unwrap().to_owned()).collect()
    };
    assert_eq!(called("DeregisterImage", "ImageId"), std::slice::from_ref(&old));
    assert_eq!(called("DeleteSnapshot", "SnapshotId"), [old_snapshot]);
    assert_eq!(scene.bench.view(image).await.state, ImageState::Deleted);
    let left = scene.cloud.behind_our_back("DescribeImages", &[]).await;
    assert!(!left.contains(&old) && left.contains(&new) && left.contains(&new_snapshot));
}

/// Somebody deregisters the promoted image: launches go on with what is below it. (moto still makes machines of an image that is gone; what
/// a refused launch leads to is in `image_scenes`.)
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_ami_that_vanishes_is_not_launched_again(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.unnamed().await;
    let (ami, _) = built(&scene.cloud, "gone", Some(scene.bench.world.installation)).await;
    let image = scene.registered(&ami).await;
    scene.bench.promote(image).await;
    let (first, _) = scene.job().await;
    scene.bench.db.release_task(first, scene.bench.now()).await.unwrap();
    scene.cloud.behind_our_back("DeregisterImage", &[("ImageId", &ami)]).await;
    scene.bench.clock.advance(TimeDelta::minutes(6));
    scene.turn(2).await;
    assert!(scene.bench.view(image).await.missing_at.is_some());
    let (_, _) = scene.job().await;
    assert_eq!(scene.launched(), [ami, scene.cloud.canonical_image()]);
    scene.ends_clean().await;
}

#[tokio::test]
async fn what_is_not_ours_is_said_and_never_deleted() {
    let alone = Alone::new(Rules::default()).await;
    let cloud = &alone.cloud;
    let look = async |id: &str| alone.ec2.find_image(cloud.region(), id).await.unwrap().unwrap().warnings;
    let (untagged, _) = built(cloud, "untagged", None).await;
    let (other, _) = built(cloud, "other", Some(InstallationId(uuid::Uuid::from_u128(43)))).await;
    for image in [&untagged, &other] {
        assert!(look(image).await[0].contains("has no tag vm-service:installation of this installation"));
        let refused = alone.ec2.delete_image(image, &[]).await;
        assert!(matches!(&refused, Err(ProviderError::Invalid(why)) if why.contains("delete it by hand")), "{refused:?}");
    }
    let canonical = cloud.canonical_image();
    assert!(look(&canonical).await[0].contains("It belongs to 099720109477"));
    let public =
        [("ImageId", untagged.as_str()), ("Attribute", "launchPermission"), ("OperationType", "add"), ("UserGroup.1", "all")];
    cloud.behind_our_back("ModifyImageAttribute", &public).await;
    assert!(look(&untagged).await.iter().any(|it| it.contains("It is public")));
    alone.ec2.delete_image("ami-0123456789abcdef0", &["snap-0123456789abcdef0".to_owned()]).await.unwrap();
    assert!(cloud.calls("DeregisterImage").is_empty() && cloud.calls("DeleteSnapshot").is_empty());
    assert_eq!(alone.ec2.find_image(cloud.region(), "ami-0123456789abcdef0").await.unwrap(), None);
}

//! The least policy is the least: each action that it allows is one that the provider calls, by the feature that brings it. The other direction is at the end of every `Cloud`: nothing is called that the policy does not allow.

use super::alone::Alone;
use super::volumes::tags;
use crate::ec2_wire::rules::Rules;
use vm_service::domain::ec2::Market;
use vm_service::provider::Provider as _;
use vm_service::provider::ec2::policy::{self, Features};
use vm_service::provider::reserve::Reserve as _;
use vm_service::provider::volumes::Volumes as _;

#[tokio::test]
async fn each_right_of_the_policy_is_used() {
    let mut alone = Alone::new(Rules::default()).await;
    always(&alone).await;
    let base = policy::actions(&Features::default());
    let mut seen = alone.cloud.actions();
    assert_eq!(seen, base);
    let only = Features::default();
    for (name, features) in [
        ("spot", Features { spot: true, ..only }),
        ("fleet", Features { fleet: true, ..only }),
        ("instance profile", Features { instance_profile: true, ..only }),
        ("volumes", Features { volumes: true, ..only }),
        ("reserve", Features { reserve: true, ..only }),
        ("seed", Features { seed: true, ..only }),
        ("images", Features { images: true, ..only }),
    ] {
        match name {
            "spot" => spot(&mut alone).await,
            "fleet" => fleet(&mut alone).await,
            "instance profile" => profile(&mut alone).await,
            "volumes" => volumes(&alone).await,
            "reserve" => reserve(&mut alone).await,
            "images" => super::images::deleted(&alone).await,
            _ => seed(&alone).await,
        }
        let used = &alone.cloud.actions() - &seen;
        // What another feature brought before is no news.
        assert_eq!(used, &(&policy::actions(&features) - &base) - &seen, "{name}");
        seen.extend(used);
    }
}

/// What is done whatever the settings are.
async fn always(alone: &Alone) {
    let findings = alone.ec2.check(&[]).await;
    assert!(findings.iter().all(|it| it.ok), "{findings:?}");
    let ids = alone.machines("always", 1).await;
    alone.ec2.list_machines().await.unwrap();
    alone.ec2.list_notices().await.unwrap();
    alone.ec2.console(&ids[0]).await.unwrap();
    alone.ec2.terminate(&ids).await.unwrap();
}

async fn spot(alone: &mut Alone) {
    alone.set(|settings| settings.resource_classes.get_mut("medium").unwrap().ec2.market = Market::Spot);
    assert_eq!(Features::of(&alone.settings), Features { spot: true, volumes: true, ..Features::default() });
    alone.ec2.list_notices().await.unwrap();
    let ids = alone.machines("spot", 1).await;
    assert!(alone.cloud.instances().await.iter().any(|it| it.id == ids[0] && it.spot));
}

async fn fleet(alone: &mut Alone) {
    let types = |alone: &mut Alone, types: &[&str]| {
        let types: Vec<String> = types.iter().map(|name| (*name).to_owned()).collect();
        alone.set(|settings| settings.resource_classes.get_mut("medium").unwrap().ec2.instance_types = types);
    };
    types(alone, &["m7i.large", "m6i.large"]);
    assert_eq!(alone.machines("fleet", 1).await.len(), 1);
    types(alone, &[]);
}

/// moto has no profile; whether it is allowed to give it is asked before.
async fn profile(alone: &mut Alone) {
    alone.cloud.allow_profile("jobs");
    alone.set(|settings| settings.ec2.instance_profile = Some("jobs".to_owned()));
    let refused = alone.launch("profile", 1).await.unwrap_err();
    assert_eq!(alone.cloud.calls("RunInstances").last().unwrap().params.get("IamInstanceProfile.Name"), Some("jobs"), "{refused}");
    alone.set(|settings| settings.ec2.instance_profile = None);
}

async fn reserve(alone: &mut Alone) {
    alone.set(|settings| settings.resource_classes.get_mut("medium").unwrap().ec2.market = Market::OnDemand);
    let machine = alone.machines("reserve", 1).await.remove(0);
    alone.ec2.stop(&machine, false).await.unwrap();
    alone.ec2.start(&machine).await.unwrap();
}

async fn volumes(alone: &Alone) {
    let machine = alone.machines("with a volume", 1).await.remove(0);
    let spec = crate::support::volume(&tags("p"), &alone.cloud.subnets()[0].zone, "volume");
    let volume = alone.ec2.create_volume(&spec).await.unwrap().provider_id;
    alone.ec2.attach_volume(&volume, &machine, &spec.tags.lineage).await.unwrap();
    let snapshot = alone.ec2.snapshot_volume(&volume, &crate::support::snapshot(&spec.tags, "snapshot")).await.unwrap();
    alone.ec2.list_snapshots().await.unwrap();
    alone.ec2.delete_snapshot(&snapshot).await.unwrap();
    alone.ec2.detach_volume(&volume, &machine).await.unwrap();
    alone.ec2.delete_volume(&volume).await.unwrap();
}

async fn seed(alone: &Alone) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.raw");
    std::fs::write(&image, [7; 1000]).unwrap();
    let spec = crate::support::snapshot(&tags("p"), "seed");
    let made = alone.ec2.write_snapshot(&image, &spec, &|_| ()).await.unwrap();
    assert!(alone.ec2.find_snapshot(&made).await.unwrap().is_some());
    let block = alone.ec2.list_blocks(&made).await.unwrap().blocks.remove(0);
    alone.ec2.get_block(&made, &block).await.unwrap();
    alone.ec2.list_changed_blocks(&made, &made).await.unwrap();
}

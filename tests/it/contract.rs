//! What `Provider` promises, held by every provider: the same steps on the simulated cloud, on EC2 behind the strict proxy, and on this
//! host (there at the end of the one life of a VM, `onhost`).

use crate::onhost::installation;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeSet;
use uuid::Uuid;
use vm_service::clock::HandClock;
use vm_service::domain::ec2::Ec2Class;
use vm_service::domain::ids::{InstallationId, LaunchId};
use vm_service::domain::resource_class::ResourceClass;
use vm_service::domain::tags::{Origin, Tags};
use vm_service::domain::task::Executor;
use vm_service::guest::Guest as _;
use vm_service::provider::{LaunchSpec, Machine, MachineState, Provider};
use vm_service::sim::{FaultRates, Rules, Sim};

fn ids(machines: &[Machine]) -> BTreeSet<String> {
    machines.iter().map(|machine| machine.provider_id.clone()).collect()
}

/// Takes the provider through the life of one launch. `unknown` is the name of a machine that never was; `pass` lets some seconds pass.
pub(crate) async fn hold(provider: &dyn Provider, ours: InstallationId, user_data: &str, unknown: &str, pass: impl AsyncFn()) {
    let class = ResourceClass {
        vcpus: 1,
        memory_mib: 1024,
        disk_gib: 10,
        limit: None,
        gpus: 0,
        ec2: Ec2Class::default(),
        reserve: Default::default(),
        price_per_hour: None,
    };
    let tags = Tags {
        installation: ours,
        launch: LaunchId(Uuid::from_u128(4711)),
        executor: Executor::RemoteDocker,
        resource_class: "contract".to_owned(),
        origin: Origin::Preallocated,
        created_at: DateTime::<Utc>::from_timestamp(1_790_000_000, 123_456_000).unwrap(),
    };
    let candidate = provider.choose(&class, provider.named_images(&class).first().as_deref(), None).await.unwrap();
    let spec = LaunchSpec {
        client_token: "contract-1".to_owned(),
        tags: tags.clone(),
        class,
        count: provider.max_batch().min(2),
        user_data: user_data.to_owned(),
        candidate,
        image: None,
    };
    let unknown = unknown.to_owned();
    assert_eq!(provider.find_machine(&unknown).await.unwrap(), None);

    // Once per token, and at most as many as asked for.
    let made = provider.launch(&spec).await.unwrap();
    assert!(!made.is_empty() && made.len() <= spec.count as usize, "{made:?}");
    assert!(made.iter().all(|machine| machine.tags == tags), "{made:?}");
    pass().await;
    assert_eq!(ids(&provider.launch(&spec).await.unwrap()), ids(&made));

    // Every look knows them, and none knows the other.
    let listing = provider.list_machines().await.unwrap();
    assert!(listing.complete && ids(&listing.machines).is_superset(&ids(&made)), "{listing:?}");
    let asked: Vec<String> = ids(&made).into_iter().chain([unknown.clone()]).collect();
    let found = provider.find_machines(&asked).await.unwrap();
    assert_eq!(ids(&found), ids(&made));
    assert!(found.iter().all(|machine| machine.tags == tags && machine.state != MachineState::Terminated), "{found:?}");
    for machine in &made {
        assert_eq!(provider.find_machine(&machine.provider_id).await.unwrap().unwrap().tags, tags);
        provider.console(&machine.provider_id).await.unwrap();
    }
    assert_eq!(provider.console(&unknown).await.unwrap(), "");

    // An end is asked for as often as one likes, also of what never was; afterwards nothing lives.
    provider.terminate(&asked).await.unwrap();
    provider.terminate(&asked).await.unwrap();
    for _ in 0..60 {
        pass().await;
        if lives(provider, &asked).await.is_empty() {
            break;
        }
    }
    assert_eq!(lives(provider, &asked).await, [] as [Machine; 0]);
    let listing = provider.list_machines().await.unwrap();
    let left: Vec<&Machine> =
        listing.machines.iter().filter(|it| asked.contains(&it.provider_id) && it.state != MachineState::Terminated).collect();
    assert!(left.is_empty(), "{left:?}");

    assert_eq!(provider.find_volume("vol-0123456789abcdef0").await.unwrap(), None);
    assert!(provider.list_volumes().await.unwrap().complete);
}

async fn lives(provider: &dyn Provider, asked: &[String]) -> Vec<Machine> {
    let found = provider.find_machines(asked).await.unwrap();
    found.into_iter().filter(|machine| machine.state != MachineState::Terminated).collect()
}

#[tokio::test]
async fn the_simulated_cloud_keeps_it() {
    for rules in [Rules::obliging(), Rules::default()] {
        let clock = HandClock::at(crate::support::start());
        let sim = Sim::strict(clock.clone(), rules, FaultRates::none(), 7);
        let bootstrap = vm_service::domain::identity::Bootstrap::generate().unwrap();
        let user_data = sim.user_data(&bootstrap, std::time::Duration::from_secs(600));
        hold(&sim, installation(42), &user_data, "i-none", async || clock.advance(TimeDelta::seconds(60))).await;
    }
}

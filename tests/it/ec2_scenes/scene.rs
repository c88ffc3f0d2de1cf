//! The real loops, a real database and a clock moved by hand; EC2 is moto behind the strict proxy, and guests do what they are told.

use crate::ec2_wire::proxy::Cloud;
use crate::ec2_wire::rules::Rules;
use crate::support::Bench;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use vm_service::domain::ec2::{AccessKey, Authentication};
use vm_service::domain::identity::{Bootstrap, Identity};
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::lineage::Engine;
use vm_service::domain::outbound::Outbound;
use vm_service::domain::secret::Secret;
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::guest::cache::{CacheDisk, CacheReady, Mounted, Unmounted};
use vm_service::guest::linux::LinuxGuest;
use vm_service::guest::{Endpoint, Guest, GuestError, Personality};
use vm_service::loops::Providers;
use vm_service::provider::Provider as _;
use vm_service::provider::ec2::Ec2;

/// A service on EC2.
pub(super) struct Scene {
    pub(super) cloud: Cloud,
    pub(super) bench: Bench,
    pub(super) ec2: Arc<Ec2>,
    region: String,
}

impl Scene {
    /// A cloud without budgets, whose machines run at once, and whose clock stands until a turn: a slow machine changes nothing.
    pub(super) async fn new(pool: PgPool) -> Self {
        Self::with(pool, Rules { speed: 0.0, ..Rules::default() }).await
    }

    pub(super) async fn with(pool: PgPool, rules: Rules) -> Self {
        let cloud = Cloud::start(rules).await;
        let mut bench = Bench::new(pool).await;
        let ec2 = Arc::new(Ec2::new(bench.world.installation, cloud.region(), Outbound::default()));
        bench.world.providers = Providers::new(vec![ec2.clone()]);
        bench.world.guest = Arc::new(Obliging);
        bench.tolerate();
        let region = cloud.region().to_owned();
        let scene = Self { cloud, bench, ec2, region };
        scene.set(|_| {}).await;
        scene
    }

    /// The same with another region in the settings than the cloud is in.
    pub(super) async fn in_region(mut self, region: &str) -> Self {
        self.region = region.to_owned();
        self.ec2 = Arc::new(Ec2::new(self.bench.world.installation, region, Outbound::default()));
        self.bench.world.providers = Providers::new(vec![self.ec2.clone()]);
        self.set(|_| {}).await;
        self
    }

    /// Changes the settings, which lead to the cloud.
    pub(super) async fn set(&self, change: impl FnOnce(&mut Settings)) {
        let cloud = &self.cloud;
        self.bench
            .set(|settings| {
                settings.provider = ProviderChoice::Ec2;
                settings.ec2.region = Some(self.region.clone());
                settings.ec2.subnets = cloud.subnets().into_iter().map(|subnet| subnet.id).collect();
                settings.ec2.security_group = Some(cloud.security_group());
                settings.ec2.images.insert(self.region.clone(), cloud.image());
                settings.ec2.endpoint = Some(cloud.endpoint());
                let key = AccessKey { id: "AKIAIOSFODNN7EXAMPLE".to_owned(), secret: None, sealed: None };
                settings.ec2.authentication = Authentication::AccessKey(key);
                change(settings);
            })
            .await;
        self.ec2.configure(&self.bench.world.settings(), Some(&Secret::new("wJalrXUtnFEMI")));
    }

    /// Machines that there really are.
    pub(super) async fn live(&self) -> Vec<String> {
        self.cloud.instances().await.into_iter().filter(|it| it.lives()).map(|it| it.id).collect()
    }

    /// Every job is given back; afterwards nothing is there, in the cloud and in the rows.
    pub(super) async fn ends_clean(&self) {
        self.cloud.lift_all();
        let open = "select id from vms.tasks where state in ('queued', 'preparing', 'ready')";
        let open: Vec<uuid::Uuid> = sqlx::query_scalar(open).fetch_all(&self.bench.db.pool).await.unwrap();
        for task in open {
            self.bench.db.release_task(vm_service::domain::ids::TaskId(task), self.bench.now()).await.unwrap();
        }
        for _ in 0..400 {
            self.turn(1).await;
            if self.live().await.is_empty() && self.bench.states().await.is_empty() {
                return;
            }
        }
        panic!("left: machines {:?}, rows {}", self.live().await, self.bench.states().await);
    }

    /// Seconds, on both clocks.
    pub(super) async fn turn(&self, seconds: u32) {
        for _ in 0..seconds {
            self.bench.turn(1).await;
            self.cloud.pass(Duration::from_secs(1));
        }
    }

    /// A job that is ready, with its machine.
    pub(super) async fn job(&self) -> (vm_service::domain::ids::TaskId, String) {
        let task = self.bench.ask(&self.bench.request("p")).await.view.id;
        self.ready(task, 60).await;
        (task, self.bench.task(task).await.view.vm.unwrap().provider_id.unwrap())
    }

    /// Turns until the task is ready.
    pub(super) async fn ready(&self, task: vm_service::domain::ids::TaskId, seconds: u32) {
        for _ in 0..seconds {
            if self.bench.state(task).await == TaskState::Ready {
                return;
            }
            self.turn(1).await;
        }
        let timeline = self.bench.timeline(task).await.join("\n");
        panic!(
            "not ready after {seconds} s:\n{timeline}\n{:#?}",
            self.cloud.journal().iter().map(|it| &it.outcome).collect::<Vec<_>>()
        );
    }
}

/// A guest that does what it is told.
struct Obliging;

#[async_trait]
impl Guest for Obliging {
    fn user_data(&self, bootstrap: &Bootstrap, silent_for: Duration) -> String {
        LinuxGuest.user_data(bootstrap, silent_for)
    }

    fn user_data_for_bare(&self, bootstrap: &Bootstrap, silent_for: Duration) -> String {
        LinuxGuest.user_data_for_bare(bootstrap, silent_for)
    }

    async fn personalise(
        &self,
        _at: &Endpoint,
        _bootstrap: Option<&Bootstrap>,
        _identity: &Identity,
        _personality: &Personality,
        _deadline: Duration,
    ) -> Result<Option<Engine>, GuestError> {
        Ok(Some(crate::support::lineage("p").engine))
    }

    async fn authorise(&self, _: SocketAddr, _: &Identity, _: &[String], _: Duration) -> Result<(), GuestError> {
        Ok(())
    }

    async fn set_end(&self, _: SocketAddr, _: &Identity, _: DateTime<Utc>, _: Duration) -> Result<(), GuestError> {
        Ok(())
    }

    async fn mount_cache(&self, _: SocketAddr, _: &Identity, _: &CacheDisk, _: Duration) -> Result<Mounted, GuestError> {
        Ok(Mounted::Ready(CacheReady { warm: false, used_bytes: 0, size_bytes: 100 << 30, notes: Vec::new() }))
    }

    async fn unmount_cache(&self, _: SocketAddr, _: &Identity, _: Duration) -> Result<Unmounted, GuestError> {
        Ok(Unmounted { used_bytes: 1 << 20, layers: Vec::new(), used: Vec::new(), notes: Vec::new() })
    }
}

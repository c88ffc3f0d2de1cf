//! The EC2 provider without loops, for tests of single calls.

use crate::ec2_doctor::{OURS, ec2, settings};
use crate::ec2_wire::proxy::Cloud;
use crate::ec2_wire::rules::Rules;
use uuid::Uuid;
use vm_service::domain::ids::LaunchId;
use vm_service::domain::settings::Settings;
use vm_service::domain::tags::{Origin, Tags};
use vm_service::domain::task::Executor;
use vm_service::provider::ec2::Ec2;
use vm_service::provider::{LaunchSpec, Machine, Provider as _, ProviderError};

/// A cloud whose clock stands, and the provider.
pub(super) struct Alone {
    pub(super) cloud: Cloud,
    pub(super) ec2: Ec2,
    pub(super) settings: Settings,
}

impl Alone {
    pub(super) async fn new(rules: Rules) -> Self {
        let cloud = Cloud::start(Rules { speed: 0.0, ..rules }).await;
        let settings = settings(&cloud);
        Self { ec2: ec2(&settings), cloud, settings }
    }

    /// Other settings from now on.
    pub(super) fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.ec2 = ec2(&self.settings);
    }

    /// One launch of class `medium`.
    pub(super) async fn launch(&self, token: &str, count: u32) -> Result<Vec<Machine>, ProviderError> {
        let class = self.settings.resource_classes["medium"].clone();
        let spec = LaunchSpec {
            client_token: token.to_owned(),
            tags: self.tags(Origin::OnDemand),
            candidate: self.ec2.choose(&class, self.ec2.named_images(&class).first().as_deref(), None).await?,
            image: None,
            class,
            count,
            user_data: USER_DATA.to_owned(),
        };
        self.ec2.launch(&spec).await
    }

    pub(super) fn tags(&self, origin: Origin) -> Tags {
        Tags {
            installation: OURS,
            launch: LaunchId(Uuid::from_u128(7)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            origin,
            created_at: chrono::DateTime::UNIX_EPOCH,
        }
    }

    /// The same with its machines' names.
    pub(super) async fn machines(&self, token: &str, count: u32) -> Vec<String> {
        self.launch(token, count).await.unwrap().into_iter().map(|it| it.provider_id).collect()
    }
}

pub(super) const USER_DATA: &str = "#cloud-config\n";

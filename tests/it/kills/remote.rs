//! The cloud as a replica sees it: every call goes over the socket to the test's process, and has a deadline.

use super::cloud::rules;
use super::wire::{Answer, Ask, Call, Personalise, Refusal};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use vm_service::clock::HandClock;
use vm_service::domain::identity::{Bootstrap, Identity};
use vm_service::domain::lineage::Engine;
use vm_service::domain::plan::images::Registered;
use vm_service::domain::rate::LaunchRate;
use vm_service::domain::resource_class::ResourceClass;
use vm_service::domain::secret::Secret;
use vm_service::domain::settings::{Budget, Settings};
use vm_service::guest::cache::{CacheDisk, Mounted, Unmounted};
use vm_service::guest::{Endpoint, Guest, GuestError, Personality};
use vm_service::provider::{Finding, LaunchSpec, Listing, Machine, Pace, Provider, ProviderError, ProviderVolume, VolumeListing};
use vm_service::sim::{FaultRates, Sim};

/// The longest that a call of a replica takes; below what `Provider::launch` may take.
const DEADLINE: Duration = Duration::from_secs(6);

pub(super) struct Remote {
    socket: PathBuf,
    name: String,
    /// A world of the same rules that nobody uses: it knows what needs no call.
    facts: Sim,
}

impl Remote {
    pub(super) fn new(socket: PathBuf, name: String) -> Self {
        let facts = Sim::strict(HandClock::at(DateTime::UNIX_EPOCH), rules(), FaultRates::none(), 0);
        Self { socket, name, facts }
    }

    async fn ask(&self, call: Call) -> Answer {
        let answered = tokio::time::timeout(DEADLINE, self.exchange(call)).await;
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Refused(Refusal::Transient(error.to_string())),
            Err(_) => Answer::Refused(Refusal::Transient("no answer in time".to_owned())),
        }
    }

    async fn exchange(&self, call: Call) -> anyhow::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let mut line = serde_json::to_string(&Ask { from: self.name.clone(), call })?;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(serde_json::from_str(&answer)?)
    }

    async fn machines(&self, call: Call) -> Result<Listing, ProviderError> {
        match self.ask(call).await {
            Answer::Machines { machines, complete } => {
                Ok(Listing { machines: machines.into_iter().map(Machine::from).collect(), complete })
            }
            Answer::Refused(why) => Err(why.of_provider()),
            Answer::Text(_) | Answer::Engine(_) | Answer::Done => Err(ProviderError::Invalid("not an answer to this".to_owned())),
        }
    }

    async fn contact(&self, call: Call, deadline: Duration) -> Result<(), GuestError> {
        match self.ask(call).await {
            Answer::Refused(why) => Err(why.of_guest(deadline)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Provider for Remote {
    fn name(&self) -> &'static str {
        self.facts.name()
    }

    fn is_chosen(&self, settings: &Settings) -> bool {
        self.facts.is_chosen(settings)
    }

    fn place(&self) -> &str {
        self.facts.place()
    }

    fn max_batch(&self) -> u32 {
        self.facts.max_batch()
    }

    fn launch_rate(&self) -> Option<LaunchRate> {
        self.facts.launch_rate()
    }

    fn pace(&self) -> Pace {
        self.facts.pace()
    }

    fn leaves_remains(&self) -> bool {
        self.facts.leaves_remains()
    }

    fn default_image(&self, class: &ResourceClass) -> Option<String> {
        self.facts.default_image(class)
    }

    fn capacity(&self) -> Budget {
        self.facts.capacity()
    }

    fn configure(&self, _settings: &Settings, _secret: Option<&Secret>) {}

    async fn launch(&self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        let spec = spec.clone();
        let call = Call::Launch {
            token: spec.client_token,
            tags: spec.tags,
            class: spec.class,
            count: spec.count,
            user_data: spec.user_data,
        };
        Ok(self.machines(call).await?.machines)
    }

    async fn list_machines(&self) -> Result<Listing, ProviderError> {
        self.machines(Call::ListMachines).await
    }

    async fn find_machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        Ok(self.machines(Call::FindMachine { id: provider_id.to_owned() }).await?.machines.pop())
    }

    async fn find_machines(&self, provider_ids: &[String]) -> Result<Vec<Machine>, ProviderError> {
        Ok(self.machines(Call::FindMachines { ids: provider_ids.to_vec() }).await?.machines)
    }

    async fn terminate(&self, provider_ids: &[String]) -> Result<(), ProviderError> {
        match self.ask(Call::Terminate { ids: provider_ids.to_vec() }).await {
            Answer::Refused(why) => Err(why.of_provider()),
            _ => Ok(()),
        }
    }

    async fn list_volumes(&self) -> Result<VolumeListing, ProviderError> {
        self.facts.list_volumes().await
    }

    async fn find_volume(&self, provider_id: &str) -> Result<Option<ProviderVolume>, ProviderError> {
        self.facts.find_volume(provider_id).await
    }

    async fn console(&self, provider_id: &str) -> Result<String, ProviderError> {
        match self.ask(Call::Console { id: provider_id.to_owned() }).await {
            Answer::Text(text) => Ok(text),
            Answer::Refused(why) => Err(why.of_provider()),
            _ => Ok(String::new()),
        }
    }

    async fn check(&self, _registered: &[Registered]) -> Vec<Finding> {
        Vec::new()
    }
}

#[async_trait]
impl Guest for Remote {
    fn user_data(&self, bootstrap: &Bootstrap, silent_for: Duration) -> String {
        self.facts.user_data(bootstrap, silent_for)
    }

    async fn personalise(
        &self,
        at: &Endpoint,
        bootstrap: Option<&Bootstrap>,
        identity: &Identity,
        personality: &Personality,
        deadline: Duration,
    ) -> Result<Option<Engine>, GuestError> {
        let first = Personalise {
            ssh: at.ssh,
            docker: at.docker,
            bootstrap: bootstrap.cloned(),
            identity: identity.clone(),
            settings: personality.settings.clone(),
            end_at: personality.absolute_end_at,
            now: personality.now,
        };
        match self.ask(Call::Personalise(Box::new(first))).await {
            Answer::Refused(why) => Err(why.of_guest(deadline)),
            Answer::Engine(engine) => Ok(engine),
            _ => Ok(None),
        }
    }

    async fn authorise(&self, ssh: SocketAddr, identity: &Identity, keys: &[String], deadline: Duration) -> Result<(), GuestError> {
        self.contact(Call::Authorise { ssh, identity: Box::new(identity.clone()), keys: keys.to_vec() }, deadline).await
    }

    async fn set_end(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        end_at: DateTime<Utc>,
        deadline: Duration,
    ) -> Result<(), GuestError> {
        self.contact(Call::SetEnd { ssh, identity: Box::new(identity.clone()), end_at }, deadline).await
    }

    async fn mount_cache(&self, _: SocketAddr, _: &Identity, _: &CacheDisk, _: Duration) -> Result<Mounted, GuestError> {
        Err(GuestError::Misbehaved("no job here has a cache".to_owned()))
    }

    async fn unmount_cache(&self, _: SocketAddr, _: &Identity, _: Duration) -> Result<Unmounted, GuestError> {
        Err(GuestError::Misbehaved("no job here has a cache".to_owned()))
    }
}

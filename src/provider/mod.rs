//! One trait over everything that can make machines; its comments are the contract, and one suite of tests runs on all of them.
//!
//! Reads: the provider's own truth. Writes: the provider. Calls: a cloud, or QEMU on this host. Runs: from `loops` and `admin`.
//!
//! Not here: rows and decisions (`loops`, `domain::plan`); what happens inside a machine (`guest`).

#[cfg(feature = "ec2")]
pub mod ec2;
pub mod images;
pub mod metered;
pub mod onhost;
pub mod reserve;
pub mod volumes;

use crate::domain::ec2::Architecture;
use crate::domain::plan::images::Registered;
use crate::domain::rate::LaunchRate;
use crate::domain::resource_class::ResourceClass;
use crate::domain::secret::Secret;
use crate::domain::settings::{Budget, Settings};
use crate::domain::tags::{Tags, VolumeTags};
use async_trait::async_trait;
use images::{Images, NamedImages};
use reserve::Reserve;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::UnixStream;
use volumes::Volumes;

/// One call that makes machines.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// Names this attempt: the same token and parameters make nothing twice. At most 64 ASCII letters, digits and dashes.
    pub client_token: String,
    /// Put on every machine in the call that makes it.
    pub tags: Tags,
    /// Size of each machine.
    pub class: ResourceClass,
    /// How many, at least 1 and at most [`Provider::max_batch`]. Fewer may come.
    pub count: u32,
    /// Passed to the machines unread.
    pub user_data: String,
    /// What [`Provider::choose`] said before the first call of this attempt.
    pub candidate: String,
    /// What its machines are made of; none: what the provider takes by itself. The same in each repetition.
    pub image: Option<String>,
}

/// What the provider says of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineState {
    /// Made, not running yet.
    Pending,
    /// Runs; that does not mean reachable.
    Running,
    /// On its way to terminated, or to stopped.
    Stopping,
    /// Keeps its disk; costs little.
    Stopped,
    /// Gone, or a dead remainder that [`Provider::terminate`] clears away. Holds no capacity.
    Terminated,
}

/// Where a machine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// An address of its own.
    pub ip: IpAddr,
    /// 22 wherever the provider can.
    pub ssh_port: u16,
    /// 2376 wherever the provider can.
    pub docker_port: u16,
}

/// A machine of this installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The provider's name for it; never used twice.
    pub provider_id: String,
    /// What it carries.
    pub tags: Tags,
    /// Where it is.
    pub state: MachineState,
    /// Known once it runs.
    pub address: Option<Address>,
    /// Cache volumes of this zone can be attached to it; known once it runs.
    pub zone: Option<String>,
    /// Why it ended, where the provider says so: a spot machine that was taken back, a host that failed.
    pub why_ended: Option<String>,
}

/// All machines of this installation that the provider would name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In no order. Machines of other installations are never in it.
    pub machines: Vec<Machine>,
    /// False when a part could not be read: then absence proves nothing.
    pub complete: bool,
}

/// A cache volume of this installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderVolume {
    /// The provider's name for it; never used twice.
    pub provider_id: String,
    /// What it carries.
    pub tags: VolumeTags,
    /// Its machines are in the same zone.
    pub zone: String,
    /// The machine that it is on, or on its way to or from.
    pub machine: Option<String>,
    /// It is still on its way. One that does not arrive is detached by whoever waits for it.
    pub moving: bool,
}

/// All cache volumes of this installation that the provider would name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeListing {
    /// In no order.
    pub volumes: Vec<ProviderVolume>,
    /// False when a part could not be read: then absence proves nothing.
    pub complete: bool,
}

/// The least time between two calls of one sort, over all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between lists of everything: leaks are found by them.
    pub list: Duration,
    /// Between looks at machines that are starting.
    pub watch: Duration,
    /// Between looks at machines that end, while none starts.
    pub watch_ends: Duration,
    /// From a launch to the first look: no machine runs before, and it may not be known yet.
    pub first_look: Duration,
    /// Between terminations, so that many go in one call.
    pub terminate: Duration,
    /// How long after a launch "not known" still means "not yet".
    pub settles: Duration,
    /// Between looks at what is announced; none: nothing ever is.
    pub notices: Option<Duration>,
}

/// What the provider announces about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The machine; it may be somebody else's.
    pub provider_id: String,
    /// One sentence: what is going to happen, and when. The same words as long as it stays the same.
    pub what: String,
}

/// One thing a check looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Nothing is wrong.
    pub ok: bool,
    /// What was looked at.
    pub what: String,
    /// What was seen, and when wrong, what to change.
    pub detail: String,
    /// It was not seen, because the provider was asked too fast: another look may. It is not `ok` then.
    pub throttled: bool,
}

impl Finding {
    /// What was seen.
    pub fn new(ok: bool, what: &str, detail: impl Into<String>) -> Self {
        Self { ok, what: what.to_owned(), detail: detail.into(), throttled: false }
    }

    /// Nothing was seen.
    pub fn failed(what: &str, error: &ProviderError) -> Self {
        Self { throttled: matches!(error, ProviderError::Throttled), ..Self::new(false, what, error.to_string()) }
    }
}

/// Named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No room: try another candidate, or later.
    #[error("no capacity: {0}")]
    NoCapacity(String),
    /// Asked too fast, nothing happened: put the call back.
    #[error("throttled")]
    Throttled,
    /// Ours or the operator's to mend: more tries do not help.
    #[error("refused: {0}")]
    Invalid(String),
    /// May have happened or not: ask again with the same token.
    #[error("{what}")]
    Transient {
        /// What was being done.
        what: String,
        /// What the system said.
        #[source]
        source: anyhow::Error,
    },
}

impl ProviderError {
    /// The word in metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoCapacity(_) => "no_capacity",
            Self::Throttled => "throttled",
            Self::Invalid(_) => "refused",
            Self::Transient { .. } => "unclear",
        }
    }

    /// An error that more tries may mend.
    pub fn transient(what: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self::Transient { what: what.into(), source: source.into() }
    }
}

/// What a candidate asks for, for metrics: words that an operator configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `spot`, `on_demand`; `none` where there are no markets.
    pub market: &'static str,
    /// The type of machine; `none` where there are no types, `fleet` where the provider chooses.
    pub instance_type: String,
    /// Zone, or subnet while its zone is not known; `none` and `fleet` as above.
    pub zone: String,
}

impl Default for Asked {
    fn default() -> Self {
        Self { market: "none", instance_type: "none".to_owned(), zone: "none".to_owned() }
    }
}

/// Makes, shows and ends machines.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The word in rows and answers: `onhost`, `ec2`, `sim`.
    fn name(&self) -> &'static str;

    /// Whether these settings name it.
    fn is_chosen(&self, settings: &Settings) -> bool;

    /// Names the part of the world that this provider's machines live in: a region, or a host. Kept in every row.
    fn place(&self) -> &str;

    /// How many machines one launch may ask for.
    fn max_batch(&self) -> u32;

    /// How fast launches may be asked for; none: as fast as one likes. All replicas share it.
    fn launch_rate(&self) -> Option<LaunchRate>;

    /// How often it may be looked at and asked.
    fn pace(&self) -> Pace;

    /// Whether a machine that ended by itself leaves something behind that [`Provider::terminate`] must clear away.
    fn leaves_remains(&self) -> bool;

    /// Names what a machine of this class is made of when nothing else is said. None: found at the launch, or unknown.
    fn default_image(&self, class: &ResourceClass) -> Option<String>;

    /// What the settings name for machines of this class: it comes before what is registered.
    fn named_images(&self, _class: &ResourceClass) -> NamedImages {
        NamedImages::default()
    }

    /// Of machines of this class.
    fn architecture(&self, class: &ResourceClass) -> Architecture {
        class.ec2.architecture
    }

    /// What it can carry when the settings set no limits.
    fn capacity(&self) -> Budget;

    /// Takes the live settings over, for machines launched from now on.
    /// `secret` is the secret half of an access key in them.
    fn configure(&self, settings: &Settings, secret: Option<&Secret>);

    /// Chooses what the next attempt of a launch of this class asks for, where there is a choice. The answer is kept in the launch's
    /// row before the call and given to each repetition of it: a token always goes with its parameters. `image`: what its machines are
    /// made of; none: what the provider takes by itself. `near`: a zone that is better than others that have room.
    ///
    /// # Errors
    /// `NoCapacity`: nothing that fits has room now. `Invalid`: nothing can be chosen before the settings are mended.
    async fn choose(&self, _class: &ResourceClass, _image: Option<&str>, _near: Option<&str>) -> Result<String, ProviderError> {
        Ok(String::new())
    }

    /// What this candidate's machines are made of, where it says so.
    fn image_in(&self, _candidate: &str) -> Option<String> {
        None
    }

    /// Whether this candidate's machines start from an image that knows nothing of us, and must be prepared at their first boot.
    fn is_bare(&self, _candidate: &str) -> bool {
        false
    }

    /// What this candidate asks for.
    fn asked(&self, _candidate: &str) -> Asked {
        Asked::default()
    }

    /// Makes machines and returns those that this token has made so far. Idempotent by token: a repeated call,
    /// also from another process and after a crash at any line, makes nothing twice. Returns within 7 s; the machines may
    /// still be pending.
    ///
    /// # Errors
    /// After `Transient` the call is repeated with the same token; after the others with a new one or not at all.
    async fn launch(&self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError>;

    /// All machines of this installation in this place.
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn list_machines(&self) -> Result<Listing, ProviderError>;

    /// A direct look at one machine. `None`: the provider does not know it (just after its launch that means "not yet").
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn find_machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError>;

    /// A shared look at many machines, in as few calls as the provider allows; those it does not know are missing from the answer.
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn find_machines(&self, provider_ids: &[String]) -> Result<Vec<Machine>, ProviderError>;

    /// What is announced about machines: an end or a restart that comes soon.
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn list_notices(&self) -> Result<Vec<Notice>, ProviderError> {
        Ok(Vec::new())
    }

    /// Asks machines to die with their disks, in one call; ids that are unknown or dead already are fine. A machine is gone when
    /// [`Provider::find_machine`] says `None` or `Terminated`.
    ///
    /// # Errors
    /// Some may live on: ask again.
    async fn terminate(&self, provider_ids: &[String]) -> Result<(), ProviderError>;

    /// All cache volumes of this installation in this place.
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn list_volumes(&self) -> Result<VolumeListing, ProviderError>;

    /// A direct look at one volume. `None`: the provider does not know it.
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn find_volume(&self, provider_id: &str) -> Result<Option<ProviderVolume>, ProviderError>;

    /// Cache volumes; none: this provider keeps none.
    fn volumes(&self) -> Option<&dyn Volumes> {
        None
    }

    /// Looking at images and deleting them; none: it has none that could be registered.
    fn images(&self) -> Option<&dyn Images> {
        None
    }

    /// Stopping machines and starting them again; none: this provider stops none.
    fn reserve(&self) -> Option<&dyn Reserve> {
        None
    }

    /// A way into a machine beside its network, where it waits behind one for its identity; none: it is met over its network.
    ///
    /// # Errors
    /// It could not be opened this time.
    async fn channel(&self, _provider_id: &str) -> Result<Option<UnixStream>, ProviderError> {
        Ok(None)
    }

    /// The end of what the machine wrote to its console, at most 64 KiB, as text; empty when there is none.
    ///
    /// # Errors
    /// It could not be read this time.
    async fn console(&self, provider_id: &str) -> Result<String, ProviderError>;

    /// Looks whether machines can be made here, and says what to change. Makes none that outlast the call.
    /// `registered`: the images that are registered at its place.
    async fn check(&self, registered: &[Registered]) -> Vec<Finding>;

    /// The same for settings that are not in force yet. Where settings bring a provider about, one that was made for them is asked
    /// [`Provider::check`] instead.
    async fn preflight(&self, _settings: &Settings, registered: &[Registered]) -> Vec<Finding> {
        self.check(registered).await
    }
}

//! The live settings: everything an operator changes without a restart, checked before it is kept.
//!
//! Kept in `vms.settings`, one row a version. A field is here only when the service acts on it.
//!
//! Not here: what needs a restart (`config`).

use super::certificates::{is_pem, one_a_text};
use super::ec2::Ec2Settings;
use super::network::is_network;
use super::preallocated::Preallocated;
use super::resource_class::{ResourceClass, default_classes};
use super::task::{Executor, no_control_characters};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Of projects, of classes: as many as a form shows.
pub const MOST_ROWS: usize = 1000;

/// Where VMs come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderChoice {
    /// Nowhere: tasks wait, `/status` is healthy.
    #[default]
    None,
    /// From the host itself, by QEMU.
    OnHost,
    /// From Amazon EC2.
    Ec2,
}

/// What the VMs of the on-host provider can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmNetwork {
    /// The outside world, but no address of the host and no other VM.
    #[default]
    Open,
    /// Nothing; only the forwarded ports lead in.
    Closed,
}

/// Every live setting. Unknown fields are refused, missing ones have their default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where VMs come from.
    #[garde(skip)]
    pub provider: ProviderChoice,
    /// The VMs of the on-host provider.
    #[garde(dive)]
    pub on_host: OnHostSettings,
    /// The VMs of Amazon EC2.
    #[garde(dive)]
    pub ec2: Ec2Settings,
    /// Inside the VMs.
    #[garde(dive)]
    pub guest: GuestSettings,
    /// How long each thing may take.
    #[garde(dive)]
    pub timeouts: Timeouts,
    /// How much there may be at a time.
    #[garde(dive)]
    pub limits: Limits,
    /// Docker layer caches.
    #[garde(dive)]
    pub cache: CacheSettings,
    /// Images that VMs are made of.
    #[garde(dive)]
    pub images: ImageSettings,
    /// VMs that wait for jobs.
    #[garde(dive)]
    pub preallocated: Preallocated,
    /// Projects that differ from the others; the key is a project's id.
    #[garde(length(max = MOST_ROWS), custom(are_project_ids), dive)]
    pub projects: BTreeMap<String, ProjectSettings>,
    /// What a task asks for by name; `medium` must exist.
    #[garde(length(max = MOST_ROWS), custom(has_default_class), custom(have_their_gpus(self.provider)), dive)]
    pub resource_classes: BTreeMap<String, ResourceClass>,
    /// No launch is sent while true; tasks wait.
    #[garde(skip)]
    pub pause_launches: bool,
    /// New tasks are refused with 503 while true.
    #[garde(skip)]
    pub refuse_new_tasks: bool,
    /// Days that ended tasks and VMs stay readable, 1 to 3650.
    #[garde(range(min = 1, max = 3650))]
    pub history_days: u32,
    /// Where metrics go as StatsD: a host, or `host:port`; the port is 8125 when none is named. None: nowhere.
    #[garde(inner(custom(super::statsd::is_host)))]
    pub statsd: Option<String>,
}

/// The on-host provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnHostSettings {
    /// What the VMs can reach.
    #[garde(skip)]
    pub network: VmNetwork,
    /// A VM goes on from a snapshot of one that has booted, made beside the first VM of its class; else each VM boots.
    #[garde(skip)]
    pub snapshots: bool,
    /// Network of addresses of this host; each VM has one. The default is loopback's: only this host reaches them.
    #[garde(custom(is_network))]
    pub addresses: String,
}

impl Default for OnHostSettings {
    fn default() -> Self {
        Self { network: VmNetwork::default(), snapshots: true, addresses: "127.64.0.0/10".to_owned() }
    }
}

/// What is set inside every VM: environment, apt and Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuestSettings {
    /// Proxy for `http://`, a URL; none: direct.
    #[garde(inner(custom(is_proxy_url)))]
    pub http_proxy: Option<String>,
    /// Proxy for `https://`, a URL; none: direct.
    #[garde(inner(custom(is_proxy_url)))]
    pub https_proxy: Option<String>,
    /// Hosts that are reached directly, separated by commas.
    #[garde(inner(length(max = 4096), custom(is_plain_line)))]
    pub no_proxy: Option<String>,
    /// Root certificates that the VMs trust beside their own, PEM.
    #[garde(inner(length(max = 65_536), custom(is_pem)))]
    #[serde(deserialize_with = "one_a_text")]
    pub root_certificates: Vec<String>,
}

/// Deadlines. Defaults are those of the guide (figure 11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For SSH to answer in a VM that runs, milliseconds.
    #[garde(range(min = 1_000, max = 3_600_000))]
    pub ssh_connect_ms: u32,
    /// For a new VM to run, milliseconds.
    #[garde(range(min = 1_000, max = 3_600_000))]
    pub vm_start_ms: u32,
    /// The longest a job may hold its VM, hours.
    #[garde(range(min = 1, max = 168))]
    pub task_hours: u32,
    /// The longest a VM may wait for a job, hours.
    #[garde(range(min = 1, max = 168))]
    pub vm_idle_hours: u32,
}

/// Docker layer caches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Size of a new volume, GiB, 1 to 16384.
    #[garde(range(min = 1, max = 16_384))]
    pub volume_gib: u32,
    /// Days without a job until a volume is cleared, 1 to 3650.
    #[garde(range(min = 1, max = 3650))]
    pub inactive_days: u32,
    /// The longest a job that has its VM waits for its cache; then it goes on without. Seconds, 5 to 900.
    #[garde(range(min = 5, max = 900))]
    pub wait_seconds: u32,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { volume_gib: 100, inactive_days: 14, wait_seconds: 90 }
    }
}

impl CacheSettings {
    /// The longest a job that has its VM waits for its cache.
    pub fn wait(&self) -> TimeDelta {
        TimeDelta::seconds(self.wait_seconds.into())
    }

    /// Without a job for so long, a volume is cleared.
    pub fn inactive(&self) -> TimeDelta {
        TimeDelta::days(self.inactive_days.into())
    }
}

/// Images that VMs are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageSettings {
    /// Days that a retired image is kept, to go back to, 1 to 3650; then it is deleted, unless something still needs it.
    #[garde(range(min = 1, max = 3650))]
    pub keep_days: u32,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self { keep_days: 14 }
    }
}

impl ImageSettings {
    /// How long a retired image is kept.
    pub fn keep(&self) -> TimeDelta {
        TimeDelta::days(self.keep_days.into())
    }
}

/// Limits. None: what the provider can carry (on-host: from cores and memory).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// VMs that are not terminated.
    #[garde(inner(range(max = 100_000)))]
    pub vms: Option<u32>,
    /// VMs asked for and not ready yet.
    #[garde(inner(range(max = 100_000)))]
    pub in_flight: Option<u32>,
    /// Cache volumes.
    #[garde(inner(range(max = 1_000_000)))]
    pub volumes: Option<u32>,
    /// GPUs of VMs that are not terminated; none: no limit of its own.
    #[garde(inner(range(max = 100_000)))]
    pub gpus: Option<u32>,
    /// VMs at work for one project; none: no limit of its own.
    #[garde(inner(range(min = 1, max = 100_000)))]
    pub vms_per_project: Option<u32>,
}

/// One project's place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectSettings {
    /// Its share when there is not enough for all: one of weight 2 has twice as many VMs at work as one of weight 1. 1 to 1000.
    #[garde(range(min = 1, max = 1000))]
    pub weight: u32,
    /// Added to the priority of each of its tasks, -100 to 100.
    #[garde(range(min = -100, max = 100))]
    pub priority: i16,
}

impl Default for ProjectSettings {
    fn default() -> Self {
        Self { weight: 1, priority: 0 }
    }
}

/// The limits in force, in the database's lock row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// VMs that are not terminated.
    pub vms: u32,
    /// VMs asked for and not ready yet.
    pub in_flight: u32,
    /// Cache volumes.
    pub volumes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            provider: ProviderChoice::None,
            on_host: OnHostSettings::default(),
            ec2: Ec2Settings::default(),
            guest: GuestSettings::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            cache: CacheSettings::default(),
            images: ImageSettings::default(),
            preallocated: Preallocated::default(),
            projects: BTreeMap::new(),
            resource_classes: default_classes(),
            pause_launches: false,
            refuse_new_tasks: false,
            history_days: 90,
            statsd: None,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { ssh_connect_ms: 180_000, vm_start_ms: 300_000, task_hours: 6, vm_idle_hours: 24 }
    }
}

impl Timeouts {
    /// For SSH to answer in a VM that runs.
    pub fn ssh_connect(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.ssh_connect_ms.into())
    }

    /// For a new VM to run.
    pub fn vm_start(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.vm_start_ms.into())
    }

    /// The longest a job may hold its VM.
    pub fn task(&self) -> TimeDelta {
        TimeDelta::hours(self.task_hours.into())
    }

    /// The longest a VM may wait for a job.
    pub fn vm_idle(&self) -> TimeDelta {
        TimeDelta::hours(self.vm_idle_hours.into())
    }

    /// From the launch until nobody calls any more, when the VM ends itself (DESIGN.md §10.5).
    pub fn before_first_contact(&self) -> TimeDelta {
        self.vm_start() * 2
    }

    /// From first contact to the VM's absolute end; the margin covers the release of a job that used all its time.
    pub fn life(&self) -> TimeDelta {
        self.vm_idle() + self.task() + TimeDelta::minutes(10)
    }
}

impl Settings {
    /// The limits in force, where `capacity` is what the provider can carry.
    pub fn budget(&self, capacity: Budget) -> Budget {
        Budget {
            vms: self.limits.vms.unwrap_or(capacity.vms),
            in_flight: self.limits.in_flight.unwrap_or(capacity.in_flight),
            volumes: self.limits.volumes.unwrap_or(capacity.volumes),
        }
    }

    /// Every image that they name, by the provider's names.
    pub fn named_images(&self) -> BTreeSet<&str> {
        let of_classes = self.resource_classes.values().flat_map(|class| class.ec2.images.values());
        self.ec2.images.values().chain(of_classes).map(String::as_str).collect()
    }

    /// A project's place in the queue.
    pub fn project(&self, id: &str) -> ProjectSettings {
        self.projects.get(id).copied().unwrap_or_default()
    }

    /// The class, or one sentence that says which there are.
    ///
    /// # Errors
    /// The sentence, for the caller who named it.
    pub fn class(&self, executor: Executor, name: &str) -> Result<&ResourceClass, String> {
        self.resource_classes.get(name).ok_or_else(|| {
            let known = self.resource_classes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("There is no resource class \"{}\" for {executor}; known are: {known}.", name.escape_debug())
        })
    }
}

/// As a task names its project.
fn are_project_ids(projects: &BTreeMap<String, ProjectSettings>, context: &()) -> garde::Result {
    let is_id = |id: &String| (1..=200).contains(&id.chars().count()) && no_control_characters(id, context).is_ok();
    if projects.keys().all(is_id) {
        return Ok(());
    }
    Err(garde::Error::new("ids have 1 to 200 characters, none of them a control character"))
}

fn has_default_class(classes: &BTreeMap<String, ResourceClass>, _: &()) -> garde::Result {
    let named_well =
        |name: &String| (1..=100).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !classes.contains_key(super::resource_class::DEFAULT_CLASS) {
        return Err(garde::Error::new("must contain \"medium\", the class of a task that names none"));
    }
    if !classes.keys().all(named_well) {
        return Err(garde::Error::new("names have 1 to 100 letters, digits, '-', '_' or '.'"));
    }
    Ok(())
}

/// The VMs of a host have none of its GPUs.
fn have_their_gpus(provider: ProviderChoice) -> impl FnOnce(&BTreeMap<String, ResourceClass>, &()) -> garde::Result {
    move |classes, ()| match classes.iter().find(|(_, class)| class.gpus > 0) {
        Some((name, _)) if provider == ProviderChoice::OnHost => Err(garde::Error::new(format!(
            "the class \"{name}\" has GPUs, and VMs on this host have none: set its gpus to 0, or use EC2"
        ))),
        _ => Ok(()),
    }
}

fn is_plain_line(text: &str, _: &()) -> garde::Result {
    if text.chars().any(|c| c.is_control() || "'\"\\$`".contains(c)) {
        return Err(garde::Error::new("must not contain control characters, quotes, '\\', '$' or '`'"));
    }
    Ok(())
}

fn is_proxy_url(text: &str, context: &()) -> garde::Result {
    is_plain_line(text, context)?;
    let has_scheme = ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    if !has_scheme || text.contains(' ') || text.len() > 2048 {
        return Err(garde::Error::new("is not a proxy address such as \"http://proxy.example:3128\""));
    }
    Ok(())
}

//! Everything the on-host provider is told from outside, in one place; it reads no environment.
//!
//! Not here: the live settings of the VMs' addresses and network ([`super::Provider::configure`]).

use crate::domain::ids::InstallationId;
use crate::domain::settings::VmNetwork;
use std::path::PathBuf;

/// How the VMs' processors are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM where a probe VM really boots with it, else software emulation.
    #[default]
    Auto,
    /// KVM without a probe: for who knows better.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// What [`super::OnHost::open`] needs.
#[derive(Clone, Debug)]
pub struct OnHostConfig {
    /// Folder of this provider; machines live in `data/machines/`. Made when absent, closed to other users.
    pub data: PathBuf,
    /// Whose machines these are.
    pub installation: InstallationId,
    /// Folder with `disk.qcow2`, `vmlinuz`, `initrd` and `manifest.json`, or a link to it; read again at every launch.
    pub images: PathBuf,
    /// Names this host in rows.
    pub host: String,
    /// How the VMs' processors are made.
    pub accelerator: AcceleratorChoice,
    /// What new VMs can reach; see [`super::Provider::configure`].
    pub network: VmNetwork,
    /// New machines go on from a snapshot; see [`super::Provider::configure`].
    pub snapshots: bool,
    /// Program and first arguments that end in [`super::keeper::main`]: this binary's path and its hidden command.
    pub keeper: Vec<String>,
}

impl OnHostConfig {
    /// A configuration with every default.
    pub fn new(data: PathBuf, installation: InstallationId, images: PathBuf, host: String, keeper: Vec<String>) -> Self {
        Self {
            data,
            installation,
            images,
            host,
            accelerator: AcceleratorChoice::Auto,
            network: VmNetwork::Open,
            snapshots: false,
            keeper,
        }
    }
}

//! Rows that several tables' verbs return.

use crate::domain::api::TaskView;
use crate::domain::ids::VmId;

/// A task with what is needed to answer for it.
#[derive(Clone, Debug)]
pub struct TaskRow {
    /// As its owner sees it, without the connection.
    pub view: TaskView,
    /// Whose it is.
    pub principal: String,
    /// Of the body.
    pub request_hash: Vec<u8>,
    /// While `ready`: what the connection is made of.
    pub way_in: Option<WayIn>,
}

/// What the connection of a VM is made of.
#[derive(Clone, Debug)]
pub struct WayIn {
    /// The VM, also the associated data of the seal.
    pub vm: VmId,
    /// Sealed [`crate::domain::identity::Identity`].
    pub identity_sealed: Vec<u8>,
    /// An IP address.
    pub address: String,
    /// Its ports.
    pub ssh_port: u16,
    /// Its ports.
    pub docker_port: u16,
}

pub(super) fn way_in(
    vm: Option<VmId>,
    sealed: Option<Vec<u8>>,
    address: Option<String>,
    ssh_port: Option<i32>,
    docker_port: Option<i32>,
) -> Option<WayIn> {
    let port = |port: Option<i32>| port.and_then(|p| u16::try_from(p).ok());
    Some(WayIn { vm: vm?, identity_sealed: sealed?, address: address?, ssh_port: port(ssh_port)?, docker_port: port(docker_port)? })
}

//! The secrets of a VM become a [`Connection`] here and nowhere else; nothing of it is logged.
//!
//! Reads: a sealed identity (`seal`). Not here: who may have it (`tasks`: the owner, while ready; `vms`: an operator, audited).

use super::problem::Problem;
use super::state::AppState;
use crate::db::rows::WayIn;
use crate::domain::api::{Connection, DockerConnection, SshConnection};
use crate::domain::identity::{Identity, USER};
use std::net::{IpAddr, SocketAddr};

/// Opens a way in.
pub(super) fn open(state: &AppState, way_in: &WayIn) -> Result<Connection, Problem> {
    let vm = way_in.vm;
    let plain = state
        .sealer
        .open(vm.0, &way_in.identity_sealed)
        .map_err(|error| Problem::Defect(format!("the identity of VM {vm} cannot be opened: {error}")))?;
    // serde's own sentence could quote a key.
    let identity: Identity =
        serde_json::from_slice(&plain).map_err(|_| Problem::Defect(format!("the identity of VM {vm} has another form")))?;
    let ip: IpAddr = way_in.address.parse().map_err(|_| Problem::Defect(format!("VM {vm} has an address that is none")))?;
    Ok(Connection {
        ssh: SshConnection {
            host: ip.to_string(),
            port: way_in.ssh_port,
            user: USER.to_owned(),
            private_key: identity.login_private.expose().to_owned(),
            host_key: identity.host_public,
        },
        docker: identity.docker.map(|docker| DockerConnection {
            host: format!("tcp://{}", SocketAddr::new(ip, way_in.docker_port)),
            ca: docker.ca,
            cert: docker.client_cert,
            key: docker.client_key.expose().to_owned(),
        }),
    })
}

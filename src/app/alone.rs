//! `vm-service scaler` and `vm-service gc`: roles without an API, whose own metrics are answered at an address of their own.
//!
//! Calls: `service`, `loops`, `admin` (the dry run). Not here: `serve`, what the roles share (`service`).

use super::service::{on_signal, start};
use super::{AloneArguments, RoleArguments, external, service, service_user, up};
use crate::clock::{Clock as _, ServiceClock};
use crate::config::{self, Config};
use crate::db::settings::Versioned;
use crate::http::serve::{HttpConfig, Listener};
use crate::loops::audit_store::Store;
use crate::loops::{Loop, World};
use crate::{admin, http, loops};
use anyhow::Context as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// `vm-service scaler` and `vm-service gc`: a role without an API. Its metrics are answered from the first moment on.
pub(super) async fn role(
    arguments: &AloneArguments,
    config: &Config,
    loops: impl FnOnce(&World) -> anyhow::Result<Vec<Arc<dyn Loop>>>,
) -> anyhow::Result<()> {
    let told = on_signal();
    let metrics = bind_metrics(arguments.metrics_listen).await?;
    let answering = async {
        let Some(listener) = metrics else { return Ok(()) };
        http::serve::serve_router(listener, http::metrics_router(), told.clone()).await.context("serving metrics")
    };
    let running = async {
        let _ends_both = told.clone().drop_guard();
        let Some(service) = told.run_until_cancelled(start(&arguments.role, config)).await else { return Ok(()) };
        let service = service?;
        let loops = loops(&service.world)?;
        service.run(loops, None, told.clone()).await
    };
    let (ran, answered) = tokio::join!(running, answering);
    ran.and(answered)
}

/// Binds the socket of a role's own metrics.
async fn bind_metrics(address: Option<SocketAddr>) -> anyhow::Result<Option<Listener>> {
    let Some(address) = address else { return Ok(None) };
    // Whoever names an address beyond this host has said so; nothing secret is told there, and nothing is changed.
    let config = HttpConfig { option: "--metrics-listen", behind_tls_proxy: true, ..HttpConfig::new(address) };
    Ok(Some(http::serve::bind(&config).await?))
}

/// The loops of `gc`, and the one that writes the audit log where the configuration says.
pub(super) fn gc_loops(world: &World, config: &Config) -> anyhow::Result<Vec<Arc<dyn Loop>>> {
    let mut loops = loops::gc_loops(world);
    if let Some(place) = config.audit_place.clone() {
        let store = Store::open(place)?;
        loops.push(Arc::new(loops::audit::Files::new(world.clone(), store, config.host.clone())));
    }
    Ok(loops)
}

/// `vm-service gc --dry-run`.
pub(super) async fn gc_dry_run(arguments: &RoleArguments, config: &Config, json: bool) -> anyhow::Result<()> {
    let parts = match external(config) {
        Ok(_) => service::parts(arguments, config).await?,
        Err(_) => {
            let default = || config::default_data_folder(service_user::is_root());
            up::look_at(&arguments.data.clone().unwrap_or_else(default), config).await?
        }
    };
    let clock = Arc::new(ServiceClock::new());
    service::measure(&parts.db, &clock).await?;
    // No sign of life is given, and no limit is touched: the settings in force are only read.
    let newest = parts.db.find_settings().await?.unwrap_or(Versioned { version: 0, settings: parts.seed.clone() });
    let (_keep, settings) = watch::channel(newest);
    let world = service::world(parts, clock.clone(), settings);
    let findings = admin::dry_run::look(&world, clock.now()).await?;
    admin::dry_run::print(&findings, json, &mut std::io::stdout().lock())
}

//! Tells every process that something changed: at most one NOTIFY per 20 ms and process, after the commit, on a connection of
//! its own; a wake-up has no payload, and a lost one costs at most a second, because every waiter also looks again.
//!
//! A NOTIFY inside the claim's transaction would make all commits wait for one another, so it is never there.

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener};
use sqlx::{Connection, Executor};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

const CHANNEL: &str = "vms_wake";
const COALESCE: Duration = Duration::from_millis(20);
/// After a broken connection; meanwhile every waiter looks each second anyway.
const RECONNECT: Duration = Duration::from_secs(1);

/// Sends and receives wake-ups.
#[derive(Clone, Debug)]
pub struct Wake {
    wanted: Arc<Notify>,
    heard: watch::Sender<u64>,
}

impl Default for Wake {
    fn default() -> Self {
        Self { wanted: Arc::new(Notify::new()), heard: watch::Sender::new(0) }
    }
}

impl Wake {
    /// Asks for a wake-up of all processes; call it after a commit. Waiters of this process are woken at once.
    pub fn send(&self) {
        self.wanted.notify_one();
        self.heard.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Changes whenever something may have changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }

    /// Sends and hears until `stop`; connects again for ever.
    pub async fn run(self, options: PgConnectOptions, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.send_all(&options) => {}
            () = self.hear_all(&options) => {}
        }
    }

    async fn send_all(&self, options: &PgConnectOptions) {
        loop {
            let Ok(mut connection) = PgConnection::connect_with(options).await else {
                tokio::time::sleep(RECONNECT).await;
                continue;
            };
            loop {
                self.wanted.notified().await;
                if connection.execute("notify vms_wake").await.is_err() {
                    self.wanted.notify_one();
                    break;
                }
                tokio::time::sleep(COALESCE).await;
            }
        }
    }

    async fn hear_all(&self, options: &PgConnectOptions) {
        loop {
            if let Ok(pool) = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await
                && let Ok(mut listener) = PgListener::connect_with(&pool).await
                && listener.listen(CHANNEL).await.is_ok()
            {
                while listener.recv().await.is_ok() {
                    self.heard.send_modify(|n| *n = n.wrapping_add(1));
                }
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }
}

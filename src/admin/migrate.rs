//! `vm-service migrate`: makes the database when it is missing and brings its schema up to date; a second call changes nothing.

use crate::db::Db;
use crate::db::connect::{Server, ensure_database};
use anyhow::Context as _;

/// Migrates.
///
/// # Errors
/// One sentence that says what to do.
pub async fn migrate(server: &Server) -> anyhow::Result<()> {
    let options = server.options();
    ensure_database(&options)
        .await
        .context("looking for the database; is Postgres running, and are host, user and password right?")?;
    let db = Db::lazily(options, 1);
    db.migrate().await?;
    tracing::info!("the schema is up to date");
    Ok(())
}

//! The one way to begin a transaction: what is begun is also ended, whenever the caller is dropped.
//!
//! A request whose client has left, and an act whose deadline has passed, drop what they wait for. sqlx 0.9.0 forgets a `BEGIN` that
//! is dropped before it is answered (sqlx issue 4393): the connection goes back to the pool with an open transaction, and what the next
//! borrower writes is told as done and lost. So a `BEGIN` is always waited for, in a task of its own.

use super::Db;
use sqlx::{Error, Postgres, Transaction};

impl Db {
    /// A transaction; rolled back when it is dropped without a commit, and when this future is dropped before it has come.
    ///
    /// # Errors
    /// Those of the pool and the connection.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let connection = self.pool.acquire().await?;
        tokio::spawn(Transaction::begin(connection, None)).await.unwrap_or(Err(Error::WorkerCrashed))
    }
}

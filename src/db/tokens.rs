//! `vms.tokens`: who may call. Only keyed hashes are kept.

use super::{Db, DbError};
use crate::domain::access::{Caller, Role};
use crate::domain::ids::TokenId;
use chrono::{DateTime, Utc};

impl Db {
    /// Adds a token; `hash` is its keyed hash.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn insert_token(&self, id: TokenId, caller: &Caller, hash: &[u8], now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- tokens::insert_token
             insert into vms.tokens (id, principal, role, hash, created_at, untrusted_only) values ($1, $2, $3, $4, $5, $6)",
            id.0,
            caller.principal,
            caller.role.as_str(),
            hash,
            now,
            caller.untrusted_only,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Who has the token with one of these keyed hashes (one a sealing key); none: unknown or revoked.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_caller(&self, hashes: &[Vec<u8>]) -> Result<Option<Caller>, DbError> {
        let row = sqlx::query!(
            r#"-- tokens::find_caller
               select principal, role as "role: Role", untrusted_only from vms.tokens where hash = any($1) and revoked_at is null"#,
            hashes,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| Caller { principal: row.principal, role: row.role, untrusted_only: row.untrusted_only }))
    }
}

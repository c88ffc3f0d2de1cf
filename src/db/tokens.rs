//! `vms.tokens`: who may call. Only keyed hashes are kept.

use super::audit::{self, Deed};
use super::{Db, DbError};
use crate::domain::access::{Caller, Role};
use crate::domain::ids::TokenId;
use chrono::{DateTime, Utc};
use serde_json::json;

impl Db {
    /// Adds a token; `hash` is its keyed hash.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn insert_token(&self, id: TokenId, caller: &Caller, hash: &[u8], now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
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
        .execute(&mut *tx)
        .await?;
        let payload = json!({ "principal": caller.principal, "role": caller.role, "untrusted_only": caller.untrusted_only });
        audit::note(&mut tx, now, Deed::to("token.create", "token", id.to_string(), payload)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The token with one of these keyed hashes (one a sealing key), and who has it; none: unknown or revoked.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_token(&self, hashes: &[Vec<u8>]) -> Result<Option<(TokenId, Caller)>, DbError> {
        let row = sqlx::query!(
            r#"-- tokens::find_token
               select id as "id: TokenId", principal, role as "role: Role", untrusted_only
               from vms.tokens where hash = any($1) and revoked_at is null"#,
            hashes,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| (row.id, Caller { principal: row.principal, role: row.role, untrusted_only: row.untrusted_only })))
    }

    /// Who has the token with one of these keyed hashes (one a sealing key); none: unknown or revoked.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_caller(&self, hashes: &[Vec<u8>]) -> Result<Option<Caller>, DbError> {
        Ok(self.find_token(hashes).await?.map(|(_, caller)| caller))
    }
}

//! `vms.tokens`: who may call. Only keyed hashes are kept.

use super::audit::{self, Deed};
use super::{Db, DbError};
use crate::domain::access::{Caller, Role};
use crate::domain::ids::TokenId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

/// A token, without anything of what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenRow {
    /// As the audit log names it.
    pub id: TokenId,
    /// Whose.
    pub principal: String,
    /// What it may do.
    pub role: Role,
    /// Its tasks may only read caches.
    pub untrusted_only: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Since when it is refused.
    pub revoked_at: Option<DateTime<Utc>>,
}

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

    /// All tokens, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_tokens(&self) -> Result<Vec<TokenRow>, DbError> {
        let rows = sqlx::query_as!(
            TokenRow,
            r#"-- tokens::list_tokens
               select id as "id: TokenId", principal, role as "role: Role", untrusted_only, created_at, revoked_at
               from vms.tokens order by created_at desc, id"#,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Revokes a token; none: no such token is in force.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn revoke_token(&self, id: TokenId, now: DateTime<Utc>) -> Result<Option<TokenRow>, DbError> {
        let mut tx = self.begin().await?;
        let revoked = sqlx::query_as!(
            TokenRow,
            r#"-- tokens::revoke_token
               update vms.tokens set revoked_at = $2 where id = $1 and revoked_at is null
               returning id as "id: TokenId", principal, role as "role: Role", untrusted_only, created_at, revoked_at"#,
            id.0,
            now,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(token) = &revoked {
            let payload = json!({ "principal": token.principal, "role": token.role, "untrusted_only": token.untrusted_only });
            audit::note(&mut tx, now, Deed::to("token.revoke", "token", id.to_string(), payload)).await?;
        }
        tx.commit().await?;
        Ok(revoked)
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

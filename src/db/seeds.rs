//! Good states that come from outside: seeded by an operator, not left by a job; and where any of them is kept.

use super::audit::{self, Deed};
use super::events::{self, Event};
use super::{Db, DbError};
use crate::domain::audit::Party;
use crate::domain::ids::GenerationId;
use crate::domain::lineage::{Layer, Lineage};
use chrono::{DateTime, Utc};
use serde_json::json;

/// A snapshot that was made of images.
#[derive(Clone, Debug)]
pub struct Seeded<'a> {
    /// Its row's id, which its tags have too.
    pub id: GenerationId,
    /// Whose.
    pub lineage: &'a Lineage,
    /// By whom: provider, and region or host.
    pub place: (&'a str, &'a str),
    /// The provider's name for it.
    pub provider_id: &'a str,
    /// In GiB: a copy is as large at least.
    pub size_gib: u32,
    /// What is in it, where that is known.
    pub layers: &'a [Layer],
    /// Bytes in use, where that is known.
    pub used_bytes: Option<u64>,
}

/// Where a good state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The provider's word.
    pub provider: String,
    /// Region or host.
    pub place: String,
    /// Its snapshot.
    pub provider_id: String,
}

impl Db {
    /// Takes a completed snapshot in as a good state of its lineage. One that was found by its tags meanwhile is the same.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn insert_seeded(&self, seeded: &Seeded<'_>, now: DateTime<Utc>) -> Result<(), DbError> {
        let layers: serde_json::Map<String, serde_json::Value> =
            seeded.layers.iter().map(|layer| (layer.id.clone(), layer.bytes.into())).collect();
        let mut tx = self.begin().await?;
        sqlx::query!(
            "-- seeds::insert_seeded
             insert into vms.generations (id, project_id, architecture, store, engine_major, provider, place, provider_id, state, layers,
                                          used_bytes, size_gib, created_at, good_at, last_used_at, deadline_at, due_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, 'good', $9, $10, $11, $12, $12, $12, $12, $12)
             on conflict (id) do update
             set state = 'good', content = 'good', layers = excluded.layers, used_bytes = excluded.used_bytes,
                 size_gib = excluded.size_gib, good_at = excluded.good_at",
            seeded.id.0,
            seeded.lineage.project_id,
            seeded.lineage.engine.architecture,
            seeded.lineage.engine.store.as_str(),
            seeded.lineage.engine.major,
            seeded.place.0,
            seeded.place.1,
            seeded.provider_id,
            serde_json::Value::Object(layers),
            seeded.used_bytes.and_then(|bytes| i64::try_from(bytes).ok()),
            i32::try_from(seeded.size_gib).unwrap_or(i32::MAX),
            now,
        )
        .execute(&mut *tx)
        .await?;
        let message = format!("The good state {} of project {} was seeded.", seeded.id, seeded.lineage.project_id);
        events::insert(&mut tx, now, Event { kind: "generation.seeded", task: None, vm: None, message }).await?;
        let lineage = seeded.lineage;
        let deed = Deed {
            action: "cache.seed",
            targets: vec![Party::new("project", lineage.project_id.clone())],
            payload: json!({
                "generation_id": seeded.id, "architecture": lineage.engine.architecture, "store": lineage.engine.store.as_str(),
                "engine_major": lineage.engine.major, "provider": seeded.place.0, "place": seeded.place.1,
                "provider_id": seeded.provider_id, "size_gib": seeded.size_gib,
            }),
            project: Some(&lineage.project_id),
        };
        audit::note(&mut tx, now, deed).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Where a good state is kept; none: there is no such row, or it has no snapshot.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_generation_home(&self, id: GenerationId) -> Result<Option<Home>, DbError> {
        let found = sqlx::query_as!(
            Home,
            r#"-- seeds::find_generation_home
               select provider, place, provider_id as "provider_id!" from vms.generations
               where id = $1 and provider_id is not null and state <> 'deleted'"#,
            id.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }
}

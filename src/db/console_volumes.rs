//! Caches as the console shows them: by project, and the good states of one. Reads only.

use super::{Db, DbError};
use crate::domain::ids::{GenerationId, VolumeId};
use crate::domain::lineage::Store;
use chrono::{DateTime, Utc};

/// The caches of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectCaches {
    /// Its id.
    pub project_id: String,
    /// Volumes that are not deleted.
    pub volumes: i64,
    /// Of them, those that a VM has.
    pub in_use: i64,
    /// Of them, those that are kept aside.
    pub quarantined: i64,
    /// Their sizes, GiB.
    pub size_gib: i64,
    /// What the last jobs left on them, bytes.
    pub used_bytes: i64,
    /// When a job last had one.
    pub last_used_at: DateTime<Utc>,
    /// Jobs that asked for a cache.
    pub jobs: i64,
    /// Of them, those that found layers.
    pub hits: i64,
}

/// A good state of a lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the columns in migrations/0008_cache.sql")]
pub struct GenerationLine {
    pub id: GenerationId,
    pub architecture: String,
    pub store: Store,
    pub engine_major: i32,
    pub provider_id: Option<String>,
    pub volume_id: Option<VolumeId>,
    pub state: String,
    pub reason: Option<String>,
    pub used_bytes: Option<i64>,
    pub size_gib: i32,
    pub created_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
}

impl Db {
    /// The caches of projects by name, from the one after `after` on; with `like` of those alone whose names contain it.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_project_caches(&self, like: &str, after: &str, limit: i64) -> Result<Vec<ProjectCaches>, DbError> {
        let rows = sqlx::query_as!(
            ProjectCaches,
            r#"-- console_volumes::list_project_caches
               with page as (
                   select project_id, count(*) as volumes, count(vm_id) as in_use, count(*) filter (where state = 'quarantined') as quarantined,
                          sum(size_gib)::bigint as size_gib, coalesce(sum(used_bytes), 0)::bigint as used_bytes,
                          max(last_used_at) as last_used_at
                   from vms.volumes
                   where state <> 'deleted' and project_id > $2 and ($1 = '' or strpos(lower(project_id), lower($1)) > 0)
                   group by project_id order by project_id limit $3
               )
               select p.project_id as "project_id!", p.volumes as "volumes!", p.in_use as "in_use!", p.quarantined as "quarantined!",
                      p.size_gib as "size_gib!", p.used_bytes as "used_bytes!", p.last_used_at as "last_used_at!",
                      coalesce(c.jobs, 0) as "jobs!", coalesce(c.hits, 0) as "hits!"
               from page p left join lateral
                   (select count(*) as jobs, count(*) filter (where hit) as hits from vms.cache_uses u where u.project_id = p.project_id) c
                   on true
               order by p.project_id"#,
            like,
            after,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The good states of a project's lineages, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_generation_lines(&self, project: &str, limit: i64) -> Result<Vec<GenerationLine>, DbError> {
        let rows = sqlx::query_as!(
            GenerationLine,
            r#"-- console_volumes::list_generation_lines
               select id as "id: GenerationId", architecture, store as "store: Store", engine_major, provider_id,
                      volume_id as "volume_id: VolumeId", state, reason, used_bytes, size_gib, created_at, last_used_at
               from vms.generations where project_id = $1 and state <> 'deleted'
               order by created_at desc, id limit $2"#,
            project,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}

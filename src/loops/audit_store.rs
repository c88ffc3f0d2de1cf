//! Where files of the audit log are put, in a folder as in a bucket: each is there whole or not at all, and none is ever replaced.
//!
//! So what was written stays, whoever can make the service write an hour again: one with other content comes beside it.
//!
//! Not here: which hours are due and what is in a file (`audit`), how a bucket is told (`audit_once`).

use super::audit_once::Once;
use crate::domain::audit_place::{AuditBucket, AuditPlace};
use anyhow::Context as _;
use aws_lc_rs::digest::{Context, Digest, SHA256};
use futures::{Stream, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::buffered::BufWriter;
use object_store::{ClientOptions, ObjectStoreExt as _, RetryConfig};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// The guide's, below whatever holds it.
const INSIDE: &str = "audit-logs/audit_log/v1";
/// Operators and their log shippers read; nobody else does.
const MODE: u32 = 0o640;
/// A larger object goes in parts of this size, in bytes, one at a time. S3 takes none below 5 MiB but the last.
const PART: usize = 8 << 20;
/// Read at a time, to see whether two contents are the same; bytes.
const CHUNK: usize = 64 << 10;
/// One request, with its repetitions.
const WITHIN: Duration = Duration::from_secs(60);

/// An open [`AuditPlace`].
pub struct Store {
    place: AuditPlace,
    way: Way,
}

enum Way {
    Folder(PathBuf),
    Bucket { store: Arc<AmazonS3>, prefix: String },
}

impl Store {
    /// Reads how it is reached; asks nobody.
    ///
    /// # Errors
    /// An option of a bucket has no meaning.
    pub fn open(place: AuditPlace) -> anyhow::Result<Self> {
        let way = match &place {
            AuditPlace::Folder(folder) => Way::Folder(folder.join(INSIDE)),
            AuditPlace::Bucket(bucket) => {
                let store = Arc::new(connect(bucket).with_context(|| format!("opening {place}"))?);
                let parts = [bucket.prefix.as_str(), INSIDE].into_iter().filter(|part| !part.is_empty());
                Way::Bucket { store, prefix: parts.collect::<Vec<_>>().join("/") }
            }
        };
        Ok(Self { place, way })
    }

    /// What it is called in errors and notes, such as `s3://bucket/prefix`.
    pub fn place(&self) -> &AuditPlace {
        &self.place
    }

    /// Puts a file there, `NAME.jsonl`. When that is taken, one with the same content is it, and beside one with another content it has a
    /// name of its own, `NAME.2.jsonl` and so on, which is returned. When `parts` ends with an error there is none.
    ///
    /// # Errors
    /// That of `parts`, or the place takes no file.
    pub async fn put<S>(&self, name: &str, parts: impl Fn() -> S) -> anyhow::Result<Option<String>>
    where
        S: Stream<Item = anyhow::Result<Vec<u8>>> + Send,
    {
        for nth in 1_u64.. {
            let file = if nth == 1 { format!("{name}.jsonl") } else { format!("{name}.{nth}.jsonl") };
            let mut ours = Context::new(&SHA256);
            let is_new = self.create(&file, parts().inspect_ok(|part| ours.update(part))).await?;
            if is_new || self.digest(&file).await.with_context(|| format!("reading {file}"))?.as_ref() == ours.finish().as_ref() {
                return Ok((nth > 1).then_some(file));
            }
        }
        anyhow::bail!("there is no name left for {name}")
    }

    /// Makes a file; false when the name is taken.
    async fn create(&self, file: &str, parts: impl Stream<Item = anyhow::Result<Vec<u8>>> + Send) -> anyhow::Result<bool> {
        match &self.way {
            Way::Folder(folder) => create_file(folder, file, parts).await,
            Way::Bucket { store, prefix } => create_object(store, key(prefix, file)?, parts).await,
        }
    }

    /// SHA-256 of a file that is there.
    async fn digest(&self, file: &str) -> anyhow::Result<Digest> {
        let mut theirs = Context::new(&SHA256);
        match &self.way {
            Way::Folder(folder) => {
                let mut file = std::fs::File::open(folder.join(file))?;
                let mut chunk = vec![0; CHUNK];
                loop {
                    match file.read(&mut chunk)? {
                        0 => break,
                        count => theirs.update(&chunk[..count]),
                    }
                }
            }
            Way::Bucket { store, prefix } => {
                let mut parts = store.get(&key(prefix, file)?).await?.into_stream();
                while let Some(part) = parts.try_next().await? {
                    theirs.update(&part);
                }
            }
        }
        Ok(theirs.finish())
    }
}

fn key(prefix: &str, file: &str) -> anyhow::Result<object_store::path::Path> {
    Ok(object_store::path::Path::parse(format!("{prefix}/{file}"))?)
}

async fn create_file(folder: &Path, name: &str, parts: impl Stream<Item = anyhow::Result<Vec<u8>>> + Send) -> anyhow::Result<bool> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder)?;
    let mut parts = pin!(parts);
    while let Some(part) = parts.try_next().await? {
        file.write_all(&part)?;
    }
    file.as_file().set_permissions(std::fs::Permissions::from_mode(MODE))?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(folder.join(name)) {
        Err(taken) if taken.error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        other => drop(other?),
    }
    // The name of a new file outlives a crash of the machine.
    std::fs::File::open(folder)?.sync_all()?;
    Ok(true)
}

async fn create_object(
    store: &Arc<AmazonS3>,
    key: object_store::path::Path,
    parts: impl Stream<Item = anyhow::Result<Vec<u8>>> + Send,
) -> anyhow::Result<bool> {
    let mut object = BufWriter::with_capacity(store.clone(), key, PART).with_max_concurrency(1);
    if let Err(error) = fill(&mut object, parts).await {
        // The parts so far cost money. Where even this fails, the bucket's rule for incomplete uploads ends them.
        object.abort().await.ok();
        return Err(error);
    }
    match object.shutdown().await.map_err(std::io::Error::downcast) {
        Ok(()) => Ok(true),
        // 412, or of some stores 304.
        Err(Ok(object_store::Error::Precondition { .. } | object_store::Error::NotModified { .. })) => Ok(false),
        Err(Ok(error)) => Err(error.into()),
        Err(Err(error)) => Err(error.into()),
    }
}

async fn fill(object: &mut BufWriter, parts: impl Stream<Item = anyhow::Result<Vec<u8>>> + Send) -> anyhow::Result<()> {
    let mut parts = pin!(parts);
    while let Some(part) = parts.try_next().await? {
        object.put(part.into()).await?;
    }
    Ok(())
}

fn connect(bucket: &AuditBucket) -> anyhow::Result<AmazonS3> {
    // The library's client takes the process's own; a second one is refused, and the first stays.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let mut builder = AmazonS3Builder::new();
    for (name, value) in &bucket.options {
        // Others of AWS's names are for its other tools.
        if let Ok(key) = name.to_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value.expose());
        }
    }
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint).unwrap_or_else(|| "https://".to_owned());
    let mut client = ClientOptions::new().with_allow_http(true).with_default_content_type("application/x-ndjson");
    if let Some(proxy) = bucket.outbound.proxy_to(&endpoint) {
        client = client.with_proxy_url(proxy).with_proxy_excludes(bucket.outbound.direct());
    }
    let retries = RetryConfig { retry_timeout: WITHIN, ..RetryConfig::default() };
    Ok(builder.with_client_options(client).with_http_connector(Once).with_retry(retries).with_bucket_name(&bucket.name).build()?)
}

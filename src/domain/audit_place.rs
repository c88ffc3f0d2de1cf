//! Where the audit log is written by the hour: a folder, or a bucket of a store that speaks S3.

use super::outbound::Outbound;
use super::secret::Secret;
use std::fmt;
use std::path::PathBuf;

/// One of the two.
#[derive(Clone, Debug)]
pub enum AuditPlace {
    /// Below it.
    Folder(PathBuf),
    /// In it.
    Bucket(AuditBucket),
}

/// A bucket, and how it is reached.
#[derive(Clone, Debug)]
pub struct AuditBucket {
    /// Its name.
    pub name: String,
    /// What the names of all files begin with; empty: nothing.
    pub prefix: String,
    /// AWS's own names and their values, such as `AWS_REGION`: region, endpoint, credentials. Without credentials those of the machine are
    /// used.
    pub options: Vec<(String, Secret)>,
    /// The way there.
    pub outbound: Outbound,
}

impl AuditBucket {
    /// Reads `s3://NAME` or `s3://NAME/PREFIX`; none when it is neither.
    pub fn parse(url: &str, options: Vec<(String, Secret)>, outbound: Outbound) -> Option<Self> {
        let (name, prefix) = url.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))?;
        // Source: Amazon, "General purpose bucket naming rules".
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if !(3..=63).contains(&name.len()) || !name.chars().all(allowed) {
            return None;
        }
        Some(Self { name: name.to_owned(), prefix: prefix.trim_matches('/').to_owned(), options, outbound })
    }
}

impl fmt::Display for AuditPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Bucket(AuditBucket { name, prefix, .. }) if prefix.is_empty() => write!(f, "s3://{name}"),
            Self::Bucket(AuditBucket { name, prefix, .. }) => write!(f, "s3://{name}/{prefix}"),
        }
    }
}

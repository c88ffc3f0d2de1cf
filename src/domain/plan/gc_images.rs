//! Which retired images are deleted: retired for longer than they are kept, and named by no settings. Those that a machine lives from, or a
//! launch still asks for, are not in the snapshot, and the database refuses them too.

use crate::domain::ids::ImageId;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeSet;

/// A retired image that may be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredImage {
    /// Its id.
    pub id: ImageId,
    /// The provider's name for it.
    pub provider_id: String,
    /// Snapshots that it was made of when it was registered.
    pub snapshots: Vec<String>,
    /// Since when.
    pub retired_at: DateTime<Utc>,
    /// Its deletion has begun.
    pub deleting: bool,
}

/// What a decision is made of.
#[derive(Clone, Debug, Default)]
pub struct Snapshot<'a> {
    /// At one place; not in use.
    pub retired: Vec<RetiredImage>,
    /// By the settings and their classes.
    pub named: BTreeSet<&'a str>,
    /// How long a retired image is kept.
    pub keep: TimeDelta,
}

/// What is to be deleted, each with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Oldest first.
    pub delete: Vec<(RetiredImage, String)>,
}

/// Decides.
pub fn plan_gc_images(snapshot: &Snapshot<'_>, now: DateTime<Utc>) -> Decision {
    let due = |image: &&RetiredImage| image.deleting || now - image.retired_at >= snapshot.keep;
    let unnamed = |image: &&RetiredImage| image.deleting || !snapshot.named.contains(image.provider_id.as_str());
    let why = |image: &RetiredImage| match image.deleting {
        true => "its deletion has begun".to_owned(),
        false => format!("it was retired {} days ago, and nothing needs it", (now - image.retired_at).num_days()),
    };
    Decision { delete: snapshot.retired.iter().filter(due).filter(unnamed).map(|image| (image.clone(), why(image))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(days: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000, 0).unwrap() + TimeDelta::days(days)
    }

    fn image(name: &str, retired: i64) -> RetiredImage {
        let id = ImageId(Uuid::from_u128(1));
        RetiredImage { id, provider_id: name.to_owned(), snapshots: Vec::new(), retired_at: at(retired), deleting: false }
    }

    fn deleted(snapshot: &Snapshot<'_>, day: i64) -> Vec<String> {
        plan_gc_images(snapshot, at(day)).delete.into_iter().map(|(image, _)| image.provider_id).collect()
    }

    #[test]
    fn what_was_retired_long_ago_goes_and_what_is_named_stays() {
        let retired =
            vec![image("old", 0), image("named", 0), image("new", 5), RetiredImage { deleting: true, ..image("begun", 13) }];
        let snapshot = Snapshot { retired, named: BTreeSet::from(["named", "begun"]), keep: TimeDelta::days(14) };
        assert_eq!(deleted(&snapshot, 13), ["begun"]);
        assert_eq!(deleted(&snapshot, 14), ["old", "begun"]);
        assert_eq!(deleted(&snapshot, 19), ["old", "new", "begun"]);
    }
}

//! `vm-service image`: images that VMs are made of, with what was measured of them: registered, tried, promoted and retired.
//!
//! Reads: the API; the manifest that a builder wrote. Writes: nothing but its answer. Calls: the API. Runs: once.

use super::calls::{Calls, Columns};
use super::table::{age, or_dash, time};
use super::{Client, Connect};
use crate::domain::ids::ImageId;
use crate::domain::image::{
    ImageFigures, ImageView, PromoteRequest, RegisterRequest, RegisteredImages, RetireRequest, ShareRequest,
};
use crate::domain::lifecycle::ImageState;
use chrono::{DateTime, Utc};
use reqwest::Method;
use std::path::{Path, PathBuf};

/// `vm-service image`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vm-service image                                            list the images, with what was measured
  vm-service image register packer/manifest.json --share 10   the AMIs of packer's last run, with a tenth of the launches
  vm-service image register --folder /var/lib/images/3f1c…    an on-host image; the folder is beside the one that is `current`
  vm-service image share 3f1c… 50                             a candidate gets half of the launches
  vm-service image promote 3f1c…                              launches take it; free VMs move over to it
  vm-service image retire 3f1c… --reason 'kernel bug'")]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Print the API's JSON: one document, for a list one array of all its items.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List images, newest first (the default).
    List {
        /// Only in this state, such as candidate, promoted or retired.
        #[arg(long)]
        state: Option<ImageState>,
        /// Only of this region or host.
        #[arg(long)]
        place: Option<String>,
    },
    /// Show one image.
    Show {
        /// Its id.
        id: ImageId,
    },
    /// Register the images of a manifest: all of them, or none.
    Register {
        /// What packer's post-processor `manifest` wrote.
        #[arg(required_unless_present = "folder", conflicts_with = "folder")]
        manifest: Option<PathBuf>,
        /// The folder of an on-host image; the same folder must be on the host, beside the one that is `current`.
        #[arg(long)]
        folder: Option<PathBuf>,
        /// The host of the folder, where several serve.
        #[arg(long, requires = "folder")]
        host: Option<String>,
        /// Only this region of the manifest; may be given again.
        #[arg(long = "region", conflicts_with = "folder")]
        regions: Vec<String>,
        /// Another name than the builder's.
        #[arg(long)]
        name: Option<String>,
        /// Percent of the launches that each gets at first.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
        share: u32,
    },
    /// Give a candidate a share of the launches; 0 takes it back.
    Share {
        /// Its id.
        id: ImageId,
        /// Percent.
        #[arg(value_parser = clap::value_parser!(u32).range(0..=100))]
        share: u32,
    },
    /// Let launches take it; the one before it is retired.
    Promote {
        /// Its id.
        id: ImageId,
        /// Whatever was measured.
        #[arg(long)]
        force: bool,
    },
    /// Let no launch take it any more; it is deleted when it has been kept long enough.
    Retire {
        /// Its id.
        id: ImageId,
        /// Why; shown to everybody who looks at the image.
        #[arg(long)]
        reason: String,
    },
}

/// Runs the command; the answer is what to print, or why not.
pub(super) async fn run(args: &Args, client: &Client) -> Result<String, String> {
    let calls = Calls { client, as_json: args.json };
    let answer = match args.what.as_ref().unwrap_or(&What::List { state: None, place: None }) {
        What::List { state, place } => {
            let state = state.map(|state| ("state", state.to_string()));
            calls.list("images", [state, place.as_ref().map(|place| ("place", place.clone()))], COLUMNS).await
        }
        What::Show { id } => calls.show(format!("images/{id}"), lines).await,
        What::Register { manifest, folder, host, regions, name, share } => {
            let request = RegisterRequest {
                manifest: manifest.as_deref().map(read).transpose()?,
                folder: folder.as_deref().map(|folder| read(&folder.join("manifest.json"))).transpose()?,
                host: host.clone(),
                regions: (!regions.is_empty()).then(|| regions.clone()),
                name: name.clone(),
                share: *share,
            };
            calls.change(Method::POST, "images".to_owned(), Some(&request), registered).await
        }
        What::Share { id, share } => {
            let said = |_: ImageView| format!("Image {id} gets {share} % of the launches.\n");
            calls.change(Method::PUT, format!("images/{id}/share"), Some(&ShareRequest { share: *share }), said).await
        }
        What::Promote { id, force } => {
            let said = |_: ImageView| format!("Image {id} is promoted: launches take it, and free VMs move over to it.\n");
            calls.change(Method::POST, format!("images/{id}/promote"), Some(&PromoteRequest { force: *force }), said).await
        }
        What::Retire { id, reason } => {
            let said = |_: ImageView| format!("Image {id} is retired: no launch takes it.\n");
            let body = RetireRequest { reason: reason.clone() };
            calls.change(Method::POST, format!("images/{id}/retire"), Some(&body), said).await
        }
    };
    answer.map_err(|e| e.to_string())
}

fn read(path: &Path) -> Result<serde_json::Value, String> {
    let at = path.display();
    let text = std::fs::read(path).map_err(|error| format!("{at} cannot be read: {error}."))?;
    serde_json::from_slice(&text).map_err(|error| format!("{at} is not JSON: {error}."))
}

fn registered(answer: RegisteredImages) -> String {
    let line = |image: ImageView| {
        let warnings: String = image.facts.warnings.iter().map(|warning| format!("  {warning}\n")).collect();
        let share = if image.share > 0 { format!(", {} % of the launches", image.share) } else { String::new() };
        format!("{}  {} {} in {}: {}{share}\n{warnings}", image.id, image.kind, image.provider_id, image.place, image.state)
    };
    answer.images.into_iter().map(line).collect()
}

const COLUMNS: Columns<ImageView> = Columns {
    heading: &[
        "ID",
        "STATE",
        "SHARE",
        "KIND",
        "ARCH",
        "PLACE",
        "IMAGE",
        "BOOTS",
        "READY p50/p90",
        "JOBS",
        "PROMOTED ONE'S",
        "AGE",
        "NOTE",
    ],
    row: |image, now| {
        vec![
            image.id.to_string(),
            image.state.to_string(),
            if image.share > 0 { format!("{}%", image.share) } else { "-".to_owned() },
            image.kind.to_string(),
            image.architecture.as_str().to_owned(),
            image.place.clone(),
            image.provider_id.clone(),
            boots(&image.figures),
            ready(&image.figures),
            tasks(&image.figures),
            image
                .promoted
                .as_ref()
                .map_or_else(|| "-".to_owned(), |other| format!("{} {} {}", boots(other), ready(other), tasks(other))),
            age(image.registered_at, now),
            note(&image),
        ]
    },
    none: "No images: VMs are made of what the settings name, or of the provider's default.",
};

fn lines(image: ImageView, _: Option<DateTime<Utc>>) -> Vec<(&'static str, String)> {
    let all = |figures: &ImageFigures| format!("{} boots, ready after {}, {} jobs", boots(figures), ready(figures), tasks(figures));
    let mut lines = vec![
        ("id", image.id.to_string()),
        ("name", image.name),
        ("state", image.state.to_string()),
        ("reason", or_dash(image.reason)),
        ("share", format!("{} %", image.share)),
        ("image", format!("{} {} {}", image.provider, image.place, image.provider_id)),
        ("for", format!("{} {}", image.kind, image.architecture.as_str())),
        ("distribution", or_dash(image.facts.distribution.clone())),
        ("engine", format!("{} {}", or_dash(image.facts.engine_version.clone()), or_dash(image.facts.store))),
        ("built from", or_dash(image.facts.hash.clone())),
        ("measured", all(&image.figures)),
        ("promoted one's", image.promoted.as_ref().map_or_else(|| "-".to_owned(), all)),
        ("registered", format!("{} by {}", time(image.registered_at), image.registered_by)),
        ("changed", format!("{} by {}", time(image.changed_at), image.changed_by)),
    ];
    if let Some(driver) = &image.facts.nvidia_driver {
        lines.push(("GPUs", format!("driver {driver}, CUDA {}", or_dash(image.facts.cuda.clone()))));
    }
    if let Some(since) = image.missing_at {
        lines.push(("gone", format!("since {}", time(since))));
    }
    lines.extend(image.facts.warnings.iter().map(|warning| ("note", warning.clone())));
    lines
}

fn note(image: &ImageView) -> String {
    let gone = image.missing_at.map(|_| "it is gone at its provider".to_owned());
    gone.or_else(|| image.reason.clone()).unwrap_or_default()
}

/// Good ones of those that have ended one way or the other.
fn boots(figures: &ImageFigures) -> String {
    format!("{}/{}", figures.ready, figures.ready + figures.failed)
}

fn ready(figures: &ImageFigures) -> String {
    let seconds = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{}.{}s", ms / 1000, ms % 1000 / 100));
    format!("{}/{}", seconds(figures.median_ms), seconds(figures.p90_ms))
}

fn tasks(figures: &ImageFigures) -> String {
    format!("{}/{}", figures.tasks - figures.tasks_failed.min(figures.tasks), figures.tasks)
}

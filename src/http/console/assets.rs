//! Style, script and icon: part of the binary, each under a path that names its content, so that a browser keeps it for ever.

use crate::http::extract::Path;
use crate::http::problem::Problem;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "src/http/console/assets/"]
struct Files;

/// Where a page finds a file.
pub(super) fn path(name: &str) -> String {
    format!("/console/assets/{}/{name}", Files::get(name).map(|file| hash(&file)).unwrap_or_default())
}

/// `GET /console/assets/{hash}/{file}`. Under the hash of another version it is served too, and not kept: during an upgrade the page of
/// one replica asks another.
pub(super) async fn file(Path((wanted, name)): Path<(String, String)>) -> Result<Response, Problem> {
    let file = Files::get(&name).ok_or_else(|| Problem::NotFound("There is no such file: load the page again.".to_owned()))?;
    let keep = if wanted == hash(&file) { "public, max-age=31536000, immutable" } else { "no-store" };
    let kind = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        _ => "image/svg+xml",
    };
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, keep)], file.data.into_owned()).into_response())
}

fn hash(file: &EmbeddedFile) -> String {
    file.metadata.sha256_hash().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

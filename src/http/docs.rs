//! Swagger UI at `/docs`: files without any data, so they need no token; the page asks for one and reads `/openapi.json` with it.
//!
//! Not here: the document (`openapi`).

use super::extract::Path;
use super::problem::Problem;
use super::state::AppState;
use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use std::sync::Arc;
use utoipa_swagger_ui::Config;

/// The token stays in the page's memory, and is not kept.
const START: &str = r##"window.onload = async () => {
  const token = window.prompt("API token");
  const answer = await fetch("/openapi.json", { headers: { authorization: `Bearer ${token}` } });
  if (!answer.ok) { document.body.textContent = (await answer.json()).detail; return; }
  window.ui = SwaggerUIBundle({ spec: await answer.json(), dom_id: "#swagger-ui", deepLinking: true,
    onComplete: () => window.ui.preauthorizeApiKey("bearer", token) });
};
"##;

/// Nothing from elsewhere is loaded, and no other site may frame the page.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", get(|| async { file("index.html") }))
        .route("/docs/{file}", get(|Path(name): Path<String>| async move { file(&name) }))
}

fn file(name: &str) -> Result<Response, Problem> {
    if name == "swagger-initializer.js" {
        return Ok(([(header::CONTENT_TYPE, "text/javascript"), (header::CONTENT_SECURITY_POLICY, POLICY)], START).into_response());
    }
    let found = utoipa_swagger_ui::serve(name, Arc::new(Config::from("/openapi.json")));
    let file = found.map_err(|error| Problem::Defect(format!("a file of Swagger UI: {error}")))?;
    let file = file.ok_or_else(|| Problem::NotFound("There is no such file: /docs/ is the page.".to_owned()))?;
    let headers = [
        (header::CONTENT_TYPE, file.content_type.as_str()),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // The files are part of the binary: they change with it.
        (header::CACHE_CONTROL, "max-age=3600"),
    ];
    Ok((headers, file.bytes.into_owned()).into_response())
}

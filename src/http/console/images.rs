//! Images as a list, each with what was measured of its VMs.

use super::asked::{self, ROWS};
use super::frame::{self, Frame, Parts, Tab};
use super::session::Session;
use super::words;
use crate::db::images::ImageFilter;
use crate::domain::ids::ImageId;
use crate::domain::image::{ImageFigures, ImageView, JUDGED_BY};
use crate::domain::lifecycle::ImageState;
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

/// The filter; empty fields mean any.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    state: String,
    place: String,
    cursor: String,
}

impl Asked {
    fn page(&self, cursor: &str) -> String {
        let fields = [("state", self.state.as_str()), ("place", &self.place), ("cursor", cursor)];
        words::with_query(Tab::Images.path(), &fields)
    }
}

#[derive(Template)]
#[template(path = "images_filter.html", config = ".askama.toml")]
struct Filter<'a> {
    asked: &'a Asked,
    states: &'static [ImageState],
}

#[derive(Template)]
#[template(path = "images.html", config = ".askama.toml")]
struct List {
    images: Vec<ImageView>,
    first: Option<String>,
    next: Option<String>,
    now: DateTime<Utc>,
}

/// A measured length.
pub(super) fn length(ms: &Option<u64>) -> String {
    match ms.and_then(|ms| i64::try_from(ms).ok()) {
        Some(ms) => words::span(&TimeDelta::milliseconds(ms)),
        None => "–".to_owned(),
    }
}

/// Starts that failed, of all.
pub(super) fn failed(figures: &ImageFigures) -> String {
    words::percent(&figures.failed.into(), &(u64::from(figures.ready) + u64::from(figures.failed)))
}

/// `GET /console/images`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let live = live(&state, &asked).await?;
    let above = frame::html(&Filter { asked: &asked, states: ImageState::ALL });
    let frame = Frame::new(&session, &uri, Tab::Images, "Images");
    Ok(frame::page(&frame, Parts { above, live, ..Parts::default() }))
}

/// The list.
pub(super) async fn live(state: &AppState, asked: &Asked) -> Result<String, Problem> {
    let filter = ImageFilter {
        state: asked::pick("state", &asked.state)?,
        place: asked::text("place", &asked.place)?,
        ids: None,
        before: asked::before(&asked.cursor)?.map(|(at, id)| (at, ImageId(id))),
        limit: ROWS + 1,
    };
    let images = state.db.list_image_views(&filter).await?;
    let (images, cursor) = asked::cut(images, |image| (image.registered_at, image.id.0));
    let first = (!asked.cursor.is_empty()).then(|| asked.page(""));
    Ok(frame::html(&List { images, first, next: cursor.map(|cursor| asked.page(&cursor)), now: state.clock.now() }))
}

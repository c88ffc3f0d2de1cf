//! Caches: how much each project has and how often its jobs found layers; of one project its volumes and the good states of its lineages.

use super::asked::{self, ROWS};
use super::frame::{self, Frame, Parts, Tab};
use super::session::Session;
use super::words;
use crate::db::console_volumes::{GenerationLine, ProjectCaches};
use crate::db::volume_list::VolumeFilter;
use crate::domain::api::VolumeView;
use crate::domain::ids::VolumeId;
use crate::domain::lifecycle::VolumeState;
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::volumes;
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Deserialize;

/// Which caches: with a project or a state its volumes, else the projects.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    project: String,
    state: String,
    named: String,
    cursor: String,
}

impl Asked {
    fn page(&self, cursor: &str) -> String {
        let fields = [("project", self.project.as_str()), ("state", &self.state), ("named", &self.named), ("cursor", cursor)];
        words::with_query(Tab::Volumes.path(), &fields)
    }

    fn lists_volumes(&self) -> bool {
        !self.project.is_empty() || !self.state.is_empty()
    }
}

/// The volumes of one project.
pub(super) fn of_project(project: &str) -> String {
    words::with_query(Tab::Volumes.path(), &[("project", project)])
}

#[derive(Template)]
#[template(path = "volumes_filter.html", config = ".askama.toml")]
struct Filter<'a> {
    asked: &'a Asked,
    states: &'static [VolumeState],
}

#[derive(Template)]
#[template(path = "projects.html", config = ".askama.toml")]
struct Projects {
    projects: Vec<ProjectCaches>,
    first: Option<String>,
    next: Option<String>,
    now: DateTime<Utc>,
}

#[derive(Template)]
#[template(path = "volumes.html", config = ".askama.toml")]
struct Volumes {
    project: Option<String>,
    volumes: Vec<VolumeView>,
    generations: Vec<GenerationLine>,
    first: Option<String>,
    next: Option<String>,
    now: DateTime<Utc>,
}

/// `GET /console/volumes`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let live = live(&state, &asked).await?;
    let above = frame::html(&Filter { asked: &asked, states: VolumeState::ALL });
    let title = if asked.project.is_empty() { "Volumes".to_owned() } else { format!("Volumes of {}", asked.project) };
    let frame = Frame::new(&session, &uri, Tab::Volumes, title);
    Ok(frame::page(&frame, Parts { above, live, ..Parts::default() }))
}

/// The projects, or the volumes.
pub(super) async fn live(state: &AppState, asked: &Asked) -> Result<String, Problem> {
    let now = state.clock.now();
    let first = (!asked.cursor.is_empty()).then(|| asked.page(""));
    if !asked.lists_volumes() {
        let (named, after) = (asked::text("named", &asked.named)?, asked::text("cursor", &asked.cursor)?);
        let mut projects = state.db.list_project_caches(&named.unwrap_or_default(), &after.unwrap_or_default(), ROWS + 1).await?;
        let rows = usize::try_from(ROWS).unwrap_or(usize::MAX);
        let more = projects.len() > rows;
        projects.truncate(rows);
        let next = projects.last().filter(|_| more).map(|last| asked.page(&last.project_id));
        return Ok(frame::html(&Projects { projects, first, next, now }));
    }
    let project = asked::text("project", &asked.project)?;
    let filter = VolumeFilter {
        state: asked::pick("state", &asked.state)?,
        project: project.clone(),
        named: asked::text("named", &asked.named)?.unwrap_or_default(),
        id: None,
        before: asked::before(&asked.cursor)?.map(|(at, id)| (at, VolumeId(id))),
        limit: ROWS + 1,
    };
    let volumes = volumes::list(state, &filter).await?;
    let (volumes, cursor) = asked::cut(volumes, |volume| (volume.created_at, volume.id.0));
    let generations = match &project {
        Some(project) => state.db.list_generation_lines(project, ROWS).await?,
        None => Vec::new(),
    };
    let next = cursor.map(|cursor| asked.page(&cursor));
    Ok(frame::html(&Volumes { project, volumes, generations, first, next, now }))
}

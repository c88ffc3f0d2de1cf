//! Images that VMs are made of: seen by operators and viewers; registered, tried, promoted and retired by operators.
//!
//! Reads, writes: `db` (images, wishes). Not here: the look at the provider before one is registered (`loops::images`); which of them a
//! launch takes, and what "clearly worse" means (`domain::plan::images`).

use super::auth::{Operator, Viewer};
use super::extract::{Json, Path, Query, plain};
use super::paging;
use super::problem::Problem;
use super::state::AppState;
use super::waiting::until_settled;
use crate::db::DbError;
use crate::db::image_orders::{ImageOrder, OrderAnswer};
use crate::db::images::ImageFilter;
use crate::domain::access::Caller;
use crate::domain::api::Page;
use crate::domain::ids::{ImageId, ImageOrderId};
use crate::domain::image::{ImageView, PromoteRequest, RegisterRequest, RegisteredImages, RetireRequest, ShareRequest};
use crate::domain::image_manifest;
use crate::domain::lifecycle::ImageState;
use crate::domain::plan::images::may_promote;
use axum::extract::{DefaultBodyLimit, OriginalUri, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

/// Packer's manifest keeps every build that it ever made.
const BODY_MAX: usize = 1 << 20;
/// For the look at the provider, seconds; less than a client waits.
const LOOK_WITHIN: u64 = 12;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_images, register_images))
        .routes(routes!(get_image))
        .routes(routes!(put_image_share))
        .routes(routes!(promote_image))
        .routes(routes!(retire_image))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// Which images.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListImages {
    /// Only in this state; any but `deleted` when absent.
    state: Option<ImageState>,
    /// Only of this region or host.
    place: Option<String>,
    /// From the page before.
    cursor: Option<String>,
    /// 1 to 200; 50 when absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// Images, newest first, each with what was measured of its VMs since it was registered.
#[utoipa::path(
    get, path = "/api/v1/images", tag = "images", params(ListImages),
    responses((status = 200, description = "A page; the header Link has the next", body = Page<ImageView>))
)]
async fn list_images(
    State(state): State<AppState>,
    _: Viewer,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListImages>,
) -> Result<Response, Problem> {
    let limit = paging::limit(query.limit)?;
    let before = paging::read(query.cursor.as_deref())?.map(|(at, id)| (at, ImageId(id)));
    if let Some(place) = &query.place {
        plain("place", place)?;
    }
    let filter = ImageFilter { state: query.state, place: query.place, ids: None, before, limit: limit + 1 };
    let images = state.db.list_image_views(&filter).await?;
    Ok(paging::page(images, limit, &uri, |image| (image.registered_at, image.id.0)))
}

/// One image.
#[utoipa::path(
    get, path = "/api/v1/images/{id}", tag = "images", params(("id" = ImageId, Path)),
    responses((status = 200, description = "As it is now", body = ImageView))
)]
async fn get_image(State(state): State<AppState>, _: Viewer, Path(id): Path<ImageId>) -> Result<axum::Json<ImageView>, Problem> {
    find(&state, id).await.map(axum::Json)
}

/// Registers the images of a manifest, all of them or none, after the provider was asked about each. Again: the same answer.
///
/// `{"manifest": {"builds": […], "last_run_uuid": "…"}, "share": 10}` is answered with the images, one for each region.
#[utoipa::path(
    post, path = "/api/v1/images", tag = "images", request_body = RegisterRequest,
    responses(
        (status = 201, description = "Registered", body = RegisteredImages),
        (status = 200, description = "They were known already", body = RegisteredImages)
    )
)]
async fn register_images(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Json(request): Json<RegisterRequest>,
) -> Result<Response, Problem> {
    let wanted = image_manifest::wanted(&request).map_err(|sentence| Problem::Impossible(sentence, Vec::new()))?;
    let id = ImageOrderId(Uuid::new_v4());
    let (share, created_at) = (request.share, state.clock.now());
    state.db.insert_image_order(&ImageOrder { id, principal: caller.principal, wanted, share, created_at }).await?;
    let answer = until_settled(&state, LOOK_WITHIN, || async {
        let answer = state.db.find_image_answer(id).await?;
        let settled = answer.is_some();
        Ok((answer, settled))
    });
    match answer.await? {
        None => Err(Problem::TookTooLong),
        Some(OrderAnswer::Refused(sentence)) => Err(Problem::Impossible(sentence, Vec::new())),
        Some(OrderAnswer::Done { images, fresh }) => {
            let limit = i64::try_from(images.len()).unwrap_or(i64::MAX);
            let mut views =
                state.db.list_image_views(&ImageFilter { ids: Some(images.clone()), limit, ..ImageFilter::default() }).await?;
            views.sort_by_key(|view| images.iter().position(|id| *id == view.id));
            let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
            Ok((status, axum::Json(RegisteredImages { images: views })).into_response())
        }
    }
}

/// Gives a candidate a share of the launches that it fits, in percent; 0 takes it back.
#[utoipa::path(
    put, path = "/api/v1/images/{id}/share", tag = "images", params(("id" = ImageId, Path)), request_body = ShareRequest,
    responses(
        (status = 200, description = "It has this share", body = ImageView),
        (status = 409, description = "It is no candidate, or the candidates would get more than all launches")
    )
)]
async fn put_image_share(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<ImageId>,
    Json(request): Json<ShareRequest>,
) -> Result<axum::Json<ImageView>, Problem> {
    set_share(&state, &caller, id, request).await.map(axum::Json)
}

/// Gives a candidate its share.
pub(super) async fn set_share(state: &AppState, caller: &Caller, id: ImageId, request: ShareRequest) -> Result<ImageView, Problem> {
    let image = find(state, id).await?;
    match state.db.set_image_share(id, request.share, &caller.principal, state.clock.now()).await {
        Ok(true) => find(state, id).await,
        Ok(false) => Err(Problem::Conflict(format!("The image is {}: only a candidate has a share.", image.state))),
        Err(DbError::LimitReached(_)) => Err(Problem::Conflict(
            "The candidates would get more than all launches: give this one, or others, a smaller share.".to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Promotes an image: from now on launches take it, and free VMs move over to it, a few at a time. The one before it is retired.
///
/// Refused for one that was measured clearly worse than the promoted one, or of which no VM has become ready; `{"force": true}` does it all
/// the same.
#[utoipa::path(
    post, path = "/api/v1/images/{id}/promote", tag = "images", params(("id" = ImageId, Path)), request_body = PromoteRequest,
    responses(
        (status = 200, description = "Promoted", body = ImageView),
        (status = 409, description = "It is clearly worse, was not tried, or is no candidate")
    )
)]
async fn promote_image(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<ImageId>,
    Json(request): Json<PromoteRequest>,
) -> Result<axum::Json<ImageView>, Problem> {
    promote(&state, &caller, id, request, "force").await.map(axum::Json)
}

/// Promotes an image; `force`: what the caller knows the wish by that it is done whatever was measured.
pub(super) async fn promote(
    state: &AppState,
    caller: &Caller,
    id: ImageId,
    request: PromoteRequest,
    force: &str,
) -> Result<ImageView, Problem> {
    let image = find(state, id).await?;
    if image.state == ImageState::Promoted {
        return Ok(image);
    }
    if !request.force {
        let judged = may_promote(&image.figures, image.promoted.as_ref());
        judged.map_err(|why| Problem::Conflict(format!("{why} With \"{force}\" it is promoted all the same.")))?;
    }
    if state.db.promote_image(id, request.force, &caller.principal, state.clock.now()).await? {
        return find(state, id).await;
    }
    Err(Problem::Conflict(match image.missing_at {
        Some(since) => format!("The image is gone at its provider since {since}: no launch could take it."),
        None => format!("The image is {}: only a candidate or a retired one is promoted.", image.state),
    }))
}

/// Retires an image: no launch takes it any more, and it is deleted when it has been kept long enough and nothing needs it.
///
/// `{"reason": "the kernel has a bug"}` is answered with the image.
#[utoipa::path(
    post, path = "/api/v1/images/{id}/retire", tag = "images", params(("id" = ImageId, Path)), request_body = RetireRequest,
    responses(
        (status = 200, description = "Retired", body = ImageView),
        (status = 409, description = "Settings name it, or it was not in use")
    )
)]
async fn retire_image(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<ImageId>,
    Json(request): Json<RetireRequest>,
) -> Result<axum::Json<ImageView>, Problem> {
    retire(&state, &caller, id, &request).await.map(axum::Json)
}

/// Retires an image.
pub(super) async fn retire(state: &AppState, caller: &Caller, id: ImageId, request: &RetireRequest) -> Result<ImageView, Problem> {
    let image = find(state, id).await?;
    if image.state == ImageState::Retired {
        return Ok(image);
    }
    if state.settings.borrow().settings.named_images().contains(image.provider_id.as_str()) {
        return Err(Problem::Conflict(format!(
            "The settings name {}: take it out of ec2.images, of the classes too, and retire it then.",
            image.provider_id
        )));
    }
    if state.db.retire_image(id, &request.reason, &caller.principal, state.clock.now()).await? {
        return find(state, id).await;
    }
    Err(Problem::Conflict(format!("The image is {}: only a candidate or the promoted one is retired.", image.state)))
}

/// The image.
pub(super) async fn find(state: &AppState, id: ImageId) -> Result<ImageView, Problem> {
    let filter = ImageFilter { ids: Some(vec![id]), limit: 1, ..ImageFilter::default() };
    let image = state.db.list_image_views(&filter).await?.into_iter().next();
    image.ok_or_else(|| Problem::NotFound(format!("There is no image {id}: check the id.")))
}

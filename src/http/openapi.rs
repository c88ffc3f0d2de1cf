//! The OpenAPI document: what the routes do not say themselves (title, token, problem documents).
//!
//! Not here: the routes' own parts, which stand at their handlers.

use super::problem::Shape;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::ArrayItems;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi as Document, Ref, RefOr, Response, Schema};
use utoipa::{OpenApi, PartialSchema, ToSchema};

#[derive(OpenApi)]
#[openapi(info(title = "vm-service", description = "Gives every CI job a virtual machine of its own."), security(("bearer" = [])))]
struct Base;

/// Completes what the routes gave.
pub(super) fn finish(routes: Document) -> Document {
    let mut document = Base::openapi();
    document.paths = routes.paths;
    let mut components = routes.components.unwrap_or_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API token.")).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let mut schemas = vec![(Shape::name().into_owned(), Shape::schema())];
    Shape::schemas(&mut schemas);
    components.schemas.extend(schemas);
    open_parts(&mut components);
    document.components = Some(components);
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        operations.into_iter().filter_map(Option::as_mut).for_each(|operation| add_problems(path, operation));
    }
    document
}

/// A shape that is part of a larger one (`#[serde(flatten)]`) forbids nothing there: what stands beside it is the larger one's.
fn open_parts(components: &mut Components) {
    let all = components.clone();
    components.schemas.values_mut().for_each(|shape| open_parts_in(shape, &all));
}

fn open_parts_in(shape: &mut RefOr<Schema>, all: &Components) {
    match shape {
        RefOr::T(Schema::Object(object)) => object.properties.values_mut().for_each(|inner| open_parts_in(inner, all)),
        RefOr::T(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(inner) = &mut array.items {
                open_parts_in(inner, all);
            }
        }
        RefOr::T(Schema::AllOf(whole)) => {
            for part in &mut whole.items {
                let RefOr::Ref(reference) = part else { continue };
                let name = reference.ref_location.trim_start_matches("#/components/schemas/");
                let Some(RefOr::T(Schema::Object(closed))) = all.schemas.get(name) else { continue };
                let mut open = closed.clone();
                open.additional_properties = None;
                *part = RefOr::T(Schema::Object(open));
            }
        }
        _ => {}
    }
}

/// Why it was not done, by status.
const PROBLEMS: [(&str, &str); 14] = [
    ("400", "Path, query or body cannot be read"),
    ("401", "No token, or one that nobody has"),
    ("403", "The token may not do this"),
    ("404", "There is no such thing, or not for this token"),
    ("408", "The body did not arrive in time"),
    ("409", "Another request has this id, or the thing is in a state that does not allow it"),
    ("412", "Changed since it was read"),
    ("413", "The body is too large"),
    ("415", "The body is not JSON"),
    ("422", "Understood, but impossible: `errors` says which fields"),
    ("428", "The header If-Match is missing"),
    ("429", "This principal asks too fast, or has too many streams open: wait as long as Retry-After says"),
    ("500", "A defect of the service, or its configuration must be mended"),
    ("503", "The database is away, or new tasks are refused: wait as long as Retry-After says"),
];

/// Gives an operation the problems that follow from what it takes, and those that its handler names (409, 412, 428) their document.
fn add_problems(path: &str, operation: &mut Operation) {
    let open = operation.security.as_ref().is_some_and(|security| security.contains(&SecurityRequirement::default()));
    let takes_more = path.contains('{') || operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
    let has_body = operation.request_body.is_some();
    let statuses = [("500", true), ("503", !open), ("401", !open), ("403", !open), ("429", !open)].into_iter().chain([
        ("400", takes_more || has_body),
        ("404", path.contains('{')),
        ("408", has_body),
        ("413", has_body),
        ("415", has_body),
        ("422", has_body),
    ]);
    let responses = &mut operation.responses.responses;
    for (status, _) in statuses.filter(|(_, may_be)| *may_be) {
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(Response::new("")));
    }
    for (status, usual) in PROBLEMS {
        let Some(RefOr::T(response)) = responses.get_mut(status) else { continue };
        if response.description.is_empty() {
            usual.clone_into(&mut response.description);
        }
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Shape::name()))).build();
        response.content.entry("application/problem+json".to_owned()).or_insert(RefOr::T(content));
    }
}

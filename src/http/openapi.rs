//! The OpenAPI document: what the routes do not say themselves (title, token, problem documents).
//!
//! Not here: the routes' own parts, which stand at their handlers.

use super::problem::Shape;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, ResponseBuilder};
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
    document.components = Some(components);
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        operations.into_iter().filter_map(Option::as_mut).for_each(add_problem);
    }
    document
}

fn add_problem(operation: &mut Operation) {
    let schema = Ref::from_schema_name(Shape::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new().description("Why it was not done").content("application/problem+json", content).build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(response));
}

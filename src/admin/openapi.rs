//! The REST API's OpenAPI document: the annotations of handlers and types, and what all responses
//! have in common.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response as HttpResponse};
use serde_json::{Value, json};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Object, ObjectBuilder, PathItem, Ref, RefOr, Required, Response,
    ResponseBuilder, Schema, SecurityRequirement,
};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, OperationError};
use super::operations::Operations;
use super::shape::problem::Problem;
use super::{health, rest};
use crate::store::StoreError;
use crate::webhooks::{self, Schemas};

/// The document that is served, and kept in `docs/openapi.json`.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut document = serde_json::to_value(build()).expect("maps with names, and text");
    add_route_keys(&mut document["components"]["schemas"]);
    let text = format!("{document:#}\n").replace("#/$defs/", "#/components/schemas/");
    NAMES
        .iter()
        .fold(text, |text, (generic, name)| text.replace(generic, name))
});

/// The names of generic types in the document.
const NAMES: [(&str, &str); 4] = [
    ("Delivery_Vec_Attempt", "Delivery"),
    ("Delivery_u32", "ListedDelivery"),
    ("Webhook_LongStats", "Webhook"),
    ("Webhook_ShortStats", "ListedWebhook"),
];

/// The path of the only operation that reads a body and does not need one.
const BODY_MAY_BE_EMPTY: &str = "/webhooks/{id}/test";

/// The name of the token's security scheme.
const TOKEN: &str = "token";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "hookstile's admin API",
        description = "Webhooks, deliveries and the gateway itself, for operators. The same is \
                       available over GraphQL, at `/graphql`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem)),
    tags(
        (
            name = "webhooks",
            description = "The active routes; those made over the API can be changed and removed.",
        ),
        (name = "deliveries", description = "The delivery of each event."),
        (name = "rejections", description = "Rejected requests, and those that were captured."),
        (name = "gateway", description = "The gateway as a whole."),
        (
            name = "health",
            description = "For orchestrators and Prometheus: no token, and any `Host`.",
        ),
    )
)]
struct Api;

fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default().routes(routes!(document))
}

pub(super) fn router(operations: Arc<Operations>) -> Router {
    Router::from(routes())
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .with_state(operations)
}

/// Returns this document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "gateway",
    responses((status = 200, body = Object))
)]
async fn document() -> HttpResponse {
    (
        [(header::CONTENT_TYPE, "application/json")],
        DOCUMENT.as_str(),
    )
        .into_response()
}

fn build() -> utoipa::openapi::OpenApi {
    let mut api = rest::routes().merge(routes()).into_openapi();
    for (path, item) in &mut api.paths.paths {
        add_common(path, item);
    }
    let mut document = Api::openapi();
    document.merge(api);
    document.merge(health::routes().into_openapi());
    let components = document.components.get_or_insert_default();
    if let Some(RefOr::T(Schema::Object(change))) = components.schemas.get_mut("WebhookChange") {
        change.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        let mut new = change.clone();
        // `url` is not nullable: a new webhook has none that could stay.
        if let Some(RefOr::T(Schema::Object(url))) = new.properties.get_mut("url") {
            url.schema_type = Type::String.into();
        }
        let new = ObjectBuilder::from(new).required("url");
        components.schemas.insert(
            "NewWebhook".into(),
            new.description(Some("A webhook to create.")).into(),
        );
    }
    if let Some(RefOr::T(Schema::Object(patch))) = components.schemas.get_mut("WebhookPatch") {
        patch.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    }
    for schema in components.schemas.values_mut() {
        require_nullable(schema);
    }
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("`admin.token`, if one is configured."));
    components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme.build()));
    document
}

/// Adds what all operations of a path share: authentication, and error responses.
fn add_common(path: &str, item: &mut PathItem) {
    /// The error of a change with another media type.
    const CHANGE: Option<ApiError> = Some(ApiError::UnsupportedMediaType);
    let mut unknown = None;
    if path.contains("{id}") {
        let (description, pattern, error) = if path.starts_with("/deliveries/") {
            (
                "The delivery's ID.",
                "^(del_)?[0-9]{1,18}$",
                OperationError::NoSuchDelivery,
            )
        } else if path.starts_with("/captures/") {
            (
                "The captured request's ID.",
                "^cap_[0-9a-f]{16}$",
                OperationError::NoSuchCapture,
            )
        } else {
            (
                "The webhook's ID: `wh_` and the route's name.",
                "^wh_",
                OperationError::NoSuchWebhook,
            )
        };
        let id = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(pattern));
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(id))
            .description(Some(description));
        item.parameters = Some(vec![id.build().into()]);
        unknown = Some(ApiError::from(error));
    }
    for (operation, media_type) in [
        (&mut item.get, None),
        (&mut item.post, CHANGE),
        (&mut item.put, CHANGE),
        (&mut item.patch, Some(ApiError::UnsupportedPatch)),
        (&mut item.delete, CHANGE),
    ] {
        let Some(operation) = operation else { continue };
        operation.security = Some(vec![SecurityRequirement::new(TOKEN, [""; 0])]);
        let (changes, patches) = (
            media_type.is_some(),
            media_type == Some(ApiError::UnsupportedPatch),
        );
        if path == BODY_MAY_BE_EMPTY
            && let Some(RefOr::T(body)) = &mut operation.request_body
        {
            body.required = Some(Required::False);
        }
        let errors = common_errors(operation, media_type);
        if changes && operation.request_body.is_none() {
            add_ignored_body(operation);
        }
        for error in errors.iter().chain(&unknown) {
            add_error(operation, error);
        }
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response {
                complete(status, patches, response);
            }
        }
    }
}

/// Returns the errors that any operation of this kind can be answered with.
/// `media_type` is that of a change with another media type.
fn common_errors(operation: &Operation, media_type: Option<ApiError>) -> Vec<ApiError> {
    let mut errors = vec![
        ApiError::Unauthorized,
        ApiError::OtherUser,
        ApiError::Misdirected,
    ];
    if let Some(media_type) = media_type {
        errors.extend([ApiError::CrossOrigin, ApiError::ReadOnly, media_type]);
    }
    if operation.request_body.is_some() {
        errors.extend([
            ApiError::InvalidBody("The body is not valid.".into()),
            ApiError::BodyTooLarge,
        ]);
    }
    let parameters = operation.parameters.iter().flatten();
    let places: Vec<_> = parameters
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(&parameter.parameter_in),
            RefOr::Ref(_) => None,
        })
        .collect();
    if places.contains(&&ParameterIn::Query) {
        errors.push(ApiError::InvalidParameter(
            "A parameter is unknown or invalid.".into(),
        ));
    }
    if places.contains(&&ParameterIn::Header) {
        errors.push(ApiError::InvalidHeader("A header is malformed.".into()));
    }
    errors
}

/// Adds an error to the response of its status.
fn add_error(operation: &mut Operation, error: &ApiError) {
    let description = format!("`{}`: {}", error.code(), error.detail());
    let status = error.status().as_u16().to_string();
    let responses = &mut operation.responses.responses;
    match responses.get_mut(&status) {
        Some(RefOr::T(known)) => known.description = format!("{description} {}", known.description),
        _ => {
            let response = ResponseBuilder::new().description(description).build();
            responses.insert(status, response.into());
        }
    }
}

/// Documents a body that is ignored.
fn add_ignored_body(operation: &mut Operation) {
    let any = ContentBuilder::new().schema(Some(Schema::Object(Object::with_type(
        SchemaType::AnyValue,
    ))));
    let body = RequestBodyBuilder::new()
        .content("application/json", any.build())
        .required(Some(Required::False));
    let body = body.description(Some(
        "Ignored. A request with a body, or from a browser, needs the content type.",
    ));
    operation.request_body = Some(body.build().into());
}

/// Completes a response with what its annotation leaves out: the description, and for an error the
/// headers and the problem document.
fn complete(status: &str, patches: bool, response: &mut Response) {
    if status.starts_with('2') || status == "304" {
        if response.description.is_empty() {
            response.description = "Done.".into();
        }
        return;
    }
    if response.description.is_empty() {
        let error = ApiError::from(OperationError::Store(StoreError::Unavailable));
        response.description = format!("`{}`: {}", error.code(), error.detail());
    }
    let header_type = match status {
        "401" => Some(("WWW-Authenticate", Type::String)),
        "415" if patches => Some(("Accept-Patch", Type::String)),
        "503" => Some(("Retry-After", Type::Integer)),
        _ => None,
    };
    if let Some((name, schema_type)) = header_type {
        let header = HeaderBuilder::new()
            .schema(Some(Object::with_type(schema_type)))
            .build();
        response.headers.insert(name.into(), header.into());
    }
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(Problem::name())))
        .build();
    response
        .content
        .insert("application/problem+json".into(), content.into());
}

/// Marks the nullable members of responses as required: they are `null` and never left out, and
/// members that are left out are never `null`. Request bodies, the only schemas that refuse unknown
/// members, stay as they are.
fn require_nullable(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) if object.additional_properties.is_none() => {
            let nullable = object
                .properties
                .iter()
                .filter(|(_, schema)| may_be_null(schema));
            object
                .required
                .extend(nullable.map(|(name, _)| name.clone()).collect::<Vec<_>>());
            object.properties.values_mut().for_each(require_nullable);
        }
        RefOr::T(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                require_nullable(items);
            }
        }
        _ => {}
    }
}

fn may_be_null(schema: &RefOr<Schema>) -> bool {
    let RefOr::T(Schema::Object(object)) = schema else {
        return false;
    };
    matches!(&object.schema_type, SchemaType::Array(types) if types.contains(&Type::Null))
}

/// Adds the keys of a route that a webhook's definition accepts as well.
fn add_route_keys(schemas: &mut Value) {
    let Schemas { keys, named } = webhooks::schemas();
    for definition in ["NewWebhook", "WebhookChange"] {
        let properties = schemas[definition]["properties"]
            .as_object_mut()
            .expect("an object's schema");
        properties.extend(keys.clone());
    }
    // A part of a value is not valid by itself, so any value is allowed.
    let described = keys.into_iter().map(|(key, schema)| {
        let description = schema["description"].as_str().unwrap_or_default();
        let merged = format!("{description} `null` removes it. Objects are merged.");
        (key, json!({ "description": merged.trim() }))
    });
    let properties = schemas["WebhookPatch"]["properties"]
        .as_object_mut()
        .expect("an object's schema");
    properties.extend(described);
    schemas
        .as_object_mut()
        .expect("schemas by name")
        .extend(named);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HOOKSTILE_REGENERATE=1 cargo test --lib openapi` rewrites the file.
    #[test]
    fn document_matches_its_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
            std::fs::write(path, &*DOCUMENT).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            written, *DOCUMENT,
            "HOOKSTILE_REGENERATE=1 cargo test --lib rewrites it"
        );
    }
}

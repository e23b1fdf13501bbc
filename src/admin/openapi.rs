//! The REST API's OpenAPI document: what the handlers and the types say, and what all answers have in common.

use std::sync::LazyLock;

use serde_json::Value;
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

use super::operations::Refused;
use super::problem::Problem;
use super::{health, rest, shape};
use crate::store::StoreError;
use crate::webhooks::{self, Schemas};

/// As it is served, and written down in `docs/openapi.json`.
pub(super) static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut document = serde_json::to_value(document()).expect("maps with names, and text");
    add_other_keys(&mut document["components"]["schemas"]);
    let text = format!("{document:#}\n").replace("#/$defs/", "#/components/schemas/");
    NAMES
        .iter()
        .fold(text, |text, (generic, name)| text.replace(generic, name))
});

/// What generic types are called in the document.
const NAMES: [(&str, &str); 4] = [
    ("Delivery_Vec_Attempt", "Delivery"),
    ("Delivery_u32", "ListedDelivery"),
    ("Webhook_LongStats", "Webhook"),
    ("Webhook_ShortStats", "ListedWebhook"),
];

/// The name that the token's scheme goes by in the document.
const TOKEN: &str = "token";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "hookstile's admin API",
        description = "Webhooks, deliveries and the gateway itself, for operators. Beside it is the same over GraphQL, at `/graphql`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(shape::Problem)),
    tags(
        (name = "webhooks", description = "The routes that are served; those made here can be changed and removed."),
        (name = "deliveries", description = "What became of each event."),
        (name = "rejections", description = "Requests that were turned away."),
        (name = "gateway", description = "The gateway as a whole."),
        (name = "health", description = "For orchestrators and Prometheus; open to anybody, under any name."),
    )
)]
struct Api;

fn document() -> utoipa::openapi::OpenApi {
    let mut guarded = rest::routes().into_openapi();
    for (path, item) in &mut guarded.paths.paths {
        add_what_is_common(path, item);
    }
    let mut document = Api::openapi();
    document.merge(guarded);
    document.merge(health::routes().into_openapi());
    let components = document.components.get_or_insert_default();
    if let Some(RefOr::T(Schema::Object(change))) = components.schemas.get_mut("WebhookChange") {
        change.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        let mut new = change.clone();
        // Not `null`, where there is nothing to stay as it is.
        if let Some(RefOr::T(Schema::Object(url))) = new.properties.get_mut("url") {
            url.schema_type = Type::String.into();
        }
        let new = ObjectBuilder::from(new).required("url");
        components.schemas.insert(
            "NewWebhook".into(),
            new.description(Some("A webhook to be made.")).into(),
        );
    }
    for schema in components.schemas.values_mut() {
        require_what_is_always_there(schema);
    }
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("`admin.token`, if there is one."));
    components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme.build()));
    document
}

/// What a path's operations share: who may ask, and how is answered what can't be done.
fn add_what_is_common(path: &str, item: &mut PathItem) {
    let unknown = if path.starts_with("/deliveries/") {
        Refused::NoSuchDelivery
    } else {
        Refused::NoSuchWebhook
    };
    let is_named = path.contains("{id}");
    if is_named {
        let (description, pattern) = match unknown {
            Refused::NoSuchDelivery => ("A delivery's.", "^(del_)?[0-9]{1,18}$"),
            _ => ("A webhook's: `wh_` and the route's name.", "^wh_"),
        };
        let id = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(pattern));
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(id));
        item.parameters = Some(vec![id.description(Some(description)).build().into()]);
    }
    let unknown = Problem::from(unknown);
    for (operation, changes) in [
        (&mut item.get, false),
        (&mut item.post, true),
        (&mut item.put, true),
        (&mut item.delete, true),
    ] {
        let Some(operation) = operation else { continue };
        operation.security = Some(vec![SecurityRequirement::new(TOKEN, [""; 0])]);
        let mut problems = vec![Problem::Unauthorized, Problem::Misdirected];
        if changes {
            problems.extend([
                Problem::CrossOrigin,
                Problem::ReadOnly,
                Problem::UnsupportedMediaType,
            ]);
        }
        if operation.request_body.is_some() {
            problems.extend([
                Problem::InvalidBody("The body is not as it should be.".into()),
                Problem::BodyTooLarge,
            ]);
        } else if changes {
            take_any_body(operation);
        }
        if operation.parameters.is_some() {
            problems.push(Problem::InvalidParameter(
                "A parameter is unknown, or not as it should be.".into(),
            ));
        }
        for problem in problems.iter().chain(is_named.then_some(&unknown)) {
            let description = format!("`{}`: {}", problem.code(), problem.detail());
            let status = problem.status().as_u16().to_string();
            match operation.responses.responses.get_mut(&status) {
                Some(RefOr::T(known)) => {
                    known.description = format!("{description} {}", known.description)
                }
                _ => {
                    let response = ResponseBuilder::new().description(description).build();
                    operation
                        .responses
                        .responses
                        .insert(status, response.into());
                }
            }
        }
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response {
                complete(status, response);
            }
        }
    }
}

/// A form can't send this type; so it has to be said where there is nothing to send.
fn take_any_body(operation: &mut Operation) {
    let any = ContentBuilder::new().schema(Some(Schema::Object(Object::with_type(
        SchemaType::AnyValue,
    ))));
    let body = RequestBodyBuilder::new()
        .content("application/json", any.build())
        .required(Some(Required::True));
    let body = body.description(Some(
        "Not read, and may be empty; but its type must be said.",
    ));
    operation.request_body = Some(body.build().into());
}

/// Says what an annotation leaves out: that it is a problem, and what of it is the same everywhere.
fn complete(status: &str, response: &mut Response) {
    if status.starts_with('2') {
        if response.description.is_empty() {
            response.description = "Done.".into();
        }
        return;
    }
    if response.description.is_empty() {
        let problem = Problem::from(Refused::Store(StoreError::Unavailable));
        response.description = format!("`{}`: {}", problem.code(), problem.detail());
    }
    let header = match status {
        "401" => Some(("WWW-Authenticate", Type::String)),
        "503" => Some(("Retry-After", Type::Integer)),
        _ => None,
    };
    if let Some((name, kind)) = header {
        let header = HeaderBuilder::new()
            .schema(Some(Object::with_type(kind)))
            .build();
        response.headers.insert(name.into(), header.into());
    }
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(shape::Problem::name())))
        .build();
    response
        .content
        .insert("application/problem+json".into(), content.into());
}

/// In an answer, what may be `null` is there all the same; what is left out instead is never `null`. In what is asked,
/// which alone refuses what is unknown, it need not be there.
fn require_what_is_always_there(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) if object.additional_properties.is_none() => {
            let nullable = object
                .properties
                .iter()
                .filter(|(_, schema)| may_be_null(schema));
            object
                .required
                .extend(nullable.map(|(name, _)| name.clone()).collect::<Vec<_>>());
            object
                .properties
                .values_mut()
                .for_each(require_what_is_always_there);
        }
        RefOr::T(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                require_what_is_always_there(items);
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

/// A webhook's definition takes some of a route's keys as well.
fn add_other_keys(schemas: &mut Value) {
    let Schemas { keys, named } = webhooks::schemas();
    for definition in ["NewWebhook", "WebhookChange"] {
        let properties = schemas[definition]["properties"]
            .as_object_mut()
            .expect("an object's schema");
        properties.extend(keys.clone());
    }
    schemas
        .as_object_mut()
        .expect("schemas by name")
        .extend(named);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HOOKSTILE_REGENERATE=1 cargo test --lib openapi` renews it.
    #[test]
    fn the_document_is_the_one_that_is_written_down() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
            std::fs::write(path, &*DOCUMENT).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            written, *DOCUMENT,
            "HOOKSTILE_REGENERATE=1 cargo test --lib renews it"
        );
    }
}

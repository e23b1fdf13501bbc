//! The enumerations in the API's JSON, for its OpenAPI document.

use serde_json::Value;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Object, ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::outcome::Code;
use crate::problems::{ProblemCode, Severity};
use crate::route::DeliveryMode;
use crate::store::DeliveryState;

pub(super) fn activity_schema() -> Object {
    one_of(["active", "inactive"])
        .description(Some("`active` if events are accepted."))
        .build()
}

pub(super) fn source_schema() -> Object {
    one_of(["api", "file"])
        .description(Some("The place where the webhook is defined and changed."))
        .build()
}

pub(super) fn severity_schema() -> Object {
    let all = [Severity::Critical, Severity::Warning, Severity::Notice];
    one_of(all.map(Severity::as_str))
        .description(Some("The severity; the worst problems come first."))
        .build()
}

pub(super) fn problem_code_schema() -> Object {
    one_of(ProblemCode::ALL.map(ProblemCode::as_str))
        .description(Some("The kind of the problem."))
        .build()
}

impl ToSchema for Code {
    fn name() -> std::borrow::Cow<'static, str> {
        "Outcome".into()
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        one_of(Self::ALL.map(Self::as_str))
            .description(Some("The outcome of a request."))
            .into()
    }
}

impl ToSchema for DeliveryState {
    fn name() -> std::borrow::Cow<'static, str> {
        "DeliveryStatus".into()
    }
}

impl PartialSchema for DeliveryState {
    fn schema() -> RefOr<Schema> {
        one_of(Self::ALL.map(Self::as_str))
            .description(Some("The status of a delivery."))
            .into()
    }
}

impl ToSchema for DeliveryMode {
    fn name() -> std::borrow::Cow<'static, str> {
        "Handover".into()
    }
}

impl PartialSchema for DeliveryMode {
    fn schema() -> RefOr<Schema> {
        let all = [Self::Proxy, Self::Queue, Self::Spill].map(Self::as_str);
        one_of(all)
            .description(Some("The way in which a verified event is delivered."))
            .into()
    }
}

fn one_of(names: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names.into_iter().map(Value::from)))
}

//! Deliveries, and lists of them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat};
use utoipa::{IntoParams, PartialSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{DeliveryPath, Parameters, RouteName, Shared, pairs};
use crate::admin::audit::Operator;
use crate::admin::error::ApiError;
use crate::admin::http::json;
use crate::admin::operations::Operations;
use crate::admin::parameters::delivery_query;
use crate::admin::query::{DeliveryQuery, LIMIT_DEFAULT, LIMIT_MAX};
use crate::admin::shape::deliveries::{Deliveries, Delivery, OneDelivery};
use crate::store::{DeliveryRecord, DeliveryState};

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(deliveries))
        .routes(routes!(deliveries_of_webhook))
        .routes(routes!(delivery))
        .routes(routes!(redeliver))
}

/// Lists the deliveries of all webhooks, removed ones included, the newest first.
#[utoipa::path(
    get,
    path = "/deliveries",
    tag = "deliveries",
    params(AllWebhooks),
    responses(
        (status = 200, body = Deliveries),
        (
            status = 404,
            description = "`unknown_webhook`: there is no webhook of this ID, nor any delivery \
                           of one.",
        ),
        (status = 503),
    )
)]
async fn deliveries(
    State(operations): Shared,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    list(&operations, delivery_query(pairs(parameters)?, true)?).await
}

/// Lists the deliveries of a webhook, the newest first.
#[utoipa::path(
    get,
    path = "/webhooks/{id}/deliveries",
    tag = "deliveries",
    params(OneWebhook),
    responses((status = 200, body = Deliveries), (status = 503))
)]
async fn deliveries_of_webhook(
    State(operations): Shared,
    RouteName(route): RouteName,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let mut query = delivery_query(pairs(parameters)?, false)?;
    query.filter.route = Some(route);
    list(&operations, query).await
}

async fn list(operations: &Operations, query: DeliveryQuery) -> Result<Response, ApiError> {
    Ok(json(
        StatusCode::OK,
        &Deliveries::from(operations.list_deliveries(query).await?),
    ))
}

fn one(status: StatusCode, delivery: DeliveryRecord) -> Response {
    json(
        status,
        &OneDelivery {
            success: true,
            delivery: Delivery::whole(delivery),
        },
    )
}

/// Shows one delivery with its attempts.
#[utoipa::path(
    get,
    path = "/deliveries/{id}",
    tag = "deliveries",
    responses((status = 200, body = OneDelivery), (status = 503))
)]
async fn delivery(
    State(operations): Shared,
    DeliveryPath(id): DeliveryPath,
) -> Result<Response, ApiError> {
    Ok(one(StatusCode::OK, operations.delivery(id).await?))
}

/// Delivers an event again, now.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/redeliver",
    tag = "deliveries",
    responses(
        (status = 202, body = OneDelivery),
        (
            status = 409,
            description = "`in_flight`: a copy is being delivered now; or `payload_not_kept`.",
        ),
        (status = 503),
    )
)]
async fn redeliver(
    State(operations): Shared,
    operator: Operator,
    DeliveryPath(id): DeliveryPath,
) -> Result<Response, ApiError> {
    Ok(one(
        StatusCode::ACCEPTED,
        operations.redeliver(operator, id).await?,
    ))
}

/// The documented parameters of a list of all deliveries.
enum AllWebhooks {}

/// The documented parameters of a list of one webhook's deliveries.
enum OneWebhook {}

/// The documented parameter of every list.
pub(super) enum Limit {}

impl IntoParams for AllWebhooks {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = OneWebhook::into_params(|| None);
        parameters.push(parameter(
            "webhook_id",
            "The webhook, which may be removed by now.",
            text().pattern(Some("^wh_")),
        ));
        parameters
    }
}

impl IntoParams for OneWebhook {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = Limit::into_params(|| None);
        let boolean = ObjectBuilder::new()
            .schema_type(Type::Boolean)
            .default(Some(true.into()));
        parameters.extend([
            parameter(
                "cursor",
                "The `next_cursor` of an earlier answer, for the page after it.",
                text().pattern(Some("^(del_)?[0-9]{1,18}$")),
            ),
            parameter(
                "status",
                "The status of the deliveries.",
                DeliveryState::schema(),
            ),
            parameter("event_type", "The exact event type.", text()),
            parameter("event_id", "The exact event ID.", text()),
            parameter(
                "search",
                "The beginning of an event ID, or of a delivery's ID (`del_` and digits). For an \
                 event ID, one answer searches the latest 100,000 deliveries before `cursor`; \
                 while `has_more`, `next_cursor` continues, even if nothing was found.",
                text(),
            ),
            parameter(
                "since",
                "The earliest time at which the event was received.",
                time(),
            ),
            parameter(
                "until",
                "The time before which the event was received; later than `since`.",
                time(),
            ),
            parameter(
                "event_data",
                "Set to `false` to leave out bodies; bodies over 64 KiB are always left out.",
                boolean,
            ),
        ]);
        parameters
    }
}

impl IntoParams for Limit {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(LIMIT_MAX));
        vec![parameter(
            "limit",
            "The largest number of entries to list.",
            number.default(Some(LIMIT_DEFAULT.into())),
        )]
    }
}

pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn time() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

fn parameter(name: &str, description: &str, schema: impl Into<RefOr<Schema>>) -> Parameter {
    parameter_in(ParameterIn::Query, name, description, schema)
}

/// Describes an optional parameter.
pub(super) fn parameter_in(
    place: ParameterIn,
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(place);
    parameter
        .required(utoipa::openapi::Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

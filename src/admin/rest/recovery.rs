//! Recovery after an outage: bulk redelivery, and forgetting events.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{Object, ObjectBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{RouteName, Shared};
use crate::admin::audit::Operator;
use crate::admin::error::ApiError;
use crate::admin::http::{Body, json, parse, parse_or_default};
use crate::admin::operations::Operations;
use crate::admin::operations::redelivery::{LastRedelivery, RedeliveryReport};
use crate::admin::parameters::{state, time};
use crate::admin::query::{self, DeliverySelection, RedeliveryQuery};
use crate::admin::shape::deliveries::{OneRedelivery, Redelivered};
use crate::admin::shape::gateway::Done;
use crate::event::TEXT_BYTES_MAX;
use crate::store::DeliveryState;

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(redelivery, redeliver_matching, cancel_redelivery))
        .routes(routes!(recover))
        .routes(routes!(forget))
}

/// Deliveries to redeliver. At least one member besides `dry_run` and `per_second` is given.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = MatchingDeliveries)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct RedeliveryBody {
    /// The webhook, which may be removed by now.
    #[schema(pattern = "^wh_")]
    webhook_id: Option<String>,
    /// The status of the deliveries; `failed` and `dead` if neither it nor `ids` is given.
    #[schema(value_type = Option<DeliveryState>)]
    status: Option<String>,
    /// The exact event type.
    event_type: Option<String>,
    /// The exact event ID.
    event_id: Option<String>,
    /// The earliest time at which the event was received.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// The time before which the event was received; later than `since`.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// The only deliveries to choose from, whatever their status if `status` is not given.
    #[schema(min_items = 1, max_items = 100)]
    ids: Option<Vec<String>>,
    /// Counts the deliveries and changes nothing.
    #[serde(default)]
    #[schema(default = false)]
    dry_run: bool,
    /// The number of events that become due per second; without it, all are due at once.
    #[schema(exclusive_minimum = 0, maximum = 10_000)]
    per_second: Option<f64>,
}

impl RedeliveryBody {
    fn into_query(self) -> Result<RedeliveryQuery, ApiError> {
        let (per_second, dry_run) = (self.per_second, self.dry_run);
        let ids = self.ids.as_deref().map(query::chosen_ids).transpose()?;
        let ids = ids.unwrap_or_default();
        let selection = self.into_selection().map_err(ApiError::in_body)?;
        RedeliveryQuery::new(selection, ids, per_second, dry_run)
    }

    fn into_selection(self) -> Result<DeliverySelection, ApiError> {
        let route = self.webhook_id.as_deref().map(query::route_name);
        Ok(DeliverySelection {
            route: route.transpose()?.map(Into::into),
            state: self.status.as_deref().map(state).transpose()?,
            event_type: self.event_type,
            event_id: self.event_id,
            since: optional_time("since", self.since.as_deref())?,
            until: optional_time("until", self.until.as_deref())?,
        })
    }
}

fn optional_time(name: &str, text: Option<&str>) -> Result<Option<jiff::Timestamp>, ApiError> {
    text.map(|text| time(name, text)).transpose()
}

/// Shows the bulk redelivery that was requested last, with its progress as of at most a second ago.
#[utoipa::path(
    get,
    path = "/deliveries/redeliver",
    tag = "deliveries",
    responses((status = 200, body = OneRedelivery), (status = 503))
)]
async fn redelivery(State(operations): Shared) -> Result<Response, ApiError> {
    Ok(one_redelivery(operations.last_redelivery().await?))
}

fn one_redelivery(last: Option<LastRedelivery>) -> Response {
    json(
        StatusCode::OK,
        &OneRedelivery {
            success: true,
            redelivery: last.map(Into::into),
        },
    )
}

/// Cancels the bulk redelivery that is running, at any gateway of the store. Events that are due again
/// by then stay so, and one batch of 64 may still follow.
#[utoipa::path(
    delete,
    path = "/deliveries/redeliver",
    tag = "deliveries",
    responses(
        (
            status = 200,
            description = "The redelivery as it was cancelled, with its progress.",
            body = OneRedelivery,
        ),
        (
            status = 409,
            description = "`no_redelivery_under_way`: no bulk redelivery is running.",
        ),
        (status = 503),
    )
)]
async fn cancel_redelivery(
    State(operations): Shared,
    operator: Operator,
) -> Result<Response, ApiError> {
    let cancelled = operations.cancel_redelivery(operator).await?;
    Ok(one_redelivery(Some(cancelled)))
}

/// Redelivers all matching events, the oldest first. After five seconds it continues in the
/// background, also if the client disconnects or the gateway restarts.
#[utoipa::path(
    post,
    path = "/deliveries/redeliver",
    tag = "deliveries",
    request_body = RedeliveryBody,
    responses(
        (status = 200, description = "A dry run: nothing was changed.", body = Redelivered),
        (
            status = 202,
            description = "The accepted deliveries are stored for another attempt; with \
                           `running`, the others follow.",
            body = Redelivered,
        ),
        (
            status = 404,
            description = "`unknown_webhook`: there is no webhook of this ID, nor any delivery \
                           of one.",
        ),
        (
            status = 409,
            description = "`redelivery_under_way`: another bulk redelivery is running.",
        ),
        (
            status = 422,
            description = "`pace_too_slow`: the last would be due in more than three days.",
        ),
        (status = 503),
    )
)]
async fn redeliver_matching(
    State(operations): Shared,
    operator: Operator,
    body: Body,
) -> Result<Response, ApiError> {
    let query = parse_or_default::<RedeliveryBody>(body)?.into_query()?;
    Ok(redelivered(
        operations.redeliver_matching(operator, query).await?,
    ))
}

/// The period to recover, and the pace.
#[derive(Deserialize, ToSchema)]
#[schema(as = DeliveriesSince)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct RecoveryBody {
    /// The earliest time at which the event was received.
    #[schema(format = DateTime)]
    since: String,
    /// The number of events that become due per second; without it, all are due at once.
    #[schema(exclusive_minimum = 0, maximum = 10_000)]
    per_second: Option<f64>,
    /// Counts the deliveries and changes nothing.
    #[serde(default)]
    #[schema(default = false)]
    dry_run: bool,
}

/// Redelivers a webhook's failed and dead deliveries whose event was received at `since` or later.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/recover",
    tag = "webhooks",
    request_body = RecoveryBody,
    responses(
        (status = 200, description = "A dry run: nothing was changed.", body = Redelivered),
        (
            status = 202,
            description = "The accepted deliveries are stored for another attempt; with \
                           `running`, the others follow.",
            body = Redelivered,
        ),
        (
            status = 409,
            description = "`redelivery_under_way`: another bulk redelivery is running.",
        ),
        (
            status = 422,
            description = "`pace_too_slow`: the last would be due in more than three days.",
        ),
        (status = 503),
    )
)]
async fn recover(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, ApiError> {
    let RecoveryBody {
        since,
        per_second,
        dry_run,
    } = parse(body)?;
    let selection = DeliverySelection {
        route: Some(route),
        since: Some(time("since", &since).map_err(ApiError::in_body)?),
        ..DeliverySelection::default()
    };
    let query = RedeliveryQuery::new(selection, Vec::new(), per_second, dry_run)?;
    Ok(redelivered(operations.recover(operator, query).await?))
}

fn redelivered(report: RedeliveryReport) -> Response {
    let status = if report.is_dry_run {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    json(status, &Redelivered::from(report))
}

/// The event to forget.
#[derive(Deserialize, ToSchema)]
#[schema(as = EventToForget)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct ForgetBody {
    #[schema(schema_with = event_id_schema)]
    event_id: Box<RawValue>,
}

fn event_id_schema() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Integer]))
        .min_length(Some(1))
        .max_length(Some(TEXT_BYTES_MAX))
        .pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$"))
        .description(Some(
            "The ID in the type that the event has it in: `1` and `\"1\"` differ. A string is at \
             most 255 bytes long, an integer 40 digits.",
        ))
        .build()
}

/// Removes an event ID from the ledger, so that the event is accepted again. Its stored deliveries
/// are kept.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/forget",
    tag = "webhooks",
    request_body = ForgetBody,
    responses(
        (status = 200, body = Done),
        (
            status = 404,
            description = "Or `unknown_event`: the ledger does not hold this ID for the route, \
                           so the event is accepted anyway.",
        ),
        (status = 409, description = "`in_flight`: a copy is being delivered now."),
        (status = 503),
    )
)]
async fn forget(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, ApiError> {
    let ForgetBody { event_id } = parse(body)?;
    operations
        .forget(operator, &route, query::event_id(&event_id)?)
        .await?;
    Ok(json(StatusCode::OK, &Done { success: true }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::query::Pace;
    use crate::store::DeliveryFilter;

    fn query(body: &str) -> Result<RedeliveryQuery, ApiError> {
        serde_json::from_str::<RedeliveryBody>(body)
            .map_err(|error| ApiError::InvalidBody(error.to_string()))?
            .into_query()
    }

    #[test]
    fn redelivery_body_becomes_a_filter_and_a_pace() {
        let body = r#"{
            "webhook_id": "wh_a", "status": "dead", "since": "2026-06-01T12:00:00Z",
            "per_second": 0.5, "dry_run": true
        }"#;
        let dry_run = query(body).unwrap();
        assert_eq!(
            (
                dry_run.filter.route.as_deref(),
                dry_run.filter.state,
                dry_run.filter.since
            ),
            (
                Some("a"),
                Some(DeliveryState::Dead),
                "2026-06-01T12:00:00Z".parse().ok()
            )
        );
        assert_eq!((dry_run.pace, dry_run.dry_run), (Pace::new(0.5), true));
        let plain = query(r#"{"event_id":"evt_1"}"#).unwrap();
        assert_eq!(
            plain.filter,
            DeliveryFilter {
                event_id: Some("evt_1".into()),
                ..plain.filter.clone()
            }
        );
        assert_eq!(
            (plain.filter.state, plain.pace, plain.dry_run),
            (None, None, false)
        );
    }
}

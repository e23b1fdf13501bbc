//! Webhooks: all active routes, and those among them that are made over the API.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{RouteName, Shared};
use crate::admin::audit::Operator;
use crate::admin::error::{ApiError, OperationError};
use crate::admin::http::{Body, json, parse, parse_or_default};
use crate::admin::operations::Operations;
use crate::admin::query::{self, TestEvent};
use crate::admin::shape::removed::{MovedEvents, RemovedRoutes};
use crate::admin::shape::webhooks::{
    LongStats, OneWebhook, RemovedWebhook, TestResult, Webhook, Webhooks,
};
use crate::admin::webhook_id::webhook_id;
use crate::webhooks::{NewWebhook, WebhookChange};

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(removed))
        .routes(routes!(show, update, delete))
        .routes(routes!(test))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(move_events))
}

fn one(status: StatusCode, webhook: Webhook<LongStats>) -> Response {
    json(
        status,
        &OneWebhook {
            success: true,
            webhook,
        },
    )
}

/// Lists all active routes.
#[utoipa::path(
    get,
    path = "/webhooks",
    tag = "webhooks",
    operation_id = "webhooks",
    responses((status = 200, body = Webhooks), (status = 503))
)]
async fn list(State(operations): Shared) -> Result<Response, ApiError> {
    let routes = operations.routes().await?;
    Ok(json(
        StatusCode::OK,
        &Webhooks {
            success: true,
            total: routes.len(),
            webhooks: routes.into_iter().map(Into::into).collect(),
        },
    ))
}

/// Lists the routes that are no longer configured and have stored events, up to a thousand.
#[utoipa::path(
    get,
    path = "/webhooks/removed",
    tag = "webhooks",
    operation_id = "removed_routes",
    responses((status = 200, body = RemovedRoutes), (status = 503))
)]
async fn removed(State(operations): Shared) -> Result<Response, ApiError> {
    let routes = operations.removed_routes().await?;
    Ok(json(
        StatusCode::OK,
        &RemovedRoutes {
            success: true,
            removed_routes: routes.into_iter().map(Into::into).collect(),
        },
    ))
}

/// Shows one route, defined in the file or over the API.
#[utoipa::path(
    get,
    path = "/webhooks/{id}",
    tag = "webhooks",
    operation_id = "webhook",
    responses((status = 200, body = OneWebhook), (status = 503))
)]
async fn show(
    State(operations): Shared,
    RouteName(route): RouteName,
) -> Result<Response, ApiError> {
    Ok(one(StatusCode::OK, operations.route(&route).await?.into()))
}

/// Creates a webhook. It is stored and active before the response is sent; the response shows its
/// secret, this once.
#[utoipa::path(
    post,
    path = "/webhooks",
    tag = "webhooks",
    operation_id = "make",
    request_body = NewWebhook,
    responses(
        (status = 201, body = OneWebhook),
        (
            status = 409,
            description = "`taken`: another route has this path.\n\n\
                           `too_many_webhooks`: there are as many as `admin.max_webhooks` allows.",
        ),
        (
            status = 422,
            description = "`invalid_webhook`: the detail lists problems as for the \
                           configuration file.",
        ),
        (status = 503),
    )
)]
async fn create(
    State(operations): Shared,
    operator: Operator,
    body: Body,
) -> Result<Response, ApiError> {
    let (route, definition) = operations.create_webhook(operator, parse(body)?).await?;
    // The only response that shows the secret.
    let webhook = Webhook {
        secret: definition.secret().to_owned(),
        ..route.into()
    };
    Ok(one(StatusCode::CREATED, webhook))
}

/// Changes the given members of a webhook; the others stay.
#[utoipa::path(
    put,
    path = "/webhooks/{id}",
    tag = "webhooks",
    operation_id = "change",
    request_body = WebhookChange,
    responses(
        (status = 200, body = OneWebhook),
        (
            status = 409,
            description = "`in_file`: the webhook is defined in the file, and changed there; or \
                           `taken`: another route has this path.",
        ),
        (
            status = 422,
            description = "`invalid_webhook`: the detail lists problems as for the \
                           configuration file.",
        ),
        (status = 503),
    )
)]
async fn update(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, ApiError> {
    let route = operations
        .update_webhook(operator, &route, parse(body)?)
        .await?;
    Ok(one(StatusCode::OK, route.into()))
}

/// Removes a webhook that was made over the API. Its stored events wait until a webhook of the
/// same name exists again, or until they are moved to another route.
#[utoipa::path(
    delete,
    path = "/webhooks/{id}",
    tag = "webhooks",
    operation_id = "remove",
    responses(
        (status = 200, body = RemovedWebhook),
        (
            status = 409,
            description = "`in_file`: the webhook is defined in the file, and removed there.",
        ),
        (status = 503),
    )
)]
async fn delete(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
) -> Result<Response, ApiError> {
    operations.delete_webhook(operator, &route).await?;
    Ok(json(
        StatusCode::OK,
        &RemovedWebhook {
            success: true,
            message: "Webhook deleted successfully".into(),
            webhook_id: webhook_id(&route),
        },
    ))
}

/// Pauses a route, through restarts too: its stored events wait. A `proxy` route answers 503
/// `inactive` with `Retry-After`, and a `spill` route stores every event. Routes of the file can be
/// paused as well.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/pause",
    tag = "webhooks",
    responses((status = 200, body = OneWebhook), (status = 503))
)]
async fn pause(
    operations: Shared,
    operator: Operator,
    route: RouteName,
) -> Result<Response, ApiError> {
    set_paused(operations, operator, route, true).await
}

/// Resumes a paused route and the delivery of its stored events.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/resume",
    tag = "webhooks",
    responses((status = 200, body = OneWebhook), (status = 503))
)]
async fn resume(
    operations: Shared,
    operator: Operator,
    route: RouteName,
) -> Result<Response, ApiError> {
    set_paused(operations, operator, route, false).await
}

async fn set_paused(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    paused: bool,
) -> Result<Response, ApiError> {
    let route = operations.set_paused(operator, &route, paused).await?;
    Ok(one(StatusCode::OK, route.into()))
}

/// The route to move events to.
#[derive(Deserialize, ToSchema)]
#[schema(as = EventTarget)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct MoveBody {
    /// The webhook that delivers the events from now on.
    #[schema(pattern = "^wh_")]
    to: String,
}

/// Moves the waiting events and the dead letters of a route that is no longer configured to another
/// route, with their IDs, payloads, attempts and records. Goes on if the client disconnects.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/move",
    tag = "webhooks",
    operation_id = "move_events",
    request_body = MoveBody,
    responses(
        (status = 200, body = MovedEvents),
        (
            status = 409,
            description = "`still_configured`: a gateway has the route configured.\n\n\
                           `in_flight`: an attempt at one of the events has not ended.",
        ),
        (
            status = 422,
            description = "`unknown_target`, `no_queue` or `same_route`: events cannot be moved \
                           to this route.",
        ),
        (status = 503),
    )
)]
async fn move_events(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, ApiError> {
    let MoveBody { to } = parse(body)?;
    let to = query::route_name(&to).map_err(|_| OperationError::UnknownTarget)?;
    let moved = operations.move_events(operator, &route, to).await?;
    Ok(json(StatusCode::OK, &MovedEvents::from(moved)))
}

/// Sends a test event through the gateway, signed with the route's secret. An empty body is the
/// same as `{}`.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/test",
    tag = "webhooks",
    request_body = TestEvent,
    responses(
        (
            status = 200,
            description = "The gateway responded as `status` and `outcome` say.",
            body = TestResult,
        ),
        (
            status = 409,
            description = "`cannot_sign` or `cannot_make_event`: the route's scheme does not \
                           allow it.",
        ),
        (
            status = 422,
            description = "`not_in_header`: the route reads the event type from a header, which \
                           cannot hold this one.",
        ),
        (status = 502, description = "`no_answer`: the gateway did not respond."),
        (status = 503),
    )
)]
async fn test(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, ApiError> {
    let event: TestEvent = parse_or_default(body)?;
    let outcome = operations.send_test_event(operator, &route, event).await?;
    Ok(json(StatusCode::OK, &TestResult::from(outcome)))
}

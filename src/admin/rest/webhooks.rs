//! Webhooks: all active routes, and those among them that are made over the API.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use super::deliveries::{Limit, parameter_in, text};
use super::extract::{Condition, IdempotencyKey, Parameters, RouteName, Shared, pairs};
use crate::admin::audit::Operator;
use crate::admin::conditions::{KEY_PATTERN, REPLAYED, TAGS_PATTERN, entity_tag};
use crate::admin::error::{ApiError, OperationError};
use crate::admin::http::{Body, json, parse, parse_or_default};
use crate::admin::operations::Operations;
use crate::admin::operations::routes::RoutePage;
use crate::admin::parameters::webhook_query;
use crate::admin::query::{self, TestEvent};
use crate::admin::shape::removed::{MovedEvents, RemovedRoutes};
use crate::admin::shape::webhooks::{
    LongStats, OneWebhook, RemovedWebhook, TestResult, Webhook, Webhooks,
};
use crate::admin::webhook_id::webhook_id;
use crate::store::CreationKey;
use crate::webhooks::{
    Change, NewWebhook, Precondition, WebhookChange, WebhookError, WebhookPatch,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(removed))
        .routes(routes!(show, update, patch, delete))
        .routes(routes!(test))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(move_events))
}

/// Builds the response that shows a webhook, with its version as the `ETag`.
fn one(status: StatusCode, webhook: Webhook<LongStats>) -> Response {
    let document = OneWebhook {
        success: true,
        webhook,
    };
    let response = json(status, &document);
    with_entity_tag(response, document.webhook.version.as_deref())
}

fn with_entity_tag(mut response: Response, version: Option<&str>) -> Response {
    if let Some(tag) = version.and_then(entity_tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Lists the active routes. Without parameters, all of them are listed. With `limit` or `cursor`,
/// a page is, and the order is that of their names.
#[utoipa::path(
    get,
    path = "/webhooks",
    tag = "webhooks",
    operation_id = "webhooks",
    params(WebhookPage),
    responses((status = 200, body = Webhooks), (status = 503))
)]
async fn list(State(operations): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let page = match webhook_query(&pairs(parameters)?)? {
        Some(query) => operations.route_page(&query).await?,
        None => {
            let routes = operations.routes().await?;
            RoutePage {
                total: routes.len(),
                has_more: false,
                routes,
            }
        }
    };
    let last = page.routes.last().filter(|_| page.has_more);
    Ok(json(
        StatusCode::OK,
        &Webhooks {
            success: true,
            total: page.total,
            has_more: page.has_more,
            next_cursor: last.map(|last| webhook_id(&last.route.name)),
            webhooks: page.routes.into_iter().map(Into::into).collect(),
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

/// Shows one route, defined in the file or over the API. The `ETag` of one made over the API is its
/// `version`. It covers the definition, not the statistics, the queue or a pause.
#[utoipa::path(
    get,
    path = "/webhooks/{id}",
    tag = "webhooks",
    operation_id = "webhook",
    params(Conditions),
    responses(
        (
            status = 200,
            body = OneWebhook,
            headers(("ETag" = String, description = "The `version` in double quotes.")),
        ),
        (
            status = 304,
            description = "The definition has a version that `If-None-Match` names.",
            headers(("ETag" = String, description = "The `version` in double quotes.")),
        ),
        (
            status = 412,
            description = "`precondition_failed`: it has no version that `If-Match` names.",
        ),
        (status = 503),
    )
)]
async fn show(
    State(operations): Shared,
    RouteName(route): RouteName,
    Condition(condition): Condition,
) -> Result<Response, ApiError> {
    let route = operations.route(&route).await?;
    let version = route.route.version;
    if !condition.allows(version) {
        return Err(OperationError::Webhook(WebhookError::OtherVersion).into());
    }
    if condition.excludes(version) {
        let version = version.map(|version| version.to_string());
        let response = StatusCode::NOT_MODIFIED.into_response();
        return Ok(with_entity_tag(response, version.as_deref()));
    }
    Ok(one(StatusCode::OK, route.into()))
}

/// Creates a webhook. It is stored and active before the response is sent; the response shows its
/// secret, this once. With an `Idempotency-Key`, a repetition of the request within 24 hours gets
/// the same response, and creates nothing.
#[utoipa::path(
    post,
    path = "/webhooks",
    tag = "webhooks",
    operation_id = "make",
    params(CreationHeaders),
    request_body = NewWebhook,
    responses(
        (
            status = 201,
            body = OneWebhook,
            headers(
                ("Location" = String, description = "The path of the webhook."),
                ("ETag" = String, description = "The `version` in double quotes."),
                (
                    "Idempotent-Replayed" = String,
                    description = "`true` if an earlier request with this key created it."
                )
            ),
        ),
        (
            status = 409,
            description = "`taken`: another route has this path.\n\n\
                           `too_many_webhooks`: there are as many as `admin.max_webhooks` \
                           allows.\n\n\
                           `idempotency_key_in_flight`: a request with this key is being answered.",
        ),
        (
            status = 422,
            description = "`invalid_webhook`: the detail lists problems as for the \
                           configuration file.\n\n\
                           `idempotency_key_reused`: the key is that of another request.",
        ),
        (status = 503),
    )
)]
async fn create(
    State(operations): Shared,
    operator: Operator,
    IdempotencyKey(key): IdempotencyKey,
    body: Body,
) -> Result<Response, ApiError> {
    let body = body.map_err(|_| ApiError::BodyTooLarge)?;
    let new = parse(Ok(body.clone()))?;
    let key = key.map(|key| CreationKey {
        key,
        request: request_digest(&body),
    });
    let created = operations.create_webhook(operator, new, key).await?;
    // The only response that shows the secret.
    let webhook = Webhook {
        secret: created.definition.secret().to_owned(),
        ..created.summary.into()
    };
    let location = HeaderValue::try_from(format!("/webhooks/{}", webhook.id)).ok();
    let mut response = one(StatusCode::CREATED, webhook);
    let headers = response.headers_mut();
    if let Some(location) = location {
        headers.insert(header::LOCATION, location);
    }
    if created.is_repeated {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Returns the digest of a JSON document that was parsed already. The order of its members and the
/// white space don't matter.
fn request_digest(body: &Bytes) -> [u8; 32] {
    let mut document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    document.sort_all_objects();
    // It may have the secret.
    let text = Zeroizing::new(document.to_string());
    Sha256::digest(text.as_bytes()).into()
}

/// Changes the given members of a webhook; the others stay.
#[utoipa::path(
    put,
    path = "/webhooks/{id}",
    tag = "webhooks",
    operation_id = "change",
    params(Conditions),
    request_body = WebhookChange,
    responses(
        (
            status = 200,
            body = OneWebhook,
            headers(("ETag" = String, description = "The new `version` in double quotes.")),
        ),
        (
            status = 409,
            description = "`in_file`: the webhook is defined in the file, and changed there; or \
                           `taken`: another route has this path.",
        ),
        (
            status = 412,
            description = "`precondition_failed`: the webhook has another version.",
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
    Condition(condition): Condition,
    body: Body,
) -> Result<Response, ApiError> {
    let change = Change::Keys(parse(body)?);
    change_webhook(&operations, operator, &route, &change, &condition).await
}

/// Patches a webhook with a JSON Merge Patch (RFC 7396). A member that is not given stays, and one
/// that is `null` gets its default again. The members of objects are merged in the same way.
#[utoipa::path(
    patch,
    path = "/webhooks/{id}",
    tag = "webhooks",
    operation_id = "patch",
    params(Conditions),
    request_body(content(
        (WebhookPatch = "application/merge-patch+json"),
        (WebhookPatch = "application/json"),
    )),
    responses(
        (
            status = 200,
            body = OneWebhook,
            headers(("ETag" = String, description = "The new `version` in double quotes.")),
        ),
        (
            status = 409,
            description = "`in_file`: the webhook is defined in the file, and changed there; or \
                           `taken`: another route has this path.",
        ),
        (
            status = 412,
            description = "`precondition_failed`: the webhook has another version.",
        ),
        (
            status = 422,
            description = "`invalid_webhook`: the detail lists problems as for the \
                           configuration file.",
        ),
        (status = 503),
    )
)]
async fn patch(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    Condition(condition): Condition,
    body: Body,
) -> Result<Response, ApiError> {
    let change = Change::Merge(parse(body)?);
    change_webhook(&operations, operator, &route, &change, &condition).await
}

async fn change_webhook(
    operations: &Operations,
    operator: Operator,
    route: &str,
    change: &Change,
    condition: &Precondition,
) -> Result<Response, ApiError> {
    let changed = operations
        .update_webhook(operator, route, change, condition)
        .await?;
    Ok(one(StatusCode::OK, changed.into()))
}

/// Removes a webhook that was made over the API. Its stored events wait until a webhook of the
/// same name exists again, or until they are moved to another route.
#[utoipa::path(
    delete,
    path = "/webhooks/{id}",
    tag = "webhooks",
    operation_id = "remove",
    params(Conditions),
    responses(
        (status = 200, body = RemovedWebhook),
        (
            status = 409,
            description = "`in_file`: the webhook is defined in the file, and removed there.",
        ),
        (
            status = 412,
            description = "`precondition_failed`: the webhook has another version.",
        ),
        (status = 503),
    )
)]
async fn delete(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    Condition(condition): Condition,
) -> Result<Response, ApiError> {
    operations
        .delete_webhook(operator, &route, &condition)
        .await?;
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

/// The documented parameters of a list of webhooks.
enum WebhookPage {}

/// The documented headers of a conditional request.
enum Conditions {}

/// The documented header of a creation.
enum CreationHeaders {}

impl IntoParams for WebhookPage {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = Limit::into_params(|| None);
        parameters.push(parameter_in(
            ParameterIn::Query,
            "cursor",
            "The `next_cursor` of an earlier answer, for the page after it.",
            text().pattern(Some("^wh_")),
        ));
        parameters
    }
}

impl IntoParams for Conditions {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let header = |name, description| {
            let tags = text()
                .pattern(Some(TAGS_PATTERN))
                .examples(["\"5c1b6f0ad2a34e7bb9d0f3a1c2e48d97\"", "*"]);
            parameter_in(ParameterIn::Header, name, description, tags)
        };
        vec![
            header(
                "If-Match",
                "The versions that the webhook may have, as entity tags; or `*`.",
            ),
            header(
                "If-None-Match",
                "The versions that the webhook may not have, as entity tags; or `*`.",
            ),
        ]
    }
}

impl IntoParams for CreationHeaders {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter_in(
            ParameterIn::Header,
            "Idempotency-Key",
            "The client's own key for this creation, such as a UUID, with or without double quotes.",
            text().pattern(Some(KEY_PATTERN)),
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_ignores_order_and_white_space() {
        let digest = |text: &'static str| request_digest(&Bytes::from_static(text.as_bytes()));
        let one = digest(r#"{"url":"http://a/","events":["a","b"]}"#);
        assert_eq!(
            one,
            digest("{ \"events\": [\"a\",\"b\"],\n\"url\": \"http://a/\" }")
        );
        for other in [
            r#"{"url":"http://a/","events":["b","a"]}"#,
            r#"{"url":"http://a/"}"#,
            r#"{"url":"http://a/","events":["a","b"],"active":true}"#,
        ] {
            assert_ne!(one, digest(other), "{other}");
        }
    }
}

//! Webhooks: the routes that are served, and those among them that are made here.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Body, RouteName, Shared, json, parse};
use crate::admin::auth::Operator;
use crate::admin::operations::Operations;
use crate::admin::problem::Problem;
use crate::admin::shape::{Done, OneWebhook, TestResult, Webhook, Webhooks};
use crate::webhooks::{NewWebhook, WebhookChange};

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(webhooks, make))
        .routes(routes!(webhook, change, remove))
        .routes(routes!(test))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// All routes that are served.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", responses((status = 200, body = Webhooks), (status = 503)))]
async fn webhooks(State(operations): Shared) -> Result<Response, Problem> {
    let webhooks: Vec<_> = operations
        .routes()
        .await?
        .into_iter()
        .map(Into::into)
        .collect();
    Ok(json(
        StatusCode::OK,
        &Webhooks {
            success: true,
            total: webhooks.len(),
            webhooks,
        },
    ))
}

/// One route, of the file or made over the API.
#[utoipa::path(get, path = "/webhooks/{id}", tag = "webhooks", responses((status = 200, body = OneWebhook), (status = 503)))]
async fn webhook(
    State(operations): Shared,
    RouteName(route): RouteName,
) -> Result<Response, Problem> {
    let webhook = operations.route(&route).await?.into();
    Ok(json(
        StatusCode::OK,
        &OneWebhook {
            success: true,
            webhook,
        },
    ))
}

/// Makes a webhook. It is stored and served before this is answered; its secret is in the answer, this once.
#[utoipa::path(
    post,
    path = "/webhooks",
    tag = "webhooks",
    request_body = NewWebhook,
    responses(
        (status = 201, body = OneWebhook),
        (status = 409, description = "`taken`: another route has this path."),
        (status = 422, description = "`invalid_webhook`: told as for the configuration's file."),
        (status = 503),
    )
)]
async fn make(
    State(operations): Shared,
    operator: Operator,
    body: Body,
) -> Result<Response, Problem> {
    let (standing, definition) = operations.make(operator, parse(body)?).await?;
    // The only time that it is shown.
    let webhook = Webhook {
        secret: definition.secret().to_owned(),
        ..standing.into()
    };
    Ok(json(
        StatusCode::CREATED,
        &OneWebhook {
            success: true,
            webhook,
        },
    ))
}

/// Changes what is given of a webhook; what is not stays.
#[utoipa::path(
    put,
    path = "/webhooks/{id}",
    tag = "webhooks",
    request_body = WebhookChange,
    responses(
        (status = 200, body = OneWebhook),
        (status = 409, description = "`in_file`: it is changed there; or `taken`: another route has this path."),
        (status = 422, description = "`invalid_webhook`: told as for the configuration's file."),
        (status = 503),
    )
)]
async fn change(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, Problem> {
    let webhook = operations
        .change(operator, &route, parse(body)?)
        .await?
        .into();
    Ok(json(
        StatusCode::OK,
        &OneWebhook {
            success: true,
            webhook,
        },
    ))
}

/// Removes a webhook that was made over the API. Its stored events wait until one of its name is back.
#[utoipa::path(
    delete,
    path = "/webhooks/{id}",
    tag = "webhooks",
    responses(
        (status = 200, body = Done),
        (status = 409, description = "`in_file`: it is removed there."),
        (status = 503),
    )
)]
async fn remove(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
) -> Result<Response, Problem> {
    operations.remove(operator, &route).await?;
    Ok(json(StatusCode::OK, &Done { success: true }))
}

/// Lets a route's stored events wait, through restarts too. Also for routes of the file.
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
) -> Result<Response, Problem> {
    paused(operations, operator, route, true).await
}

/// Has them delivered again.
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
) -> Result<Response, Problem> {
    paused(operations, operator, route, false).await
}

async fn paused(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    paused: bool,
) -> Result<Response, Problem> {
    let webhook = operations.pause(operator, &route, paused).await?.into();
    Ok(json(
        StatusCode::OK,
        &OneWebhook {
            success: true,
            webhook,
        },
    ))
}

/// A test event.
#[derive(Deserialize, ToSchema)]
#[schema(as = TestEvent)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(in crate::admin) struct Test {
    pub event_type: String,
    pub custom_data: Value,
}

impl Default for Test {
    fn default() -> Self {
        Self {
            event_type: "webhook.test".into(),
            custom_data: serde_json::json!({ "test": true }),
        }
    }
}

/// Sends an event through the gateway's own front door, signed with the route's secret. An empty body is as `{}`.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/test",
    tag = "webhooks",
    request_body = Test,
    responses(
        (status = 200, description = "It was answered, as `status` and `outcome` say.", body = TestResult),
        (status = 409, description = "`cannot_sign` or `cannot_make_event`: the route's scheme does not allow it."),
        (status = 422, description = "`not_in_header`: the route's event type stands in one, and this one can't."),
        (status = 502, description = "`no_answer`: the gateway's own listener gave none."),
        (status = 503),
    )
)]
async fn test(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLarge)?;
    let test = if body.is_empty() {
        Test::default()
    } else {
        parse(Ok(body))?
    };
    let tested = operations
        .test(operator, &route, &test.event_type, test.custom_data)
        .await?;
    Ok(json(StatusCode::OK, &TestResult::from(tested)))
}

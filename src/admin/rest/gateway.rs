//! The gateway as a whole, and the API's own document.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Shared, json};
use crate::admin::auth::Operator;
use crate::admin::openapi;
use crate::admin::operations::Operations;
use crate::admin::problem::Problem;
use crate::admin::shape::{Reloaded, Status};

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(status))
        .routes(routes!(reload))
        .routes(routes!(document))
}

/// How the gateway and its webhooks are.
#[utoipa::path(get, path = "/status", tag = "gateway", responses((status = 200, body = Status)))]
async fn status(State(operations): Shared) -> Response {
    json(StatusCode::OK, &Status::from(operations.overview().await))
}

/// Reads the configuration's file anew, as SIGHUP does.
#[utoipa::path(
    post,
    path = "/reload",
    tag = "gateway",
    responses(
        (status = 200, body = Reloaded),
        (status = 422, description = "`invalid_configuration`: the old one stays. What is wrong is in `problems`."),
        (status = 503, description = "`draining`: the gateway is about to stop."),
    )
)]
async fn reload(State(operations): Shared, operator: Operator) -> Result<Response, Problem> {
    Ok(json(
        StatusCode::OK,
        &Reloaded::from(operations.reload(operator).await?),
    ))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "gateway", responses((status = 200, body = Object)))]
async fn document() -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        openapi::DOCUMENT.as_str(),
    )
        .into_response()
}

//! The gateway as a whole.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::Shared;
use crate::admin::audit::Operator;
use crate::admin::error::ApiError;
use crate::admin::http::json;
use crate::admin::operations::Operations;
use crate::admin::shape::gateway::{Reloaded, Status};

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(status))
        .routes(routes!(reload))
}

/// Returns the status of the gateway and its webhooks.
#[utoipa::path(
    get,
    path = "/status",
    tag = "gateway",
    responses((status = 200, body = Status))
)]
async fn status(State(operations): Shared) -> Response {
    json(StatusCode::OK, &Status::from(operations.overview().await))
}

/// Reloads the configuration file, as SIGHUP does.
#[utoipa::path(
    post,
    path = "/reload",
    tag = "gateway",
    responses(
        (status = 200, body = Reloaded),
        (
            status = 422,
            description = "`invalid_configuration`: the previous one stays active. `problems` \
                           lists its errors and warnings.",
        ),
        (status = 503, description = "`draining`: the gateway is stopping."),
    )
)]
async fn reload(State(operations): Shared, operator: Operator) -> Result<Response, ApiError> {
    Ok(json(
        StatusCode::OK,
        &Reloaded::from(operations.reload(operator).await?),
    ))
}

//! Rejected requests.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::deliveries::Limit;
use super::extract::{Parameters, RouteName, Shared, pairs};
use crate::admin::error::ApiError;
use crate::admin::http::json;
use crate::admin::operations::Operations;
use crate::admin::parameters::sole_limit;
use crate::admin::shape::rejections::Rejections;

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(rejections))
        .routes(routes!(rejections_of_webhook))
}

/// Lists the last rejected requests of all webhooks, and those that matched none.
#[utoipa::path(
    get,
    path = "/rejections",
    tag = "rejections",
    params(Limit),
    responses((status = 200, body = Rejections))
)]
async fn rejections(
    State(operations): Shared,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let rejected = operations.rejections(None, sole_limit(pairs(parameters)?)?)?;
    Ok(json(StatusCode::OK, &Rejections::from(rejected)))
}

/// Lists the last rejected requests of a webhook.
#[utoipa::path(
    get,
    path = "/webhooks/{id}/rejections",
    tag = "rejections",
    params(Limit),
    responses((status = 200, body = Rejections))
)]
async fn rejections_of_webhook(
    State(operations): Shared,
    RouteName(route): RouteName,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let rejected = operations.rejections(Some(&route), sole_limit(pairs(parameters)?)?)?;
    Ok(json(StatusCode::OK, &Rejections::from(rejected)))
}

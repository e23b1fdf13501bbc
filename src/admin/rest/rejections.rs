//! Rejected requests.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::deliveries::Limit;
use super::extract::{Parameters, RouteName, Shared, pairs};
use crate::admin::error::ApiError;
use crate::admin::http::json;
use crate::admin::operations::Operations;
use crate::admin::parameters::rejection_filter;
use crate::admin::shape::rejections::Rejections;
use crate::outcome::Code;

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(rejections))
        .routes(routes!(rejections_of_webhook))
}

/// The parameters of a list of rejected requests, or of captured ones.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by the description of the API only")]
pub(super) struct Selection {
    /// The outcome of the requests to list.
    #[param(inline, value_type = Option<Code>)]
    outcome: Option<String>,
}

/// Lists the last requests of all webhooks that were rejected, or verified and not delivered, and
/// those that matched no webhook.
#[utoipa::path(
    get,
    path = "/rejections",
    tag = "rejections",
    params(Limit, Selection),
    responses((status = 200, body = Rejections))
)]
async fn rejections(
    State(operations): Shared,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let (limit, outcome) = rejection_filter(pairs(parameters)?)?;
    let rejected = operations.rejections(None, outcome, limit)?;
    Ok(json(StatusCode::OK, &Rejections::from(rejected)))
}

/// Lists the last requests of a webhook that were rejected, or verified and not delivered.
#[utoipa::path(
    get,
    path = "/webhooks/{id}/rejections",
    tag = "rejections",
    params(Limit, Selection),
    responses((status = 200, body = Rejections))
)]
async fn rejections_of_webhook(
    State(operations): Shared,
    RouteName(route): RouteName,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let (limit, outcome) = rejection_filter(pairs(parameters)?)?;
    let rejected = operations.rejections(Some(&route), outcome, limit)?;
    Ok(json(StatusCode::OK, &Rejections::from(rejected)))
}

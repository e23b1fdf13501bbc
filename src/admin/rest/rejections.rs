//! Requests that were turned away.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::deliveries::{Limit, filter};
use super::{Pairs, Parameters, RouteName, Shared, json, pairs, unknown_parameter};
use crate::admin::operations::Operations;
use crate::admin::problem::Problem;
use crate::admin::shape::Rejections;

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(rejections))
        .routes(routes!(rejections_of_webhook))
}

/// The last requests that were turned away, by all webhooks and by none.
#[utoipa::path(get, path = "/rejections", tag = "rejections", params(Limit), responses((status = 200, body = Rejections)))]
async fn rejections(
    State(operations): Shared,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let turned = operations.turned_away(None, limit(pairs(parameters)?)?)?;
    Ok(json(StatusCode::OK, &Rejections::from(turned)))
}

/// The last requests that a webhook has turned away.
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
) -> Result<Response, Problem> {
    let turned = operations.turned_away(Some(&route), limit(pairs(parameters)?)?)?;
    Ok(json(StatusCode::OK, &Rejections::from(turned)))
}

/// How many a list that takes nothing else is to hold.
fn limit(pairs: Pairs) -> Result<usize, Problem> {
    match pairs.iter().find(|(name, _)| name != "limit") {
        Some((name, _)) => Err(unknown_parameter(name)),
        None => Ok(filter(pairs, false)?.limit),
    }
}

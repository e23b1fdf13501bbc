//! Captured requests.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::deliveries::Limit;
use super::extract::{Parameters, RouteName, Shared, pairs};
use super::rejections::Selection;
use crate::admin::audit::Operator;
use crate::admin::error::{ApiError, OperationError};
use crate::admin::http::json;
use crate::admin::operations::Operations;
use crate::admin::parameters::rejection_filter;
use crate::admin::shape::captures::{Captures, OneCapture};

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(captures))
        .routes(routes!(captures_of_webhook))
        .routes(routes!(capture))
}

/// Lists the captured requests of all webhooks, without their headers and bodies.
#[utoipa::path(
    get,
    path = "/captures",
    tag = "rejections",
    params(Limit, Selection),
    responses((status = 200, body = Captures))
)]
async fn captures(State(operations): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let (limit, outcome) = rejection_filter(pairs(parameters)?)?;
    let list = operations.captures(None, outcome, limit)?;
    Ok(json(StatusCode::OK, &Captures::from(list)))
}

/// Lists the captured requests of a webhook, without their headers and bodies.
#[utoipa::path(
    get,
    path = "/webhooks/{id}/captures",
    tag = "rejections",
    params(Limit, Selection),
    responses((status = 200, body = Captures))
)]
async fn captures_of_webhook(
    State(operations): Shared,
    RouteName(route): RouteName,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let (limit, outcome) = rejection_filter(pairs(parameters)?)?;
    let list = operations.captures(Some(&route), outcome, limit)?;
    Ok(json(StatusCode::OK, &Captures::from(list)))
}

/// Returns a captured request, whole: with its signature and its body. It needs the admin token,
/// not the one for reading, and is audited.
#[utoipa::path(
    get,
    path = "/captures/{id}",
    tag = "rejections",
    responses(
        (status = 200, body = OneCapture),
        (status = 403, description = "`read_only`: this token may only read."),
    )
)]
async fn capture(
    State(operations): Shared,
    operator: Operator,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Response, ApiError> {
    // A path that is not UTF-8 names no capture.
    let Path(id) = id.map_err(|_| OperationError::NoSuchCapture)?;
    let capture = operations.capture(operator, &id)?;
    Ok(json(StatusCode::OK, &OneCapture::from(capture)))
}

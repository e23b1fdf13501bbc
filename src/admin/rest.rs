//! The REST API: maps requests to operations, and their results to responses.
//!
//! A handler's annotation is both its route and its entry in the OpenAPI document; `openapi` adds
//! what all handlers have in common.

mod captures;
mod deliveries;
mod extract;
mod gateway;
mod problems;
mod recovery;
mod rejections;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;

use super::error::ApiError;
use super::http::BODY_BYTES_MAX;
use super::operations::Operations;

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .merge(gateway::routes())
        .merge(problems::routes())
        .merge(webhooks::routes())
        .merge(deliveries::routes())
        .merge(recovery::routes())
        .merge(rejections::routes())
        .merge(captures::routes())
}

pub(super) fn router(operations: Arc<Operations>) -> Router {
    Router::from(routes())
        .fallback(|| async { ApiError::UnknownPath })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(operations)
}

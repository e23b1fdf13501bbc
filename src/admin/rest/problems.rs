//! The problems of the gateway and its routes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::Shared;
use crate::admin::http::json;
use crate::admin::operations::Operations;
use crate::admin::shape::problems::Problems;

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default().routes(routes!(problems))
}

/// Lists the problems of the gateway and its webhooks, the worst first. The dashboard,
/// `hookstile status` and the notifications have the same list.
#[utoipa::path(
    get,
    path = "/problems",
    tag = "gateway",
    responses((status = 200, body = Problems))
)]
async fn problems(State(operations): Shared) -> Response {
    let problems = operations.problems().await;
    json(StatusCode::OK, &Problems::new(problems, Timestamp::now()))
}

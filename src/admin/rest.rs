//! The REST API: from a request to an operation, and from what came of it to an answer.
//!
//! A handler's annotation is its route and what is written of it in the API's document; what all have in common is added
//! there by `openapi`.

mod deliveries;
mod gateway;
mod recovery;
mod rejections;
mod webhooks;

use std::fmt::Display;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa_axum::router::OpenApiRouter;

use super::operations::{Operations, Refused};
use super::problem::Problem;
use super::shape::route_of;

pub(super) use deliveries::{delivery_id, filter};
pub(super) use recovery::{Matching, checked_id};
pub(super) use webhooks::Test;

type Shared = State<Arc<Operations>>;
pub(super) type Body = Result<Bytes, BytesRejection>;
type Pairs = Vec<(String, String)>;
type Parameters = Result<Query<Pairs>, QueryRejection>;

/// A webhook's definition, or a test event's data.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .merge(gateway::routes())
        .merge(webhooks::routes())
        .merge(deliveries::routes())
        .merge(recovery::routes())
        .merge(rejections::routes())
}

pub(super) fn router(operations: Arc<Operations>) -> Router {
    Router::from(routes())
        .fallback(|| async { Problem::UnknownPath })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(operations)
}

/// The name of the route whose webhook the path names.
struct RouteName(String);

impl<S: Send + Sync> FromRequestParts<S> for RouteName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        // What is no text is no ID either.
        let name = id.ok().and_then(|Path(id)| Some(route_of(&id)?.to_owned()));
        Ok(Self(name.ok_or(Refused::NoSuchWebhook)?))
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLarge)?;
    let wrong = |what: &dyn Display| {
        Problem::InvalidBody(format!("The body is not as it should be: {what}."))
    };
    let parsed = serde_json::from_slice(&body).map_err(|error| wrong(&error))?;
    // A list of the members' values would be taken for them.
    if body.trim_ascii_start().starts_with(b"{") {
        Ok(parsed)
    } else {
        Err(wrong(&"it must be an object"))
    }
}

fn pairs(parameters: Parameters) -> Result<Pairs, Problem> {
    let Query(pairs) =
        parameters.map_err(|rejection| Problem::InvalidParameter(rejection.body_text()))?;
    Ok(pairs)
}

fn unknown_parameter(name: &str) -> Problem {
    Problem::InvalidParameter(format!("There is no parameter `{}`.", name.escape_debug()))
}

pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        // Maps with keys that are no text, which there are none of.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

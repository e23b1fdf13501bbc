//! The parts of a request that several handlers extract.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;

use crate::admin::conditions;
use crate::admin::error::{ApiError, OperationError};
use crate::admin::operations::Operations;
use crate::admin::parameters::Pairs;
use crate::admin::query;
use crate::store::DeliveryId;
use crate::webhooks::Precondition;

pub(super) type Shared = State<Arc<Operations>>;

pub(super) type Parameters = Result<Query<Pairs>, QueryRejection>;

/// The route whose webhook the path names.
pub(super) struct RouteName(pub String);

/// The delivery that the path names.
pub(super) struct DeliveryPath(pub DeliveryId);

/// The condition of a request, in `If-Match` and `If-None-Match`.
pub(super) struct Condition(pub Precondition);

/// The client's `Idempotency-Key`, if there is one.
pub(super) struct IdempotencyKey(pub Option<Box<str>>);

impl<S: Send + Sync> FromRequestParts<S> for RouteName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        // A path that is not UTF-8 names no webhook.
        let Path(id) = id.map_err(|_| OperationError::NoSuchWebhook)?;
        Ok(Self(query::route_name(&id)?.to_owned()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DeliveryPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        // A path that is not UTF-8 names no delivery.
        let Path(id) = id.map_err(|_| OperationError::NoSuchDelivery)?;
        Ok(Self(query::delivery_id(&id)?))
    }
}

impl<S: Sync> FromRequestParts<S> for Condition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        conditions::precondition(&parts.headers).map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        conditions::idempotency_key(&parts.headers).map(Self)
    }
}

/// Returns the decoded parameters of a query string.
pub(super) fn pairs(parameters: Parameters) -> Result<Pairs, ApiError> {
    let Query(pairs) =
        parameters.map_err(|rejection| ApiError::InvalidParameter(rejection.body_text()))?;
    Ok(pairs)
}

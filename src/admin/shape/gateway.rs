//! The gateway as a whole, as JSON.

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problems::{self, GatewayProblem};
use super::rejections::{self, Rejected};
use super::removed::RemovedRoute;
use super::webhooks::{LongStats, Webhook};
use crate::admin::operations::gateway::{Health, Overview};
use crate::admin::reload;
use crate::diagnostic::LocatedDiagnostic;

/// A success without a result to show.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Done {
    pub success: bool,
}

/// The status of the gateway and its webhooks.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Status {
    pub success: bool,
    pub version: String,
    pub ready: bool,
    /// The reason why the gateway is not ready.
    pub reason: Option<String>,
    /// Set while new events are answered with 503 because the store is full.
    pub store_full: bool,
    /// The number of event IDs that are remembered.
    pub event_ids: usize,
    pub store_bytes: u64,
    /// All active routes; empty while the store cannot be read.
    pub webhooks: Vec<Webhook<LongStats>>,
    /// Rejected requests of the last hour, by route and reason.
    #[serde(default)]
    #[schema(required)]
    pub rejected_last_hour: Vec<Rejected>,
    /// Routes that are no longer configured and have stored events.
    #[serde(default)]
    #[schema(required)]
    pub removed_routes: Vec<RemovedRoute>,
    /// The problems, as `GET /problems` returns them.
    #[serde(default)]
    #[schema(required)]
    pub problems: Vec<GatewayProblem>,
}

/// A configuration that was accepted.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct Reloaded {
    pub success: bool,
    pub routes: usize,
    pub warnings: Vec<LocatedDiagnostic>,
}

impl From<reload::Reloaded> for Reloaded {
    fn from(reloaded: reload::Reloaded) -> Self {
        Self {
            success: true,
            routes: reloaded.routes,
            warnings: reloaded.warnings,
        }
    }
}

impl From<Overview> for Status {
    fn from(overview: Overview) -> Self {
        let Health {
            not_ready,
            store_full,
            event_ids,
            store_bytes,
        } = overview.health;
        Self {
            success: true,
            version: env!("CARGO_PKG_VERSION").into(),
            ready: not_ready.is_none(),
            reason: not_ready,
            store_full,
            event_ids,
            store_bytes,
            rejected_last_hour: rejections::by_route(overview.rejected),
            webhooks: overview.routes.into_iter().map(Into::into).collect(),
            removed_routes: overview.removed.into_iter().map(Into::into).collect(),
            problems: problems::shapes(overview.problems, Timestamp::now()),
        }
    }
}

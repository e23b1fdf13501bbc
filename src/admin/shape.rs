//! The API's JSON: what it answers with, as types that the command line reads back.
//!
//! Names and shapes are those of the VPN Enterprise API's documentation, with ours added to them.

mod closed;
mod deliveries;
mod headers;
mod rejections;
mod webhooks;

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operations::{Health, Overview};
use super::reload;

pub use deliveries::{Attempt, Deliveries, Delivery, OneDelivery, Redelivered, RefusedCount};
pub use headers::Header;
pub use rejections::{Rejected, Rejection, Rejections};
pub use webhooks::{LongStats, OneWebhook, ShortStats, Stored, TestResult, Webhook, Webhooks};

/// What stands before a route's name in a webhook's ID.
const WEBHOOK_PREFIX: &str = "wh_";

/// The ID of a route's webhook.
pub fn webhook_id(route: &str) -> String {
    format!("{WEBHOOK_PREFIX}{route}")
}

/// The route that a webhook's ID names.
pub fn route_of(webhook_id: &str) -> Option<&str> {
    webhook_id.strip_prefix(WEBHOOK_PREFIX)
}

/// Done, and there is nothing to show.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    pub success: bool,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub success: bool,
    pub version: String,
    pub ready: bool,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// New events are answered with 503.
    pub store_full: bool,
    /// Event IDs that are remembered.
    pub event_ids: usize,
    pub store_bytes: u64,
    /// None while the store can't be asked.
    pub webhooks: Vec<Webhook<LongStats>>,
    /// Requests that were turned away in the last hour, by route and kind.
    #[serde(default)]
    #[schema(required)]
    pub rejected_last_hour: Vec<Rejected>,
}

/// A configuration that was taken.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    pub success: bool,
    pub routes: usize,
    /// Each in one line, with its place in the file.
    pub warnings: Vec<String>,
}

/// What is wrong, in an answer that is no success (RFC 9457).
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    pub status: u16,
    /// A sentence for whoever asked.
    pub detail: String,
    /// A name for programs.
    pub code: String,
    /// Always `false`.
    pub success: bool,
    /// What is wrong with a configuration, each in one line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
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
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

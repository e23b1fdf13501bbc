//! Webhooks in GraphQL: the output and the input.

use std::collections::BTreeMap;

use async_graphql::{ID, InputObject, Json, SimpleObject};
use jiff::Timestamp;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::admin::operations::routes::RouteSummary;
use crate::admin::shape::webhooks::{self as shape, LastHour, QueueStats, ShortStats};
use crate::webhooks::WebhookChange;

/// A route, defined in the file or over the API.
#[derive(SimpleObject)]
pub(super) struct Webhook {
    id: ID,
    /// The upstream's URL.
    url: String,
    /// Patterns of event types; `*` accepts all.
    events: Vec<String>,
    active: bool,
    /// `active` or `inactive`, as in REST.
    status: String,
    created_at: Option<Timestamp>,
    /// The time of the last change; for a route of the file, the time at which the gateway last
    /// loaded the file.
    updated_at: Timestamp,
    /// The version of the definition: another one after each change. A route of the file has none.
    version: Option<String>,
    /// The secret, in the response to the `configureWebhook` that created the webhook; otherwise
    /// `null`.
    secret: Option<String>,
    name: String,
    description: Option<String>,
    host: Option<String>,
    /// The path that the provider sends events to.
    path: String,
    provider: Option<String>,
    /// `proxy` or `queue`.
    delivery: String,
    /// `file` or `api`.
    source: String,
    /// The time at which a delivery last ended.
    last_delivery: Option<Timestamp>,
    delivery_stats: ShortStats,
    queue: QueueStats,
    last_hour: LastHour,
}

impl From<RouteSummary> for Webhook {
    fn from(summary: RouteSummary) -> Self {
        let active = summary.route.active;
        let shape: shape::Webhook<ShortStats> = summary.into();
        Self {
            id: shape.id.into(),
            url: shape.url,
            events: shape.events,
            active,
            status: shape.status,
            created_at: shape.created_at,
            updated_at: shape.updated_at,
            version: shape.version,
            secret: None,
            name: shape.name,
            description: shape.description,
            host: shape.host,
            path: shape.path,
            provider: shape.provider,
            delivery: shape.delivery,
            source: shape.source,
            last_delivery: shape.last_delivery,
            delivery_stats: shape.delivery_stats,
            queue: shape.queue,
            last_hour: shape.last_hour,
        }
    }
}

impl Webhook {
    pub(super) fn with_secret(self, secret: &str) -> Self {
        Self {
            secret: Some(secret.to_owned()),
            ..self
        }
    }
}

/// A webhook to create, or with an `id` to change.
#[derive(InputObject)]
pub(super) struct WebhookInput {
    /// The webhook to change; fields that are not given stay.
    id: Option<ID>,
    /// The version that the webhook with this `id` must have; otherwise it is not changed
    /// (`precondition_failed`).
    version: Option<String>,
    /// The upstream's URL.
    url: String,
    /// Patterns of event types; an empty list, or `*`, accepts all.
    events: Vec<String>,
    /// The secret; generated if not given.
    secret: Option<String>,
    /// `true` by default.
    active: Option<bool>,
    /// Headers that are added to every delivery: names with values.
    headers: Option<Json<BTreeMap<String, String>>>,
    description: Option<String>,
    /// `/webhooks/ID` by default.
    path: Option<String>,
    /// `orbvpn` by default.
    provider: Option<String>,
    /// Further keys of a route, as in the configuration.
    settings: Option<Json<Map<String, Value>>>,
}

impl WebhookInput {
    /// Returns the ID, the version and the change.
    pub(super) fn split(self) -> (Option<ID>, Option<String>, WebhookChange) {
        let change = WebhookChange {
            url: Some(self.url),
            events: Some(self.events),
            description: self.description,
            active: self.active,
            path: self.path,
            provider: self.provider,
            secret: self.secret.map(Zeroizing::new),
            headers: self.headers.map(|Json(headers)| headers),
            more: self
                .settings
                .map(|Json(settings)| settings)
                .unwrap_or_default(),
        };
        (self.id, self.version, change)
    }
}

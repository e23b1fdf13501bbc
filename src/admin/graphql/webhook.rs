//! A webhook, as it is shown and as it is given.

use std::collections::BTreeMap;

use async_graphql::{ID, InputObject, Json, SimpleObject};
use jiff::Timestamp;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::admin::operations::Standing;
use crate::admin::shape::{self, ShortStats, Stored};
use crate::webhooks::WebhookChange;

/// A route, of the file or made over the API.
#[derive(SimpleObject)]
pub(super) struct Webhook {
    id: ID,
    /// The upstream's.
    url: String,
    /// Patterns of event types; `*` takes all.
    events: Vec<String>,
    active: bool,
    /// `active` or `inactive`, as REST has it.
    status: String,
    created_at: Option<Timestamp>,
    /// In the answer to `configureWebhook` that made the webhook, and nowhere else.
    secret: Option<String>,
    name: String,
    description: Option<String>,
    host: Option<String>,
    /// Where the provider is to send events to.
    path: String,
    provider: Option<String>,
    /// `proxy` or `queue`.
    delivery: String,
    /// `file` or `api`.
    source: String,
    /// When a delivery ended last.
    last_delivery: Option<Timestamp>,
    delivery_stats: ShortStats,
    queue: Stored,
}

impl From<Standing> for Webhook {
    fn from(standing: Standing) -> Self {
        let active = standing.route.active;
        let shape: shape::Webhook<ShortStats> = standing.into();
        Self {
            id: shape.id.into(),
            url: shape.url,
            events: shape.events,
            active,
            status: shape.status,
            created_at: shape.created_at,
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

/// A webhook to be made, or with an `id` to be changed.
#[derive(InputObject)]
pub(super) struct WebhookInput {
    /// Of the webhook that is to be changed. What is not given of it stays.
    id: Option<ID>,
    /// The upstream's.
    url: String,
    /// Patterns of event types; none, or `*`, take all.
    events: Vec<String>,
    /// Made if not given.
    secret: Option<String>,
    /// A new one is, if not said otherwise.
    active: Option<bool>,
    /// Added to what is handed over: names with values.
    headers: Option<Json<BTreeMap<String, String>>>,
    description: Option<String>,
    /// `/webhooks/ID` if not given.
    path: Option<String>,
    /// `orbvpn` if not given.
    provider: Option<String>,
    /// Other keys of a route, as the configuration has them.
    settings: Option<Json<Map<String, Value>>>,
}

impl WebhookInput {
    pub(super) fn split(self) -> (Option<ID>, WebhookChange) {
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
        (self.id, change)
    }
}

//! Webhooks, and what is known of each, as JSON.

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{closed, webhook_id};
use crate::admin::operations::{Standing, Tested};
use crate::outcome::Code;
use crate::route::DeliveryMode;
use crate::store::RouteDeliveryStats;

/// Shown in place of any secret, whatever it looks like.
const MASKED: &str = "whsec_***masked***";

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhook<Stats> {
    pub id: String,
    /// The upstream's.
    pub url: String,
    /// Patterns of event types; `*` takes all.
    pub events: Vec<String>,
    #[schema(schema_with = closed::activity)]
    pub status: String,
    /// Masked, but in the answer that made the webhook.
    pub secret: String,
    pub created_at: Option<Timestamp>,
    /// When a delivery ended last.
    pub last_delivery: Option<Timestamp>,
    pub delivery_stats: Stats,
    // From here on ours.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub host: Option<String>,
    /// Where the provider is to send events to.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub provider: Option<String>,
    #[schema(value_type = DeliveryMode)]
    pub delivery: String,
    #[schema(schema_with = closed::source)]
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub description: Option<String>,
    pub queue: Stored,
    /// How often an event should come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expect_every_seconds: Option<f64>,
    /// Whether none has come for longer.
    #[serde(default)]
    #[schema(required)]
    pub silent: bool,
}

/// Deliveries that have ended, in short.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
#[graphql(name = "DeliveryStats")]
pub struct ShortStats {
    pub successful: u64,
    /// Dead letters among them.
    pub failed: u64,
    pub last_30_days: u64,
}

/// Deliveries that have ended, with a single webhook.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LongStats {
    pub total_deliveries: u64,
    pub successful_deliveries: u64,
    /// Dead letters among them.
    pub failed_deliveries: u64,
    pub last_successful_delivery: Option<Timestamp>,
    pub last_failed_delivery: Option<Timestamp>,
    /// Of the attempts that succeeded.
    pub average_response_time_ms: Option<u64>,
}

/// Events that are stored.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
#[graphql(name = "Queue")]
pub struct Stored {
    pub pending: u64,
    pub dead: u64,
    pub oldest_pending_at: Option<Timestamp>,
    /// They wait until an operator says otherwise.
    #[serde(default)]
    #[schema(required)]
    pub paused: bool,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhooks {
    pub success: bool,
    pub webhooks: Vec<Webhook<ShortStats>>,
    pub total: usize,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OneWebhook {
    pub success: bool,
    pub webhook: Webhook<LongStats>,
}

/// What became of a test event.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub struct TestResult {
    /// Whether it was handed over, or stored to be.
    pub success: bool,
    pub status: u16,
    /// As `Hookstile-Outcome` has it.
    #[schema(value_type = Code)]
    pub outcome: String,
    pub event_id: String,
    pub event_type: String,
    pub duration_ms: u64,
}

impl<Stats> Webhook<Stats> {
    fn of(standing: Standing, stats: impl FnOnce(&RouteDeliveryStats) -> Stats) -> Self {
        let Standing {
            route,
            record,
            oldest_waiting,
            paused,
            expect_every,
            silent,
        } = standing;
        let events = if route.events.is_empty() {
            vec!["*".into()]
        } else {
            strings(route.events)
        };
        Self {
            id: webhook_id(&route.name),
            url: route.url,
            events,
            status: if route.active { "active" } else { "inactive" }.into(),
            secret: MASKED.into(),
            created_at: route
                .made_from
                .as_ref()
                .map(|made| made.created_at)
                .or(record.created_at),
            last_delivery: record.last_success.max(record.last_failure),
            delivery_stats: stats(&record),
            name: route.name.to_string(),
            host: route.host.map(Into::into),
            path: route.path.into(),
            provider: route.provider.map(Into::into),
            delivery: route.handover.as_str().into(),
            source: if route.made_from.is_some() {
                "api"
            } else {
                "file"
            }
            .into(),
            description: route
                .made_from
                .as_ref()
                .map(|made| made.description.clone()),
            queue: Stored {
                pending: record.pending,
                dead: record.dead,
                oldest_pending_at: oldest_waiting,
                paused,
            },
            expect_every_seconds: expect_every.map(|every| every.as_secs_f64()),
            silent,
        }
    }
}

fn strings(texts: Vec<Box<str>>) -> Vec<String> {
    texts.into_iter().map(Into::into).collect()
}

impl From<Standing> for Webhook<ShortStats> {
    fn from(standing: Standing) -> Self {
        Self::of(standing, |record| ShortStats {
            successful: record.successful,
            failed: record.failed,
            last_30_days: record.recent,
        })
    }
}

impl From<Standing> for Webhook<LongStats> {
    fn from(standing: Standing) -> Self {
        Self::of(standing, |record| LongStats {
            total_deliveries: record.successful + record.failed,
            successful_deliveries: record.successful,
            failed_deliveries: record.failed,
            last_successful_delivery: record.last_success,
            last_failed_delivery: record.last_failure,
            average_response_time_ms: record.total_ms.checked_div(record.successful),
        })
    }
}

impl From<Tested> for TestResult {
    fn from(tested: Tested) -> Self {
        Self {
            success: ["delivered", "queued"].contains(&tested.outcome.as_str()),
            status: tested.status,
            outcome: tested.outcome,
            event_id: tested.event_id,
            event_type: tested.event_type,
            duration_ms: tested.duration.as_millis().try_into().unwrap_or(u64::MAX),
        }
    }
}

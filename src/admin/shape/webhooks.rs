//! Webhooks with their statistics, as JSON.

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::names;
use crate::admin::operations::numbers::HourlyDeliveries;
use crate::admin::operations::routes::RouteSummary;
use crate::admin::operations::test_event::TestOutcome;
use crate::admin::webhook_id::webhook_id;
use crate::outcome::Code;
use crate::route::DeliveryMode;
use crate::store::{DeliveryState, RouteDeliveryStats};

/// The value shown in place of any secret.
const MASKED: &str = "whsec_***masked***";

/// A route, defined in the file or over the API.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Webhook<Stats> {
    pub id: String,
    /// The upstream's URL.
    pub url: String,
    /// Patterns of event types; `*` accepts all.
    pub events: Vec<String>,
    #[schema(schema_with = names::activity_schema)]
    pub status: String,
    /// The secret in the answer that created the webhook; otherwise a mask.
    pub secret: String,
    pub created_at: Option<Timestamp>,
    /// The time of the last change; for a route of the file, the time at which the gateway last
    /// loaded the file.
    #[serde(default)]
    #[schema(required)]
    pub updated_at: Timestamp,
    /// The version of the definition, which is also its `ETag`: another one after each change. A
    /// route of the file has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub version: Option<String>,
    /// The time at which a delivery last ended.
    pub last_delivery: Option<Timestamp>,
    pub delivery_stats: Stats,
    // The members from here on are not in the VPN Enterprise API's documentation.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub host: Option<String>,
    /// The path that the provider sends events to.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub provider: Option<String>,
    #[schema(value_type = DeliveryMode)]
    pub delivery: String,
    #[schema(schema_with = names::source_schema)]
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub description: Option<String>,
    pub queue: QueueStats,
    /// The longest time between two verified requests that the route expects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expect_every_seconds: Option<f64>,
    /// Set when no request was verified for longer than that.
    #[serde(default)]
    #[schema(required)]
    pub silent: bool,
    #[serde(default)]
    #[schema(required)]
    pub last_hour: LastHour,
}

/// The deliveries of the last hour, since the start at most. Where events are stored, they speak of
/// the delivery and not of the response that the sender got.
#[derive(Debug, Default, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct LastHour {
    /// The number of events whose sender got success, stored ones included.
    pub accepted: u64,
    /// The number of events that the upstream accepted.
    pub delivered: u64,
    /// The number of events that became dead letters.
    pub dead: u64,
    /// The number of stored events that wait now, for more than a minute; at most 10,000.
    pub late: u64,
    /// The delivered share of those that were delivered, became dead letters, are late, or failed;
    /// `null` if there were none.
    #[schema(minimum = 0, maximum = 1)]
    pub success: Option<f64>,
    /// The 95th percentile of the time from arrival to delivery in the last minutes, estimated.
    pub p95_seconds: Option<f64>,
}

impl From<HourlyDeliveries> for LastHour {
    fn from(hour: HourlyDeliveries) -> Self {
        Self {
            accepted: hour.accepted,
            delivered: hour.delivered,
            dead: hour.dead_lettered,
            late: hour.late,
            success: hour.success(),
            p95_seconds: hour.p95_seconds,
        }
    }
}

/// Statistics of deliveries that have ended, in a list of webhooks.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
#[graphql(name = "DeliveryStats")]
pub(crate) struct ShortStats {
    pub successful: u64,
    /// The number of failed deliveries, dead letters included.
    pub failed: u64,
    /// The number of deliveries whose event arrived in the last 30 days.
    pub last_30_days: u64,
}

/// Statistics of deliveries that have ended, with a single webhook.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LongStats {
    pub total_deliveries: u64,
    pub successful_deliveries: u64,
    /// The number of failed deliveries, dead letters included.
    pub failed_deliveries: u64,
    pub last_successful_delivery: Option<Timestamp>,
    pub last_failed_delivery: Option<Timestamp>,
    /// The average duration of the attempts that succeeded, in milliseconds.
    pub average_response_time_ms: Option<u64>,
}

/// The stored events of a route.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
#[graphql(name = "Queue")]
#[schema(as = Stored)]
pub(crate) struct QueueStats {
    pub pending: u64,
    pub dead: u64,
    pub oldest_pending_at: Option<Timestamp>,
    /// Set while an operator has paused the queue.
    #[serde(default)]
    #[schema(required)]
    pub paused: bool,
}

/// The active routes: all of them, or a page.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Webhooks {
    pub success: bool,
    pub webhooks: Vec<Webhook<ShortStats>>,
    /// The number of webhooks on all pages.
    pub total: usize,
    #[serde(default)]
    #[schema(required)]
    pub has_more: bool,
    /// The `cursor` of the next page.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// A single route.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OneWebhook {
    pub success: bool,
    pub webhook: Webhook<LongStats>,
}

/// A webhook that was removed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct RemovedWebhook {
    pub success: bool,
    pub message: String,
    pub webhook_id: String,
}

/// The gateway's response to a test event.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct TestResult {
    /// Set if the event was delivered, or stored for delivery.
    pub success: bool,
    pub status: u16,
    /// The outcome, as in the header `Hookstile-Outcome`.
    #[schema(value_type = Code)]
    pub outcome: String,
    pub event_id: String,
    pub event_type: String,
    pub duration_ms: u64,
    /// The delivery, as the VPN Enterprise API shows it; `null` if the event was refused, and so
    /// neither tried nor stored.
    #[serde(default)]
    #[schema(required)]
    pub test_delivery: Option<TestDelivery>,
}

/// The delivery of a test event.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct TestDelivery {
    pub delivery_id: String,
    #[schema(value_type = DeliveryState)]
    pub status: String,
    /// The upstream's status; `null` while the event waits in the queue, and without a response.
    pub response_status: Option<u16>,
    /// The duration of the attempt, in milliseconds.
    pub response_time_ms: Option<u64>,
    /// The first 4 KiB of the upstream's response; `null` while the event waits in the queue, and
    /// without a response.
    pub response_body: Option<String>,
    /// The time at which the attempt began.
    pub delivered_at: Option<Timestamp>,
}

impl<Stats> Webhook<Stats> {
    fn new(summary: RouteSummary, shape: impl FnOnce(&RouteDeliveryStats) -> Stats) -> Self {
        let RouteSummary {
            route,
            stats,
            oldest_waiting,
            paused,
            expect_every,
            silent,
            last_hour,
        } = summary;
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
                .definition
                .as_ref()
                .map(|definition| definition.created_at)
                .or(stats.created_at),
            updated_at: route.updated_at,
            version: route.version.map(|version| version.to_string()),
            last_delivery: stats.last_success.max(stats.last_failure),
            delivery_stats: shape(&stats),
            name: route.name.to_string(),
            host: route.host.map(Into::into),
            path: route.path.into(),
            provider: route.provider.map(Into::into),
            delivery: route.delivery_mode.as_str().into(),
            source: if route.definition.is_some() {
                "api"
            } else {
                "file"
            }
            .into(),
            description: route
                .definition
                .as_ref()
                .map(|definition| definition.description.clone()),
            queue: QueueStats {
                pending: stats.pending,
                dead: stats.dead,
                oldest_pending_at: oldest_waiting,
                paused,
            },
            expect_every_seconds: expect_every.map(|every| every.as_secs_f64()),
            silent,
            last_hour: last_hour.into(),
        }
    }
}

fn strings(texts: Vec<Box<str>>) -> Vec<String> {
    texts.into_iter().map(Into::into).collect()
}

impl From<RouteSummary> for Webhook<ShortStats> {
    fn from(summary: RouteSummary) -> Self {
        Self::new(summary, |stats| ShortStats {
            successful: stats.successful,
            failed: stats.failed,
            last_30_days: stats.recent,
        })
    }
}

impl From<RouteSummary> for Webhook<LongStats> {
    fn from(summary: RouteSummary) -> Self {
        Self::new(summary, |stats| LongStats {
            total_deliveries: stats.successful + stats.failed,
            successful_deliveries: stats.successful,
            failed_deliveries: stats.failed,
            last_successful_delivery: stats.last_success,
            last_failed_delivery: stats.last_failure,
            average_response_time_ms: stats.total_ms.checked_div(stats.successful),
        })
    }
}

impl From<TestOutcome> for TestResult {
    fn from(test: TestOutcome) -> Self {
        Self {
            success: ["delivered", "queued"].contains(&test.outcome.as_str()),
            status: test.status,
            outcome: test.outcome,
            event_id: test.event_id,
            event_type: test.event_type,
            duration_ms: test.duration.as_millis().try_into().unwrap_or(u64::MAX),
            test_delivery: test.delivery.map(|record| {
                let last = record.attempts.last();
                let response_status = last.and_then(|last| last.status);
                TestDelivery {
                    delivery_id: record.id.to_string(),
                    status: record.state.as_str().into(),
                    response_status,
                    response_time_ms: last.map(|last| last.ms),
                    // The response is the upstream's own if the sender got its status.
                    response_body: response_status
                        .filter(|status| *status == test.status)
                        .map(|_| String::from_utf8_lossy(&test.body).into_owned()),
                    delivered_at: last.map(|last| last.at),
                }
            }),
        }
    }
}

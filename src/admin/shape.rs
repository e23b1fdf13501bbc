//! The API's JSON: what it answers with, as types that the command line reads back.
//!
//! Names and shapes are those of the VPN Enterprise API's documentation, with ours added to them.

mod closed;
mod headers;
mod rejections;

use std::fmt;

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::operations::{Health, Overview, Page, Recovered, Refused, Standing, Tested};
use super::reload;
use crate::outcome::Code;
use crate::route::Handover;
use crate::store::{DeliveryView, RouteRecord, State};

pub use headers::Header;
pub use rejections::{Rejected, Rejection, Rejections};

/// What stands before a route's name in a webhook's ID.
const WEBHOOK_PREFIX: &str = "wh_";

/// Shown in place of any secret, whatever it looks like.
const MASKED: &str = "whsec_***masked***";

/// The ID of a route's webhook.
pub fn webhook_id(route: &str) -> String {
    format!("{WEBHOOK_PREFIX}{route}")
}

/// The route that a webhook's ID names.
pub fn route_of(webhook_id: &str) -> Option<&str> {
    webhook_id.strip_prefix(WEBHOOK_PREFIX)
}

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
    #[schema(value_type = Handover)]
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

/// All attempts for one event.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Delivery<Attempts> {
    pub id: String,
    pub webhook_id: String,
    pub event_type: String,
    pub event_id: String,
    pub received_at: Timestamp,
    /// When the last attempt began.
    pub delivered_at: Option<Timestamp>,
    #[schema(value_type = State)]
    pub status: String,
    /// The last attempt's.
    pub response_status: Option<u16>,
    pub response_time_ms: Option<u64>,
    pub error: Option<String>,
    /// In a list how many there were, as the provider's documents have it; with a single delivery the attempts themselves.
    pub attempts: Attempts,
    pub attempt_count: u32,
    /// Why it is a dead letter.
    pub reason: Option<String>,
    pub next_attempt_in_seconds: Option<u64>,
    /// Whether the upstream may have processed it although nothing says so.
    pub possible_duplicate: bool,
    /// Whether it can be delivered again.
    pub payload_kept: bool,
    /// The name of the secret that verified it. Unknown of what an earlier version took.
    pub verified_with: Option<String>,
    /// As they are handed over, with a single delivery, where they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<Header>>,
    /// The body as it came: a number keeps all its digits.
    #[schema(value_type = serde_json::Value)]
    pub event_data: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub struct Attempt {
    pub number: u32,
    pub at: Timestamp,
    /// What the upstream answered with.
    pub status: Option<u16>,
    pub duration_ms: u64,
    /// Why there was no answer.
    pub error: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Deliveries {
    pub success: bool,
    pub deliveries: Vec<Delivery<u32>>,
    /// How many there are on all pages; `null` when they are more than are counted.
    pub total: Option<usize>,
    pub has_more: bool,
    /// To be given as `cursor`, for the ones before.
    pub next_cursor: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OneDelivery {
    pub success: bool,
    pub delivery: Delivery<Vec<Attempt>>,
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

/// Done, and there is nothing to show.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    pub success: bool,
}

/// What became of a test event.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub struct TestResult {
    /// Whether it was answered with a 2xx.
    pub success: bool,
    pub status: u16,
    /// As `Hookgate-Outcome` has it.
    #[schema(value_type = Code)]
    pub outcome: String,
    pub event_id: String,
    pub event_type: String,
    pub duration_ms: u64,
}

impl From<Tested> for TestResult {
    fn from(tested: Tested) -> Self {
        Self {
            success: (200..300).contains(&tested.status),
            status: tested.status,
            outcome: tested.outcome,
            event_id: tested.event_id,
            event_type: tested.event_type,
            duration_ms: tested.duration.as_millis().try_into().unwrap_or(u64::MAX),
        }
    }
}

/// What became of the wish to redeliver all that match.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub struct Redelivered {
    pub success: bool,
    /// Nothing was done: `accepted` and `refused` tell of what could be.
    pub dry_run: bool,
    pub matched: usize,
    pub accepted: usize,
    pub refused: Vec<RefusedCount>,
}

/// Why some were not accepted: a problem's code, and how many they are.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub struct RefusedCount {
    pub code: String,
    pub count: usize,
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

impl<Stats> Webhook<Stats> {
    fn of(standing: Standing, stats: impl FnOnce(&RouteRecord) -> Stats) -> Self {
        let Standing { route, record, oldest_waiting, paused, expect_every, silent } = standing;
        let events = if route.events.is_empty() { vec!["*".into()] } else { strings(route.events) };
        Self {
            id: webhook_id(&route.name),
            url: route.url,
            events,
            status: if route.active { "active" } else { "inactive" }.into(),
            secret: MASKED.into(),
            created_at: route.made_from.as_ref().map(|made| made.created_at).or(record.created_at),
            last_delivery: record.last_success.max(record.last_failure),
            delivery_stats: stats(&record),
            name: route.name.to_string(),
            host: route.host.map(Into::into),
            path: route.path.into(),
            provider: route.provider.map(Into::into),
            delivery: route.handover.as_str().into(),
            source: if route.made_from.is_some() { "api" } else { "file" }.into(),
            description: route.made_from.as_ref().map(|made| made.description.clone()),
            queue: Stored { pending: record.pending, dead: record.dead, oldest_pending_at: oldest_waiting, paused },
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

impl Delivery<u32> {
    /// As in a list.
    pub fn listed(view: DeliveryView) -> Self {
        Self { headers: None, ..Self::of(view, |tried, _| tried) }
    }
}

impl Delivery<Vec<Attempt>> {
    /// With its attempts.
    pub fn whole(view: DeliveryView) -> Self {
        Self::of(view, |_, attempts| attempts)
    }
}

impl<Attempts> Delivery<Attempts> {
    fn of(view: DeliveryView, shown: impl FnOnce(u32, Vec<Attempt>) -> Attempts) -> Self {
        let last = view.attempts.last().cloned();
        let unrecorded = view.tried.saturating_sub(u32::try_from(view.attempts.len()).unwrap_or(u32::MAX));
        let attempts = (1..).zip(view.attempts).map(|(number, attempt)| Attempt {
            number: unrecorded.saturating_add(number),
            at: attempt.at,
            status: attempt.status,
            duration_ms: attempt.ms,
            error: attempt.error,
        });
        Self {
            id: view.id.to_string(),
            webhook_id: webhook_id(&view.route),
            event_type: view.event_type,
            event_id: view.event_id,
            received_at: view.received_at,
            delivered_at: last.as_ref().map(|last| last.at),
            status: view.state.as_str().into(),
            response_status: last.as_ref().and_then(|last| last.status),
            response_time_ms: last.as_ref().map(|last| last.ms),
            error: last.and_then(|last| last.error),
            attempts: shown(view.tried, attempts.collect()),
            attempt_count: view.tried,
            reason: view.reason,
            next_attempt_in_seconds: view.due_in.map(|due_in| due_in.as_secs() + u64::from(due_in.subsec_nanos() > 0)),
            possible_duplicate: view.possibly_delivered,
            payload_kept: view.payload_kept,
            verified_with: view.secret,
            headers: view.head.map(|head| headers::shown(&head)),
            event_data: view.body.and_then(|body| serde_json::from_slice(&body).ok()),
        }
    }
}

impl From<Page> for Deliveries {
    fn from(page: Page) -> Self {
        let next_cursor = page.next.map(|next| next.to_string());
        let deliveries = page.deliveries.into_iter().map(Delivery::listed).collect();
        Self { success: true, deliveries, total: page.total, has_more: next_cursor.is_some(), next_cursor }
    }
}

impl From<Recovered> for Redelivered {
    fn from(recovered: Recovered) -> Self {
        let Recovered { dry_run, matched, accepted, refused } = recovered;
        let coded = |(refused, count): (Refused, usize)| RefusedCount { code: refused.code().into(), count };
        Self { success: true, dry_run, matched, accepted, refused: refused.into_iter().map(coded).collect() }
    }
}

impl From<reload::Reloaded> for Reloaded {
    fn from(reloaded: reload::Reloaded) -> Self {
        Self { success: true, routes: reloaded.routes, warnings: reloaded.warnings }
    }
}

impl From<Overview> for Status {
    fn from(overview: Overview) -> Self {
        let Health { not_ready, store_full, event_ids, store_bytes } = overview.health;
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::{Attempted, DeliveryId, State};

    fn view(body: &'static [u8]) -> DeliveryView {
        let at = "2026-06-01T00:00:00Z".parse().unwrap();
        DeliveryView {
            id: DeliveryId(7),
            route: "billing".into(),
            event_id: "evt_1".into(),
            event_type: "user.created".into(),
            received_at: at,
            state: State::Pending,
            reason: None,
            attempts: vec![Attempted { at, ms: 5, status: None, error: Some("no answer in time".into()) }],
            tried: 3,
            possibly_delivered: true,
            due_in: Some(std::time::Duration::from_millis(1_001)),
            payload_kept: true,
            secret: Some("current".into()),
            head: Some(Bytes::from_static(b"POST / HTTP/1.1\r\nA: b\r\n")),
            body: Some(body.into()),
        }
    }

    #[test]
    fn attempts_are_numbered_after_those_that_left_no_record() {
        let delivery = Delivery::whole(view(b"{}"));
        assert_eq!(delivery.attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [3]);
        assert_eq!((delivery.attempt_count, delivery.next_attempt_in_seconds), (3, Some(2)));
    }

    #[test]
    fn the_command_line_reads_what_the_api_writes() {
        let text = serde_json::to_string(&Delivery::whole(view(b"{\"n\": 1.10}"))).unwrap();
        let read: Delivery<Vec<Attempt>> = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let text = serde_json::to_string(&Delivery::listed(view(b"not JSON"))).unwrap();
        let read: Delivery<u32> = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert!(Delivery::listed(view(b"not JSON")).event_data.is_none());
    }
}

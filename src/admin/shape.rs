//! The API's JSON: what it answers with, as types that the command line reads back.
//!
//! Names and shapes are those of the VPN Enterprise API's documentation, with ours added to them.

mod rejections;

use std::fmt;

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::operations::{Overview, Page, Recovered, Standing, Tested};
use super::{problem, reload};
use crate::store::{DeliveryView, RouteRecord};

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

#[derive(Debug, Serialize, Deserialize)]
pub struct Webhook<Stats> {
    pub id: String,
    /// The upstream's.
    pub url: String,
    pub events: Vec<String>,
    pub status: String,
    pub secret: String,
    pub created_at: Option<Timestamp>,
    /// When a delivery ended last.
    pub last_delivery: Option<Timestamp>,
    pub delivery_stats: Stats,
    /// From here on ours.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    pub delivery: String,
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub queue: Stored,
    /// How often an event should come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_every_seconds: Option<f64>,
    /// Whether none has come for longer.
    #[serde(default)]
    pub silent: bool,
}

/// Deliveries that have ended, in short.
#[derive(Debug, Serialize, Deserialize, SimpleObject)]
#[graphql(name = "DeliveryStats")]
pub struct ShortStats {
    pub successful: u64,
    /// Dead letters among them.
    pub failed: u64,
    pub last_30_days: u64,
}

/// Deliveries that have ended, with a single webhook.
#[derive(Debug, Serialize, Deserialize)]
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
#[derive(Debug, Serialize, Deserialize, SimpleObject)]
#[graphql(name = "Queue")]
pub struct Stored {
    pub pending: u64,
    pub dead: u64,
    pub oldest_pending_at: Option<Timestamp>,
    /// They wait until an operator says otherwise.
    #[serde(default)]
    pub paused: bool,
}

/// All attempts for one event.
#[derive(Debug, Serialize, Deserialize)]
pub struct Delivery {
    pub id: String,
    pub webhook_id: String,
    pub event_type: String,
    pub event_id: String,
    pub received_at: Timestamp,
    /// When the last attempt began.
    pub delivered_at: Option<Timestamp>,
    pub status: String,
    /// The last attempt's.
    pub response_status: Option<u16>,
    pub response_time_ms: Option<u64>,
    pub error: Option<String>,
    pub attempts: Attempts,
    pub attempt_count: u32,
    /// Why it is a dead letter.
    pub reason: Option<String>,
    pub next_attempt_in_seconds: Option<u64>,
    /// Whether the upstream may have processed it although nothing says so.
    pub possible_duplicate: bool,
    /// Whether it can be delivered again.
    pub payload_kept: bool,
    /// The body as it came: a number keeps all its digits.
    pub event_data: Option<Box<RawValue>>,
}

/// In a list how many there were, as the provider's documents have it; with a single delivery the attempts themselves.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Attempts {
    Count(u32),
    All(Vec<Attempt>),
}

#[derive(Debug, Serialize, Deserialize, SimpleObject)]
pub struct Attempt {
    pub number: u32,
    pub at: Timestamp,
    /// What the upstream answered with.
    pub status: Option<u16>,
    pub duration_ms: u64,
    /// Why there was no answer.
    pub error: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Deliveries {
    pub success: bool,
    pub deliveries: Vec<Delivery>,
    /// How many there are on all pages; `null` when they are more than are counted.
    pub total: Option<usize>,
    pub has_more: bool,
    pub next_cursor: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct OneDelivery {
    pub success: bool,
    pub delivery: Delivery,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Webhooks {
    pub success: bool,
    pub webhooks: Vec<Webhook<ShortStats>>,
    pub total: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct OneWebhook {
    pub success: bool,
    pub webhook: Webhook<LongStats>,
}

/// Done, and there is nothing to show.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    pub success: bool,
}

/// What became of a test event.
#[derive(Debug, Serialize, Deserialize, SimpleObject)]
pub struct TestResult {
    /// Whether it was answered with a 2xx.
    pub success: bool,
    pub status: u16,
    /// As `Hookgate-Outcome` has it.
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
#[derive(Debug, Serialize, Deserialize, SimpleObject)]
pub struct Redelivered {
    pub success: bool,
    /// Nothing was done: `accepted` and `refused` tell of what could be.
    pub dry_run: bool,
    pub matched: usize,
    pub accepted: usize,
    pub refused: Vec<RefusedCount>,
}

/// Why some were not accepted: a problem's code, and how many they are.
#[derive(Debug, Serialize, Deserialize, SimpleObject)]
pub struct RefusedCount {
    pub code: String,
    pub count: usize,
}

#[derive(Debug, Serialize, Deserialize)]
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
    pub rejected_last_hour: Vec<Rejected>,
}

/// A configuration that was taken.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reloaded {
    pub success: bool,
    pub routes: usize,
    /// Each in one line, with its place in the file.
    pub warnings: Vec<String>,
}

/// What is wrong, in an answer that is no success.
#[derive(Debug, Deserialize)]
pub struct Problem {
    pub code: String,
    pub detail: String,
    /// What is wrong with a configuration, each in one line.
    #[serde(default)]
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

impl Delivery {
    /// As in a list.
    pub fn listed(view: DeliveryView) -> Self {
        Self { attempts: Attempts::Count(view.tried), ..Self::whole(view) }
    }

    /// With its attempts.
    pub fn whole(view: DeliveryView) -> Self {
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
            attempts: Attempts::All(attempts.collect()),
            attempt_count: view.tried,
            reason: view.reason,
            next_attempt_in_seconds: view.due_in.map(|due_in| due_in.as_secs() + u64::from(due_in.subsec_nanos() > 0)),
            possible_duplicate: view.possibly_delivered,
            payload_kept: view.payload_kept,
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
        let coded = |(refused, count)| RefusedCount { code: problem::Problem::from(refused).code().into(), count };
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
        Self {
            success: true,
            version: env!("CARGO_PKG_VERSION").into(),
            ready: overview.not_ready.is_none(),
            reason: overview.not_ready,
            store_full: overview.store_full,
            event_ids: overview.event_ids,
            store_bytes: overview.store_bytes,
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
            body: Some(body.into()),
        }
    }

    #[test]
    fn attempts_are_numbered_after_those_that_left_no_record() {
        let delivery = Delivery::whole(view(b"{}"));
        let Attempts::All(attempts) = &delivery.attempts else { panic!("no attempts") };
        assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [3]);
        assert_eq!((delivery.attempt_count, delivery.next_attempt_in_seconds), (3, Some(2)));
    }

    #[test]
    fn the_command_line_reads_what_the_api_writes() {
        for delivery in [Delivery::whole(view(b"{\"n\": 1.10}")), Delivery::listed(view(b"not JSON"))] {
            let text = serde_json::to_string(&delivery).unwrap();
            let read: Delivery = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        assert!(Delivery::listed(view(b"not JSON")).event_data.is_none());
    }
}

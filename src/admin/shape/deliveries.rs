//! Deliveries and bulk redeliveries, as JSON.

use std::collections::BTreeMap;

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::headers::{self, Header};
use crate::admin::operations::redelivery::{LastRedelivery, RedeliveryReport};
use crate::admin::query::{DeliveryPage, Pace};
use crate::admin::webhook_id::webhook_id;
use crate::store::{AttemptRecord, DeliveryRecord, DeliveryState};

/// The delivery of one event, with all its attempts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Delivery<Attempts> {
    pub id: String,
    pub webhook_id: String,
    pub event_type: String,
    pub event_id: String,
    pub received_at: Timestamp,
    /// The time at which the last attempt began.
    pub delivered_at: Option<Timestamp>,
    #[schema(value_type = DeliveryState)]
    pub status: String,
    /// The upstream's status in the last attempt.
    pub response_status: Option<u16>,
    /// The duration of the last attempt, in milliseconds.
    pub response_time_ms: Option<u64>,
    /// The reason why there was no response to the last attempt.
    pub error: Option<String>,
    /// The cause for which the last attempt did not succeed.
    #[serde(default)]
    #[schema(required)]
    pub cause: Option<String>,
    /// The number of attempts in a list, as in the provider's documentation; the attempts
    /// themselves with a single delivery.
    pub attempts: Attempts,
    pub attempt_count: u32,
    /// The reason why the event is a dead letter; `automatic` while the gateway redelivers a dead
    /// letter by itself.
    pub reason: Option<String>,
    pub next_attempt_in_seconds: Option<u64>,
    /// Set if the upstream may have processed the event although no attempt succeeded.
    pub possible_duplicate: bool,
    /// Set if the event can be delivered again.
    pub payload_kept: bool,
    /// The name of the secret that verified the event; `null` if an earlier version stored it.
    pub verified_with: Option<String>,
    /// Set for a test event.
    #[serde(default)]
    #[schema(required)]
    pub test: bool,
    /// The delivered headers, where they are kept; only with a single delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub headers: Option<Vec<Header>>,
    /// The body as received: numbers keep all their digits. `null` if the body is not JSON that
    /// every client reads.
    #[schema(value_type = serde_json::Value)]
    pub event_data: Option<Box<RawValue>>,
}

/// One attempt at delivering an event.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct Attempt {
    pub number: u32,
    pub at: Timestamp,
    /// The upstream's status.
    pub status: Option<u16>,
    pub duration_ms: u64,
    /// The reason why there was no response.
    pub error: Option<String>,
    /// The cause for which the attempt did not succeed, from a closed set. `null` after a success,
    /// and for attempts that an earlier version recorded.
    #[serde(default)]
    #[schema(required)]
    pub cause: Option<String>,
    /// The address that was tried, with its port, if the attempt did not succeed and came to one.
    #[serde(default)]
    #[schema(required)]
    pub address: Option<String>,
    /// The response, unless it was 2xx.
    #[serde(default)]
    #[schema(required)]
    pub response: Option<AttemptResponse>,
}

/// A response other than 2xx.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct AttemptResponse {
    pub status: u16,
    pub content_type: Option<String>,
    /// The first 4 KiB of the body, with `***` in place of what may be a credential. `null` if it is
    /// not text, or is not kept: see `retain`. A delivery keeps the bodies of the responses to its
    /// first and its latest three attempts.
    pub body: Option<String>,
    /// The size of the whole body in bytes; at most 1 MiB and a part are read.
    pub body_bytes: u64,
}

impl Attempt {
    fn new(number: u32, record: AttemptRecord) -> Self {
        let response = record.response.zip(record.status);
        Self {
            number,
            at: record.at,
            status: record.status,
            duration_ms: record.ms,
            error: record.error,
            cause: record.cause.map(|cause| cause.as_str().into()),
            address: record.address,
            response: response.map(|(response, status)| AttemptResponse {
                status,
                content_type: response.content_type,
                body: response.body,
                body_bytes: response.body_bytes,
            }),
        }
    }
}

/// A page of deliveries, the newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Deliveries {
    pub success: bool,
    pub deliveries: Vec<Delivery<u32>>,
    /// The number of deliveries on all pages; `null` when there are more than 10,000.
    pub total: Option<usize>,
    pub has_more: bool,
    /// The `cursor` of the next page.
    pub next_cursor: Option<String>,
}

/// A single delivery.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OneDelivery {
    pub success: bool,
    pub delivery: Delivery<Vec<Attempt>>,
}

/// The outcome of a bulk redelivery.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct Redelivered {
    pub success: bool,
    /// Set if nothing was changed; `accepted` and `refused` then say what would be.
    pub dry_run: bool,
    pub matched: usize,
    pub accepted: usize,
    pub refused: Vec<RefusedCount>,
    /// Set if the redelivery goes on; the counts are those of now. `GET /deliveries/redeliver` (in
    /// GraphQL `redelivery`) has those of later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub running: bool,
}

/// The bulk redelivery that was requested last.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OneRedelivery {
    pub success: bool,
    /// `null` if none was requested yet.
    pub redelivery: Option<Redelivery>,
}

/// A bulk redelivery, with its progress.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct Redelivery {
    /// Set until every delivery that matched was accepted or refused, or it was cancelled.
    pub running: bool,
    pub begun_at: Timestamp,
    /// The webhook, if only its deliveries were selected.
    pub webhook_id: Option<String>,
    /// The number of events that become due per second, if it was given.
    pub per_second: Option<f64>,
    pub matched: usize,
    pub accepted: usize,
    pub refused: Vec<RefusedCount>,
}

/// The number of deliveries that were not accepted for one reason.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct RefusedCount {
    /// The code of the error that a single redelivery would be answered with.
    pub code: String,
    pub count: usize,
}

impl Delivery<u32> {
    /// Converts a delivery for a list: without headers, and with the number of its attempts.
    pub(crate) fn listed(record: DeliveryRecord) -> Self {
        Self {
            headers: None,
            ..Self::new(record, |tried, _| tried)
        }
    }
}

impl Delivery<Vec<Attempt>> {
    /// Converts a single delivery, with its attempts.
    pub(crate) fn whole(record: DeliveryRecord) -> Self {
        Self::new(record, |_, attempts| attempts)
    }
}

impl<Attempts> Delivery<Attempts> {
    fn new(record: DeliveryRecord, shown: impl FnOnce(u32, Vec<Attempt>) -> Attempts) -> Self {
        let last = record.attempts.last().cloned();
        let unrecorded = record
            .attempt_count
            .saturating_sub(u32::try_from(record.attempts.len()).unwrap_or(u32::MAX));
        let attempts = (1..)
            .zip(record.attempts)
            .map(|(number, attempt)| Attempt::new(unrecorded.saturating_add(number), attempt));
        Self {
            id: record.id.to_string(),
            webhook_id: webhook_id(&record.route),
            event_type: record.event_type,
            event_id: record.event_id,
            received_at: record.received_at,
            delivered_at: last.as_ref().map(|last| last.at),
            status: record.state.as_str().into(),
            response_status: last.as_ref().and_then(|last| last.status),
            response_time_ms: last.as_ref().map(|last| last.ms),
            cause: last
                .as_ref()
                .and_then(|last| Some(last.cause?.as_str().into())),
            error: last.and_then(|last| last.error),
            attempts: shown(record.attempt_count, attempts.collect()),
            attempt_count: record.attempt_count,
            reason: record.reason,
            next_attempt_in_seconds: record
                .due_in
                .map(|due_in| due_in.as_secs() + u64::from(due_in.subsec_nanos() > 0)),
            possible_duplicate: record.possibly_delivered,
            payload_kept: record.payload_kept,
            verified_with: record.secret,
            test: record.is_test,
            headers: record.head.map(|head| headers::masked(&head)),
            event_data: record.body.and_then(|body| event_data(&body)),
        }
    }
}

/// Returns the body for a response in JSON, without a byte order mark. A body that some clients do
/// not read (`NaN`, half a surrogate pair, deep nesting) would hide the rest of the response from
/// them.
fn event_data(body: &[u8]) -> Option<Box<RawValue>> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice::<serde_json::Value>(body).ok()?;
    serde_json::from_slice(body).ok()
}

impl From<DeliveryPage> for Deliveries {
    fn from(page: DeliveryPage) -> Self {
        let next_cursor = page.next.map(|next| next.to_string());
        let deliveries = page.deliveries.into_iter().map(Delivery::listed).collect();
        Self {
            success: true,
            deliveries,
            total: page.total,
            has_more: next_cursor.is_some(),
            next_cursor,
        }
    }
}

impl From<RedeliveryReport> for Redelivered {
    fn from(report: RedeliveryReport) -> Self {
        Self {
            success: true,
            dry_run: report.is_dry_run,
            matched: report.matched,
            accepted: report.accepted,
            refused: refused_counts(report.refused),
            running: report.is_running,
        }
    }
}

impl From<LastRedelivery> for Redelivery {
    fn from(last: LastRedelivery) -> Self {
        let LastRedelivery {
            begun_at,
            route,
            pace,
            report,
        } = last;
        Self {
            running: report.is_running,
            begun_at,
            webhook_id: route.as_deref().map(webhook_id),
            per_second: pace.map(Pace::per_second),
            matched: report.matched,
            accepted: report.accepted,
            refused: refused_counts(report.refused),
        }
    }
}

fn refused_counts(refused: BTreeMap<String, usize>) -> Vec<RefusedCount> {
    refused
        .into_iter()
        .map(|(code, count)| RefusedCount { code, count })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cause::Cause;
    use crate::store::{AttemptRecord, DeliveryId, DeliveryState};

    fn record(body: &'static [u8]) -> DeliveryRecord {
        let at = "2026-06-01T00:00:00Z".parse().unwrap();
        DeliveryRecord {
            id: DeliveryId(7),
            route: "billing".into(),
            event_id: "evt_1".into(),
            event_type: "user.created".into(),
            received_at: at,
            state: DeliveryState::Pending,
            reason: None,
            attempts: vec![AttemptRecord {
                at,
                ms: 5,
                status: None,
                error: Some("the upstream refuses connections".into()),
                cause: Some(Cause::Refused),
                address: Some("127.0.0.1:9".into()),
                response: None,
            }],
            attempt_count: 3,
            possibly_delivered: true,
            due_in: Some(std::time::Duration::from_millis(1_001)),
            payload_kept: true,
            secret: Some("current".into()),
            is_test: false,
            head: Some(Bytes::from_static(b"POST / HTTP/1.1\r\nA: b\r\n")),
            body: Some(body.into()),
        }
    }

    #[test]
    fn attempts_are_numbered_after_unrecorded_ones() {
        let delivery = Delivery::whole(record(b"{}"));
        assert_eq!(
            delivery
                .attempts
                .iter()
                .map(|attempt| attempt.number)
                .collect::<Vec<_>>(),
            [3]
        );
        assert_eq!(
            (delivery.attempt_count, delivery.next_attempt_in_seconds),
            (3, Some(2))
        );
    }

    #[test]
    fn delivery_survives_a_round_trip() {
        let text = serde_json::to_string(&Delivery::whole(record(b"{\"n\": 1.10}"))).unwrap();
        let read: Delivery<Vec<Attempt>> = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let text = serde_json::to_string(&Delivery::listed(record(b"not JSON"))).unwrap();
        let read: Delivery<u32> = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn event_data_is_json_that_every_client_reads() {
        let data = |body: &[u8]| event_data(body).map(|data| data.get().to_owned());
        assert_eq!(data(b"\xef\xbb\xbf{\"n\": 1.10}").unwrap(), "{\"n\": 1.10}");
        let deep = [b"[".repeat(1_000), b"]".repeat(1_000)].concat();
        for body in [&b"not JSON"[..], b"[NaN]", br#"["\ud83d"]"#, &deep] {
            assert_eq!(data(body), None);
        }
    }
}

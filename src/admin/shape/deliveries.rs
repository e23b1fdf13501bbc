//! Deliveries, and what became of the wish to redeliver many, as JSON.

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Header, headers, webhook_id};
use crate::admin::operations::{Page, Recovered, Refused};
use crate::store::{DeliveryRecord, DeliveryState};

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
    #[schema(value_type = DeliveryState)]
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
    /// Made by the gateway itself, as an operator asked.
    #[serde(default)]
    #[schema(required)]
    pub test: bool,
    /// As they are handed over, with a single delivery, where they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
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

impl Delivery<u32> {
    /// As in a list.
    pub fn listed(view: DeliveryRecord) -> Self {
        Self {
            headers: None,
            ..Self::of(view, |tried, _| tried)
        }
    }
}

impl Delivery<Vec<Attempt>> {
    /// With its attempts.
    pub fn whole(view: DeliveryRecord) -> Self {
        Self::of(view, |_, attempts| attempts)
    }
}

impl<Attempts> Delivery<Attempts> {
    fn of(view: DeliveryRecord, shown: impl FnOnce(u32, Vec<Attempt>) -> Attempts) -> Self {
        let last = view.attempts.last().cloned();
        let unrecorded = view
            .attempt_count
            .saturating_sub(u32::try_from(view.attempts.len()).unwrap_or(u32::MAX));
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
            attempts: shown(view.attempt_count, attempts.collect()),
            attempt_count: view.attempt_count,
            reason: view.reason,
            next_attempt_in_seconds: view
                .due_in
                .map(|due_in| due_in.as_secs() + u64::from(due_in.subsec_nanos() > 0)),
            possible_duplicate: view.possibly_delivered,
            payload_kept: view.payload_kept,
            verified_with: view.secret,
            test: view.is_test,
            headers: view.head.map(|head| headers::shown(&head)),
            event_data: view
                .body
                .and_then(|body| serde_json::from_slice(&body).ok()),
        }
    }
}

impl From<Page> for Deliveries {
    fn from(page: Page) -> Self {
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

impl From<Recovered> for Redelivered {
    fn from(recovered: Recovered) -> Self {
        let Recovered {
            dry_run,
            matched,
            accepted,
            refused,
        } = recovered;
        let coded = |(refused, count): (Refused, usize)| RefusedCount {
            code: refused.code().into(),
            count,
        };
        Self {
            success: true,
            dry_run,
            matched,
            accepted,
            refused: refused.into_iter().map(coded).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::{AttemptRecord, DeliveryId, DeliveryState};

    fn view(body: &'static [u8]) -> DeliveryRecord {
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
                error: Some("no answer in time".into()),
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
    fn attempts_are_numbered_after_those_that_left_no_record() {
        let delivery = Delivery::whole(view(b"{}"));
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

//! Deliveries in GraphQL.

use async_graphql::{Enum, ID, Json, SimpleObject};
use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::admin::query::DeliveryPage;
use crate::admin::shape::deliveries::{self as shape, Attempt};
use crate::admin::shape::headers::Header;
use crate::store::{self, DeliveryRecord};

/// The status of a delivery.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "store::DeliveryState", rename_items = "lowercase")]
pub(super) enum DeliveryStatus {
    /// Delivered.
    Success,
    /// Attempted without success while the sender waited; the sender's retry is accepted.
    Failed,
    /// Stored, and waiting for an attempt.
    Pending,
    /// Stored, and dead-lettered.
    Dead,
}

/// The delivery of one event, with all its attempts.
#[derive(SimpleObject)]
pub(super) struct Delivery {
    id: ID,
    webhook_id: ID,
    event_type: String,
    event_id: String,
    received_at: Timestamp,
    /// The time at which the last attempt began.
    delivered_at: Option<Timestamp>,
    status: DeliveryStatus,
    /// The upstream's status in the last attempt.
    response_status: Option<u16>,
    /// The duration of the last attempt, in milliseconds.
    response_time_ms: Option<u64>,
    error: Option<String>,
    /// The cause for which the last attempt did not succeed.
    cause: Option<String>,
    attempts: Vec<Attempt>,
    attempt_count: u32,
    /// The reason why the event is a dead letter; `automatic` while the gateway redelivers a dead
    /// letter by itself.
    reason: Option<String>,
    next_attempt_in_seconds: Option<u64>,
    /// Set if the upstream may have processed the event although no attempt succeeded.
    possible_duplicate: bool,
    /// Set if the event can be delivered again.
    payload_kept: bool,
    /// The name of the secret that verified the event; `null` if an earlier version stored it.
    verified_with: Option<String>,
    /// Set for a test event.
    test: bool,
    /// The delivered headers, where they are kept; only for a single delivery.
    headers: Option<Vec<Header>>,
    /// The body as received: numbers keep all their digits.
    event_data: Option<Json<Box<RawValue>>>,
}

impl From<DeliveryRecord> for Delivery {
    fn from(record: DeliveryRecord) -> Self {
        let status = record.state.into();
        let shape = shape::Delivery::whole(record);
        Self {
            id: shape.id.into(),
            webhook_id: shape.webhook_id.into(),
            event_type: shape.event_type,
            event_id: shape.event_id,
            received_at: shape.received_at,
            delivered_at: shape.delivered_at,
            status,
            response_status: shape.response_status,
            response_time_ms: shape.response_time_ms,
            error: shape.error,
            cause: shape.cause,
            attempts: shape.attempts,
            attempt_count: shape.attempt_count,
            reason: shape.reason,
            next_attempt_in_seconds: shape.next_attempt_in_seconds,
            possible_duplicate: shape.possible_duplicate,
            payload_kept: shape.payload_kept,
            verified_with: shape.verified_with,
            test: shape.test,
            headers: shape.headers,
            event_data: shape.event_data.map(Json),
        }
    }
}

/// A page of deliveries, the newest first.
#[derive(SimpleObject)]
#[graphql(name = "DeliveryPage")]
pub(super) struct DeliveryList {
    deliveries: Vec<Delivery>,
    /// The number of deliveries on all pages; `null` when there are more than 10,000.
    total: Option<usize>,
    has_more: bool,
    /// The `cursor` of the next page.
    next_cursor: Option<String>,
}

impl From<DeliveryPage> for DeliveryList {
    fn from(page: DeliveryPage) -> Self {
        let next_cursor = page.next.map(|next| next.to_string());
        let deliveries = page
            .deliveries
            .into_iter()
            .map(|record| Delivery {
                headers: None,
                ..Delivery::from(record)
            })
            .collect();
        Self {
            deliveries,
            total: page.total,
            has_more: next_cursor.is_some(),
            next_cursor,
        }
    }
}

//! A delivery, and a page of them.

use async_graphql::{Enum, ID, Json, SimpleObject};
use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::admin::operations::Page;
use crate::admin::shape::{self, Attempt, Header};
use crate::store::{self, DeliveryRecord};

/// Where a delivery stands.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "store::DeliveryState", rename_items = "lowercase")]
pub(super) enum DeliveryStatus {
    /// Handed over.
    Success,
    /// Tried without success while the sender waited; the sender's retry passes.
    Failed,
    /// Stored, and to be tried.
    Pending,
    /// Stored, and given up.
    Dead,
}

impl DeliveryStatus {
    /// As REST's parameters have it.
    pub(super) fn name(self) -> String {
        store::DeliveryState::from(self).as_str().to_owned()
    }
}

/// All attempts for one event.
#[derive(SimpleObject)]
pub(super) struct Delivery {
    id: ID,
    webhook_id: ID,
    event_type: String,
    event_id: String,
    received_at: Timestamp,
    /// When the last attempt began.
    delivered_at: Option<Timestamp>,
    status: DeliveryStatus,
    /// The last attempt's.
    response_status: Option<u16>,
    response_time_ms: Option<u64>,
    error: Option<String>,
    attempts: Vec<Attempt>,
    attempt_count: u32,
    /// Why it is a dead letter.
    reason: Option<String>,
    next_attempt_in_seconds: Option<u64>,
    /// Whether the upstream may have processed it although nothing says so.
    possible_duplicate: bool,
    /// Whether it can be delivered again.
    payload_kept: bool,
    /// The name of the secret that verified it. Unknown of what an earlier version took.
    verified_with: Option<String>,
    /// Made by the gateway itself, as an operator asked.
    test: bool,
    /// As they are handed over, where they are kept and a single delivery is asked for.
    headers: Option<Vec<Header>>,
    /// The body as it came: a number keeps all its digits.
    event_data: Option<Json<Box<RawValue>>>,
}

impl From<DeliveryRecord> for Delivery {
    fn from(view: DeliveryRecord) -> Self {
        let status = view.state.into();
        let shape = shape::Delivery::whole(view);
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

/// Deliveries, the newest first.
#[derive(SimpleObject)]
pub(super) struct DeliveryPage {
    deliveries: Vec<Delivery>,
    /// How many there are on all pages; `null` when they are more than are counted.
    total: Option<usize>,
    has_more: bool,
    /// To be given as `cursor`, for the ones before.
    next_cursor: Option<String>,
}

impl From<Page> for DeliveryPage {
    fn from(page: Page) -> Self {
        let next_cursor = page.next.map(|next| next.to_string());
        let listed = |view| Delivery {
            headers: None,
            ..Delivery::from(view)
        };
        let deliveries = page.deliveries.into_iter().map(listed).collect();
        Self {
            deliveries,
            total: page.total,
            has_more: next_cursor.is_some(),
            next_cursor,
        }
    }
}

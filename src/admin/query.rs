//! Typed queries and pages. REST, GraphQL and the dashboard build them from what they are sent, so
//! that the same rules hold for all of them.

use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::error::{ApiError, OperationError};
use super::webhook_id::route_of;
use crate::event::EventId;
use crate::store::{DeliveryFilter, DeliveryId, DeliveryRecord, DeliveryState};

/// The length of a list when no limit is given.
pub(super) const LIMIT_DEFAULT: usize = 20;

/// The largest limit of a list.
pub(super) const LIMIT_MAX: usize = 100;

/// The criteria by which deliveries are selected. A `None` selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DeliverySelection {
    /// The route's name; the route may be gone.
    pub route: Option<String>,
    pub state: Option<DeliveryState>,
    pub event_type: Option<String>,
    pub event_id: Option<String>,
    /// The earliest time at which the event was received.
    pub since: Option<Timestamp>,
    /// The time before which the event was received.
    pub until: Option<Timestamp>,
}

/// The list of deliveries that is requested.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct DeliveryQuery {
    pub filter: DeliveryFilter,
    pub search: Option<IdPrefix>,
}

/// The page of webhooks that is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebhookQuery {
    pub limit: usize,
    /// The name of the last route on the page before.
    pub after: Option<String>,
}

/// The beginning of an ID that is searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdPrefix {
    Event(String),
    /// The numbers of the deliveries whose ID begins so, the greatest first.
    Delivery(Vec<Range<i64>>),
}

/// A page of deliveries, the newest first.
pub(crate) struct DeliveryPage {
    pub deliveries: Vec<DeliveryRecord>,
    /// The number of deliveries on all pages; `None` when there are more than the store counts, or
    /// when a search did not read all of them.
    pub total: Option<usize>,
    /// The cursor of the next page, if there is one.
    pub next: Option<DeliveryId>,
}

/// A bulk redelivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RedeliveryQuery {
    /// The deliveries to redeliver; without a state, the failed and the dead ones.
    pub filter: DeliveryFilter,
    /// The only deliveries to choose from, in any state if the filter names none. An empty list
    /// chooses from all.
    pub ids: Vec<DeliveryId>,
    /// The pace at which they become due; without one, all are due at once.
    pub pace: Option<Pace>,
    /// Counts the deliveries and changes nothing.
    pub dry_run: bool,
}

/// A number of events per second: above 0, and at most [`Pace::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pace(f64);

/// A test event.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(super) struct TestEvent {
    pub event_type: String,
    pub custom_data: Value,
}

impl DeliverySelection {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Builds the store's filter, with the default limit and with bodies.
    ///
    /// # Errors
    /// When `since` is not before `until`.
    pub(super) fn into_filter(self) -> Result<DeliveryFilter, ApiError> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            return Err(ApiError::InvalidParameter(
                "`since` must be before `until`.".into(),
            ));
        }
        Ok(DeliveryFilter {
            route: self.route,
            state: self.state,
            event_type: self.event_type,
            event_id: self.event_id,
            since: self.since,
            until: self.until,
            limit: LIMIT_DEFAULT,
            with_bodies: true,
            ..DeliveryFilter::default()
        })
    }
}

impl IdPrefix {
    /// Parses the beginning of a delivery's ID (`del_` and digits), or else of an event's ID.
    pub(super) fn parse(text: &str) -> Self {
        match text.strip_prefix("del_") {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Self::Delivery(numbers_beginning_with(digits))
            }
            _ => Self::Event(text.into()),
        }
    }
}

/// Returns the numbers that begin with these digits, the greatest first: for `4` those from 40 to
/// 49, say, before 4 itself.
fn numbers_beginning_with(digits: &str) -> Vec<Range<i64>> {
    if digits.is_empty() {
        return std::iter::once(0..i64::MAX).collect();
    }
    // The store counts from 1, so no number begins with 0.
    let Some(number) = digits.parse().ok().filter(|number: &i64| *number > 0) else {
        return Vec::new();
    };
    if digits.starts_with('0') {
        return Vec::new();
    }
    let one = number..number.saturating_add(1);
    let mut ranges: Vec<_> = std::iter::once(one).collect();
    while let Some(wider) = ranges.last().and_then(|last| {
        let (start, end) = (last.start.checked_mul(10)?, last.end.checked_mul(10)?);
        Some(start..end)
    }) {
        ranges.push(wider);
    }
    ranges.reverse();
    ranges
}

impl DeliveryPage {
    /// Builds a page of up to `limit` deliveries. `found` holds one more if there is a next page.
    pub(crate) fn new(mut found: Vec<DeliveryRecord>, limit: usize, total: Option<usize>) -> Self {
        let has_more = found.len() > limit;
        found.truncate(limit);
        Self {
            next: found.last().filter(|_| has_more).map(|last| last.id),
            deliveries: found,
            total,
        }
    }
}

impl RedeliveryQuery {
    /// Builds a query from at least one criterion.
    ///
    /// # Errors
    /// When there is no criterion, or a value is out of its range.
    pub(super) fn new(
        selection: DeliverySelection,
        ids: Vec<DeliveryId>,
        per_second: Option<f64>,
        dry_run: bool,
    ) -> Result<Self, ApiError> {
        if selection.is_empty() && ids.is_empty() {
            return Err(ApiError::InvalidBody(
                "Say which deliveries: give at least one of `webhook_id`, `status`, \
                 `event_type`, `event_id`, `since`, `until` and `ids`."
                    .into(),
            ));
        }
        let filter = selection.into_filter().map_err(ApiError::in_body)?;
        let pace = match per_second {
            Some(number) => Some(Pace::new(number).ok_or_else(|| {
                ApiError::InvalidBody(format!(
                    "`per_second` must be a number above 0, {} at the most.",
                    Pace::MAX
                ))
            })?),
            None => None,
        };
        Ok(Self {
            filter,
            ids,
            pace,
            dry_run,
        })
    }
}

impl Pace {
    pub(crate) const MAX: f64 = 10_000.0;

    /// Returns `None` for a number that is out of range.
    pub(crate) fn new(per_second: f64) -> Option<Self> {
        (per_second > 0.0 && per_second <= Self::MAX).then_some(Self(per_second))
    }

    pub(super) fn per_second(self) -> f64 {
        self.0
    }

    /// Returns how long after the first event the event at `index` is due.
    pub(super) fn offset(self, index: u32) -> Duration {
        Duration::try_from_secs_f64(f64::from(index) / self.0).unwrap_or(Duration::MAX)
    }
}

impl Default for TestEvent {
    fn default() -> Self {
        Self {
            event_type: "webhook.test".into(),
            custom_data: serde_json::json!({ "test": true }),
        }
    }
}

/// Returns the name of the route that a webhook's ID names.
pub(super) fn route_name(webhook_id: &str) -> Result<&str, OperationError> {
    route_of(webhook_id).ok_or(OperationError::NoSuchWebhook)
}

/// Parses a delivery's ID.
pub(super) fn delivery_id(text: &str) -> Result<DeliveryId, OperationError> {
    text.parse().map_err(|_| OperationError::NoSuchDelivery)
}

/// Parses the IDs of chosen deliveries, sorted and without repetitions.
///
/// # Errors
/// When there are none, more than [`LIMIT_MAX`], or one is not a delivery's ID.
pub(super) fn chosen_ids<T: AsRef<str>>(texts: &[T]) -> Result<Vec<DeliveryId>, ApiError> {
    let parsed: Result<Vec<DeliveryId>, _> =
        texts.iter().map(|text| text.as_ref().parse()).collect();
    match parsed {
        Ok(mut ids) if (1..=LIMIT_MAX).contains(&ids.len()) => {
            ids.sort_unstable();
            ids.dedup();
            Ok(ids)
        }
        _ => Err(ApiError::InvalidBody(format!(
            "`ids` must be a list of 1 to {LIMIT_MAX} deliveries' IDs."
        ))),
    }
}

/// Checks a list's limit.
pub(super) fn limit(number: i64) -> Result<usize, ApiError> {
    usize::try_from(number)
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| invalid("limit", "a number from 1 to 100"))
}

/// Parses the cursor of an earlier page.
pub(super) fn cursor(text: &str) -> Result<DeliveryId, ApiError> {
    text.parse()
        .map_err(|_| invalid("cursor", "a `next_cursor` of an earlier answer"))
}

/// Parses an event's ID from JSON, where `1` and `"1"` differ.
pub(super) fn event_id(json: &RawValue) -> Result<EventId, ApiError> {
    EventId::from_json(json)
        .map_err(|error| ApiError::InvalidBody(format!("`event_id` is not an event ID: {error}.")))
}

/// Builds the error for a parameter that is not as `wanted`.
pub(super) fn invalid(name: &str, wanted: &str) -> ApiError {
    ApiError::InvalidParameter(format!("`{name}` must be {wanted}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_positive_and_bounded() {
        for number in [0.0, -1.0, 10_000.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Pace::new(number), None, "{number}");
        }
        for number in [f64::MIN_POSITIVE, 0.5, 10_000.0] {
            assert_eq!(Pace::new(number), Some(Pace(number)));
        }
    }

    #[test]
    fn pace_spaces_events_evenly() {
        let two = Pace(2.0);
        assert_eq!(
            [0, 1, 2, 7].map(|index| two.offset(index).as_millis()),
            [0, 500, 1_000, 3_500]
        );
        assert_eq!(Pace(f64::MIN_POSITIVE).offset(1), Duration::MAX);
    }

    #[test]
    fn prefix_of_a_delivery_is_ranges_of_numbers() {
        let ranges = |text: &str| match IdPrefix::parse(text) {
            IdPrefix::Delivery(ranges) => ranges,
            IdPrefix::Event(prefix) => panic!("{prefix}"),
        };
        let of_42 = ranges("del_42");
        assert_eq!(of_42[of_42.len() - 3..], [4_200..4_300, 420..430, 42..43]);
        assert!(of_42.len() > 15, "{of_42:?}");
        assert_eq!(ranges("del_").len(), 1);
        for none in ["del_0", "del_07", "del_99999999999999999999"] {
            assert!(ranges(none).is_empty(), "{none}");
        }
        for event in ["evt_1", "del_x", "del_1x", "42", ""] {
            assert_eq!(IdPrefix::parse(event), IdPrefix::Event(event.into()));
        }
    }

    #[test]
    fn event_id_is_a_string_or_an_integer() {
        let id = |text: &str| event_id(&RawValue::from_string(text.into()).unwrap());
        assert_eq!(id(r#""1""#), Ok(EventId::Text("1".into())));
        assert_eq!(id("1"), Ok(EventId::Integer("1".into())));
        assert_eq!(id(r#""\u0065vt""#), Ok(EventId::Text("evt".into())));
        for wrong in ["null", "true", "1.0", "-0", "[]", r#""""#, r#""a\n""#] {
            assert!(
                matches!(id(wrong), Err(ApiError::InvalidBody(_))),
                "{wrong}"
            );
        }
    }
}

//! Deliveries: listed, shown and redelivered one at a time.

use std::ops::Range;

use super::Operations;
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::admin::query::{DeliveryPage, DeliveryQuery, IdPrefix};
use crate::delivery::OutboundRequest;
use crate::ledger::{Redelivery, RedeliveryResult};
use crate::store::{DeliveryFilter, DeliveryId, DeliveryRecord};

/// The number of deliveries that one search for the beginning of an event ID reads. No index has
/// event IDs in their order, since keeping it would cost every event a random write.
const SEARCHED_MAX: i64 = 100_000;

impl Operations {
    /// Returns the deliveries that are requested, those of removed routes included.
    pub(crate) async fn list_deliveries(
        &self,
        query: DeliveryQuery,
    ) -> Result<DeliveryPage, OperationError> {
        let DeliveryQuery { filter, search } = query;
        match search {
            None => self.deliveries(filter).await,
            Some(IdPrefix::Event(prefix)) => self.search_events(filter, prefix).await,
            Some(IdPrefix::Delivery(numbers)) => self.search_numbers(filter, &numbers).await,
        }
    }

    /// Searches for events whose ID begins with `prefix` among [`SEARCHED_MAX`] deliveries. The
    /// page's cursor continues with older ones.
    async fn search_events(
        &self,
        filter: DeliveryFilter,
        prefix: String,
    ) -> Result<DeliveryPage, OperationError> {
        let store = &self.state.store;
        let newest = self.newest_before(filter.before).await?;
        let from = newest.map_or(0, |newest| newest.0.saturating_sub(SEARCHED_MAX - 1));
        let older = self.newest_before(Some(DeliveryId(from))).await?;
        let is_whole = filter.before.is_none() && older.is_none();
        let filter = DeliveryFilter {
            event_id_prefix: Some(prefix),
            from: Some(DeliveryId(from)),
            ..filter
        };
        let limit = filter.limit;
        let total = if is_whole {
            store.count_deliveries(filter.clone()).await?
        } else {
            None
        };
        let one_more = DeliveryFilter {
            limit: limit.saturating_add(1),
            ..filter
        };
        let page = DeliveryPage::new(store.deliveries(one_more).await?, limit, total);
        Ok(DeliveryPage {
            next: page
                .next
                .or_else(|| older.map(|older| DeliveryId(older.0.saturating_add(1)))),
            ..page
        })
    }

    /// Returns the deliveries whose number is in one of these ranges, the greatest first.
    async fn search_numbers(
        &self,
        filter: DeliveryFilter,
        numbers: &[Range<i64>],
    ) -> Result<DeliveryPage, OperationError> {
        let (store, limit) = (&self.state.store, filter.limit);
        let before = filter.before.map_or(i64::MAX, |before| before.0);
        let mut found = Vec::new();
        for range in numbers.iter().filter(|range| range.start < before) {
            let of_range = DeliveryFilter {
                from: Some(DeliveryId(range.start)),
                before: Some(DeliveryId(range.end.min(before))),
                limit: limit.saturating_add(1).saturating_sub(found.len()),
                ..filter.clone()
            };
            found.extend(store.deliveries(of_range).await?);
            if found.len() > limit {
                break;
            }
        }
        let is_whole = found.len() <= limit && filter.before.is_none();
        let total = is_whole.then_some(found.len());
        Ok(DeliveryPage::new(found, limit, total))
    }

    /// Returns the newest delivery before another one, or of all.
    async fn newest_before(
        &self,
        before: Option<DeliveryId>,
    ) -> Result<Option<DeliveryId>, OperationError> {
        let newest = DeliveryFilter {
            before,
            limit: 1,
            ..DeliveryFilter::default()
        };
        let found = self.state.store.deliveries(newest).await?;
        Ok(found.first().map(|newest| newest.id))
    }

    /// Returns up to `filter.limit` deliveries, those of removed routes included.
    pub(crate) async fn deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<DeliveryPage, OperationError> {
        let (limit, store) = (filter.limit, &self.state.store);
        let total = store.count_deliveries(filter.clone()).await?;
        if total == Some(0) {
            self.check_route_exists(&filter)?;
        }
        let found = store
            .deliveries(DeliveryFilter {
                limit: limit.saturating_add(1),
                ..filter
            })
            .await?;
        Ok(DeliveryPage::new(found, limit, total))
    }

    /// Returns a delivery, with the values of private headers masked.
    pub(crate) async fn delivery(&self, id: DeliveryId) -> Result<DeliveryRecord, OperationError> {
        let mut delivery = self
            .state
            .store
            .delivery(id)
            .await?
            .ok_or(OperationError::NoSuchDelivery)?;
        if let Ok(active) = self.find(&delivery.route) {
            delivery.head = delivery.head.map(|head| {
                OutboundRequest::masked(&head, |name| active.route.verifier.reads_header(name))
            });
        }
        Ok(delivery)
    }

    /// Makes a delivery due now. If its route was removed, it waits until the route is back.
    pub(crate) async fn redeliver(
        &self,
        operator: Operator,
        id: DeliveryId,
    ) -> Result<DeliveryRecord, OperationError> {
        let result = self.redeliver_now(id).await;
        operator.audited("redeliver", &id.to_string(), result)
    }

    async fn redeliver_now(&self, id: DeliveryId) -> Result<DeliveryRecord, OperationError> {
        let redelivery = Redelivery {
            id,
            expected_state: None,
            due: self.state.store.now_due(),
            automatic: false,
        };
        let result = self.state.queue.redeliver(&[redelivery]).await?.pop();
        match result.unwrap_or(RedeliveryResult::Unknown) {
            RedeliveryResult::Queued(_) => self.delivery(id).await,
            RedeliveryResult::InFlight => Err(OperationError::InFlight),
            RedeliveryResult::Unknown => Err(OperationError::NoSuchDelivery),
            RedeliveryResult::NoPayload => Err(OperationError::PayloadNotKept),
        }
    }
}

//! Deliveries: listed, shown and redelivered one at a time.

use super::Operations;
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::admin::query::DeliveryPage;
use crate::delivery::OutboundRequest;
use crate::ledger::{Redelivery, RedeliveryResult};
use crate::store::{DeliveryFilter, DeliveryId, DeliveryRecord};

impl Operations {
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

//! Forgetting an event, so that it is accepted again.

use super::Operations;
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::event::EventId;
use crate::ledger::{EventIdentity, ForgetResult};
use crate::store::{DeliveryFilter, DeliveryId};

/// The limit of deliveries of an event whose keys are forgotten.
const DELIVERIES_MAX: usize = 1_000;

impl Operations {
    /// Removes an event ID from the ledger, so that the event is accepted again. Its stored
    /// deliveries are kept.
    pub(crate) async fn forget(
        &self,
        operator: Operator,
        name: &str,
        id: EventId,
    ) -> Result<(), OperationError> {
        let result = self.forget_in_ledger(name, &id).await;
        let subject = format!("{name}/{}", id.as_str());
        operator.audited("forget", &subject, result)
    }

    async fn forget_in_ledger(&self, name: &str, id: &EventId) -> Result<(), OperationError> {
        let route = self.find(name)?.route;
        let ledger = &self.state.ledger;
        let mut keys: Vec<_> = EventIdentity::from_operator(&route.identity, id)
            .map(|identity| ledger.keys(name, identity))
            .collect();
        // The ID alone does not give the keys of an event that its body identifies as well.
        let filter = DeliveryFilter {
            route: Some(name.into()),
            event_id: Some(id.as_str().into()),
            ..DeliveryFilter::default()
        };
        let store = ledger.store();
        for (delivery, _) in store
            .matching_deliveries(filter, DeliveryId(0), DELIVERIES_MAX)
            .await?
        {
            keys.extend(ledger.keys_of(delivery).await?);
        }
        let mut result = Err(OperationError::NoSuchEvent);
        for keys in keys {
            match ledger.forget(keys).await? {
                ForgetResult::Forgotten => result = Ok(()),
                ForgetResult::InFlight => return Err(OperationError::InFlight),
                ForgetResult::Unknown => {}
            }
        }
        result
    }
}

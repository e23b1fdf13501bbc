//! Webhooks: made, changed and removed over the API; and any route paused and resumed.

use std::sync::Arc;

use super::Operations;
use super::routes::{RouteSummary, ServedRoute};
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::store::CreationKey;
use crate::webhooks::{Change, Definition, NewWebhook, Precondition};

/// A webhook as it was created.
pub(crate) struct CreatedWebhook {
    pub summary: RouteSummary,
    /// The definition with the secret, which is shown in the answer to its creation only.
    pub definition: Arc<Definition>,
    /// Set if an earlier request with the same key created it.
    pub is_repeated: bool,
}

impl Operations {
    /// Creates a webhook, which is active when this returns. With a key, a repetition of the request
    /// returns the same and creates nothing.
    pub(crate) async fn create_webhook(
        &self,
        operator: Operator,
        new: NewWebhook,
        key: Option<CreationKey>,
    ) -> Result<CreatedWebhook, OperationError> {
        const OPERATION: &str = "make_webhook";
        let created = self.state.registry.create(new, key).await;
        let created = match created {
            Ok(created) if created.is_repeated => {
                operator.audit_repeated(OPERATION, &created.active.route.name);
                created
            }
            Ok(created) => {
                let name = Arc::clone(&created.active.route.name);
                operator.audited(OPERATION, &name, Ok(created))?
            }
            Err(error) => operator.audited(OPERATION, "", Err(error.into()))?,
        };
        Ok(CreatedWebhook {
            summary: RouteSummary::of_new(&created.active),
            definition: created.definition,
            is_repeated: created.is_repeated,
        })
    }

    pub(crate) async fn update_webhook(
        &self,
        operator: Operator,
        name: &str,
        change: &Change,
        precondition: &Precondition,
    ) -> Result<RouteSummary, OperationError> {
        let updated = self.state.registry.update(name, change, precondition).await;
        let updated = updated.map_err(OperationError::from);
        let active = operator.audited("change_webhook", name, updated)?;
        self.summarize((&active).into()).await
    }

    pub(crate) async fn delete_webhook(
        &self,
        operator: Operator,
        name: &str,
        precondition: &Precondition,
    ) -> Result<(), OperationError> {
        let deleted = self.state.registry.delete(name, precondition).await;
        operator.audited(
            "remove_webhook",
            name,
            deleted.map_err(OperationError::from),
        )
    }

    /// Pauses or resumes a route and the delivery of its queued events.
    pub(crate) async fn set_paused(
        &self,
        operator: Operator,
        name: &str,
        paused: bool,
    ) -> Result<RouteSummary, OperationError> {
        let operation = if paused { "pause" } else { "resume" };
        let result = self.store_paused(name, paused).await;
        let route = operator.audited(operation, name, result)?;
        self.summarize(route).await
    }

    async fn store_paused(&self, name: &str, paused: bool) -> Result<ServedRoute, OperationError> {
        let route = ServedRoute::from(&self.find_current(name).await?);
        self.state
            .queue
            .set_paused(Arc::clone(&route.name), paused)
            .await?;
        Ok(route)
    }
}

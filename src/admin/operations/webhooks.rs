//! Webhooks: made, changed and removed over the API; and any route paused and resumed.

use std::sync::Arc;

use super::Operations;
use super::routes::{RouteSummary, ServedRoute};
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::webhooks::{Definition, NewWebhook, WebhookChange};

impl Operations {
    /// Creates a webhook, which is active when this returns. The definition holds its secret,
    /// which is shown only this once.
    pub(crate) async fn create_webhook(
        &self,
        operator: Operator,
        new: NewWebhook,
    ) -> Result<(RouteSummary, Arc<Definition>), OperationError> {
        let created = self.state.registry.create(new).await;
        let name = match &created {
            Ok(active) => Arc::clone(&active.route.name),
            Err(_) => "".into(),
        };
        let created = created.map_err(OperationError::from);
        let active = operator.audited("make_webhook", &name, created)?;
        let definition = active
            .made_from
            .clone()
            .ok_or(OperationError::NoSuchWebhook)?;
        Ok((self.summarize((&active).into()).await?, definition))
    }

    pub(crate) async fn update_webhook(
        &self,
        operator: Operator,
        name: &str,
        change: WebhookChange,
    ) -> Result<RouteSummary, OperationError> {
        let updated = self.state.registry.update(name, change).await;
        let updated = updated.map_err(OperationError::from);
        let active = operator.audited("change_webhook", name, updated)?;
        self.summarize((&active).into()).await
    }

    pub(crate) async fn delete_webhook(
        &self,
        operator: Operator,
        name: &str,
    ) -> Result<(), OperationError> {
        let deleted = self.state.registry.delete(name).await;
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
        let route = ServedRoute::from(&self.find(name)?);
        self.state
            .queue
            .set_paused(Arc::clone(&route.name), paused)
            .await?;
        Ok(route)
    }
}

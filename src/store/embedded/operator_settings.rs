//! The operators' settings of the embedded engine. No other gateway changes them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Store;
use super::read;
use super::write::Job;
use crate::store::{
    Creation, CreationKey, OperatorSettings, Revision, StoreError, StoredRedelivery,
};

#[async_trait]
impl OperatorSettings for Store {
    async fn put_webhook(
        &self,
        name: Arc<str>,
        definition: String,
        expected: Revision,
        creation: Option<CreationKey>,
    ) -> Result<Option<Revision>, StoreError> {
        self.write(|done| Job::SetWebhook {
            name,
            definition: Some(definition.into()),
            creation,
            done,
        })
        .await?;
        Ok(Some(expected))
    }

    async fn remove_webhook(
        &self,
        name: Arc<str>,
        expected: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        self.write(|done| Job::SetWebhook {
            name,
            definition: None,
            creation: None,
            done,
        })
        .await?;
        Ok(Some(expected))
    }

    async fn creation(&self, key: &str) -> Result<Option<Creation>, StoreError> {
        let (key, now) = (key.to_owned(), self.inner.shared.uptime.now());
        self.read_for_operator(move |reader| reader.creation(&key, now))
            .await
    }

    async fn webhooks(&self) -> Result<(Revision, Vec<(String, String)>), StoreError> {
        let webhooks = self.read_for_operator(read::Reader::webhooks);
        Ok((Revision::default(), webhooks.await?))
    }

    async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError> {
        self.write(|done| Job::SetPaused {
            route,
            paused,
            done,
        })
        .await
    }

    async fn paused_routes(&self) -> Result<Vec<String>, StoreError> {
        self.read_for_operator(read::Reader::paused_routes).await
    }

    async fn begin_redelivery(&self, document: String, _: Duration) -> Result<bool, StoreError> {
        let _changing = self.inner.redelivery.lock().await;
        if self.redelivery().await?.is_some_and(|last| last.is_running) {
            return Ok(false);
        }
        let redelivery = StoredRedelivery {
            document,
            is_running: true,
        };
        self.write(|done| Job::SetRedelivery { redelivery, done })
            .await?;
        Ok(true)
    }

    async fn save_redelivery(
        &self,
        redelivery: StoredRedelivery,
        _: Duration,
    ) -> Result<bool, StoreError> {
        let _changing = self.inner.redelivery.lock().await;
        if !self.redelivery().await?.is_some_and(|last| last.is_running) {
            return Ok(false);
        }
        self.write(|done| Job::SetRedelivery { redelivery, done })
            .await?;
        Ok(true)
    }

    async fn claim_redelivery(&self, _: Duration) -> Result<Option<String>, StoreError> {
        let last = self.redelivery().await?;
        Ok(last
            .filter(|last| last.is_running)
            .map(|last| last.document))
    }

    async fn cancel_redelivery(&self) -> Result<Option<String>, StoreError> {
        let _changing = self.inner.redelivery.lock().await;
        let Some(running) = self.redelivery().await?.filter(|last| last.is_running) else {
            return Ok(None);
        };
        let redelivery = StoredRedelivery {
            is_running: false,
            ..running.clone()
        };
        self.write(|done| Job::SetRedelivery { redelivery, done })
            .await?;
        Ok(Some(running.document))
    }

    async fn redelivery(&self) -> Result<Option<StoredRedelivery>, StoreError> {
        self.read_for_operator(read::Reader::redelivery).await
    }
}

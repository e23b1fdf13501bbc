//! The operators' settings that several gateways share. Each change raises their revision.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_postgres::types::ToSql;

use super::pool::{OnTimeout, on};
use super::{Store, claims, query};
use crate::store::domain::CREATION_KEPT;
use crate::store::{Creation, CreationKey, OperatorSettings, Revision, StoreError};

#[async_trait]
impl OperatorSettings for Store {
    async fn put_webhook(
        &self,
        name: Arc<str>,
        definition: String,
        expected: Revision,
        creation: Option<CreationKey>,
    ) -> Result<Option<Revision>, StoreError> {
        let (name, definition, expected) = (&*name, &definition, expected.0);
        let (key, request) = match &creation {
            Some(creation) => (Some(&*creation.key), Some(&creation.request[..])),
            None => (None, None),
        };
        let kept = claims::millis(CREATION_KEPT);
        // A row under the same key can only be one that has expired.
        let sql = "
            WITH bumped AS (UPDATE hookstile.store SET revision = revision + 1
                WHERE revision = $3 RETURNING revision),
            stored AS (INSERT INTO hookstile.webhooks SELECT $1, $2 FROM bumped
                ON CONFLICT (name) DO UPDATE SET definition = excluded.definition),
            remembered AS (INSERT INTO hookstile.creations (key, request, webhook, definition, ends_ms)
                SELECT $4::text, $5::bytea, $1, $2, now + $6
                FROM bumped, hookstile.clock WHERE $4::text IS NOT NULL
                ON CONFLICT (key) DO UPDATE SET request = excluded.request,
                    webhook = excluded.webhook, definition = excluded.definition,
                    ends_ms = excluded.ends_ms)
            SELECT revision FROM bumped";
        let params: [&(dyn ToSql + Sync); 6] =
            [&name, definition, &expected, &key, &request, &kept];
        let query = on!(connection => connection.query_opt_cached(sql, &params));
        let row = self.run("commit", OnTimeout::Fail, query).await?;
        Ok(row.map(|row| Revision(row.get(0))))
    }

    async fn remove_webhook(
        &self,
        name: Arc<str>,
        expected: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        let (name, expected) = (&*name, expected.0);
        let sql = "
            WITH bumped AS (UPDATE hookstile.store SET revision = revision + 1
                WHERE revision = $2 RETURNING revision),
            removed AS (DELETE FROM hookstile.webhooks w USING bumped WHERE w.name = $1)
            SELECT revision FROM bumped";
        let params: [&(dyn ToSql + Sync); 2] = [&name, &expected];
        let query = on!(connection => connection.query_opt_cached(sql, &params));
        let row = self.run("commit", OnTimeout::Fail, query).await?;
        Ok(row.map(|row| Revision(row.get(0))))
    }

    async fn creation(&self, key: &str) -> Result<Option<Creation>, StoreError> {
        self.query(on!(connection => query::creation(connection, key)))
            .await
    }

    async fn read_revision(&self) -> Result<Revision, StoreError> {
        self.query(on!(connection => query::revision(connection)))
            .await
    }

    async fn webhooks(&self) -> Result<(Revision, Vec<(String, String)>), StoreError> {
        self.query(on!(connection => query::webhooks(connection)))
            .await
    }

    async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError> {
        let route = &route;
        let sql = if paused {
            "WITH bumped AS (UPDATE hookstile.store SET revision = revision + 1)
             INSERT INTO hookstile.paused VALUES ($1) ON CONFLICT DO NOTHING"
        } else {
            "WITH bumped AS (UPDATE hookstile.store SET revision = revision + 1)
             DELETE FROM hookstile.paused WHERE route = $1"
        };
        self.execute(on!(connection => connection.execute_cached(sql, &[&&**route])))
            .await
    }

    async fn paused_routes(&self) -> Result<Vec<String>, StoreError> {
        self.query(on!(connection => query::paused_routes(connection)))
            .await
    }

    fn revision(&self) -> Option<watch::Receiver<i64>> {
        Some(self.shared().revision.subscribe())
    }
}

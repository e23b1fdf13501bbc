//! The operators' settings that several gateways share. Each change raises their revision.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_postgres::types::ToSql;

use super::pool::{OnTimeout, on};
use super::{Store, claims, query};
use crate::store::domain::CREATION_KEPT;
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

    async fn begin_redelivery(
        &self,
        document: String,
        lease: Duration,
    ) -> Result<bool, StoreError> {
        let (document, owner, lease) = (&document, self.shared().owner, claims::millis(lease));
        // A repetition, after a reply that was lost, finds its own row.
        let sql = "
            INSERT INTO hookstile.redelivery AS r (document, running, owner, lease_ends_ms)
            SELECT $1::text, true, $2::bigint, now + $3 FROM hookstile.clock
            ON CONFLICT (one) DO UPDATE SET document = excluded.document, running = true,
                owner = excluded.owner, lease_ends_ms = excluded.lease_ends_ms
            WHERE NOT r.running OR r.owner = excluded.owner AND r.document = excluded.document";
        let work = on!(connection => connection.execute_cached(sql, &[document, &owner, &lease]));
        let written = self.run("commit", OnTimeout::Fail, work).await?;
        Ok(written > 0)
    }

    async fn save_redelivery(
        &self,
        redelivery: StoredRedelivery,
        lease: Duration,
    ) -> Result<bool, StoreError> {
        let (redelivery, owner, lease) = (&redelivery, self.shared().owner, claims::millis(lease));
        let sql = "UPDATE hookstile.redelivery SET document = $1, running = $2,
                lease_ends_ms = (SELECT now FROM hookstile.clock) + $4
            WHERE owner = $3 AND running";
        let params: [&(dyn ToSql + Sync); 4] =
            [&redelivery.document, &redelivery.is_running, &owner, &lease];
        let work = on!(connection => connection.execute_cached(sql, &params));
        let written = self.run("commit", OnTimeout::Fail, work).await?;
        Ok(written > 0)
    }

    async fn claim_redelivery(&self, lease: Duration) -> Result<Option<String>, StoreError> {
        let (owner, lease) = (self.shared().owner, claims::millis(lease));
        let sql = "UPDATE hookstile.redelivery SET owner = $1,
                lease_ends_ms = (SELECT now FROM hookstile.clock) + $2
            WHERE running AND (owner = $1 OR lease_ends_ms <= (SELECT now FROM hookstile.clock))
            RETURNING document";
        let work = on!(connection => connection.query_opt_cached(sql, &[&owner, &lease]));
        let row = self.run("commit", OnTimeout::Fail, work).await?;
        Ok(row.map(|row| row.get(0)))
    }

    async fn cancel_redelivery(&self) -> Result<Option<String>, StoreError> {
        let sql = "UPDATE hookstile.redelivery SET running = false WHERE running
            RETURNING document";
        let work = on!(connection => connection.query_opt_cached(sql, &[]));
        let row = self.run("commit", OnTimeout::Fail, work).await?;
        Ok(row.map(|row| row.get(0)))
    }

    async fn redelivery(&self) -> Result<Option<StoredRedelivery>, StoreError> {
        self.query(on!(connection => query::redelivery(connection)))
            .await
    }

    fn revision(&self) -> Option<watch::Receiver<i64>> {
        Some(self.shared().revision.subscribe())
    }
}

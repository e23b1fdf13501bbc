//! Reads all rows of an offline store, for the import into another engine.

use std::collections::HashMap;
use std::ops::ControlFlow;

use rusqlite::params;
use zeroize::Zeroizing;

use super::ledger_file::{LedgerReader, LedgerRow, SlotContent};
use super::offline::OfflineStore;
use super::{OpenError, ledger_table};
use crate::store::migration::{CreationRow, DayRow, DeliveryRow, IdRow, RouteRow, RouteSettings};
use crate::store::{Creation, StoredRedelivery};

impl OfflineStore {
    /// Returns the key of the ledger's hashes.
    pub(in crate::store) fn hash_key(&self) -> [u8; 16] {
        self.header.hash_key
    }

    /// Returns the store uptime, and the current time for due times, both in milliseconds.
    pub(in crate::store) fn times(&self) -> (u64, u64) {
        (self.header.uptime.0, self.now_due.0)
    }

    /// Returns the IDs that are still remembered, ordered by row.
    pub(in crate::store) fn ids(&self, after: i64, limit: usize) -> Result<Vec<IdRow>, OpenError> {
        let routes = self.rows("SELECT id, name FROM routes", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        let routes: HashMap<i64, String> = routes.into_iter().collect();
        let rows = self.ledger_rows(after, limit)?.into_iter();
        let id_row = |(number, row): (i64, LedgerRow)| {
            let (digest, tried) = row.columns();
            IdRow {
                row: number,
                key: row.key.0.to_be_bytes(),
                ends_ms: row.ends.0.cast_signed(),
                attempts: i32::try_from(tried.attempts).unwrap_or(i32::MAX),
                possibly_delivered: tried.possibly_delivered,
                digest,
                delivery: row.delivery.map(|id| id.0),
                route: row.route.and_then(|route| routes.get(&route).cloned()),
            }
        };
        Ok(rows.map(id_row).collect())
    }

    fn ledger_rows(&self, after: i64, limit: usize) -> Result<Vec<(i64, LedgerRow)>, OpenError> {
        let (uptime, hash_key) = (self.header.uptime, &self.header.hash_key);
        // A backup that no gateway has opened yet has them in the database.
        if self.header.log.applied == 0 {
            return ledger_table::read(self.reader.connection(), after, uptime, limit)
                .map_err(|source| OpenError::database(&self.file, source));
        }
        let Ok(first) = u32::try_from(after.saturating_add(1).max(0)) else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        let folder = self.file.parent().unwrap_or(&self.file);
        let read = LedgerReader::open(folder, hash_key).and_then(|mut ledger| {
            ledger.read(first, |slot, content| {
                if let SlotContent::Row(row) = content
                    && row.is_live(uptime)
                {
                    rows.push((slot.into(), row));
                }
                if rows.len() < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
        });
        read.map_err(|source| OpenError::folder(folder, source))?;
        Ok(rows)
    }

    /// Returns the deliveries, ordered by ID.
    pub(in crate::store) fn delivery_rows(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<DeliveryRow>, OpenError> {
        let sql = "
            SELECT deliveries.id, routes.name, event_id, event_type, received_ms, state, reason,
                tried, possibly_delivered, attempts, payload_bytes, due_ms, queued_ms, ended_ms,
                keys, secret, test, head, body
            FROM deliveries JOIN routes ON routes.id = route
            LEFT JOIN payloads ON delivery = deliveries.id
            WHERE deliveries.id > ?1 ORDER BY deliveries.id LIMIT ?2";
        self.rows(sql, params![after, limit], |row| {
            let (head, body): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(17)?, row.get(18)?);
            Ok(DeliveryRow {
                id: row.get(0)?,
                route: row.get(1)?,
                event_id: row.get(2)?,
                event_type: row.get(3)?,
                received_ms: row.get(4)?,
                state: row.get(5)?,
                reason: row.get(6)?,
                tried: row.get(7)?,
                possibly_delivered: row.get(8)?,
                attempts: row.get(9)?,
                payload_bytes: row.get(10)?,
                due_ms: row.get(11)?,
                queued_ms: row.get(12)?,
                ended_ms: row.get(13)?,
                keys: row.get(14)?,
                secret: row.get(15)?,
                test: row.get(16)?,
                payload: head.zip(body),
            })
        })
    }

    pub(in crate::store) fn webhooks(&self) -> Result<Vec<(String, String)>, OpenError> {
        self.reader
            .webhooks()
            .map_err(|source| OpenError::database(&self.file, source))
    }

    pub(in crate::store) fn paused_routes(&self) -> Result<Vec<String>, OpenError> {
        self.reader
            .paused_routes()
            .map_err(|source| OpenError::database(&self.file, source))
    }

    pub(in crate::store) fn redelivery(&self) -> Result<Option<StoredRedelivery>, OpenError> {
        self.reader
            .redelivery()
            .map_err(|source| OpenError::database(&self.file, source))
    }

    pub(in crate::store) fn creations(&self) -> Result<Vec<CreationRow>, OpenError> {
        let sql = "SELECT key, request, webhook, definition, ends_ms FROM creations";
        self.rows(sql, [], |row| {
            Ok(CreationRow {
                key: row.get(0)?,
                creation: Creation {
                    request: row.get(1)?,
                    webhook: row.get(2)?,
                    definition: Zeroizing::new(row.get(3)?),
                },
                ends_ms: row.get(4)?,
            })
        })
    }

    pub(in crate::store) fn routes(&self) -> Result<Vec<RouteRow>, OpenError> {
        self.rows(
            "SELECT name, created_ms, last_success_ms, last_failure_ms, keep_ms, max_bytes,
                horizon_ms FROM routes LEFT JOIN route_settings ON route = name",
            [],
            |row| {
                let settings = match (row.get(4)?, row.get(6)?) {
                    (Some(keep_ms), Some(horizon_ms)) => Some(RouteSettings {
                        keep_ms,
                        max_bytes: row.get(5)?,
                        horizon_ms,
                    }),
                    _ => None,
                };
                Ok(RouteRow {
                    settings,
                    name: row.get(0)?,
                    created_ms: row.get(1)?,
                    last_success_ms: row.get(2)?,
                    last_failure_ms: row.get(3)?,
                })
            },
        )
    }

    pub(in crate::store) fn days(&self) -> Result<Vec<DayRow>, OpenError> {
        let sql = "
            SELECT name, day, successful, failed, total_ms
            FROM days JOIN routes ON routes.id = route";
        self.rows(sql, [], |row| {
            Ok(DayRow {
                route: row.get(0)?,
                day: row.get(1)?,
                successful: row.get(2)?,
                failed: row.get(3)?,
                total_ms: row.get(4)?,
            })
        })
    }

    fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, OpenError> {
        let read = || {
            self.reader
                .connection()
                .prepare_cached(sql)?
                .query_map(params, row)?
                .collect::<Result<_, _>>()
        };
        read().map_err(|source| OpenError::database(&self.file, source))
    }
}

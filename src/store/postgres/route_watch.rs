//! What a gateway looks at in the queue of each route: the counts, the event that has waited longest,
//! and due events that a worker is woken for. A search may take seconds while a client's transaction
//! stays open, so the ticks do not wait for it, and a slow route delays no other.

use std::collections::HashMap;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;

use super::floor::{BEGINNING, Floor, Search};
use super::pool::{PooledConnection, QueryError, on};
use super::query::timestamp;
use super::queue::OVERLAP_MS;
use super::upkeep::{POLL_INTERVAL, upgrade_after};
use super::{Floors, Shared, lock};

/// The last polled counts of a route.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RouteCounts {
    pub pending: u64,
    pub dead: u64,
    /// The size of records and payloads, in bytes.
    pub bytes: u64,
    pub oldest_waiting: Option<Timestamp>,
}

/// What is searched for, once per route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The first due event that no gateway has leased.
    Due,
    /// The event that has waited longest.
    Oldest,
}

/// Polls the counts and searches all routes together, for as long as the store exists.
pub(super) async fn watch_routes(shared: Weak<Shared>) {
    while let Some(shared) = upgrade_after(POLL_INTERVAL, &shared).await {
        let shared = &*shared;
        if shared.pool.check_available().is_err() {
            continue;
        }
        let _ = shared
            .run_once(on!(connection => read_route_counts(connection, shared)))
            .await;
        for wanted in [Wanted::Due, Wanted::Oldest] {
            let now = Instant::now();
            let mut begins = wanted.routes(shared);
            for (route, begin) in &mut begins {
                let floor = |floors: &mut Floors| wanted.floor(floors).begin_among_others(now);
                *begin = shared.floors(route, floor);
            }
            let begins = &begins;
            if !begins.is_empty() {
                let _ = shared
                    .run_once(on!(connection => wanted.search(connection, shared, begins)))
                    .await;
            }
        }
    }
}

/// Searches the slow routes from the beginning, one after the other, for as long as the store exists.
pub(super) async fn search_slow_routes(shared: Weak<Shared>) {
    while let Some(shared) = upgrade_after(POLL_INTERVAL, &shared).await {
        let shared = &*shared;
        for wanted in [Wanted::Due, Wanted::Oldest] {
            for begin in wanted.routes(shared) {
                let now = Instant::now();
                let floor = |floors: &mut Floors| wanted.floor(floors).needs_own_search(now);
                if !shared.floors(&begin.0, floor) || shared.pool.check_available().is_err() {
                    continue;
                }
                let begin = &[begin];
                let _ = shared
                    .run_once(on!(connection => wanted.search(connection, shared, begin)))
                    .await;
            }
        }
    }
}

impl Wanted {
    /// Returns the routes to search, each from the beginning.
    fn routes(self, shared: &Shared) -> Vec<(String, i64)> {
        let routes = match self {
            Self::Due => shared.waiting_routes(),
            Self::Oldest => shared.pending_routes(),
        };
        routes.into_iter().map(|route| (route, BEGINNING)).collect()
    }

    fn floor(self, floors: &mut Floors) -> &mut Floor {
        match self {
            Self::Due => &mut floors.woken,
            Self::Oldest => &mut floors.oldest,
        }
    }

    /// Returns a query that probes an index once per route. It returns the place of the first entry,
    /// and when its event was received.
    fn sql(self) -> &'static str {
        match self {
            Self::Due => {
                "WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock)
                SELECT r.route, due.due_ms, NULL::bigint
                FROM unnest($1::text[], $2::bigint[]) AS r (route, floor)
                LEFT JOIN LATERAL (SELECT due_ms FROM hookstile.deliveries d
                    WHERE d.route = r.route AND state = 'pending'
                    AND due_ms <= (SELECT due FROM clock) AND due_ms >= r.floor
                    AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM clock))
                    ORDER BY due_ms LIMIT 1) AS due ON true"
            }
            Self::Oldest => {
                "SELECT r.route, oldest.id, oldest.received_ms
                FROM unnest($1::text[], $2::bigint[]) AS r (route, floor)
                LEFT JOIN LATERAL (SELECT id, received_ms FROM hookstile.deliveries d
                    WHERE d.route = r.route AND state = 'pending' AND state <> 'success'
                    AND id >= r.floor
                    ORDER BY id LIMIT 1) AS oldest ON true"
            }
        }
    }

    /// Searches routes, each from its place on.
    async fn search(
        self,
        connection: &PooledConnection,
        shared: &Shared,
        begins: &[(String, i64)],
    ) -> Result<(), QueryError> {
        let (routes, places): (Vec<&str>, Vec<i64>) = begins
            .iter()
            .map(|(route, place)| (&**route, *place))
            .unzip();
        let began = Instant::now();
        let rows = connection
            .query_cached(self.sql(), &[&routes, &places])
            .await;
        let search = |from| Search {
            from,
            took: began.elapsed(),
            ended: Instant::now(),
            is_alone: begins.len() == 1,
            recent: match self {
                Self::Due => shared.recently_due_ms(),
                Self::Oldest => shared.last_number.load(Ordering::Relaxed),
            },
        };
        if let Err(QueryError::TimedOut(_) | QueryError::Unanswered(_)) = &rows {
            for (route, from) in begins {
                let search = search(*from);
                shared.floors(route, |floors| self.floor(floors).failed(&search));
            }
        }
        for row in rows? {
            let (route, found): (&str, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
            let from = begins.iter().find(|(known, _)| known == route);
            let search = search(from.map_or(BEGINNING, |(_, from)| *from));
            match self {
                Self::Due => note_due(shared, route, &search, found),
                Self::Oldest => {
                    shared.floors(route, |floors| floors.oldest.searched(&search, found));
                    let received = row.try_get::<_, Option<i64>>(2)?.map(timestamp);
                    if let Some(counts) = lock(&shared.route_counts).get_mut(route) {
                        counts.oldest_waiting = received;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Takes note of the first due event of a route, and notifies the route's worker.
fn note_due(shared: &Shared, route: &str, search: &Search, due_ms: Option<i64>) {
    let found = due_ms.map(|due_ms| due_ms.saturating_sub(OVERLAP_MS));
    shared.floors(route, |floors| {
        floors.woken.searched(search, found);
        if let Some(found) = found {
            floors.due.lower(found, search.ended);
        }
    });
    if due_ms.is_some() {
        shared.wake_route(route);
    }
}

async fn read_route_counts(
    connection: &PooledConnection,
    shared: &Shared,
) -> Result<(), QueryError> {
    let sql = "SELECT route, sum(pending)::bigint, sum(dead)::bigint,
            sum(kept_bytes + waiting_bytes)::bigint,
            (SELECT last_value FROM hookstile.delivery_numbers)
        FROM hookstile.route_counts GROUP BY route
        HAVING sum(pending) <> 0 OR sum(dead) <> 0 OR sum(kept_bytes + waiting_bytes) <> 0";
    let mut all = HashMap::new();
    for row in connection.query_cached(sql, &[]).await? {
        let number = |column| {
            Ok::<_, QueryError>(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
        };
        let route: &str = row.try_get(0)?;
        let counts = RouteCounts {
            pending: number(1)?,
            dead: number(2)?,
            bytes: number(3)?,
            oldest_waiting: None,
        };
        shared.last_number.store(row.try_get(4)?, Ordering::Relaxed);
        all.insert(Box::from(route), counts);
    }
    shared.set_route_counts(all);
    Ok(())
}

//! What each route holds in the store: remembered IDs, and bytes of records and payloads.
//!
//! IDs are counted by the hour in which they expire, as the index forgets them. So the index itself
//! needs no route in its entries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ledger_file::{Hour, ROW_BYTES};
use crate::store::share::Holding;

/// The size of an ID's row in the file, in bytes.
const ID_BYTES: u64 = ROW_BYTES as u64;

#[derive(Default)]
pub(super) struct Usage {
    routes: HashMap<Arc<str>, RouteUsage>,
}

#[derive(Default)]
struct RouteUsage {
    /// The numbers of IDs by the hour in which they expire.
    ids: BTreeMap<Hour, u64>,
    bytes: u64,
}

impl Usage {
    pub(super) fn add_ids(&mut self, route: &Arc<str>, hour: Hour, ids: u64) {
        let route = self.routes.entry(Arc::clone(route)).or_default();
        *route.ids.entry(hour).or_default() += ids;
    }

    pub(super) fn remove_id(&mut self, route: &str, hour: Hour) {
        if let Some(ids) = self
            .routes
            .get_mut(route)
            .and_then(|route| route.ids.get_mut(&hour))
        {
            *ids = ids.saturating_sub(1);
        }
    }

    /// Removes the IDs that expired before this hour.
    pub(super) fn forget_before(&mut self, first: Hour) {
        for route in self.routes.values_mut() {
            route.ids = route.ids.split_off(&first);
        }
    }

    pub(super) fn change_bytes(&mut self, route: &Arc<str>, by: i64) {
        let route = self.routes.entry(Arc::clone(route)).or_default();
        route.bytes = route.bytes.saturating_add_signed(by);
    }

    pub(super) fn holding(&self, route: &str) -> Holding {
        self.routes
            .get(route)
            .map_or_else(Holding::default, |route| {
                let ids = route.ids.values().sum();
                Holding {
                    ids,
                    bytes: route.bytes.saturating_add(ids * ID_BYTES),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::uptime::Uptime;

    #[test]
    fn usage_forgets_ids_by_the_hour() {
        let expected = |ids| Holding {
            ids,
            bytes: 6 + ids * ID_BYTES,
        };
        let mut usage = Usage::default();
        let hours = [1, 2].map(|hour| Hour::containing(Uptime(hour * 3_600_000)));
        let (route, [first, second]) = ("a".into(), hours);
        usage.add_ids(&route, first, 2);
        usage.add_ids(&route, second, 3);
        usage.remove_id("a", second);
        usage.remove_id("b", second);
        usage.change_bytes(&route, 10);
        usage.change_bytes(&route, -4);
        assert_eq!(usage.holding("a"), expected(4));
        usage.forget_before(second);
        assert_eq!(usage.holding("a"), expected(2));
        assert_eq!(usage.holding("b"), Holding::default());
    }
}

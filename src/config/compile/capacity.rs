//! The store's limits, compared with what the rate limits of the routes allow.

use std::path::Path;

use super::Compiler;
use super::route::Layered;
use crate::config::diagnostics::Diagnostic;
use crate::config::facts::{self, grouped};
use crate::config::tree::Span;
use crate::config::values;
use crate::route::Route;
use crate::store;

/// The size of an event ID in the store, in bytes (docs/store.md).
const EMBEDDED_ID_BYTES: u64 = 56;
const POSTGRES_ID_BYTES: u64 = 250;
/// The size of a delivery record in the store, in bytes (docs/store.md).
const RECORD_BYTES: u64 = 122;
/// The size of an event ID in memory, in bytes (docs/store.md).
const ID_MEMORY_BYTES: u64 = 25;

/// The storage that a route with a `rate_limit` may take at its full rate.
pub(super) struct RouteDemand {
    /// The location of `per_second`.
    span: Span,
    ids: u64,
    records: u64,
    /// The limit of the route's records and payloads, in bytes.
    retain_max_bytes: u64,
    /// The arithmetic of `ids`, in words.
    product: String,
}

impl RouteDemand {
    /// Returns the demand of a route. Without a rate limit, it is unknown.
    pub(super) fn new(raw: &Layered<'_>, route: &Route) -> Option<Self> {
        let per_second = raw
            .get(|route| &route.rate_limit)
            .value()?
            .per_second
            .given()?;
        let rate = u64::from(per_second.value);
        let window = route.replay.window;
        Some(Self {
            span: per_second.span,
            ids: rate.saturating_mul(window.as_secs()),
            records: rate.saturating_mul(route.retain.keep.as_secs()),
            retain_max_bytes: route.retain.max_bytes.unwrap_or(u64::MAX),
            product: format!("{rate} a second × {}", values::Duration(window)),
        })
    }

    fn bytes(&self, id_bytes: u64) -> u64 {
        let records = self.records.saturating_mul(RECORD_BYTES);
        self.ids
            .saturating_mul(id_bytes)
            .saturating_add(records.min(self.retain_max_bytes))
    }
}

/// A limit of the store, in IDs or bytes.
struct Capacity<'a> {
    max: u64,
    /// The largest holding of one route: one of several stops at four fifths.
    share: u64,
    name: &'a str,
    text: fn(u64) -> String,
    advice: &'a dyn Fn(u64) -> String,
}

impl Compiler<'_> {
    /// Warns about rate limits that allow more than the store holds. `routes` is the number of all
    /// routes.
    pub(super) fn compare_with_store(
        &self,
        store: &store::Settings,
        demands: &[RouteDemand],
        routes: usize,
    ) {
        let (max_ids, max_bytes, id_bytes, disk) = match store {
            store::Settings::Embedded(settings) => (
                settings.max_ids as u64,
                settings.max_bytes,
                EMBEDDED_ID_BYTES,
                disk_bytes(&settings.folder),
            ),
            store::Settings::Shared(settings) => (
                settings.max_ids as u64,
                settings.max_bytes,
                POSTGRES_ID_BYTES,
                None,
            ),
        };
        let share = |max: u64| if routes > 1 { max / 5 * 4 } else { max };
        let in_memory = matches!(store, store::Settings::Embedded(_));
        let advice = |needed: u64| {
            if !usize::try_from(needed).is_ok_and(|ids| facts::MAX_IDS.range.contains(ids)) {
                return "lower `per_second` or `replay.window`".into();
            }
            let memory = if in_memory {
                let mib = (needed * ID_MEMORY_BYTES).div_ceil(1 << 20);
                format!(" ({mib} MiB of memory)")
            } else {
                String::new()
            };
            format!(
                "set `store.max_ids` to {needed}{memory}, or lower `per_second` or `replay.window`"
            )
        };
        let ids = Capacity {
            max: max_ids,
            share: share(max_ids),
            name: "`store.max_ids`",
            text: |ids| format!("{} event IDs", grouped(&ids.to_string())),
            advice: &advice,
        };
        self.compare_with_capacity(&ids, demands, |demand| demand.ids);
        let (max, name) = match (max_bytes, disk) {
            (Some(max), disk) if disk.is_none_or(|disk| max <= disk) => (max, "`store.max_size`"),
            (_, Some(disk)) => (disk, "the room on the store's disk"),
            (_, None) => return,
        };
        let advice = |needed: u64| {
            format!(
                "make room for {}, or lower `per_second`, `replay.window` or `retain`",
                mebibytes(needed)
            )
        };
        let bytes = Capacity {
            max,
            share: share(max),
            name,
            text: mebibytes,
            advice: &advice,
        };
        self.compare_with_capacity(&bytes, demands, |demand| demand.bytes(id_bytes));
    }

    /// Warns about each route that alone exceeds its share, or else about all of them together.
    fn compare_with_capacity(
        &self,
        capacity: &Capacity<'_>,
        demands: &[RouteDemand],
        of: impl Fn(&RouteDemand) -> u64,
    ) {
        let Capacity {
            max, share, name, ..
        } = *capacity;
        let limit = (capacity.text)(max);
        let mut alone = demands
            .iter()
            .filter(|demand| of(demand) > share)
            .peekable();
        if alone.peek().is_some() {
            for demand in alone {
                let needed = of(demand);
                let label = if share < max {
                    format!("{name} is {limit}, and one route may hold four fifths of it")
                } else {
                    format!("{name} is {limit}")
                };
                // One of several routes may hold four fifths.
                let enough = if share < max {
                    needed.saturating_add(needed.div_ceil(4))
                } else {
                    needed
                };
                self.warn_of_demand(capacity, demand, &demand.product, needed, &label, enough);
            }
            return;
        }
        let sum = demands
            .iter()
            .fold(0_u64, |sum, demand| sum.saturating_add(of(demand)));
        if sum > max
            && let Some(largest) = demands.iter().max_by_key(|demand| of(demand))
        {
            let product = format!("{} routes together", demands.len());
            let label = format!("{name} is {limit}");
            self.warn_of_demand(capacity, largest, &product, sum, &label, sum);
        }
    }

    fn warn_of_demand(
        &self,
        capacity: &Capacity<'_>,
        demand: &RouteDemand,
        product: &str,
        needed: u64,
        label: &str,
        enough: u64,
    ) {
        let message = format!(
            "`rate_limit` allows more than the store holds: {product} = {}",
            (capacity.text)(needed)
        );
        let warning = Diagnostic::warning(demand.span, message).label(label);
        self.report(warning.help(format!(
            "{}; above the limit, new events get 503",
            (capacity.advice)(enough)
        )));
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", grouped(&bytes.div_ceil(1 << 20).to_string()))
}

/// Returns the room on the store's disk, the store's own file included. `None` if the folder does
/// not exist yet: the configuration may be checked on another machine.
fn disk_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    let file = folder
        .join("hookstile.db")
        .metadata()
        .map_or(0, |file| file.len());
    Some(
        disk.f_bavail
            .saturating_mul(disk.f_frsize)
            .saturating_add(file),
    )
}

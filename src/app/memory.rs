//! Compares the limits with the memory of the process's cgroup, and reduces them.

use crate::activity::CAPTURED_BYTES_MAX;
use crate::config::Config;
use crate::limits::worst_case::{self, Demand, TooLittleMemory};
use crate::store;

/// Reduces the limits of `config` to the memory that the process may use. Returns a warning if that
/// changes something.
///
/// # Errors
/// When they cannot be reduced that far.
pub(super) fn fit_limits(config: &mut Config) -> Result<Option<String>, TooLittleMemory> {
    let Some(available) = available_memory() else {
        return Ok(None);
    };
    let demand = Demand {
        connections: config.limits.connections,
        header_bytes: config.limits.header_bytes,
        body_bytes: config.limits.body_bytes_in_flight,
        largest_body: config
            .routes
            .iter()
            .map(|route| route.max_body)
            .max()
            .unwrap_or(0),
        event_ids: match &config.store {
            store::Settings::Embedded(settings) => settings.max_ids,
            store::Settings::Shared(_) => 0,
        },
        captured_bytes: config
            .routes
            .iter()
            .filter_map(|route| route.capture)
            .fold(0, |sum, capture| capture.bytes.saturating_add(sum))
            .min(CAPTURED_BYTES_MAX),
    };
    let fit = demand.fit(available)?;
    let Some(arithmetic) = &fit.arithmetic else {
        return Ok(None);
    };
    if fit.ids_exceed {
        return Ok(Some(format!(
            "the memory does not hold `store.max_ids` event IDs beside the limits: {arithmetic}"
        )));
    }
    config.limits.connections = fit.connections;
    config.limits.body_bytes_in_flight = fit.body_bytes;
    Ok(Some(format!(
        "limits reduced to the memory of the cgroup, `connections` to {} and \
         `body_bytes_in_flight` to {} bytes: {arithmetic}",
        fit.connections, fit.body_bytes
    )))
}

/// Returns the least of the memory limits that bind the process, in bytes.
fn available_memory() -> Option<u64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    worst_case::limit_files(&cgroups)
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .filter_map(|content| worst_case::parse_limit(&content))
        .min()
}

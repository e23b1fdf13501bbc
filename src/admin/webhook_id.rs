//! Webhook IDs: the API's name for a route.

/// The prefix of a webhook's ID; the route's name follows it.
const PREFIX: &str = "wh_";

/// Returns the ID of a route's webhook.
pub(crate) fn webhook_id(route: &str) -> String {
    format!("{PREFIX}{route}")
}

/// Returns the route that a webhook's ID names.
pub(crate) fn route_of(webhook_id: &str) -> Option<&str> {
    webhook_id.strip_prefix(PREFIX)
}

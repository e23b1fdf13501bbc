//! The event types of VPN Enterprise.

/// All event types. Source: the provider's webhook documentation, "Available Events".
pub const EVENT_TYPES: &[&str] = &[
    "user.created",
    "user.updated",
    "user.deleted",
    "user.login",
    "vpn.connected",
    "vpn.disconnected",
    "vpn.server.created",
    "vpn.server.deleted",
    "database.created",
    "database.updated",
    "database.deleted",
    "database.backup.completed",
    "billing.invoice.created",
    "billing.invoice.paid",
    "billing.invoice.failed",
    "billing.subscription.updated",
];

//! The bounds on what senders can make the gateway hold, whatever they send.

use std::time::Duration;

use ipnet::IpNet;

/// The limits of the data plane, as the configuration sets them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most connections that may be open.
    pub connections: usize,
    /// The most open connections of one IPv4 address or one IPv6 /64, trusted proxies excepted.
    pub connections_per_address: usize,
    /// The most bytes of one head.
    pub header_bytes: usize,
    /// The most body bytes of all requests in flight, heads of HTTP/2 requests included.
    pub body_bytes_in_flight: usize,
    /// The time from a head's first byte to its last.
    pub header_timeout: Duration,
    /// The time between two requests on a kept connection.
    pub idle_timeout: Duration,
    /// The peers whose word about the sender's address is accepted.
    pub trusted_proxies: Vec<IpNet>,
}

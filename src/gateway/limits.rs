//! The bounds on what senders can make the gateway hold, whatever they send.

use std::time::Duration;

use ipnet::IpNet;

/// The limits of the data plane, as the configuration sets them. A reload replaces them with the
/// routes.
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

/// The limits on a head and on the wait for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    /// The most bytes of the head.
    pub bytes: usize,
    /// The time from the first byte to the last.
    pub timeout: Duration,
    /// The time until the first byte.
    pub idle_timeout: Duration,
}

impl Limits {
    pub(super) fn head(&self) -> HeadLimits {
        HeadLimits {
            bytes: self.header_bytes,
            timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
        }
    }
}

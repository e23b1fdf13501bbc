//! The client's address behind trusted proxies, from `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::client_network::NO_ADDRESS;
use crate::gateway::address;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The hops of a request before its peer, as far as they can be trusted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forwarded {
    /// The client: the last hop that is not a trusted proxy.
    pub(super) client: IpAddr,
    /// Set when the peer is a trusted proxy.
    pub(super) from_trusted_proxy: bool,
    /// The `X-Forwarded-For` of a trusted peer, its lines joined.
    pub(super) forwarded_for: Option<String>,
}

impl Forwarded {
    /// Returns the hops of a request that came directly from `peer`.
    pub(super) fn direct(peer: IpAddr) -> Self {
        Self {
            client: peer.to_canonical(),
            from_trusted_proxy: false,
            forwarded_for: None,
        }
    }

    /// Follows `X-Forwarded-For` from its end for as long as each hop is trusted. The header is
    /// ignored when the peer itself is not.
    pub(super) fn from_headers(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let mut forwarded = Self::direct(peer);
        if !address::is_in(trusted, peer) {
            return forwarded;
        }
        forwarded.from_trusted_proxy = true;
        // Lossily: an invalid byte in one line must not hide the trusted proxy's own entry.
        let lines: Vec<_> = headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        let hops = lines.join(", ");
        for hop in hops.rsplit(',') {
            let Some(client) = parse_hop(hop.trim()) else {
                break;
            };
            forwarded.client = client;
            if !address::is_in(trusted, client) {
                break;
            }
        }
        forwarded.forwarded_for = Some(hops).filter(|hops| !hops.is_empty());
        forwarded
    }
}

/// Parses a hop's address, which some proxies write with a port. nginx writes `unix:` for the peer
/// of a Unix socket.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    if hop == "unix:" {
        return Some(NO_ADDRESS);
    }
    let address = hop
        .parse()
        .or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(peer: &str, headers: &HeaderMap) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        Forwarded::from_headers(peer.parse().unwrap(), headers, &trusted)
            .client
            .to_string()
    }

    fn client(peer: &str, lines: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, http::HeaderValue::from_static(line));
        }
        client_of(peer, &headers)
    }

    #[test]
    fn last_untrusted_hop_is_the_client() {
        assert_eq!(
            client("10.0.0.1", &["198.51.100.7, 203.0.113.9, 10.0.0.2"]),
            "203.0.113.9"
        );
        assert_eq!(
            client("10.0.0.1", &["198.51.100.7", "203.0.113.9"]),
            "203.0.113.9"
        );
        assert_eq!(client("::ffff:10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
    }

    #[test]
    fn invalid_line_or_port_does_not_hide_the_client() {
        assert_eq!(
            client("10.0.0.1", &["unknown, 203.0.113.9:4711"]),
            "203.0.113.9"
        );
        let mut headers = HeaderMap::new();
        headers.append(
            X_FORWARDED_FOR,
            http::HeaderValue::from_bytes(b"\xff, 203.0.113.9").unwrap(),
        );
        assert_eq!(client_of("10.0.0.1", &headers), "203.0.113.9");
    }

    #[test]
    fn unix_hop_is_followed_only_if_trusted() {
        let mut headers = HeaderMap::new();
        let hops = http::HeaderValue::from_static("203.0.113.9, unix:");
        headers.append(X_FORWARDED_FOR, hops);
        let client = |trusted: &[IpNet]| {
            let forwarded = Forwarded::from_headers(NO_ADDRESS, &headers, trusted);
            (forwarded.client.to_string(), forwarded.from_trusted_proxy)
        };
        assert_eq!(client(&[NO_ADDRESS.into()]), ("203.0.113.9".into(), true));
        let networks = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(client(&networks), (NO_ADDRESS.to_string(), false));
        assert_eq!(client_of("10.0.0.1", &headers), NO_ADDRESS.to_string());
    }

    #[test]
    fn invalid_address_ends_the_search() {
        assert_eq!(client("10.0.0.1", &["203.0.113.9, unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }
}

//! Who sent a request, when proxies stand between them and us.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request's way to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hops {
    /// The sender, as far back as it can be believed.
    pub(super) client: IpAddr,
    /// What a trusted peer told of the hops before it.
    pub(super) forwarded_for: Option<String>,
}

/// Follows `X-Forwarded-For` from its end, as long as each hop is trusted. Nothing of it is believed when the peer
/// itself is not.
pub(super) fn hops(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Hops {
    let peer = peer.to_canonical();
    let mut hops = Hops {
        client: peer,
        forwarded_for: None,
    };
    if !is_in(trusted, peer) {
        return hops;
    }
    // Lossily: a line with a strange byte in it must not take the trusted proxy's own entry along.
    let told: Vec<_> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    let told = told.join(", ");
    for hop in told.rsplit(',') {
        let Some(address) = address_of(hop.trim()) else {
            break;
        };
        hops.client = address;
        if !is_in(trusted, address) {
            break;
        }
    }
    hops.forwarded_for = Some(told).filter(|told| !told.is_empty());
    hops
}

/// Whether an address is of one of these networks, written as IPv4 or as that within IPv6.
pub(super) fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|net| net.contains(&address))
}

/// An address, which some proxies write with the port.
fn address_of(hop: &str) -> Option<IpAddr> {
    let address = hop
        .parse()
        .or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, told: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for value in told {
            headers.append(X_FORWARDED_FOR, http::HeaderValue::from_static(value));
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        hops(peer.parse().unwrap(), &headers, &trusted)
            .client
            .to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_sender_whatever_it_tells() {
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
    }

    #[test]
    fn the_last_hop_that_is_not_trusted_is_the_sender() {
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
    fn a_strange_line_or_a_port_does_not_hide_the_sender() {
        assert_eq!(
            client("10.0.0.1", &["unknown, 203.0.113.9:4711"]),
            "203.0.113.9"
        );
        let mut headers = HeaderMap::new();
        headers.append(
            X_FORWARDED_FOR,
            http::HeaderValue::from_bytes(b"\xff, 203.0.113.9").unwrap(),
        );
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(
            hops("10.0.0.1".parse().unwrap(), &headers, &trusted)
                .client
                .to_string(),
            "203.0.113.9"
        );
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        assert_eq!(client("10.0.0.1", &["203.0.113.9, unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }
}

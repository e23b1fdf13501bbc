//! Addresses of peers and senders.

use std::net::IpAddr;

use ipnet::IpNet;
use pingora_core::protocols::l4::socket::SocketAddr;

use crate::client_network::NO_ADDRESS;

/// Returns whether `address` is in one of `networks`. An IPv4-mapped IPv6 address counts as IPv4.
pub(super) fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Returns `client` unless its address is not known.
pub(super) fn known(client: IpAddr) -> Option<IpAddr> {
    Some(client).filter(|client| *client != NO_ADDRESS)
}

/// Returns the address of a peer for the log: `unix` for that of a Unix socket.
pub(super) fn shown(peer: IpAddr) -> String {
    if peer == NO_ADDRESS {
        return "unix".into();
    }
    peer.to_string()
}

/// Returns the IP address of a socket address; [`NO_ADDRESS`] when there is none.
pub(super) fn ip_of(address: Option<&SocketAddr>) -> IpAddr {
    let address = address.and_then(|address| address.as_inet());
    address.map_or(NO_ADDRESS, |address| address.ip())
}

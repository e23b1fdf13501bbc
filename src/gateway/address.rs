//! Addresses of peers and senders.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use pingora_core::protocols::l4::socket::SocketAddr;

/// Returns whether `address` is in one of `networks`. An IPv4-mapped IPv6 address counts as IPv4.
pub(super) fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Returns the IP address of a socket address; `0.0.0.0` when there is none.
pub(super) fn ip_of(address: Option<&SocketAddr>) -> IpAddr {
    let address = address.and_then(|address| address.as_inet());
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}

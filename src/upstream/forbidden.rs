//! The addresses that no upstream named over the API may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns whether an address is link-local, or one at which clouds give a machine its credentials.
/// An upstream that was named over the API must not be there. Every form in which IPv6 embeds such
/// an IPv4 address counts: some host or translator on the way may connect to that one.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_forbidden_ipv4(address),
        IpAddr::V6(address) => {
            address.is_unicast_link_local()
                || is_metadata_ipv6(address)
                || embedded_ipv4(address).any(is_forbidden_ipv4)
        }
    }
}

/// Returns whether an IPv4 address is link-local, as most metadata and credential endpoints are
/// (169.254.169.254, and 169.254.170.2 and 169.254.170.23 for containers), or another such endpoint.
fn is_forbidden_ipv4(address: Ipv4Addr) -> bool {
    /// The endpoints of Alibaba, Oracle and Azure that are not link-local.
    const METADATA: [Ipv4Addr; 3] = [
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(192, 0, 0, 192),
        Ipv4Addr::new(168, 63, 129, 16),
    ];
    address.is_link_local() || METADATA.contains(&address)
}

/// Returns whether an address is a metadata or credential endpoint with an address of its own.
fn is_metadata_ipv6(address: Ipv6Addr) -> bool {
    matches!(
        address.segments(),
        // AWS: 254 for metadata, 23 for the credentials of EKS pods, and other services beside them.
        [0xfd00, 0xec2, ..]
            // Google
            | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
            // Scaleway
            | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]
    )
}

/// Returns the IPv4 addresses that an IPv6 address may embed.
fn embedded_ipv4(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bytes = address.octets();
    let at = move |places: [usize; 4]| Ipv4Addr::from(places.map(|place| bytes[place]));
    // In the last 32 bits whatever the prefix is: mapped, compatible and translated addresses (RFC
    // 4291 §2.5.5, RFC 2765), ISATAP (RFC 5214), NAT64 with a /96 prefix of any network (RFC 6052).
    let last = [at([12, 13, 14, 15])];
    let others = match address.segments() {
        // 6to4 (RFC 3056)
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // Teredo (RFC 4380): the server, and the client with its bits inverted.
        [0x2001, 0, ..] => vec![
            at([4, 5, 6, 7]),
            Ipv4Addr::from_bits(!at([12, 13, 14, 15]).to_bits()),
        ],
        // Local-use NAT64 (RFC 8215) with a prefix of 48, 56 or 64 bits. Byte 8 is skipped (RFC
        // 6052 §2.2).
        [0x64, 0xff9b, 1, ..] => vec![at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12])],
        _ => Vec::new(),
    };
    last.into_iter().chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_and_metadata_addresses_are_forbidden() {
        for forbidden in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "64:ff9b::a9fe:a9fe",
            "::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "169.254.170.2",
            "169.254.170.23",
            "192.0.0.192",
            "febf::1",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "64:ff9b::100.100.100.200",
            "64:ff9b:1::168.63.129.16",
            "64:ff9b:1:a9fe:00a9:fe00::",
            "64:ff9b:1:ffa9:00fe:a9fe::",
            "64:ff9b:1:ffff:00a9:fea9:fe00:0",
            "2001:db8:64::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "2001:0:a9fe:a9fe::1",
            "2001:0:4136:e378:8000:63bf:5601:5601",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:192.0.0.192",
        ] {
            assert!(is_forbidden(forbidden.parse().unwrap()), "{forbidden}");
        }
        for allowed in [
            "127.0.0.1",
            "10.0.0.1",
            "::1",
            "::",
            "fd00::1",
            "93.184.216.34",
            "2001:db8::1",
            "2002:c000:201::1",
            "64:ff9b::203.0.113.9",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        ] {
            assert!(!is_forbidden(allowed.parse().unwrap()), "{allowed}");
        }
    }
}

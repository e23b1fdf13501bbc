//! An upstream's addresses: resolved without blocking, and again when the answer has aged.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::net::lookup_host;

use super::Target;

/// How long an answer of the resolver is used. The system's own cache, where there is one, knows the record's true
/// lifetime; `getaddrinfo` does not tell it.
const USED_FOR: Duration = Duration::from_secs(10);

pub(super) enum Addresses {
    /// The URL holds an address.
    Fixed(Arc<[SocketAddr]>),
    Name {
        host: Box<str>,
        port: u16,
        known: ArcSwapOption<Known>,
        /// Whatever the name stands for, it must not be one of those that [`is_forbidden`].
        guarded: bool,
    },
}

pub(super) struct Known {
    addresses: Arc<[SocketAddr]>,
    since: Instant,
}

impl Addresses {
    pub(super) fn new(target: &Target) -> Self {
        match target.host.parse::<IpAddr>() {
            Ok(address) => Self::Fixed(Arc::new([SocketAddr::new(address, target.port)])),
            Err(_) => Self::Name {
                host: target.host.clone(),
                port: target.port,
                known: ArcSwapOption::empty(),
                guarded: false,
            },
        }
    }

    /// At least one address, or `None` when the name can't be resolved.
    pub(super) async fn get(&self) -> Option<Arc<[SocketAddr]>> {
        let (host, port, known, guarded) = match self {
            Self::Fixed(addresses) => {
                return Some(Arc::clone(addresses)).filter(|addresses| !addresses.is_empty());
            }
            Self::Name {
                host,
                port,
                known,
                guarded,
            } => (host, *port, known, *guarded),
        };
        if let Some(fresh) = known
            .load()
            .as_ref()
            .filter(|known| known.since.elapsed() < USED_FOR)
        {
            return Some(Arc::clone(&fresh.addresses));
        }
        match lookup_host((&**host, port)).await {
            Ok(found) => {
                let addresses: Arc<[SocketAddr]> = found
                    .filter(|address| !guarded || !is_forbidden(address.ip()))
                    .collect();
                if addresses.is_empty() {
                    return None;
                }
                known.store(Some(Arc::new(Known {
                    addresses: Arc::clone(&addresses),
                    since: Instant::now(),
                })));
                Some(addresses)
            }
            Err(error) => {
                tracing::warn!(%host, %error, "the upstream's name could not be resolved");
                None
            }
        }
    }

    /// From now on no address is used that [`is_forbidden`].
    pub(super) fn forbid_internal_addresses(&mut self) {
        match self {
            Self::Fixed(addresses) => {
                let allowed = addresses
                    .iter()
                    .copied()
                    .filter(|address| !is_forbidden(address.ip()));
                *addresses = allowed.collect();
            }
            Self::Name { guarded, .. } => *guarded = true,
        }
    }

    /// Makes the next attempt resolve anew: none of the addresses could be connected to.
    pub(super) fn forget(&self) {
        if let Self::Name { known, .. } = self {
            known.store(None);
        }
    }
}

/// Addresses at which clouds tell a machine its credentials, and whatever else is on the same link only: no place for an
/// upstream that somebody named over the API.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    match unwrapped(address) {
        IpAddr::V4(address) => {
            // Alibaba's, Oracle's and Azure's are not link-local.
            address.is_link_local()
                || matches!(
                    address.octets(),
                    [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16]
                )
        }
        IpAddr::V6(address) => {
            let of_clouds =
                ["fd00:ec2::254", "fd20:ce::254"].map(|known| known.parse::<Ipv6Addr>());
            address.is_unicast_link_local() || of_clouds.contains(&Ok(address))
        }
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped (RFC 4291 §2.5.5), NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else {
        return address.to_canonical();
    };
    let embedded = match v6.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some((high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some((high, low)),
        _ => None,
    };
    embedded.map_or(IpAddr::V6(v6), |(high, low)| {
        let [a, b, c, d] = [high.to_be_bytes(), low.to_be_bytes()].concat()[..] else {
            return IpAddr::V6(v6);
        };
        IpAddr::V4([a, b, c, d].into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_and_metadata_addresses_are_forbidden_and_others_are_not() {
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
        ] {
            assert!(is_forbidden(forbidden.parse().unwrap()), "{forbidden}");
        }
        for allowed in ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "93.184.216.34"] {
            assert!(!is_forbidden(allowed.parse().unwrap()), "{allowed}");
        }
    }
}

//! An upstream's addresses: resolved without blocking, and again after some seconds.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::net::lookup_host;

use super::Target;

/// The time for which resolved addresses are used. `getaddrinfo` does not return the lifetime of a
/// record; the system's own cache, if there is one, observes it.
const LIFETIME: Duration = Duration::from_secs(10);

pub(super) enum Addresses {
    /// The address that the URL holds.
    Fixed(Arc<[SocketAddr]>),
    Name {
        host: Box<str>,
        port: u16,
        resolved: ArcSwapOption<Resolved>,
        /// `true` if addresses that [`is_forbidden`] are left out.
        guarded: bool,
    },
}

pub(super) struct Resolved {
    addresses: Arc<[SocketAddr]>,
    at: Instant,
}

impl Addresses {
    pub(super) fn new(target: &Target) -> Self {
        match target.host.parse::<IpAddr>() {
            Ok(address) => Self::Fixed(Arc::new([SocketAddr::new(address, target.port)])),
            Err(_) => Self::Name {
                host: target.host.clone(),
                port: target.port,
                resolved: ArcSwapOption::empty(),
                guarded: false,
            },
        }
    }

    /// Returns at least one address, or `None` if the name cannot be resolved.
    pub(super) async fn get(&self) -> Option<Arc<[SocketAddr]>> {
        let (host, port, resolved, guarded) = match self {
            Self::Fixed(addresses) => {
                return Some(Arc::clone(addresses)).filter(|addresses| !addresses.is_empty());
            }
            Self::Name {
                host,
                port,
                resolved,
                guarded,
            } => (host, *port, resolved, *guarded),
        };
        if let Some(fresh) = resolved
            .load()
            .as_ref()
            .filter(|resolved| resolved.at.elapsed() < LIFETIME)
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
                resolved.store(Some(Arc::new(Resolved {
                    addresses: Arc::clone(&addresses),
                    at: Instant::now(),
                })));
                Some(addresses)
            }
            Err(error) => {
                tracing::warn!(%host, %error, "upstream name could not be resolved");
                None
            }
        }
    }

    /// Leaves out addresses that [`is_forbidden`] from now on.
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

    /// Makes the next attempt resolve the name again. Called when no address could be connected to.
    pub(super) fn forget(&self) {
        if let Self::Name { resolved, .. } = self {
            resolved.store(None);
        }
    }
}

/// Returns whether an address is link-local, or one at which clouds give a machine its credentials.
/// An upstream that was named over the API must not be there.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    match embedded_ipv4(address) {
        IpAddr::V4(address) => {
            // The metadata addresses of Alibaba, Oracle and Azure are not link-local.
            address.is_link_local()
                || matches!(
                    address.octets(),
                    [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16]
                )
        }
        IpAddr::V6(address) => {
            let metadata =
                ["fd00:ec2::254", "fd20:ce::254"].map(|address| address.parse::<Ipv6Addr>());
            address.is_unicast_link_local() || metadata.contains(&Ok(address))
        }
    }
}

/// Returns the IPv4 address that an IPv6 address embeds: mapped (RFC 4291 §2.5.5), NAT64 (RFC 6052)
/// or 6to4 (RFC 3056). Returns other addresses unchanged.
fn embedded_ipv4(address: IpAddr) -> IpAddr {
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
        ] {
            assert!(is_forbidden(forbidden.parse().unwrap()), "{forbidden}");
        }
        for allowed in ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "93.184.216.34"] {
            assert!(!is_forbidden(allowed.parse().unwrap()), "{allowed}");
        }
    }
}

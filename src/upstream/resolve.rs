//! An upstream's addresses: resolved without blocking, and again when the answer has aged.

use std::net::{IpAddr, SocketAddr};
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
    },
}

pub(super) struct Known {
    addresses: Arc<[SocketAddr]>,
    since: Instant,
}

impl Addresses {
    pub(super) fn of(target: &Target) -> Self {
        match target.host.parse::<IpAddr>() {
            Ok(address) => Self::Fixed(Arc::new([SocketAddr::new(address, target.port)])),
            Err(_) => Self::Name { host: target.host.clone(), port: target.port, known: ArcSwapOption::empty() },
        }
    }

    /// At least one address, or `None` when the name can't be resolved.
    pub(super) async fn get(&self) -> Option<Arc<[SocketAddr]>> {
        let (host, port, known) = match self {
            Self::Fixed(addresses) => return Some(Arc::clone(addresses)),
            Self::Name { host, port, known } => (host, *port, known),
        };
        if let Some(fresh) = known.load().as_ref().filter(|known| known.since.elapsed() < USED_FOR) {
            return Some(Arc::clone(&fresh.addresses));
        }
        match lookup_host((&**host, port)).await {
            Ok(found) => {
                let addresses: Arc<[SocketAddr]> = found.collect();
                if addresses.is_empty() {
                    return None;
                }
                known.store(Some(Arc::new(Known { addresses: Arc::clone(&addresses), since: Instant::now() })));
                Some(addresses)
            }
            Err(error) => {
                tracing::warn!(%host, %error, "the upstream's name could not be resolved");
                None
            }
        }
    }

    /// Makes the next attempt resolve anew: none of the addresses could be connected to.
    pub(super) fn forget(&self) {
        if let Self::Name { known, .. } = self {
            known.store(None);
        }
    }
}

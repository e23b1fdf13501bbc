//! The sockets that the configured listeners want. Host names are resolved here: at the start, and when
//! a reload adds a listener.
//!
//! The system resolves them, and not the resolver for upstreams: it alone knows this machine's own
//! name where no file has it (`nss-myhostname`). It may block, which harms nobody at the start.

use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::Error;
use super::sockets::{SocketAddress, Wanted};
use crate::config::{Listen, ListenAddress};

/// The longest that resolving a name may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the sockets that each of `listen` wants: several where a name has several addresses.
///
/// # Errors
/// When a name has no address, or two listeners have the same one.
pub(super) async fn wanted(listen: &[Listen]) -> Result<Vec<Vec<Wanted>>, Error> {
    let mut all: Vec<Vec<Wanted>> = Vec::new();
    for (index, listener) in listen.iter().enumerate() {
        let addresses = resolve(&listener.address).await?;
        for address in &addresses {
            let is_same = |wanted: &Wanted| wanted.address == *address && !is_any_port(address);
            let first = all.iter().position(|wanted| wanted.iter().any(is_same));
            if let Some(first) = first {
                return Err(Error::SameAddress {
                    address: address.clone(),
                    first: listen[first].address.clone(),
                    second: listen[index].address.clone(),
                });
            }
        }
        let wanted = addresses.into_iter().map(|address| Wanted {
            address,
            mode: listener.mode,
        });
        all.push(wanted.collect());
    }
    Ok(all)
}

fn is_any_port(address: &SocketAddress) -> bool {
    address.inet().is_some_and(|address| address.port() == 0)
}

async fn resolve(address: &ListenAddress) -> Result<Vec<SocketAddress>, Error> {
    let (name, port) = match address {
        ListenAddress::Inet(address) => return Ok(vec![SocketAddress::Inet(*address)]),
        ListenAddress::Unix(path) => return Ok(vec![SocketAddress::Unix(path.clone())]),
        ListenAddress::Name(name, port) => (name, *port),
    };
    let failed = |reason: String| Error::ListenName {
        address: address.clone(),
        reason,
    };
    let resolved = timeout(RESOLVE_TIMEOUT, lookup_host((&**name, port))).await;
    let resolved = resolved
        .map_err(|_| failed("no name server answers".into()))?
        .map_err(|error| failed(error.to_string()))?;
    let mut addresses: Vec<SocketAddress> = Vec::new();
    for found in resolved.map(SocketAddress::Inet) {
        // `/etc/hosts` may have an address twice.
        if !addresses.contains(&found) {
            addresses.push(found);
        }
    }
    if addresses.is_empty() {
        return Err(failed("the name has no address".into()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn places_of(addresses: &[ListenAddress]) -> Result<Vec<Vec<Wanted>>, Error> {
        let listen = addresses.iter().map(|address| Listen {
            place: crate::config::Place::default(),
            address: address.clone(),
            mode: 0o660,
            tls: None,
            proxy_protocol: false,
        });
        wanted(&listen.collect::<Vec<_>>()).await
    }

    fn localhost(port: u16) -> ListenAddress {
        ListenAddress::Name("localhost".into(), port)
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_listened_on() {
        let places = places_of(&[localhost(81)]).await.unwrap();
        let has = |text: &str| {
            let address = SocketAddress::Inet(text.parse().unwrap());
            places[0].iter().any(|place| place.address == address)
        };
        assert!(has("127.0.0.1:81"), "{places:?}");
    }

    #[tokio::test]
    async fn address_of_two_listeners_is_an_error() {
        let literal = ListenAddress::Inet("127.0.0.1:81".parse().unwrap());
        let error = places_of(&[literal, localhost(81)]).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`127.0.0.1:81` and `localhost:81`"), "{text}");
        assert!(places_of(&[localhost(0), localhost(0)]).await.is_ok());
    }
}

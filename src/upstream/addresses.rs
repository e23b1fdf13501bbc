//! The one place where the addresses for an attempt are chosen: which ones, and in which order.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::failing::FailingAddresses;
use super::forbidden::is_forbidden;
use super::resolver::{Name, ResolveError, Resolver};
use super::{Address, Target};

/// The number of addresses that one attempt tries. Those that fail are tried last by the next one,
/// so a name with more addresses gets through them.
const CANDIDATES_MAX: usize = 4;

/// The addresses of an upstream.
pub(super) enum Addresses {
    /// The address that the URL holds, or the Unix socket; none if it is forbidden.
    Fixed(Arc<[Address]>),
    Name {
        host: Box<str>,
        port: u16,
        /// The resolver's entry, once it is needed.
        name: OnceLock<Arc<Name>>,
        /// `true` if addresses that [`is_forbidden`] are left out.
        guarded: bool,
    },
}

impl Addresses {
    pub(super) fn new(target: &Target) -> Self {
        if let Some(path) = &target.socket {
            return Self::Fixed(Arc::new([Address::Unix(Arc::clone(path))]));
        }
        let literal = target
            .host
            .parse()
            .ok()
            .or_else(|| parse_ipv4(&target.host).map(IpAddr::V4));
        match literal {
            Some(address) => Self::Fixed(Arc::new([SocketAddr::new(address, target.port).into()])),
            None => Self::Name {
                host: target.host.clone(),
                port: target.port,
                name: OnceLock::new(),
                guarded: false,
            },
        }
    }

    /// Returns the addresses to try now if no look-up is needed.
    pub(super) fn fresh(&self, resolver: &Resolver) -> Option<Arc<[Address]>> {
        match self {
            Self::Fixed(addresses) => Some(Arc::clone(addresses)),
            Self::Name { .. } => self.candidates(&self.name(resolver)?.fresh()?),
        }
    }

    /// Returns the addresses to try now, in this order. There may be none: all are forbidden.
    pub(super) async fn resolve(
        &self,
        resolver: &Resolver,
    ) -> Result<Arc<[Address]>, ResolveError> {
        let Some(name) = self.name(resolver) else {
            return Ok(self.fresh(resolver).unwrap_or_default());
        };
        let addresses = name.addresses().await?;
        Ok(self.candidates(&addresses).unwrap_or_default())
    }

    /// Leaves out addresses that [`is_forbidden`] from now on.
    pub(super) fn forbid_internal_addresses(&mut self) {
        match self {
            Self::Fixed(addresses) => {
                let allowed = addresses.iter().filter(
                    |address| matches!(address, Address::Inet(it) if !is_forbidden(it.ip())),
                );
                *addresses = allowed.cloned().collect();
            }
            Self::Name { guarded, .. } => *guarded = true,
        }
    }

    /// Makes the next attempt resolve the name again. Called when no address could be connected to.
    pub(super) fn expire(&self) {
        if let Self::Name { name, .. } = self
            && let Some(name) = name.get()
        {
            name.expire();
        }
    }

    /// Returns the memory of the name's addresses that failed.
    pub(super) fn failing(&self) -> Option<&FailingAddresses> {
        match self {
            Self::Fixed(_) => None,
            Self::Name { name, .. } => Some(name.get()?.failing()),
        }
    }

    fn name(&self, resolver: &Resolver) -> Option<&Arc<Name>> {
        match self {
            Self::Fixed(_) => None,
            Self::Name { host, name, .. } => Some(name.get_or_init(|| resolver.name(host))),
        }
    }

    /// Returns the addresses of a name that one attempt tries; `None` for a fixed address.
    fn candidates(&self, addresses: &[IpAddr]) -> Option<Arc<[Address]>> {
        let Self::Name {
            port,
            name,
            guarded,
            ..
        } = self
        else {
            return None;
        };
        let allowed = addresses
            .iter()
            .filter(|address| !guarded || !is_forbidden(**address))
            .map(|address| SocketAddr::new(*address, *port));
        let mut candidates: Vec<_> = allowed.collect();
        if candidates.len() > 1 {
            candidates = alternate(candidates);
        }
        let mut candidates: Vec<_> = candidates.into_iter().map(Address::Inet).collect();
        if candidates.len() > 1 {
            if let Some(name) = name.get() {
                name.failing().sort_last(&mut candidates, Instant::now());
            }
            candidates.truncate(CANDIDATES_MAX);
        }
        Some(candidates.into())
    }
}

/// Orders addresses so that the families alternate, IPv6 first (RFC 8305 §4). A family that does
/// not work at all thus costs one head start. Within a family, the name server's order stays.
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (ipv6, ipv4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let mut ordered = Vec::with_capacity(ipv6.len() + ipv4.len());
    let (mut ipv6, mut ipv4) = (ipv6.into_iter(), ipv4.into_iter());
    loop {
        let before = ordered.len();
        ordered.extend(ipv6.next());
        ordered.extend(ipv4.next());
        if ordered.len() == before {
            return ordered;
        }
    }
}

/// Parses an IPv4 address in the notations that `getaddrinfo` accepts beside the usual one: fewer
/// than four parts (`127.1`), hexadecimal and octal ones. The last part fills the bytes that are
/// left.
fn parse_ipv4(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = host.split('.').map(parse_number).collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    let free_bits = 32
        - 8 * u32::try_from(leading.len())
            .ok()
            .filter(|&count| count < 4)?;
    if leading.iter().any(|&part| part > 255) || u64::from(*last) >> free_bits != 0 {
        return None;
    }
    let high = leading
        .iter()
        .zip([24, 16, 8])
        .fold(0, |high, (part, shift)| high | part << shift);
    Some(Ipv4Addr::from_bits(high | last))
}

fn parse_number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_with_ipv6_first() {
        let parse = |text: &str| -> Vec<SocketAddr> {
            text.split(' ').map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(
            alternate(parse(
                "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80 [::1]:80 [::2]:80"
            )),
            parse("[::1]:80 10.0.0.1:80 [::2]:80 10.0.0.2:80 10.0.0.3:80")
        );
    }

    #[test]
    fn every_address_of_a_guarded_name_is_checked() {
        let target = Target::parse("http://app.test:81/", None).unwrap();
        let mut addresses = Addresses::new(&target);
        let resolved =
            ["169.254.169.254", "10.0.0.1", "fd00:ec2::254"].map(|ip| ip.parse().unwrap());
        assert_eq!(addresses.candidates(&resolved).unwrap().len(), 3);
        addresses.forbid_internal_addresses();
        let allowed: SocketAddr = "10.0.0.1:81".parse().unwrap();
        assert_eq!(*addresses.candidates(&resolved).unwrap(), [allowed.into()]);
        assert!(addresses.candidates(&resolved[..1]).unwrap().is_empty());
    }

    #[test]
    fn ipv4_address_is_parsed_in_every_notation() {
        for host in [
            "127.1",
            "127.0.1",
            "0x7f.1",
            "2130706433",
            "0177.0.0.01",
            "0x7f000001",
        ] {
            assert_eq!(parse_ipv4(host), Some(Ipv4Addr::LOCALHOST), "{host}");
        }
        for host in [
            "app",
            "1.2.3.4.5",
            "256.1",
            "127.16777216",
            "4294967296",
            "1..2",
            "09",
            "+1",
            "",
        ] {
            assert_eq!(parse_ipv4(host), None, "{host}");
        }
    }
}

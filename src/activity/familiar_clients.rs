//! The clients whose requests were verified on a route lately.
//!
//! A stranger can send anything but from such an address. So what is rejected from there is the
//! provider's, most likely. A verified request costs one look at a slot of a table of fixed size.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client_network::ClientNetwork;

/// The number of clients that are remembered: 512 bytes a route. Providers send from a few.
const SLOTS: usize = 64;

/// The clients that were verified lately, each in the slot of its network's hash.
pub struct FamiliarClients([AtomicU64; SLOTS]);

impl Default for FamiliarClients {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl FamiliarClients {
    /// Remembers a client whose request was verified. It may displace another one.
    pub(crate) fn remember(&self, client: ClientNetwork) {
        let number = number(client);
        let slot = self.slot(number);
        // Most requests come from a client that is there: its cache line stays shared.
        if slot.load(Ordering::Relaxed) != number {
            slot.store(number, Ordering::Relaxed);
        }
    }

    /// Returns whether a request of this client was verified lately.
    pub(crate) fn knows(&self, client: ClientNetwork) -> bool {
        let number = number(client);
        self.slot(number).load(Ordering::Relaxed) == number
    }

    fn slot(&self, number: u64) -> &AtomicU64 {
        // Fibonacci hashing: the upper bits depend on all of the number's.
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.0[usize::try_from(hash).unwrap_or_default() % SLOTS]
    }
}

/// Returns the number of a network. It is never 0, which is an empty slot.
fn number(client: ClientNetwork) -> u64 {
    match client.first_address() {
        IpAddr::V4(address) => 0xffff_0000_0000 | u64::from(address.to_bits()),
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(1).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> ClientNetwork {
        ClientNetwork::of_address(text.parse().unwrap())
    }

    #[test]
    fn verified_client_is_known() {
        let clients = FamiliarClients::default();
        let [one, site] = ["192.0.2.1", "2001:db8::1"].map(client);
        assert!(!clients.knows(one) && !clients.knows(site));
        clients.remember(one);
        clients.remember(site);
        assert!(clients.knows(one) && clients.knows(client("2001:db8::2")));
        assert!(!clients.knows(client("192.0.2.2")));
        assert!(!clients.knows(client("::")), "an empty slot is nobody");
    }

    #[test]
    fn clients_are_bounded() {
        let clients = FamiliarClients::default();
        let all: Vec<_> = (0..=255)
            .map(|last| client(&format!("198.51.100.{last}")))
            .collect();
        for one in &all {
            clients.remember(*one);
        }
        let known = all.iter().filter(|one| clients.knows(**one)).count();
        assert!((SLOTS / 2..=SLOTS).contains(&known), "{known}");
    }
}

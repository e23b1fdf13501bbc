//! The race of an upstream's addresses ("happy eyeballs", RFC 8305): the next address is tried
//! when the one before it fails, or has not connected within 250 ms. The first connection wins.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

use super::Address;
use super::failing::FailingAddresses;

/// The head start of an address before the next one (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that can be connected to, and remembers those that could
/// not. Returns `None` if all failed.
pub(super) async fn race<T, F>(
    addresses: &[Address],
    failing: &FailingAddresses,
    connect: impl Fn(Address) -> F,
) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let mut waiting = addresses.iter();
    let mut connects = FuturesUnordered::new();
    let mut pending = Pending {
        failing,
        since: Vec::new(),
    };
    loop {
        if let Some(address) = waiting.next() {
            let connecting = connect(address.clone());
            connects.push(async move { (address, connecting.await) });
            pending.since.push((address.clone(), Instant::now()));
        }
        let more = waiting.len() > 0;
        tokio::select! {
            connected = connects.next() => match connected {
                Some((address, Some(connection))) => {
                    pending.end(address);
                    failing.record_success(address);
                    return Some(connection);
                }
                Some((address, None)) => {
                    pending.end(address);
                    failing.record_failure(address, Instant::now());
                }
                None => return None,
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}

/// The addresses that are being connected to. Those that lose the race count as failing when they
/// have had their head start, even if a deadline ends it.
struct Pending<'a> {
    failing: &'a FailingAddresses,
    since: Vec<(Address, Instant)>,
}

impl Pending<'_> {
    fn end(&mut self, address: &Address) {
        self.since.retain(|(other, _)| other != address);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        for (address, since) in &self.since {
            if now.duration_since(*since) >= STAGGER {
                self.failing.record_failure(address, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// What the address of a port does, and after how many milliseconds.
    async fn connect(address: Address) -> Option<u16> {
        match port(&address) {
            refused @ ..100 => {
                sleep(Duration::from_millis(refused.into())).await;
                None
            }
            accepted @ ..5000 => {
                sleep(Duration::from_millis(accepted.into())).await;
                Some(accepted)
            }
            _ => std::future::pending().await,
        }
    }

    const REFUSED: u16 = 1;
    const BLACK_HOLE: u16 = 5000;

    fn port(address: &Address) -> u16 {
        match address {
            Address::Inet(address) => address.port(),
            Address::Unix(path) => panic!("{path:?} has no port"),
        }
    }

    fn addresses<const N: usize>(ports: [u16; N]) -> [Address; N] {
        ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into())
    }

    fn sorted(failing: &FailingAddresses, mut addresses: Vec<Address>) -> Vec<u16> {
        failing.sort_last(&mut addresses, Instant::now());
        addresses.iter().map(port).collect()
    }

    #[tokio::test]
    async fn black_hole_costs_one_head_start() {
        let failing = FailingAddresses::default();
        let addresses = addresses([BLACK_HOLE, 100]);
        let started = Instant::now();
        assert_eq!(race(&addresses, &failing, connect).await, Some(100));
        assert!(started.elapsed() >= STAGGER);
        assert_eq!(sorted(&failing, addresses.to_vec()), [100, BLACK_HOLE]);
    }

    #[tokio::test]
    async fn slow_address_can_still_win() {
        let failing = FailingAddresses::default();
        let addresses = addresses([400, BLACK_HOLE]);
        assert_eq!(race(&addresses, &failing, connect).await, Some(400));
        assert_eq!(sorted(&failing, addresses.to_vec()), [400, BLACK_HOLE]);
    }

    #[tokio::test]
    async fn refused_address_gives_way_at_once() {
        let failing = FailingAddresses::default();
        let addresses = addresses([1, 2, 3, 4, 5, 6, 7, 8, 100]);
        let started = Instant::now();
        assert_eq!(race(&addresses, &failing, connect).await, Some(100));
        // A head start for each of the eight would take this long.
        assert!(started.elapsed() < STAGGER * 8);
        assert_eq!(
            sorted(&failing, addresses.to_vec()),
            [100, 1, 2, 3, 4, 5, 6, 7, 8]
        );
    }

    #[tokio::test]
    async fn race_fails_when_all_addresses_do() {
        let failing = FailingAddresses::default();
        let addresses = addresses([REFUSED, REFUSED + 1]);
        assert_eq!(race(&addresses, &failing, connect).await, None);
        assert_eq!(race(&[], &failing, connect).await, None);
    }

    #[tokio::test]
    async fn deadline_marks_the_addresses_that_had_their_time() {
        let failing = FailingAddresses::default();
        let addresses = addresses([BLACK_HOLE, BLACK_HOLE + 1, BLACK_HOLE + 2]);
        let limit = STAGGER + STAGGER / 2;
        let race = race(&addresses, &failing, connect);
        assert!(tokio::time::timeout(limit, race).await.is_err());
        assert_eq!(
            sorted(&failing, addresses.to_vec()),
            [BLACK_HOLE + 1, BLACK_HOLE + 2, BLACK_HOLE]
        );
    }
}

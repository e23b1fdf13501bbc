use std::pin::pin;
use std::time::Duration;

use prometheus::IntGauge;
use proptest::prelude::*;

use super::reservation::poll_once;
use super::totals::to_gauge;
use super::*;
use crate::client_network::ClientNetwork;

const MIB: usize = 1 << 20;
const TOTAL: usize = 8 * MIB;

fn limits() -> RequestLimits {
    RequestLimits::new(TOTAL, IntGauge::new("test", "test").unwrap())
}

fn holder(number: u8) -> ClientNetwork {
    ClientNetwork::of_address([192, 0, 2, number].into())
}

/// Waits until the request is displaced.
async fn wait_displaced(reservation: &mut Reservation<'_>) {
    let pending = pin!(std::future::pending::<()>());
    let displaced = reservation.until_displaced(holder(99), pending);
    let displaced = tokio::time::timeout(Duration::from_secs(5), displaced).await;
    assert_eq!(displaced, Ok(Err(Exhausted)));
}

/// Returns whether the request is still waiting.
async fn is_waiting(reservation: &mut Reservation<'_>, by: ClientNetwork) -> bool {
    let pending = pin!(std::future::pending::<()>());
    let waiting = reservation.until_displaced(by, pending);
    tokio::time::timeout(Duration::from_millis(10), waiting)
        .await
        .is_err()
}

#[tokio::test]
async fn newcomer_displaces_the_oldest_of_the_largest() {
    let limits = limits();
    let mut of_one: Vec<_> = (0..5).map(|_| limits.begin()).collect();
    let mut of_other = limits.begin();
    assert!(of_other.grow(MIB, holder(2)).is_ok());
    for reservation in &mut of_one {
        assert!(reservation.grow(MIB, holder(1)).is_ok());
    }
    assert_eq!(limits.verified.gauge.get(), 6 << 20);
    let mut newcomer = limits.begin();
    assert!(newcomer.grow(MIB, holder(3)).is_ok());
    wait_displaced(&mut of_one[0]).await;
    assert!(of_one[0].grow(1, holder(1)).is_err());
    assert!(is_waiting(&mut of_other, holder(2)).await);
    assert!(is_waiting(&mut of_one[1], holder(1)).await);
    assert_eq!(limits.verified.gauge.get(), 6 << 20);
    drop((of_one, of_other, newcomer));
    assert_eq!(limits.verified.gauge.get(), 0);
    assert!(limits.waiting.is_empty());
}

#[tokio::test]
async fn large_requests_leave_small_ones_alone() {
    let limits = limits();
    let mut small = limits.begin();
    assert!(small.grow(1000, holder(1)).is_ok());
    assert!(is_waiting(&mut small, holder(1)).await);
    let large: Vec<_> = (0..20)
        .map(|_| {
            let mut large = limits.begin();
            large.grow(MIB, holder(1)).unwrap();
            large
        })
        .collect();
    assert!(is_waiting(&mut small, holder(1)).await);
    drop(large);
}

#[test]
fn request_over_the_total_is_refused_even_alone() {
    let limits = limits();
    let mut alone = limits.begin();
    assert!(alone.grow(TOTAL - 1, holder(1)).is_ok());
    assert!(alone.grow(1, holder(1)).is_ok());
    assert!(alone.grow(1, holder(1)).is_err());
}

#[tokio::test]
async fn full_slots_go_to_newcomers_once_freed() {
    let limits = limits();
    let mut held = Vec::new();
    for _ in 0..UNVERIFIED_STREAMS_MAX {
        let mut stream = limits.begin_stream().await;
        assert!(is_waiting_now(&mut stream, holder(1)).await);
        held.push(stream);
    }
    let mut of_other = Box::pin(limits.begin_stream());
    assert!(poll_once(of_other.as_mut()).await.is_none());
    wait_displaced(&mut held[0]).await;
    assert!(
        poll_once(of_other.as_mut()).await.is_none(),
        "the memory is not free yet"
    );
    held.remove(0);
    let first = of_other.await;
    // A second newcomer displaces the next one only.
    let mut next = Box::pin(limits.begin_stream());
    assert!(poll_once(next.as_mut()).await.is_none());
    wait_displaced(&mut held[0]).await;
    assert!(is_waiting_now(&mut held[1], holder(1)).await);
    drop((first, held));
    drop(next.await);
    assert!(limits.waiting.is_empty());
    assert_eq!(limits.waiting.free_slots(), UNVERIFIED_STREAMS_MAX);
}

/// Polls once, so that the request is listed.
async fn is_waiting_now(reservation: &mut Reservation<'_>, by: ClientNetwork) -> bool {
    let pending = pin!(std::future::pending::<()>());
    let mut waiting = Box::pin(reservation.until_displaced(by, pending));
    poll_once(waiting.as_mut()).await.is_none()
}

#[test]
fn one_route_leaves_verified_memory_to_others() {
    let limits = limits();
    let (slow, other) = (RouteShare::default(), RouteShare::default());
    let verified = |route: &RouteShare, bytes: usize| {
        let mut reservation = limits.begin();
        reservation.grow(bytes, holder(1)).unwrap();
        // Leaked, so that the bytes stay counted.
        reservation.verified(route).map(std::mem::forget).is_ok()
    };
    assert!((0..100).any(|_| !verified(&slow, 300_000)));
    assert!(!verified(&slow, 300_000));
    assert!(verified(&other, 300_000), "the slow route leaves room");
    assert!((0..1000).any(|_| !verified(&slow, 10_000)));
    assert!(verified(&other, 10_000), "small ones have a reserve");
    assert!(limits.verified.large() <= TOTAL / 2);
}

#[test]
fn verified_bytes_are_released() {
    let limits = limits();
    let route = RouteShare::default();
    for bytes in [1000, 2 * MIB, TOTAL] {
        let mut reservation = limits.begin();
        reservation.grow(bytes, holder(1)).unwrap();
        let verified = reservation.verified(&route).unwrap();
        assert_eq!(limits.verified.gauge.get(), to_gauge(bytes));
        drop(verified);
        assert_eq!(limits.verified.gauge.get(), 0);
    }
    assert!(limits.waiting.is_empty());
}

#[test]
fn streams_offered_shrink_with_connections() {
    assert_eq!(streams_offered(1), 100);
    assert_eq!(streams_offered(20), 100);
    assert_eq!(streams_offered(100), 20);
    assert_eq!(streams_offered(10_000), 8);
    let offered: usize = (1..=1000).map(streams_offered).sum();
    assert!(offered < 16_000, "{offered}");
}

#[test]
fn shared_header_values_count_once() {
    let shared = bytes::Bytes::from(vec![b'a'; 4000]);
    let mut headers = HeaderMap::new();
    for _ in 0..8 {
        let value = http::HeaderValue::from_maybe_shared(shared.clone()).unwrap();
        headers.append("x-a", value);
    }
    assert_eq!(head_bytes(8 * 4035, &headers), 8 * 35 + 4000);
    assert_eq!(head_bytes(100, &headers), 100);
}

/// A step of a run during which the total changes.
#[derive(Debug, Clone)]
enum Step {
    /// A new request of this client, with these bytes.
    Begin(u8, usize),
    /// More bytes for the request at this place.
    Grow(usize, usize),
    /// The request at this place is verified.
    Verify(usize),
    /// The verified or the unverified request at this place ends.
    End(usize),
    Resize(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![0..2000usize, 0..2 * MIB];
    prop_oneof![
        3 => (0..3u8, bytes.clone()).prop_map(|(client, bytes)| Step::Begin(client, bytes)),
        3 => (any::<usize>(), bytes).prop_map(|(at, bytes)| Step::Grow(at, bytes)),
        2 => any::<usize>().prop_map(Step::Verify),
        2 => any::<usize>().prop_map(Step::End),
        // Below 1 MiB, the bound between small and large requests moves, too.
        1 => prop_oneof![1..MIB, MIB..2 * TOTAL].prop_map(Step::Resize),
    ]
}

proptest! {
    #[test]
    fn resized_totals_lose_count_of_nothing(steps in prop::collection::vec(step(), 1..100)) {
        let limits = limits();
        let route = RouteShare::default();
        let (mut unverified, mut verified) = (Vec::new(), Vec::new());
        let mut total = TOTAL;
        for step in steps {
            match step {
                Step::Begin(client, bytes) => {
                    let mut request = limits.begin();
                    if request.grow(bytes, holder(client)).is_ok() {
                        unverified.push((client, request));
                    }
                }
                Step::Grow(at, bytes) if !unverified.is_empty() => {
                    let at = at % unverified.len();
                    let (client, request) = &mut unverified[at];
                    let _ = request.grow(bytes, holder(*client));
                }
                Step::Verify(at) if !unverified.is_empty() => {
                    let (_, mut request) = unverified.swap_remove(at % unverified.len());
                    verified.extend(request.verified(&route));
                }
                Step::End(at) => {
                    if at % 2 == 0 && !verified.is_empty() {
                        verified.swap_remove(at % verified.len());
                    } else if !unverified.is_empty() {
                        unverified.swap_remove(at % unverified.len());
                    }
                }
                Step::Grow(..) | Step::Verify(_) => {}
                Step::Resize(bytes) => {
                    total = bytes;
                    limits.resize(bytes);
                }
            }
            prop_assert!(limits.verified.gauge.get() >= 0);
        }
        unverified.clear();
        verified.clear();
        prop_assert_eq!(limits.verified.gauge.get(), 0);
        prop_assert!(limits.waiting.is_empty());
        prop_assert_eq!(limits.verified.large(), 0);
        // What the last total allows fits again, and no more.
        let mut alone = limits.begin();
        prop_assert!(alone.grow(total, holder(1)).is_ok());
        let more = alone.grow(total.max(MIB) + 1, holder(1));
        prop_assert!(more.is_err());
    }
}

//! Tests of the fronts in memory, without a database.

use super::*;
use crate::store::DeliveryState;
use crate::store::delivery_state::Progress;
use crate::store::postgres::rows::RELATIVE_TIME;
use crate::store::tests::fixtures::delivery_change;

const LASTS: Duration = Duration::from_secs(20);

fn lease() -> Lease {
    Lease {
        from: Instant::now(),
        lasts: LASTS,
    }
}

/// Returns a leased event with this number, due time and size, whose payload is held if `is_held`.
fn event(id: i64, bytes: usize, is_held: bool) -> LeasedEvent {
    let change = delivery_change("a", DeliveryState::Pending);
    let payload = is_held.then(|| Payload {
        head: bytes::Bytes::new(),
        body: vec![0; bytes].into(),
    });
    LeasedEvent {
        place: (id, DeliveryId(id)),
        identity: DeliveryIdentity::default(),
        stored: StoredDelivery {
            route: "a".into(),
            event_id: "a".into(),
            received_ms: 0,
            progress: Progress::settled(None, &change, None, RELATIVE_TIME),
        },
        event_type: "type".into(),
        age: Duration::ZERO,
        payload,
        payload_bytes: bytes,
        lease: lease(),
    }
}

fn leased(leasing: &Leasing, events: Vec<LeasedEvent>) -> LeasedEvents {
    let from = Instant::now();
    LeasedEvents {
        batch: leasing.send(0, from).number,
        from,
        events,
        next_in: None,
    }
}

fn handed_out(fronts: &Arc<QueueFronts>, route: &str) -> (Vec<i64>, Option<Leasing>) {
    let HandedOut { due, to_lease } = fronts.hand_out(&route.into(), &[], 4);
    let ids = due.events.iter().map(|event| event.id.0).collect();
    (ids, to_lease)
}

#[test]
fn fronts_share_the_bytes_that_wait() {
    let fronts = Arc::<QueueFronts>::default();
    let routes: Vec<_> = (0..6).map(|route| route.to_string()).collect();
    let all = routes.iter().map(|route| handed_out(&fronts, route).1);
    let all: Vec<_> = all.map(Option::unwrap).collect();
    let bytes = all.iter().map(|leasing| leasing.bytes);
    let each = LEASED_AT_ONCE_BYTES_MAX;
    // The others lease events without their payloads.
    assert_eq!(bytes.collect::<Vec<_>>(), [each, each, each, each, 0, 0]);
    drop(all);
    assert_eq!(handed_out(&fronts, "0").1.unwrap().bytes, each);
    assert_eq!(fronts.lock().waiting_bytes, 0);
}

#[test]
fn payload_that_is_not_held_does_not_count() {
    let fronts = Arc::<QueueFronts>::default();
    let mut leasing = handed_out(&fronts, "a").1.unwrap();
    let events = vec![event(1, WAITING_BYTES_MAX, false), event(2, 100, true)];
    let leased = leased(&leasing, events);
    assert!(leasing.add(leased).is_empty());
    drop(leasing);
    assert_eq!(fronts.lock().waiting_bytes, 100);
    assert_eq!(handed_out(&fronts, "a").0, [1, 2]);
    assert_eq!(fronts.lock().waiting_bytes, 0);
}

#[test]
fn reopened_front_refuses_earlier_leases() {
    let fronts = Arc::<QueueFronts>::default();
    let mut late = handed_out(&fronts, "a").1.unwrap();
    assert!(fronts.close("a").is_empty());
    // The later events wait until the earlier ones are free again.
    assert!(handed_out(&fronts, "a").1.is_none());
    let leased = leased(&late, vec![event(1, 100, true)]);
    assert_eq!(late.add(leased), [(1, DeliveryId(1))]);
    drop(late);
    let (ids, to_lease) = handed_out(&fronts, "a");
    assert!(ids.is_empty() && to_lease.is_some());
    drop(to_lease);
    assert_eq!(fronts.lock().waiting_bytes, 0);
}

#[test]
fn reopened_front_refuses_earlier_stored_events() {
    let fronts = Arc::<QueueFronts>::default();
    let route = "a".into();
    let open = || {
        let mut leasing = handed_out(&fronts, "a").1.unwrap();
        let none = leased(&leasing, Vec::new());
        assert!(leasing.add(none).is_empty());
    };
    open();
    let late = fronts.reserve(&route, 100).unwrap();
    fronts.close("a");
    open();
    let current = fronts.reserve(&route, 50).unwrap();
    assert_eq!(late.fill(event(1, 100, true)), Some((1, DeliveryId(1))));
    assert_eq!(fronts.lock().routes["a"].reserved, 1);
    assert_eq!(current.fill(event(2, 50, true)), None);
    assert_eq!(fronts.lock().waiting_bytes, 50);
}

#[test]
fn renewal_leaves_what_was_leased_again() {
    let fronts = Arc::<QueueFronts>::default();
    let mut leasing = handed_out(&fronts, "a").1.unwrap();
    let events = vec![event(1, 10, true), event(2, 10, true)];
    let asked: Vec<_> = events.iter().map(|it| (it.place.1, it.lease)).collect();
    let batch = leased(&leasing, events);
    leasing.add(batch);
    let batch = leased(&leasing, vec![event(2, 10, true)]);
    leasing.add(batch);
    // The server found neither lease.
    fronts.renew(&asked, &HashSet::new(), Instant::now());
    assert_eq!(fronts.lock().waiting_bytes, 10);
    assert_eq!(handed_out(&fronts, "a").0, [2]);
}

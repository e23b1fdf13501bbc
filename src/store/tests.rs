use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::backoff::Reason;
use crate::clock::ManualClock;
use crate::metrics::Metrics;
use crate::signature::PayloadDigest;

const WINDOW: Duration = Duration::from_secs(96 * 3600);
const KEEP: Retain = Retain { payloads: Payloads::Failed, keep: Duration::from_secs(7 * 86_400), max_bytes: None };

struct Kept {
    folder: tempfile::TempDir,
    clock: Clock,
    hand: Arc<ManualClock>,
    metrics: Metrics,
}

impl Kept {
    fn new() -> Self {
        let (clock, hand) = Clock::manual();
        Self { folder: tempfile::tempdir().unwrap(), clock, hand, metrics: Metrics::new().unwrap() }
    }

    fn settings(&self) -> EmbeddedSettings {
        EmbeddedSettings {
            folder: self.folder.path().join("store"),
            durability: Durability::Strict,
            max_ids: 1_000,
            max_bytes: None,
        }
    }

    fn try_open(&self, settings: EmbeddedSettings) -> Result<Store, OpenError> {
        Store::embedded(settings, self.clock.clone(), self.metrics.store().clone())
    }

    fn open(&self) -> Store {
        self.try_open(self.settings()).unwrap()
    }

    /// Lets running time pass, in steps that are believed.
    fn pass(&self, store: &Store, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(Duration::from_secs(50));
            self.hand.advance(step);
            store.tick();
            left -= step;
        }
    }
}

fn completed(number: u8) -> Record {
    Record::Completed { digest: PayloadDigest::from_bytes([number; 16]) }
}

fn tried(attempts: u32) -> Record {
    Record::Tried(Tried { attempts, possibly_delivered: attempts > 1 })
}

fn subject(event: &str) -> Arc<Subject> {
    Arc::new(Subject {
        route: "billing".into(),
        event_id: event.into(),
        event_type: "user.created".into(),
        received_at: Timestamp::from_second(1_790_000_000).unwrap(),
        secret: "current".into(),
        is_test: false,
    })
}

fn attempt(status: u16) -> Attempted {
    Attempted { at: Timestamp::from_second(1_790_000_001).unwrap(), ms: 12, status: Some(status), error: None }
}

fn received(event: &str, at: &str, state: State) -> DeliveryChange {
    let subject = Subject { received_at: at.parse().unwrap(), ..(*subject(event)).clone() };
    DeliveryChange { subject: Arc::new(subject), ..change(event, state) }
}

fn change(event: &str, state: State) -> DeliveryChange {
    DeliveryChange {
        earlier: None,
        subject: subject(event),
        state,
        tried: Tried::default(),
        attempt: (state != State::Pending).then(|| attempt(200)),
        payload: (state == State::Pending)
            .then(|| Payload { head: Bytes::from_static(b"head"), body: Bytes::from_static(b"body") }),
        due_after: Duration::ZERO,
    }
}

fn settlement(key: u128, earlier: Option<Place>, becomes: Record, delivery: Option<DeliveryChange>) -> Settlement {
    let names = [Some(Name { key: EventKey(key), earlier }), None];
    Settlement { names, becomes, window: WINDOW, if_lost: Tried::default(), delivery }
}

const TERMS: Terms = Terms { lease: Duration::from_secs(10), window: WINDOW, forwards: true };

/// What is known of an event, and where; the claim that asking took is given back.
async fn found(store: &Store, key: u128) -> (Option<Place>, Option<Found>) {
    match store.claim(EventKey(key), TERMS).await.unwrap() {
        Claimed::Here(held, found) => (held.place(), found),
        Claimed::Elsewhere => panic!("there is no other gateway"),
    }
}

async fn record(store: &Store, key: u128) -> Option<Record> {
    found(store, key).await.1.map(|found| found.record)
}

async fn queued(store: &Store, key: u128, event: &str) -> DeliveryId {
    store.settle(settlement(key, None, completed(1), Some(change(event, State::Pending)))).await.unwrap().unwrap()
}

fn now(store: &Store, id: DeliveryId) -> Requeue {
    Requeue { id, from: None, due: store.due_now(), completing: Vec::new(), window: WINDOW }
}

#[tokio::test]
async fn what_was_settled_is_known_and_survives_a_restart() {
    let kept = Kept::new();
    let store = kept.open();
    store.settle(settlement(1, None, completed(7), None)).await.unwrap();
    store.settle(settlement(2, None, tried(2), None)).await.unwrap();
    assert_eq!(record(&store, 1).await, Some(completed(7)));
    assert_eq!(record(&store, 3).await, None);
    let key = store.hash_key();
    store.close(true).await;
    drop(store);
    let store = kept.open();
    assert_eq!(record(&store, 1).await, Some(completed(7)));
    assert_eq!(record(&store, 2).await, Some(tried(2)));
    assert_eq!((store.ids(), store.hash_key()), (2, key));
}

#[tokio::test]
async fn a_record_takes_the_place_of_an_earlier_one() {
    let kept = Kept::new();
    let store = kept.open();
    store.settle(settlement(1, None, tried(1), None)).await.unwrap();
    let (place, _) = found(&store, 1).await;
    store.settle(settlement(1, place, completed(1), None)).await.unwrap();
    assert_eq!((record(&store, 1).await, store.ids()), (Some(completed(1)), 1));
}

#[tokio::test]
async fn of_two_records_of_an_event_the_completed_one_holds() {
    for (first, second) in [(tried(1), completed(1)), (completed(1), tried(1))] {
        let kept = Kept::new();
        let store = kept.open();
        store.settle(settlement(1, None, first, None)).await.unwrap();
        store.settle(settlement(1, None, second, None)).await.unwrap();
        assert_eq!(record(&store, 1).await, Some(completed(1)));
    }
}

#[tokio::test]
async fn what_is_forgotten_stays_forgotten_when_the_index_is_read_anew() {
    let kept = Kept::new();
    let store = kept.open();
    for key in 1..=3 {
        let delivery = Some(change(&key.to_string(), State::Success));
        store.settle(settlement(key, None, completed(1), delivery)).await.unwrap();
    }
    let rows = store.rows(EventKey(2)).await.unwrap();
    assert_eq!(rows.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [EventKey(2)], "neighbours of other deliveries");
    store.forget_event(rows).await.unwrap();
    assert_eq!((record(&store, 2).await, store.ids()), (None, 2));
    let reopened = store.waker(&"billing".into());
    store.distrust();
    reopened.notified().await;
    assert_eq!((record(&store, 2).await, store.ids()), (None, 2));
    assert_eq!((record(&store, 1).await, record(&store, 3).await), (Some(completed(1)), Some(completed(1))));
    assert!(store.rows(EventKey(2)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_record_lives_exactly_as_long_as_its_window_of_running_time() {
    let kept = Kept::new();
    let store = kept.open();
    store.settle(settlement(1, None, completed(1), None)).await.unwrap();
    kept.pass(&store, WINDOW.saturating_sub(Duration::from_secs(1)));
    assert_eq!(record(&store, 1).await, Some(completed(1)));
    kept.pass(&store, Duration::from_secs(1));
    assert_eq!(record(&store, 1).await, None);
}

#[tokio::test]
async fn time_between_runs_and_leaps_of_the_clock_do_not_count() {
    let kept = Kept::new();
    let store = kept.open();
    store.settle(settlement(1, None, completed(1), None)).await.unwrap();
    store.close(true).await;
    drop(store);
    kept.hand.advance(2 * WINDOW);
    let store = kept.open();
    kept.hand.advance(2 * WINDOW);
    assert_eq!(record(&store, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn a_full_store_says_so_and_forgets_nothing() {
    let kept = Kept::new();
    let store = kept.try_open(EmbeddedSettings { max_ids: 1, ..kept.settings() }).unwrap();
    assert_eq!(store.check_room(), Ok(()));
    store.settle(settlement(1, None, completed(1), None)).await.unwrap();
    assert_eq!(store.check_room(), Err(StoreError::Full));
    assert_eq!(record(&store, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn a_second_store_on_the_folder_is_refused_by_name() {
    let kept = Kept::new();
    let _first = kept.open();
    let refused = kept.try_open(kept.settings()).err().unwrap().to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_and_left_as_it_is() {
    for content in [b"not a database, and long enough to be looked at as one".repeat(100), Vec::new()] {
        let kept = Kept::new();
        let folder = kept.settings().folder;
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("hookgate.db");
        if content.is_empty() {
            rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
        } else {
            std::fs::write(&file, &content).unwrap();
        }
        let before = std::fs::read(&file).unwrap();
        assert!(matches!(kept.try_open(kept.settings()), Err(OpenError::Foreign { .. })));
        if !content.is_empty() {
            assert_eq!(std::fs::read(&file).unwrap(), before);
        }
    }
}

#[tokio::test]
async fn a_store_of_the_version_before_is_brought_forward_with_all_that_it_holds() {
    let kept = Kept::new();
    let store = kept.open();
    let id = queued(&store, 1, "a").await;
    store.close(true).await;
    drop(store);
    let file = rusqlite::Connection::open(kept.settings().folder.join("hookgate.db")).unwrap();
    file.execute_batch(
        "ALTER TABLE deliveries DROP COLUMN secret; ALTER TABLE deliveries DROP COLUMN test; PRAGMA user_version = 1",
    )
    .unwrap();
    drop(file);
    let store = kept.open();
    let secret = async |id| store.delivery(id).await.unwrap().unwrap().secret;
    assert_eq!((record(&store, 1).await, secret(id).await), (Some(completed(1)), None));
    let id = queued(&store, 2, "b").await;
    assert_eq!(secret(id).await.as_deref(), Some("current"));
}

#[tokio::test]
async fn a_stored_event_is_due_in_the_order_of_arrival_until_it_is_delivered() {
    let kept = Kept::new();
    let store = kept.open();
    let ids = [queued(&store, 1, "a").await, queued(&store, 2, "b").await];
    let due = store.due("billing".into(), &[], 10).await.unwrap().events;
    assert_eq!(due.iter().map(|due| due.id).collect::<Vec<_>>(), ids);
    assert_eq!(due[0].payload_bytes, 8);
    assert!(store.due("other".into(), &[], 10).await.unwrap().events.is_empty());
    let event = store.load(ids[0], Duration::from_secs(10)).await.unwrap().unwrap();
    assert_eq!((&*event.event_id, event.tried), ("a", Tried::default()));
    assert_eq!(event.payload.unwrap().body, Bytes::from_static(b"body"));
    assert_eq!(store.waiting("billing"), (2, 0));
    store.attempted(ids[0], 1, attempt(200), Next::Done { keep_payload: false }).await.unwrap();
    assert_eq!(store.waiting("billing"), (1, 0));
    assert!(store.load(ids[0], Duration::from_secs(10)).await.unwrap().is_none());
    let view = store.delivery(ids[0]).await.unwrap().unwrap();
    assert_eq!((view.state, view.body, view.attempts), (State::Success, None, vec![attempt(200)]));
    assert_eq!(record(&store, 1).await, Some(completed(1)), "delivered, and still known");
}

#[tokio::test]
async fn a_pause_is_kept_and_goes_on_while_we_are_away() {
    let kept = Kept::new();
    let store = kept.open();
    let id = queued(&store, 1, "a").await;
    let after = Duration::from_secs(30);
    store.attempted(id, 1, attempt(500), Next::Retry { after, possibly_delivered: true }).await.unwrap();
    let due = store.due("billing".into(), &[], 10).await.unwrap();
    assert_eq!(due, Due { events: Vec::new(), all_seen: true, next_in: Some(after) });
    kept.pass(&store, after);
    assert_eq!(store.due("billing".into(), &[], 10).await.unwrap().events.len(), 1);
    let event = store.load(id, Duration::from_secs(10)).await.unwrap().unwrap();
    assert_eq!(event.tried, Tried { attempts: 1, possibly_delivered: true });
    assert_eq!(event.age, after);
}

#[tokio::test]
async fn a_dead_letter_is_kept_whole_and_can_be_delivered_again() {
    let kept = Kept::new();
    let store = kept.open();
    let id = queued(&store, 1, "a").await;
    store.attempted(id, 1, attempt(410), Next::Dead(Reason::Rejected)).await.unwrap();
    assert_eq!(store.waiting("billing"), (0, 1));
    let view = store.delivery(id).await.unwrap().unwrap();
    assert_eq!((view.state, view.reason.as_deref()), (State::Dead, Some("rejected")));
    assert!(store.due("billing".into(), &[], 10).await.unwrap().events.is_empty());
    store.close(true).await;
    drop(store);
    let store = kept.open();
    assert_eq!(store.waiting("billing"), (0, 1));
    assert_eq!(store.requeue(vec![now(&store, id)]).await.unwrap(), [Requeued::Waits("billing".into())]);
    assert_eq!(store.waiting("billing"), (1, 0));
    assert_eq!(
        store.load(id, Duration::from_secs(10)).await.unwrap().unwrap().payload.unwrap().body,
        Bytes::from_static(b"body")
    );
    assert_eq!(store.requeue(vec![now(&store, DeliveryId(99))]).await.unwrap(), [Requeued::Unknown]);
}

#[tokio::test]
async fn what_is_delivered_again_is_due_when_it_was_asked_for_also_after_a_restart() {
    let kept = Kept::new();
    let store = kept.open();
    let ids = [queued(&store, 1, "a").await, queued(&store, 2, "b").await];
    let start = store.due_now();
    // The later one is written first.
    for (id, seconds) in [(ids[1], 60), (ids[0], 30)] {
        let requeue = Requeue { due: start.after(Duration::from_secs(seconds)), ..now(&store, id) };
        store.requeue(vec![requeue]).await.unwrap();
    }
    kept.pass(&store, Duration::from_secs(10));
    store.close(true).await;
    drop(store);
    let store = kept.open();
    let due = store.due("billing".into(), &[], 10).await.unwrap();
    assert!(due.events.is_empty() && due.next_in.is_some_and(|pause| pause <= Duration::from_secs(20)), "{due:?}");
    kept.pass(&store, Duration::from_secs(50));
    let due = store.due("billing".into(), &[], 10).await.unwrap().events;
    assert_eq!(due.iter().map(|due| due.id).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn what_stands_otherwise_than_it_did_is_left_alone() {
    let kept = Kept::new();
    let store = kept.open();
    let id = queued(&store, 1, "a").await;
    store.attempted(id, 1, attempt(200), Next::Done { keep_payload: true }).await.unwrap();
    let dead = Requeue { from: Some(State::Dead), ..now(&store, id) };
    assert_eq!(store.requeue(vec![dead]).await.unwrap(), [Requeued::Unknown]);
    assert_eq!(store.delivery(id).await.unwrap().unwrap().state, State::Success);
    let success = Requeue { from: Some(State::Success), ..now(&store, id) };
    assert_eq!(store.requeue(vec![success]).await.unwrap(), [Requeued::Waits("billing".into())]);
}

#[tokio::test]
async fn those_that_match_come_in_pages_oldest_first_with_what_is_kept_of_them() {
    let kept = Kept::new();
    let store = kept.open();
    for key in 1..=5 {
        let payload = (key != 3).then(|| Payload { head: Bytes::from_static(b"head"), body: Bytes::new() });
        let change = DeliveryChange { payload, ..change("a", State::Failed) };
        store.settle(settlement(key, None, tried(1), Some(change))).await.unwrap();
    }
    queued(&store, 6, "b").await;
    let filter = Filter { state: Some(State::Failed), route: Some("billing".into()), ..Filter::default() };
    let page = async |after| store.matching(filter.clone(), DeliveryId(after), 3).await.unwrap();
    assert_eq!(page(0).await, [(DeliveryId(1), true), (DeliveryId(2), true), (DeliveryId(3), false)]);
    assert_eq!(page(3).await, [(DeliveryId(4), true), (DeliveryId(5), true)]);
    assert_eq!(page(5).await, []);
}

#[tokio::test]
async fn after_a_crash_those_that_may_have_been_under_way_are_suspected_and_no_others() {
    let (none, second, first_two) = ([false; 3], [false, true, false], [true, true, false]);
    for (in_good_order, same_boot, suspected) in [(true, false, none), (false, true, second), (false, false, first_two)]
    {
        let kept = Kept::new();
        let store = kept.open();
        store.serve(vec![Lane { route: "billing".into(), retain: KEEP, concurrency: 2 }]);
        let ids = [queued(&store, 1, "a").await, queued(&store, 2, "b").await, queued(&store, 3, "c").await];
        if !in_good_order {
            drop(store.begin_stored(ids[1], Until::EVER).unwrap());
        }
        store.close(in_good_order).await;
        drop(store);
        if !same_boot {
            let file = rusqlite::Connection::open(kept.settings().folder.join("hookgate.db")).unwrap();
            file.execute("UPDATE store SET boot = 'another'", []).unwrap();
            let _ = std::fs::remove_file(kept.settings().folder.join("hookgate.underway"));
        }
        let store = kept.open();
        for (id, suspected) in ids.into_iter().zip(suspected) {
            assert_eq!(
                store.load(id, Duration::from_secs(10)).await.unwrap().unwrap().tried.possibly_delivered,
                suspected
            );
        }
    }
}

#[tokio::test]
async fn a_failed_delivery_and_its_success_are_one_record_with_two_attempts() {
    let kept = Kept::new();
    let store = kept.open();
    let mut failed = change("a", State::Failed);
    failed.attempt = Some(attempt(500));
    failed.payload = Some(Payload { head: Bytes::from_static(b"head"), body: Bytes::from_static(b"body") });
    let id = store.settle(settlement(1, None, tried(1), Some(failed))).await.unwrap().unwrap();
    let (place, known) = found(&store, 1).await;
    let known = known.unwrap();
    assert_eq!(known.delivery, Some(id));
    let record = store.route_record("billing".into(), 0).await.unwrap();
    assert_eq!((record.successful, record.failed), (0, 1));
    let change = DeliveryChange { earlier: known.delivery, ..change("a", State::Success) };
    let again = store.settle(settlement(1, place, completed(1), Some(change))).await.unwrap();
    assert_eq!(again, Some(id));
    let view = store.delivery(id).await.unwrap().unwrap();
    assert_eq!((view.state, view.attempts), (State::Success, vec![attempt(500), attempt(200)]));
    assert_eq!(view.body, None, "a payload is kept as long as the delivery has failed");
    let record = store.route_record("billing".into(), 0).await.unwrap();
    assert_eq!((record.successful, record.failed, record.total_ms, record.recent), (1, 0, 12, 1));
}

#[tokio::test]
async fn a_success_that_is_delivered_again_counts_once() {
    let kept = Kept::new();
    let store = kept.open();
    let id = queued(&store, 1, "a").await;
    for number in 1..=3 {
        store.attempted(id, number, attempt(200), Next::Done { keep_payload: true }).await.unwrap();
        let record = store.route_record("billing".into(), 0).await.unwrap();
        assert_eq!((record.successful, record.total_ms), (1, 12));
        assert_eq!(store.requeue(vec![now(&store, id)]).await.unwrap(), [Requeued::Waits("billing".into())]);
        assert!(store.load(id, Duration::from_secs(10)).await.unwrap().unwrap().tried.possibly_delivered);
    }
}

#[tokio::test]
async fn a_record_of_another_event_is_not_written_over() {
    let kept = Kept::new();
    let store = kept.open();
    let first = store.settle(settlement(1, None, completed(1), Some(change("a", State::Success)))).await.unwrap();
    let change = DeliveryChange { earlier: first, ..change("b", State::Success) };
    let second = store.settle(settlement(2, None, completed(1), Some(change))).await.unwrap();
    assert_ne!(first, second);
}

#[tokio::test]
async fn deliveries_are_found_by_any_of_their_marks_newest_first() {
    let kept = Kept::new();
    let store = kept.open();
    for (key, event) in [(1, "a"), (2, "b"), (3, "c")] {
        store.settle(settlement(key, None, completed(1), Some(change(event, State::Success)))).await.unwrap();
    }
    let dead = queued(&store, 4, "d").await;
    store.attempted(dead, 1, attempt(404), Next::Dead(Reason::Rejected)).await.unwrap();
    let find = async |filter: Filter| -> String {
        let found = store.deliveries(Filter { limit: 2, ..filter }).await.unwrap();
        found.iter().map(|view| view.event_id.as_str()).collect()
    };
    let all = Filter::default;
    assert_eq!(find(all()).await, "dc");
    assert_eq!(find(Filter { before: Some(DeliveryId(3)), ..all() }).await, "ba");
    assert_eq!(find(Filter { state: Some(State::Dead), ..all() }).await, "d");
    assert_eq!(find(Filter { state: Some(State::Success), route: Some("billing".into()), ..all() }).await, "cb");
    assert_eq!(find(Filter { route: Some("other".into()), ..all() }).await, "");
    assert_eq!(find(Filter { event_id: Some("b".into()), ..all() }).await, "b");
    assert_eq!(find(Filter { event_type: Some("none".into()), ..all() }).await, "");
}

#[tokio::test]
async fn since_takes_its_moment_and_until_does_not() {
    let kept = Kept::new();
    let store = kept.open();
    for (key, at) in [(1, "2026-06-01T12:00:00Z"), (2, "2026-06-01T12:00:00.001Z"), (3, "2026-06-01T12:00:00.0015Z")] {
        let change = received(&key.to_string(), at, State::Success);
        store.settle(settlement(key, None, completed(1), Some(change))).await.unwrap();
    }
    let find = async |since: Option<&str>, until: Option<&str>| -> (String, Option<usize>) {
        let at = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        let filter = Filter { since: at(since), until: at(until), limit: 10, ..Filter::default() };
        let found = store.deliveries(filter.clone()).await.unwrap();
        (found.iter().map(|view| view.event_id.as_str()).collect(), store.count_deliveries(filter).await.unwrap())
    };
    assert_eq!(find(Some("2026-06-01T12:00:00.001Z"), None).await, ("32".into(), Some(2)));
    assert_eq!(find(Some("2026-06-01T12:00:00.0005Z"), None).await, ("32".into(), Some(2)));
    assert_eq!(find(None, Some("2026-06-01T12:00:00.001Z")).await, ("1".into(), Some(1)));
    assert_eq!(find(Some("2026-06-01T12:00:00Z"), Some("2026-06-01T12:00:00.001Z")).await, ("1".into(), Some(1)));
    assert_eq!(find(Some("2026-06-01T12:00:00.002Z"), None).await, (String::new(), Some(0)));
}

#[tokio::test]
async fn records_go_when_they_are_old_or_too_many_and_those_that_wait_or_are_dead_stay() {
    let kept = Kept::new();
    let store = kept.open();
    let waiting = queued(&store, 1, "waiting").await;
    let dead = queued(&store, 2, "dead").await;
    store.attempted(dead, 1, attempt(404), Next::Dead(Reason::Rejected)).await.unwrap();
    for key in 10..20 {
        let event = format!("evt_{key}");
        store.settle(settlement(key, None, completed(1), Some(change(&event, State::Success)))).await.unwrap();
    }
    let lane = |retain| vec![Lane { route: "billing".into(), retain, concurrency: 1 }];
    // Room for three records without a payload.
    store.serve(lane(Retain { max_bytes: Some(900), ..KEEP }));
    all_left(&store, &["evt_19", "evt_18", "evt_17", "dead", "waiting"]).await;
    store.serve(lane(Retain { keep: Duration::from_secs(40), ..KEEP }));
    kept.pass(&store, Duration::from_secs(50));
    all_left(&store, &["dead", "waiting"]).await;
    assert!(store.load(waiting, Duration::from_secs(10)).await.unwrap().is_some());
    assert_eq!(record(&store, 19).await, Some(completed(1)), "the ledger does not go with the records");
}

/// Waits for the upkeep to have left these.
async fn all_left(store: &Store, events: &[&str]) {
    for _ in 0..2_000 {
        let left = store.deliveries(Filter { limit: 100, ..Filter::default() }).await.unwrap();
        if left.iter().map(|view| view.event_id.as_str()).eq(events.iter().copied()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never left: {events:?}");
}

#[tokio::test]
async fn who_delivers_is_woken_by_whatever_stores_an_event() {
    let kept = Kept::new();
    let store = kept.open();
    let (waker, other) = (store.waker(&"billing".into()), store.waker(&"other".into()));
    let id = queued(&store, 1, "a").await;
    waker.notified().await;
    store.attempted(id, 1, attempt(410), Next::Dead(Reason::Rejected)).await.unwrap();
    store.requeue(vec![now(&store, id)]).await.unwrap();
    waker.notified().await;
    // It was pending before, and is due earlier.
    store.requeue(vec![now(&store, id)]).await.unwrap();
    waker.notified().await;
    store.distrust();
    waker.notified().await;
    other.notified().await;
}

#[tokio::test]
async fn an_attempt_that_is_told_twice_counts_once_and_no_number_of_them_fills_a_row() {
    let kept = Kept::new();
    let store = kept.open();
    let id = queued(&store, 1, "a").await;
    let next = Next::Retry { after: Duration::ZERO, possibly_delivered: false };
    for number in 1..=150 {
        for _ in 0..2 {
            let attempt = Attempted { ms: number.into(), ..attempt(500) };
            store.attempted(id, number, attempt, next).await.unwrap();
        }
    }
    let view = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(view.tried, 150);
    let kept: Vec<_> = view.attempts.iter().map(|attempt| attempt.ms).collect();
    assert_eq!(kept, (1..=10).chain(61..=150).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_file_that_has_gone_is_not_made_anew() {
    let kept = Kept::new();
    let store = kept.open();
    store.settle(settlement(1, None, completed(1), None)).await.unwrap();
    let folder = kept.settings().folder;
    let (file, away) = (folder.join("hookgate.db"), folder.join("away.db"));
    let reopened = store.waker(&"billing".into());
    store.distrust();
    reopened.notified().await;
    std::fs::rename(&file, &away).unwrap();
    store.distrust();
    while store.check_open().is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(store.settle(settlement(2, None, completed(1), None)).await, Err(StoreError::Unavailable));
    assert!(!file.exists());
    std::fs::rename(&away, &file).unwrap();
    reopened.notified().await;
    assert_eq!((record(&store, 1).await, store.ids()), (Some(completed(1)), 1));
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_told_and_its_event_is_not() {
    let kept = Kept::new();
    let store = kept.open();
    let id = queued(&store, 1, "a").await;
    let file = rusqlite::Connection::open(kept.settings().folder.join("hookgate.db")).unwrap();
    file.execute("DELETE FROM payloads", []).unwrap();
    let event = store.load(id, Duration::from_secs(10)).await.unwrap().unwrap();
    assert_eq!((&*event.event_id, event.payload.is_none()), ("a", true));
}

#[tokio::test]
async fn many_askers_share_a_commit() {
    let kept = Kept::new();
    let store = kept.open();
    let before = commits(&kept.metrics);
    let asked: Vec<_> = (1..=500)
        .map(|key| {
            let store = store.clone();
            tokio::spawn(async move { store.settle(settlement(key, None, completed(1), None)).await })
        })
        .collect();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(store.ids(), 500);
    let commits = commits(&kept.metrics) - before;
    assert!(commits < 250.0, "{commits} commits for 500 that came together");
}

fn commits(metrics: &Metrics) -> f64 {
    let text = metrics.render(0, 0).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("hookgate_store_commit_duration_seconds_count "));
    line.unwrap().parse().unwrap()
}

/// One step against the store and against a map.
#[derive(Debug, Clone)]
enum Step {
    Settle { key: u128, completed: bool },
    Pass(u64),
    Restart { in_good_order: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u128..6, any::<bool>()).prop_map(|(key, completed)| Step::Settle { key, completed }),
        2 => (0u64..20).prop_map(|tens| Step::Pass(tens * 10)),
        1 => any::<bool>().prop_map(|in_good_order| Step::Restart { in_good_order }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_ledger_agrees_with_a_map_over_restarts_and_time(steps in prop::collection::vec(step(), 0..60)) {
        const WINDOW: Duration = Duration::from_secs(100);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let kept = Kept::new();
            let mut store = kept.open();
            let mut model: HashMap<u128, (Record, u64)> = HashMap::new();
            let mut now = 0;
            for (number, step) in (1..).zip(steps) {
                match step {
                    Step::Settle { key, completed: done } => {
                        let (earlier, _) = found(&store, key).await;
                        let becomes = if done { completed(number) } else { tried(number.into()) };
                        let settled = Settlement { window: WINDOW, ..settlement(key, earlier, becomes, None) };
                        store.settle(settled).await.unwrap();
                        model.insert(key, (becomes, now + 100));
                    }
                    Step::Pass(seconds) => {
                        kept.pass(&store, Duration::from_secs(seconds));
                        now += seconds;
                    }
                    Step::Restart { in_good_order } => {
                        store.close(in_good_order).await;
                        drop(store);
                        store = kept.open();
                    }
                }
                for key in 0..6 {
                    let expected = model.get(&key).filter(|(_, ends)| now < *ends).map(|(record, _)| *record);
                    assert_eq!(record(&store, key).await, expected, "{key} at {now}");
                }
            }
        });
    }
}

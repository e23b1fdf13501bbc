//! Tests of what only the shared engine guarantees.

use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::connect::{CurrentDatabase, Database};
use super::pool::ConnectionPool;
use crate::backoff::DeadLetterReason;
use crate::signature::PayloadDigest;
use crate::store::tests::{
    ATTEMPT_TIMEOUT, TERMS, TestStore, active, attempt, claim, claim_with, completed, creation_key,
    delivery_change, due_ids, ledger_entry, queued, settle, settlement, tried, wait_for_counts,
    wait_for_removed, wait_until_registered,
};
use crate::store::{
    AttemptHistory, AttemptId, AttemptOutcome, ClaimLease, ClaimPurpose, ClaimResult, ClaimTerms,
    DeliveryId, DeliveryState, EventKey, LedgerEntry, Payload, SeenIncident, Store, StoreError,
    StoredCopy, Untold,
};

const SECOND: Duration = Duration::from_secs(1);

/// Opens two gateways on one database.
macro_rules! two {
    ($test_store:ident, $one:ident, $two:ident) => {
        let Some($test_store) = TestStore::shared() else {
            return;
        };
        let ($one, $two) = ($test_store.open().await, $test_store.open().await);
    };
}

async fn try_claim(store: &Store, key: u128) -> Option<(ClaimLease, Option<LedgerEntry>)> {
    match store.claim(EventKey(key), TERMS).await.unwrap() {
        ClaimResult::Acquired(lease, found) => Some((lease, found.map(|found| found.entry))),
        ClaimResult::HeldElsewhere => None,
    }
}

async fn possibly_delivered(store: &Store, id: DeliveryId) -> bool {
    store
        .load_event("billing".into(), id, ATTEMPT_TIMEOUT)
        .await
        .unwrap()
        .unwrap()
        .history
        .possibly_delivered
}

#[tokio::test]
async fn claim_excludes_other_gateways_until_released() {
    two!(test_store, one, two);
    let (lease, found) = try_claim(&one, 1).await.unwrap();
    assert_eq!(found, None);
    assert!(try_claim(&two, 1).await.is_none());
    drop(lease);
    let (_lease, found) = claim(&two, 1).await;
    assert!(found.is_none(), "nothing was sent");
    assert!(try_claim(&one, 1).await.is_none());
}

#[tokio::test]
async fn lapsed_claim_counts_as_an_unknown_attempt() {
    two!(test_store, one, two);
    let (late, _) = try_claim(&one, 1).await.unwrap();
    test_store.advance(&one, TERMS.lease.saturating_sub(SECOND * 5));
    assert!(try_claim(&two, 1).await.is_none());
    test_store.advance(&one, SECOND * 5);
    let (lease, found) = try_claim(&two, 1).await.unwrap();
    assert_eq!(
        found,
        Some(LedgerEntry::Attempted(AttemptHistory {
            attempts: 1,
            possibly_delivered: true
        }))
    );
    // A late settlement must not undo what the other gateway is about to do.
    let result = one.settle(settlement(1, late.row(), tried(1), None)).await;
    assert_eq!(result, Err(StoreError::Unavailable));
    two.settle(settlement(1, lease.row(), tried(2), None))
        .await
        .unwrap();
    lease.mark_settled();
    assert_eq!(ledger_entry(&one, 1).await, Some(tried(2)));
}

#[tokio::test]
async fn late_success_is_recorded() {
    two!(test_store, one, two);
    let (late, _) = try_claim(&one, 1).await.unwrap();
    test_store.advance(&one, TERMS.lease);
    let (lease, _) = try_claim(&two, 1).await.unwrap();
    let success = || Some(delivery_change("a", DeliveryState::Success));
    let first = one
        .settle(settlement(1, late.row(), completed(1), success()))
        .await
        .unwrap();
    let second = two
        .settle(settlement(1, lease.row(), completed(1), success()))
        .await
        .unwrap();
    assert_eq!(first, second, "one delivery");
    assert_eq!(ledger_entry(&two, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn released_claim_prolongs_nothing() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    let store = test_store.open().await;
    settle(&store, 1, tried(1), None).await;
    test_store.advance(&store, TERMS.window / 2);
    assert_eq!(ledger_entry(&store, 1).await, Some(tried(1)));
    test_store.advance(&store, TERMS.window / 2 + TERMS.lease);
    assert_eq!(ledger_entry(&store, 1).await, None);
}

#[tokio::test]
async fn unknown_attempt_expires_a_window_after_its_lease() {
    two!(test_store, one, two);
    let (_late, _) = try_claim(&one, 1).await.unwrap();
    test_store.advance(
        &one,
        (TERMS.lease + TERMS.window).saturating_sub(SECOND * 20),
    );
    let (lease, found) = try_claim(&two, 1).await.unwrap();
    assert_eq!(
        found,
        Some(LedgerEntry::Attempted(AttemptHistory {
            attempts: 1,
            possibly_delivered: true
        }))
    );
    drop(lease);
    assert!(ledger_entry(&two, 1).await.is_some());
    test_store.advance(&one, SECOND * 20);
    assert_eq!(ledger_entry(&two, 1).await, None);
}

#[tokio::test]
async fn queued_event_is_leased_to_one_gateway() {
    two!(test_store, one, two);
    let id = queued(&one, 1, "a").await;
    assert_eq!(
        (due_ids(&one).await, due_ids(&two).await),
        (vec![id], vec![])
    );
    assert!(
        two.load_event("billing".into(), id, ATTEMPT_TIMEOUT)
            .await
            .unwrap()
            .is_none()
    );
    test_store.advance(&one, SECOND * 15);
    assert_eq!(due_ids(&two).await, [id]);
    assert!(
        one.load_event("billing".into(), id, ATTEMPT_TIMEOUT)
            .await
            .unwrap()
            .is_none(),
        "too late"
    );
    // The event was in the memory of the other one, so an attempt may have begun.
    assert!(possibly_delivered(&two, id).await);
    test_store.advance(&one, ATTEMPT_TIMEOUT + SECOND * 5);
    assert!(
        due_ids(&one).await.is_empty(),
        "the outcome may still be recorded"
    );
    test_store.advance(&one, SECOND * 5);
    assert_eq!(due_ids(&one).await, [id]);
    assert!(possibly_delivered(&one, id).await);
}

const DELIVERED: AttemptOutcome = AttemptOutcome::Delivered {
    keep_payload: false,
};

/// Begins the first attempt at an event that this gateway has leased.
async fn begun(store: &Store, id: DeliveryId) -> AttemptId {
    let event = store.load_event("billing".into(), id, ATTEMPT_TIMEOUT);
    AttemptId {
        delivery: id,
        identity: event.await.unwrap().unwrap().identity,
        number: 1,
    }
}

#[tokio::test]
async fn reused_number_records_no_earlier_attempt() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    let store = test_store.open().await;
    let id = queued(&store, 1, "a").await;
    assert_eq!(due_ids(&store).await, [id]);
    let lost = begun(&store, id).await;
    // As if a standby that had not received the event were promoted.
    test_store.sql(
        "DELETE FROM hookstile.payloads; DELETE FROM hookstile.deliveries;
         DELETE FROM hookstile.ledger; ALTER SEQUENCE hookstile.delivery_numbers RESTART",
    );
    assert_eq!(queued(&store, 2, "b").await, id);
    assert_eq!(due_ids(&store).await, [id]);
    let dead = AttemptOutcome::Dead(DeadLetterReason::Rejected);
    for outcome in [DELIVERED, dead] {
        store
            .record_attempt(lost, attempt(200), outcome)
            .await
            .unwrap();
        let found = store.delivery(id).await.unwrap().unwrap();
        assert_eq!(
            (&*found.event_id, found.state),
            ("b", DeliveryState::Pending)
        );
    }
    let current = begun(&store, id).await;
    store
        .record_attempt(current, attempt(200), DELIVERED)
        .await
        .unwrap();
    let found = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(found.state, DeliveryState::Success);
}

#[tokio::test]
async fn attempt_without_a_lease_records_only_success() {
    two!(test_store, one, two);
    let id = queued(&one, 1, "a").await;
    due_ids(&one).await;
    let begun = begun(&one, id).await;
    test_store.advance(&one, ATTEMPT_TIMEOUT + SECOND * 10);
    assert_eq!(due_ids(&two).await, [id]);
    let retry = AttemptOutcome::Retry {
        after: SECOND * 60,
        possibly_delivered: false,
    };
    one.record_attempt(begun, attempt(500), retry)
        .await
        .unwrap();
    let view = two.delivery(id).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.attempt_count),
        (DeliveryState::Pending, 0)
    );
    one.record_attempt(begun, attempt(200), DELIVERED)
        .await
        .unwrap();
    assert_eq!(
        two.delivery(id).await.unwrap().unwrap().state,
        DeliveryState::Success
    );
    assert!(
        two.load_event("billing".into(), id, ATTEMPT_TIMEOUT)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn released_event_is_free_at_once() {
    two!(test_store, one, two);
    let id = queued(&one, 1, "a").await;
    assert_eq!(due_ids(&one).await, [id]);
    one.release_events(&[id]).await;
    assert_eq!(due_ids(&two).await, [id]);
    assert!(!possibly_delivered(&two, id).await, "nothing was sent");
    one.release_events(&[id]).await;
    assert!(
        due_ids(&one).await.is_empty(),
        "the lease belongs to the other gateway"
    );
}

/// Opens a route's front in a gateway whose worker makes up to so many attempts at once.
async fn open_front(store: &Store, concurrency: usize) {
    store.update_routes(active(&["billing"]));
    let due = store.due_events("billing".into(), &[], concurrency);
    assert!(due.await.unwrap().events.is_empty());
}

#[tokio::test]
async fn stored_event_is_attempted_from_memory() {
    two!(test_store, one, two);
    open_front(&one, 1).await;
    let id = queued(&one, 1, "a").await;
    assert!(due_ids(&two).await.is_empty(), "it is leased");
    let due = one.due_events("billing".into(), &[], 1).await.unwrap();
    assert_eq!(due.events[0].id, id);
    // What the database has does not matter any more.
    test_store.sql("UPDATE hookstile.payloads SET body = 'other'");
    let event = one.load_event("billing".into(), id, ATTEMPT_TIMEOUT);
    let event = event.await.unwrap().unwrap();
    assert_eq!(event.payload.unwrap().body, "body");
    assert_eq!(event.history, AttemptHistory::default());
    let first = AttemptId {
        delivery: id,
        identity: event.identity,
        number: 1,
    };
    let retry = AttemptOutcome::Retry {
        after: Duration::ZERO,
        possibly_delivered: false,
    };
    one.record_attempt(first, attempt(500), retry)
        .await
        .unwrap();
    let view = one.delivery(id).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.attempt_count),
        (DeliveryState::Pending, 1)
    );
    assert_eq!(due_ids(&two).await, [id], "it is free");
    let second = AttemptId {
        number: 2,
        ..begun(&two, id).await
    };
    two.record_attempt(second, attempt(200), DELIVERED)
        .await
        .unwrap();
    let view = one.delivery(id).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.attempt_count),
        (DeliveryState::Success, 2)
    );
}

#[tokio::test]
async fn events_in_memory_pass_on_when_their_gateway_dies() {
    two!(test_store, one, two);
    open_front(&one, 2).await;
    let ids = [queued(&one, 1, "a").await, queued(&one, 2, "b").await];
    one.close(false).await;
    test_store.advance(&two, ATTEMPT_TIMEOUT + SECOND * 5);
    assert!(due_ids(&two).await.is_empty());
    test_store.advance(&two, SECOND * 5);
    assert_eq!(due_ids(&two).await, ids);
    for id in ids {
        assert!(possibly_delivered(&two, id).await);
    }
}

#[tokio::test]
async fn renewed_lease_outlasts_its_first_end() {
    two!(test_store, one, two);
    open_front(&one, 1).await;
    let id = queued(&one, 1, "a").await;
    let ends = "SELECT lease_ends_ms FROM hookstile.deliveries";
    let first = test_store.sql(ends);
    while test_store.sql(ends) == first {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    test_store.advance(&two, ATTEMPT_TIMEOUT + SECOND * 17 / 2);
    assert!(due_ids(&two).await.is_empty());
    assert_eq!(due_ids(&one).await, [id]);
}

#[tokio::test]
async fn resting_route_leaves_its_events_unmarked() {
    two!(test_store, one, two);
    open_front(&one, 1).await;
    let id = queued(&one, 1, "a").await;
    one.release_route("billing").await;
    assert_eq!(due_ids(&two).await, [id]);
    assert!(!possibly_delivered(&two, id).await, "nothing was sent");
    // The next one is not attempted here either.
    let next = queued(&one, 2, "b").await;
    assert_eq!(due_ids(&two).await, [next]);
}

#[tokio::test]
async fn events_beyond_the_free_places_keep_their_order() {
    two!(test_store, one, two);
    open_front(&one, 2).await;
    let mut ids = Vec::new();
    for (number, name) in (1..).zip(["a", "b", "c", "d", "e"]) {
        ids.push(queued(&one, number, name).await);
    }
    let free = "SELECT count(*) FROM hookstile.deliveries WHERE lease_owner IS NULL";
    assert_eq!(
        test_store.sql(free).trim(),
        "3",
        "another gateway may attempt those"
    );
    let mut found = Vec::new();
    while found.len() < ids.len() {
        let due = one.due_events("billing".into(), &found, 2).await.unwrap();
        found.extend(due.events.iter().map(|event| event.id));
    }
    assert_eq!(found, ids);
    assert!(due_ids(&two).await.is_empty());
}

#[tokio::test]
async fn lost_lease_is_adopted_unmarked() {
    two!(test_store, one, two);
    let ids = [queued(&one, 1, "a").await, queued(&one, 2, "b").await];
    let leased = "SELECT count(*) FROM hookstile.deliveries WHERE lease_owner IS NOT NULL";
    {
        // The reply arrives, and is never read.
        let mut due = std::pin::pin!(one.due_events("billing".into(), &[], 10));
        let mut context = Context::from_waker(Waker::noop());
        while test_store.sql(leased).trim() == "0" {
            assert!(due.as_mut().poll(&mut context).is_pending());
            tokio::task::yield_now().await;
        }
    }
    assert!(due_ids(&two).await.is_empty(), "they are leased");
    assert_eq!(due_ids(&one).await, ids);
    for id in ids {
        assert!(!possibly_delivered(&one, id).await, "nothing was sent");
    }
}

#[tokio::test]
async fn outcome_respects_a_row_that_was_changed() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    let store = test_store.open().await;
    open_front(&store, 1).await;
    let id = queued(&store, 1, "a").await;
    assert_eq!(due_ids(&store).await, [id]);
    let attempted = begun(&store, id).await;
    // An operator changes when the retry horizon begins.
    test_store.sql("UPDATE hookstile.deliveries SET queued_ms = 1000000, reason = 'automatic'");
    let retry = AttemptOutcome::Retry {
        after: SECOND * 60,
        possibly_delivered: false,
    };
    store
        .record_attempt(attempted, attempt(500), retry)
        .await
        .unwrap();
    let row = "SELECT queued_ms, reason, tried, lease_owner FROM hookstile.deliveries";
    assert_eq!(test_store.sql(row).trim(), "1000000|automatic|1|");
}

#[tokio::test]
async fn event_is_queued_by_one_of_two_gateways() {
    two!(test_store, one, two);
    let terms = ClaimTerms {
        purpose: ClaimPurpose::Queue,
        ..TERMS
    };
    let (first, known) = claim_with(&one, 1, terms).await;
    assert!(known.is_none());
    let (second, known) = claim_with(&two, 1, terms).await;
    assert!(known.is_none(), "nothing is written before the event");
    let store = async |gateway: &Store, lease: &ClaimLease, body: u8| {
        let change = Some(delivery_change("a", DeliveryState::Pending));
        // Under the key of the first body's digest.
        let mut digest = [1; 16];
        digest[15] = body;
        let digest = PayloadDigest::from_bytes(digest);
        let entry = LedgerEntry::Completed { digest };
        gateway
            .settle(settlement(1, lease.row(), entry, change))
            .await
    };
    let id = store(&one, &first, 1).await.unwrap();
    for (body, copy) in [(1, StoredCopy::SameBody), (2, StoredCopy::OtherBody)] {
        let stored = store(&two, &second, body).await;
        assert_eq!(stored, Err(StoreError::StoredElsewhere(copy)));
    }
    let (_, known) = claim_with(&two, 1, terms).await;
    let known = known.unwrap();
    assert_eq!((known.entry, known.delivery), (completed(1), id));
    let count = "SELECT count(*) FROM hookstile.deliveries";
    assert_eq!(test_store.sql(count).trim(), "1");
}

#[tokio::test]
async fn event_from_another_gateway_notifies_the_route() {
    two!(test_store, one, two);
    let notifier = two.queue_notifier(&"billing".into());
    queued(&one, 1, "a").await;
    notifier.notified().await;
}

#[tokio::test]
async fn operator_changes_reach_the_other_gateway() {
    two!(test_store, one, two);
    let mut revision = two.revision().unwrap();
    revision.mark_unchanged();
    let (revision_read, _) = one.webhooks().await.unwrap();
    assert!(
        one.put_webhook("shop".into(), "{}".into(), revision_read, None)
            .await
            .unwrap()
            .is_some()
    );
    revision.changed().await.unwrap();
    assert_eq!(
        two.webhooks().await.unwrap().1,
        [("shop".into(), "{}".into())]
    );
    let outdated = two
        .put_webhook("other".into(), "{}".into(), revision_read, None)
        .await
        .unwrap();
    assert!(outdated.is_none(), "the revision has changed");
    let outdated = two.remove_webhook("shop".into(), revision_read).await;
    assert_eq!(outdated, Ok(None));
    let current = two.read_revision().await.unwrap();
    let removed = two.remove_webhook("shop".into(), current).await.unwrap();
    assert!(removed.is_some_and(|revision| revision != current));
    assert!(one.webhooks().await.unwrap().1.is_empty());
    revision.changed().await.unwrap();
    one.set_paused("billing".into(), true).await.unwrap();
    revision.changed().await.unwrap();
    assert_eq!(two.paused_routes().await.unwrap(), ["billing"]);
}

#[tokio::test]
async fn key_creates_once_among_gateways() {
    two!(test_store, one, two);
    let (revision, _) = one.webhooks().await.unwrap();
    let put = async |store: &Store, name: &str| {
        let key = Some(creation_key("k", 1));
        let put = store.put_webhook(name.into(), "{}".into(), revision, key);
        put.await.unwrap().is_some()
    };
    let (first, second) = tokio::join!(put(&one, "a"), put(&two, "b"));
    assert!(first != second, "one of them is outdated");
    let creation = two.creation("k").await.unwrap().unwrap();
    assert_eq!(creation.webhook, if first { "a" } else { "b" });
    assert_eq!(one.webhooks().await.unwrap().1.len(), 1);
}

#[tokio::test]
async fn attempted_event_is_not_moved() {
    two!(test_store, one, two);
    let id = queued(&one, 1, "a").await;
    assert_eq!(due_ids(&one).await, [id]);
    let load = |store: &Store, route: &str| {
        let (store, route) = (store.clone(), route.into());
        async move { store.load_event(route, id, ATTEMPT_TIMEOUT).await.unwrap() }
    };
    assert!(load(&one, "billing").await.is_some());
    let move_all = async || {
        let moved = two.move_events("billing".into(), "next".into(), DeliveryState::Pending, 10);
        moved.await.unwrap()
    };
    assert_eq!(move_all().await, 0);
    test_store.advance(&one, ATTEMPT_TIMEOUT + SECOND * 10);
    assert_eq!(move_all().await, 1, "the lease has lapsed");
    let due = two.due_events("next".into(), &[], 10).await.unwrap();
    assert_eq!(due.events.len(), 1);
    let event = load(&two, "next").await.unwrap();
    assert!(event.history.possibly_delivered);
}

#[tokio::test]
async fn route_of_another_gateway_is_not_removed() {
    two!(test_store, one, two);
    one.update_routes(active(&["billing"]));
    two.update_routes(active(&["next"]));
    wait_until_registered(&two, "billing").await;
    queued(&one, 1, "a").await;
    wait_for_counts(&two, (1, 0)).await;
    assert_eq!(two.removed_routes().await, Ok(vec![]));
    assert_eq!(two.is_served_elsewhere("billing").await, Ok(true));
    one.close(true).await;
    assert_eq!(two.is_served_elsewhere("billing").await, Ok(false));
    wait_for_removed(&two, &[("billing", 1)]).await;
}

#[tokio::test]
async fn route_of_a_killed_gateway_is_removed() {
    two!(test_store, one, two);
    one.update_routes(active(&["billing"]));
    wait_until_registered(&two, "billing").await;
    queued(&one, 1, "a").await;
    drop(one);
    assert_eq!(two.is_served_elsewhere("billing").await, Ok(true));
    test_store.advance(&two, SECOND * 20);
    wait_for_removed(&two, &[("billing", 1)]).await;
}

async fn wait_for_sql(test_store: &TestStore, query: &str, expected: &str) {
    for _ in 0..500 {
        if test_store.sql(query) == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{query} is not {expected}");
}

#[tokio::test]
async fn route_of_another_gateway_is_not_moved() {
    two!(test_store, one, two);
    one.update_routes(active(&["billing"]));
    wait_until_registered(&two, "billing").await;
    queued(&one, 1, "a").await;
    let move_all = async |store: &Store| {
        let moved = store.move_events("billing".into(), "next".into(), DeliveryState::Pending, 10);
        moved.await.unwrap()
    };
    assert_eq!(move_all(&two).await, 0);
    one.close(true).await;
    assert_eq!(move_all(&two).await, 1);
}

#[tokio::test]
async fn sweeping_gateway_counts_as_running() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    let one = test_store.open().await;
    one.update_routes(active(&["billing"]));
    wait_until_registered(&one, "billing").await;
    // Each statement of the sweep takes two seconds, and it needs many.
    test_store.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(2); RETURN NULL; END';
         CREATE TRIGGER slow AFTER DELETE ON hookstile.ledger EXECUTE FUNCTION slow();
         INSERT INTO hookstile.ledger (key, token, forwards, ends_ms, ends_before_ms, attempts,
            possibly_delivered)
         SELECT gen_random_uuid(), 0, true, 0, 0, 0, false FROM generate_series(1, 10000)",
    );
    let sweeping = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    wait_for_sql(&test_store, sweeping, "1").await;
    let two = test_store.open().await;
    test_store.advance(&two, SECOND * 20);
    let seen = "SELECT count(*) > 0 FROM hookstile.gateways, hookstile.clock
        WHERE seen_ms > now - 15000";
    wait_for_sql(&test_store, seen, "t").await;
    assert_eq!(two.is_served_elsewhere("billing").await, Ok(true));
    assert_eq!(test_store.sql(sweeping), "1", "the sweep goes on");
}

const MINUTE: Duration = Duration::from_secs(60);

/// Reports that a gateway sees one problem, or none.
async fn report(store: &Store, seen: Option<(i16, i16)>) -> u64 {
    let seen = seen.map(|(severity, lasting)| SeenIncident {
        key: "upstream_failing billing".into(),
        document: format!("of {severity}"),
        severity,
        lasting,
    });
    let seen: Vec<_> = seen.into_iter().collect();
    let reported = store.report_incidents(&seen, MINUTE * 2, MINUTE * 60);
    reported.await.unwrap()
}

/// Claims what is due and says that it was sent. Returns what it was with the ID of the incident.
async fn send(store: &Store) -> Option<(Untold, String)> {
    let claimed = store.claim_incident(SECOND * 15).await.unwrap()?;
    store.mark_incident_told(&claimed).await.unwrap();
    Some((claimed.incident.untold, claimed.incident.id))
}

#[tokio::test]
async fn incident_is_told_once_among_gateways() {
    two!(test_store, one, two);
    for store in [&one, &two] {
        report(store, Some((2, 2))).await;
    }
    let claimed = one.claim_incident(SECOND * 15).await.unwrap().unwrap();
    assert_eq!(claimed.incident.untold, Untold::Began(2));
    assert_eq!(send(&two).await, None, "claimed by the other gateway");
    one.mark_incident_told(&claimed).await.unwrap();
    for store in [&two, &one] {
        report(store, Some((3, 2))).await;
        assert_eq!(send(store).await, None);
    }
    for store in [&two, &one] {
        report(store, Some((3, 3))).await;
    }
    let id = claimed.incident.id;
    assert_eq!(send(&two).await, Some((Untold::Began(3), id.clone())));
    assert_eq!(send(&one).await, None);
    test_store.advance(&one, MINUTE * 2);
    for store in [&one, &two] {
        report(store, None).await;
    }
    assert_eq!(send(&one).await, Some((Untold::Ended, id)));
    assert_eq!(send(&two).await, None);
}

#[tokio::test]
async fn owed_notification_passes_to_another_gateway() {
    two!(test_store, one, two);
    report(&one, Some((3, 3))).await;
    let owed = one.claim_incident(SECOND * 15).await.unwrap().unwrap();
    drop(one);
    assert_eq!(send(&two).await, None);
    test_store.advance(&two, MINUTE * 2);
    report(&two, None).await;
    let id = owed.incident.id;
    let sent = [send(&two).await, send(&two).await, send(&two).await];
    let [began, ended] = [Untold::Began(3), Untold::Ended].map(|untold| Some((untold, id.clone())));
    assert_eq!(sent, [began, ended, None], "no end without a beginning");
}

#[tokio::test]
async fn incident_goes_on_while_one_gateway_sees_it() {
    two!(test_store, one, two);
    report(&one, Some((3, 3))).await;
    assert!(send(&one).await.is_some());
    for _ in 0..3 {
        test_store.advance(&one, MINUTE);
        // Too new to be told, as after a restart.
        report(&one, Some((3, 0))).await;
        report(&two, None).await;
        assert_eq!(send(&two).await, None);
    }
}

#[tokio::test]
async fn downtime_ends_no_incident() {
    two!(test_store, one, two);
    report(&one, Some((3, 3))).await;
    assert!(send(&one).await.is_some());
    test_store.advance_while_closed(MINUTE * 60);
    report(&two, None).await;
    assert_eq!(send(&two).await, None);
}

#[tokio::test]
async fn refused_notification_is_due_again_until_late() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    let store = test_store.open().await;
    report(&store, Some((3, 3))).await;
    for _ in 0..2 {
        let refused = store.claim_incident(SECOND * 15).await.unwrap().unwrap();
        store.release_incident(&refused).await.unwrap();
    }
    test_store.advance(&store, MINUTE * 2);
    assert_eq!(report(&store, None).await, 0);
    test_store.advance(&store, MINUTE * 60);
    assert_eq!(report(&store, None).await, 1);
    assert_eq!(send(&store).await, None);
}

#[tokio::test]
async fn reopened_incident_is_told_after_its_end_was() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    let store = test_store.open().await;
    report(&store, Some((3, 3))).await;
    let first = send(&store).await.unwrap().1;
    test_store.advance(&store, MINUTE * 2);
    report(&store, None).await;
    let ended = store.claim_incident(SECOND * 15).await.unwrap().unwrap();
    report(&store, Some((3, 3))).await;
    store.mark_incident_told(&ended).await.unwrap();
    let (untold, second) = send(&store).await.unwrap();
    assert_eq!(untold, Untold::Began(3));
    assert_ne!(first, second);
}

#[tokio::test]
async fn defaults_of_the_database_do_not_apply() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    test_store.sql(
        "ALTER DATABASE postgres SET default_transaction_isolation = 'serializable';
         ALTER DATABASE postgres SET statement_timeout = '10ms';
         ALTER DATABASE postgres SET idle_session_timeout = '1s';
         ALTER DATABASE postgres SET plan_cache_mode = 'force_custom_plan'",
    );
    let metrics = test_store.metrics.store().clone();
    let database = |options: &str| {
        let url = format!("{}&options={options}", test_store.url());
        CurrentDatabase::new(Database::parse(&url).unwrap())
    };
    for (options, relaxed, expected) in [
        (
            "",
            false,
            "read committed|3500ms|0|force_generic_plan|off|on",
        ),
        (
            "-c%20statement_timeout%3D9s",
            true,
            "read committed|9s|0|force_generic_plan|off|off",
        ),
    ] {
        let pool = ConnectionPool::new(database(options), relaxed, metrics.clone()).unwrap();
        let connection = pool.acquire().await.unwrap();
        let sql = "SELECT concat_ws('|', current_setting('transaction_isolation'),
            current_setting('statement_timeout'), current_setting('idle_session_timeout'),
            current_setting('plan_cache_mode'), current_setting('jit'),
            current_setting('synchronous_commit'))";
        let settings: String = connection.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(settings, expected);
    }
}

#[tokio::test]
async fn large_payload_is_loaded_whole() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    let store = test_store.open().await;
    for (key, bytes) in [(1, 2 << 20), (2, 9 << 20)] {
        let mut change = delivery_change("large", DeliveryState::Pending);
        let body = Bytes::from(vec![7; bytes]);
        change.payload = Some(Payload {
            head: Bytes::from_static(b"head"),
            body: body.clone(),
        });
        let id = settle(&store, key, completed(1), Some(change)).await;
        assert_eq!(due_ids(&store).await, [id.unwrap()]);
        let loaded = store.load_event("billing".into(), id.unwrap(), ATTEMPT_TIMEOUT);
        let payload = loaded.await.unwrap().unwrap().payload.unwrap();
        assert_eq!(&*payload.head, b"head");
        assert!(payload.body == body);
    }
}

#[tokio::test]
async fn added_column_waits_for_a_dump() {
    let Some(test_store) = TestStore::shared() else {
        return;
    };
    test_store.open().await.close(true).await;
    test_store.sql("ALTER TABLE hookstile.ledger DROP COLUMN route");
    let database = CurrentDatabase::new(Database::parse(&test_store.url()).unwrap());
    let metrics = test_store.metrics.store().clone();
    let pool = ConnectionPool::new(database, false, metrics).unwrap();
    let dump = pool.acquire().await.unwrap();
    let lock = "BEGIN; LOCK TABLE hookstile.ledger IN ACCESS SHARE MODE";
    dump.batch_execute(lock).await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
    let read = async {
        wait_for_sql(&test_store, waits, "1").await;
        // The others wait for a moment only.
        wait_for_sql(&test_store, waits, "0").await;
        dump.batch_execute("COMMIT").await.unwrap();
    };
    let (store, ()) = tokio::join!(test_store.open(), read);
    settle(&store, 1, completed(1), None).await;
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
}

//! Tests of what only the shared engine guarantees.

use std::time::Duration;

use crate::store::tests::{
    ATTEMPT_TIMEOUT, TERMS, TestStore, active, attempt, claim, completed, creation_key,
    delivery_change, due_ids, ledger_entry, queued, settle, settlement, tried, wait_for_counts,
    wait_for_removed, wait_until_registered,
};
use crate::store::{
    AttemptHistory, AttemptOutcome, ClaimLease, ClaimResult, DeliveryId, DeliveryState, EventKey,
    LedgerEntry, Store, StoreError,
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
    // The attempt had not begun, so nothing was sent.
    test_store.advance(&one, SECOND * 15);
    assert_eq!(due_ids(&two).await, [id]);
    assert!(
        one.load_event("billing".into(), id, ATTEMPT_TIMEOUT)
            .await
            .unwrap()
            .is_none(),
        "too late"
    );
    assert!(!possibly_delivered(&two, id).await);
    test_store.advance(&one, ATTEMPT_TIMEOUT + SECOND * 5);
    assert!(
        due_ids(&one).await.is_empty(),
        "the outcome may still be recorded"
    );
    test_store.advance(&one, SECOND * 5);
    assert_eq!(due_ids(&one).await, [id]);
    assert!(possibly_delivered(&one, id).await);
}

#[tokio::test]
async fn attempt_without_a_lease_records_only_success() {
    two!(test_store, one, two);
    let id = queued(&one, 1, "a").await;
    due_ids(&one).await;
    one.load_event("billing".into(), id, ATTEMPT_TIMEOUT)
        .await
        .unwrap()
        .unwrap();
    test_store.advance(&one, ATTEMPT_TIMEOUT + SECOND * 10);
    assert_eq!(due_ids(&two).await, [id]);
    let retry = AttemptOutcome::Retry {
        after: SECOND * 60,
        possibly_delivered: false,
    };
    one.record_attempt(id, 1, attempt(500), retry)
        .await
        .unwrap();
    let view = two.delivery(id).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.attempt_count),
        (DeliveryState::Pending, 0)
    );
    one.record_attempt(
        id,
        1,
        attempt(200),
        AttemptOutcome::Delivered {
            keep_payload: false,
        },
    )
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
    one.release_events(&[id]).await;
    assert!(
        due_ids(&one).await.is_empty(),
        "the lease belongs to the other gateway"
    );
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

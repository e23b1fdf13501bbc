//! Tests of what both engines guarantee, run on each of them.

#[path = "../../tests/it/harness/cluster.rs"]
mod cluster;
pub(super) mod fixtures;
#[path = "../../tests/it/harness/programs.rs"]
mod programs;
mod test_store;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::backoff::DeadLetterReason;
use crate::metrics::Metrics;
pub(super) use fixtures::*;
pub(super) use test_store::{TestFolder, TestStore};

/// The tolerance of time comparisons: more than a test takes, even on a busy machine.
const TOLERANCE: Duration = Duration::from_secs(20);

macro_rules! on_each_engine {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::TestStore::embedded()).await;
            })*
        }
        mod shared {
            $(#[tokio::test]
            async fn $name() {
                if let Some(test_store) = super::TestStore::shared() {
                    super::$name(&test_store).await;
                }
            })*
        }
    };
}

on_each_engine! {
    settled_events_survive_a_restart
    later_entry_replaces_the_earlier_one
    forgetting_an_event_leaves_other_events
    entry_expires_after_its_window_of_uptime
    downtime_does_not_expire_entries
    queued_events_are_due_in_order_until_delivered
    retry_waits_for_its_delay
    dead_letter_keeps_its_payload_and_can_be_requeued
    dead_letter_is_redelivered_automatically_once
    requeue_keeps_its_due_time_over_a_restart
    bulk_redelivery_is_continued_by_one_gateway
    cancelled_redelivery_ends_where_it_runs
    requeue_skips_deliveries_in_another_state
    matching_deliveries_are_paged_oldest_first
    success_after_a_failure_extends_its_record
    redelivered_success_counts_once
    record_of_another_event_is_not_overwritten
    deliveries_are_filtered_newest_first
    since_is_inclusive_and_until_exclusive
    retention_deletes_only_ended_records
    queueing_an_event_notifies_its_route
    repeated_attempt_counts_once_and_history_is_bounded
    response_bodies_go_with_the_payload
    concurrent_settlements_share_commits
    growing_route_leaves_room_for_other_routes
    large_payloads_of_a_route_leave_room_for_others
    only_route_may_fill_the_store
    moved_events_are_due_on_the_other_route
    events_are_moved_oldest_first
    removed_route_is_listed_while_it_has_events
    removed_route_keeps_its_retention
    creation_is_remembered_with_its_webhook
    creation_is_forgotten_after_a_day
    oldest_creations_are_forgotten
}

async fn oldest_creations_are_forgotten(test_store: &TestStore) {
    let store = test_store.open().await;
    put_with_key(&store, "a", "{}", creation_key("first", 1)).await;
    // All of these are older.
    test_store.sql(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 9999)
         INSERT INTO hookstile.creations (key, request, webhook, definition, ends_ms)
         SELECT 'k' || n, request, webhook, definition, ends_ms - 60000 + n
         FROM hookstile.creations, numbers",
    );
    assert!(store.creation("k1").await.unwrap().is_some());
    put_with_key(&store, "b", "{}", creation_key("last", 1)).await;
    for _ in 0..1_000 {
        if store.creation("k1").await.unwrap().is_none() {
            break;
        }
        // A shared store is swept every few seconds.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(store.creation("k1").await.unwrap().is_none());
    for kept in ["k2", "k9999", "first", "last"] {
        assert!(store.creation(kept).await.unwrap().is_some(), "{kept}");
    }
}

async fn put_with_key(store: &Store, name: &str, definition: &str, key: CreationKey) {
    let (revision, _) = store.webhooks().await.unwrap();
    let put = store.put_webhook(name.into(), definition.into(), revision, Some(key));
    assert!(put.await.unwrap().is_some());
}

async fn creation_is_remembered_with_its_webhook(test_store: &TestStore) {
    let store = test_store.open().await;
    assert!(store.creation("k").await.unwrap().is_none());
    put_with_key(&store, "a", "first", creation_key("k", 1)).await;
    // A later change or removal of the webhook leaves it as it was.
    let (revision, _) = store.webhooks().await.unwrap();
    let changed = store.put_webhook("a".into(), "second".into(), revision, None);
    let revision = changed.await.unwrap().unwrap();
    let removed = store.remove_webhook("a".into(), revision).await.unwrap();
    assert!(removed.is_some());
    let store = test_store.reopen(store).await;
    assert!(store.webhooks().await.unwrap().1.is_empty());
    let creation = store.creation("k").await.unwrap().unwrap();
    assert_eq!(
        (creation.request, &*creation.webhook, &**creation.definition),
        ([1; 32], "a", "first")
    );
    assert!(store.creation("K").await.unwrap().is_none());
}

async fn creation_is_forgotten_after_a_day(test_store: &TestStore) {
    let store = test_store.open().await;
    put_with_key(&store, "a", "{}", creation_key("k", 1)).await;
    test_store.advance(&store, domain::CREATION_KEPT.saturating_sub(TOLERANCE));
    assert!(store.creation("k").await.unwrap().is_some());
    test_store.advance(&store, TOLERANCE);
    assert!(store.creation("k").await.unwrap().is_none());
    put_with_key(&store, "b", "{}", creation_key("k", 2)).await;
    let creation = store.creation("k").await.unwrap().unwrap();
    assert_eq!((creation.request, &*creation.webhook), ([2; 32], "b"));
}

async fn settled_events_survive_a_restart(test_store: &TestStore) {
    let store = test_store.open().await;
    settle(&store, 1, completed(7), None).await;
    settle(&store, 2, tried(2), None).await;
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(7)));
    assert_eq!(ledger_entry(&store, 3).await, None);
    let key = store.hash_key();
    let store = test_store.reopen(store).await;
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(7)));
    assert_eq!(ledger_entry(&store, 2).await, Some(tried(2)));
    assert_eq!(store.hash_key(), key);
}

async fn later_entry_replaces_the_earlier_one(test_store: &TestStore) {
    let store = test_store.open().await;
    settle(&store, 1, tried(1), None).await;
    settle(&store, 1, completed(1), None).await;
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
}

async fn forgetting_an_event_leaves_other_events(test_store: &TestStore) {
    let store = test_store.open().await;
    for key in 1..=3 {
        let delivery = Some(delivery_change(&key.to_string(), DeliveryState::Success));
        settle(&store, key, completed(1), delivery).await;
    }
    let rows = store.find_rows(EventKey(2)).await.unwrap();
    assert_eq!(
        rows.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        [EventKey(2)],
        "adjacent rows belong to other deliveries"
    );
    store.forget_event(rows).await.unwrap();
    assert_eq!(ledger_entry(&store, 2).await, None);
    let store = test_store.reopen(store).await;
    assert_eq!(ledger_entry(&store, 2).await, None);
    assert_eq!(
        (ledger_entry(&store, 1).await, ledger_entry(&store, 3).await),
        (Some(completed(1)), Some(completed(1)))
    );
    assert!(store.find_rows(EventKey(2)).await.unwrap().is_empty());
}

async fn entry_expires_after_its_window_of_uptime(test_store: &TestStore) {
    let store = test_store.open().await;
    settle(&store, 1, completed(1), None).await;
    test_store.advance(&store, WINDOW.saturating_sub(TOLERANCE));
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
    // The expiry may include a claim's lease.
    test_store.advance(&store, TOLERANCE + TERMS.lease);
    assert_eq!(ledger_entry(&store, 1).await, None);
}

async fn downtime_does_not_expire_entries(test_store: &TestStore) {
    let store = test_store.open().await;
    settle(&store, 1, completed(1), None).await;
    store.close(true).await;
    drop(store);
    test_store.advance_while_closed(2 * WINDOW);
    let store = test_store.open().await;
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
}

async fn queued_events_are_due_in_order_until_delivered(test_store: &TestStore) {
    let store = test_store.open().await;
    let ids = [queued(&store, 1, "a").await, queued(&store, 2, "b").await];
    let due = store
        .due_events("billing".into(), &[], 10)
        .await
        .unwrap()
        .events;
    assert_eq!(due.iter().map(|due| due.id).collect::<Vec<_>>(), ids);
    assert_eq!(due[0].payload_bytes, 8);
    assert!(
        store
            .due_events("other".into(), &[], 10)
            .await
            .unwrap()
            .events
            .is_empty()
    );
    let event = begin_attempt(&store, ids[0]).await.unwrap();
    assert_eq!(
        (&*event.event_id, event.history),
        ("a", AttemptHistory::default())
    );
    assert_eq!(event.payload.unwrap().body, Bytes::from_static(b"body"));
    wait_for_counts(&store, (2, 0)).await;
    record_attempt(
        &store,
        ids[0],
        1,
        attempt(200),
        AttemptOutcome::Delivered {
            keep_payload: false,
        },
    )
    .await;
    wait_for_counts(&store, (1, 0)).await;
    assert!(begin_attempt(&store, ids[0]).await.is_none());
    let view = store.delivery(ids[0]).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.body, view.attempts),
        (DeliveryState::Success, None, vec![attempt(200)])
    );
    assert_eq!(
        ledger_entry(&store, 1).await,
        Some(completed(1)),
        "delivered, and still remembered"
    );
}

async fn retry_waits_for_its_delay(test_store: &TestStore) {
    let store = test_store.open().await;
    let id = queued(&store, 1, "a").await;
    let after = Duration::from_secs(30);
    record_attempt(
        &store,
        id,
        1,
        attempt(500),
        AttemptOutcome::Retry {
            after,
            possibly_delivered: true,
        },
    )
    .await;
    let due = store.due_events("billing".into(), &[], 10).await.unwrap();
    assert!(due.events.is_empty() && due.is_complete, "{due:?}");
    assert!(
        due.next_in
            .is_some_and(|pause| pause <= after && pause + TOLERANCE > after),
        "{due:?}"
    );
    test_store.advance(&store, after);
    assert_eq!(
        store
            .due_events("billing".into(), &[], 10)
            .await
            .unwrap()
            .events
            .len(),
        1
    );
    let event = begin_attempt(&store, id).await.unwrap();
    assert_eq!(
        event.history,
        AttemptHistory {
            attempts: 1,
            possibly_delivered: true
        }
    );
    assert!(
        event.age >= after && event.age < after + TOLERANCE,
        "{:?}",
        event.age
    );
}

async fn dead_letter_keeps_its_payload_and_can_be_requeued(test_store: &TestStore) {
    let store = test_store.open().await;
    let id = queued(&store, 1, "a").await;
    record_attempt(
        &store,
        id,
        1,
        attempt(410),
        AttemptOutcome::Dead(DeadLetterReason::Rejected),
    )
    .await;
    wait_for_counts(&store, (0, 1)).await;
    let view = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.reason.as_deref()),
        (DeliveryState::Dead, Some("rejected"))
    );
    assert!(
        store
            .due_events("billing".into(), &[], 10)
            .await
            .unwrap()
            .events
            .is_empty()
    );
    let store = test_store.reopen(store).await;
    wait_for_counts(&store, (0, 1)).await;
    assert_eq!(
        store.requeue(vec![requeue_now(&store, id)]).await.unwrap(),
        [RequeueResult::Queued("billing".into())]
    );
    wait_for_counts(&store, (1, 0)).await;
    assert_eq!(
        begin_attempt(&store, id)
            .await
            .unwrap()
            .payload
            .unwrap()
            .body,
        Bytes::from_static(b"body")
    );
    assert_eq!(
        store
            .requeue(vec![requeue_now(&store, DeliveryId(99))])
            .await
            .unwrap(),
        [RequeueResult::Unknown]
    );
}

async fn dead_letter_is_redelivered_automatically_once(test_store: &TestStore) {
    let store = test_store.open().await;
    let id = queued(&store, 1, "a").await;
    let unreadable = queued(&store, 2, "b").await;
    let dead = AttemptOutcome::Dead(DeadLetterReason::Rejected);
    let eligible = async || {
        store
            .automatic_redeliveries("billing".into(), 10)
            .await
            .unwrap()
    };
    let reason = async || store.delivery(id).await.unwrap().unwrap().reason;
    let requeue = async |automatic| {
        let requeue = Requeue {
            automatic,
            ..requeue_now(&store, id)
        };
        store.requeue(vec![requeue]).await.unwrap();
    };
    record_attempt(&store, id, 1, attempt(404), dead).await;
    let lost = AttemptOutcome::Dead(DeadLetterReason::Unreadable);
    record_attempt(&store, unreadable, 1, attempt(0), lost).await;
    assert_eq!(eligible().await, [id]);

    requeue(true).await;
    assert_eq!(eligible().await, []);
    let retry = AttemptOutcome::Retry {
        after: Duration::ZERO,
        possibly_delivered: false,
    };
    record_attempt(&store, id, 2, attempt(404), retry).await;
    // An operator who is impatient does not change whose redelivery it is.
    requeue(false).await;
    assert_eq!(reason().await.as_deref(), Some("automatic"));
    record_attempt(&store, id, 3, attempt(404), dead).await;
    assert_eq!(reason().await.as_deref(), Some("again"));
    assert_eq!(eligible().await, []);

    requeue(false).await;
    assert_eq!(reason().await, None);
    record_attempt(&store, id, 4, attempt(404), dead).await;
    assert_eq!(eligible().await, [id]);

    requeue(true).await;
    let delivered = AttemptOutcome::Delivered { keep_payload: true };
    record_attempt(&store, id, 5, attempt(200), delivered).await;
    assert_eq!(reason().await, None);
}

async fn bulk_redelivery_is_continued_by_one_gateway(test_store: &TestStore) {
    let lease = Duration::from_secs(15);
    let stored = |document: &str, is_running| StoredRedelivery {
        document: document.into(),
        is_running,
    };
    let store = test_store.open().await;
    assert_eq!(store.redelivery().await.unwrap(), None);
    assert_eq!(store.claim_redelivery(lease).await.unwrap(), None);
    assert!(store.begin_redelivery("first".into(), lease).await.unwrap());
    assert!(!store.begin_redelivery("other".into(), lease).await.unwrap());
    let store = test_store.reopen(store).await;
    assert_eq!(
        store.redelivery().await.unwrap(),
        Some(stored("first", true))
    );
    if store.is_shared() {
        // The gateway that began it may only be slow.
        assert_eq!(store.claim_redelivery(lease).await.unwrap(), None);
        let late = store.save_redelivery(stored("late", true), lease).await;
        assert!(!late.unwrap());
    }
    test_store.advance(&store, lease);
    let claimed = store.claim_redelivery(lease).await.unwrap();
    assert_eq!(claimed.as_deref(), Some("first"));
    for (document, is_running) in [("half", true), ("whole", false)] {
        let redelivery = stored(document, is_running);
        assert!(
            store
                .save_redelivery(redelivery.clone(), lease)
                .await
                .unwrap()
        );
        assert_eq!(store.redelivery().await.unwrap(), Some(redelivery));
    }
    let store = test_store.reopen(store).await;
    assert_eq!(store.claim_redelivery(lease).await.unwrap(), None);
    assert!(
        store
            .begin_redelivery("second".into(), lease)
            .await
            .unwrap()
    );
    store.close(true).await;
}

async fn cancelled_redelivery_ends_where_it_runs(test_store: &TestStore) {
    let lease = Duration::from_secs(15);
    let store = test_store.open().await;
    assert_eq!(store.cancel_redelivery().await.unwrap(), None);
    assert!(store.begin_redelivery("first".into(), lease).await.unwrap());
    let cancelled = store.cancel_redelivery().await.unwrap();
    assert_eq!(cancelled.as_deref(), Some("first"));
    let late = StoredRedelivery {
        document: "late".into(),
        is_running: true,
    };
    assert!(!store.save_redelivery(late, lease).await.unwrap());
    let stored = store.redelivery().await.unwrap().unwrap();
    assert_eq!((&*stored.document, stored.is_running), ("first", false));
    test_store.advance(&store, lease);
    assert_eq!(store.claim_redelivery(lease).await.unwrap(), None);
    assert_eq!(store.cancel_redelivery().await.unwrap(), None);
    assert!(store.begin_redelivery("next".into(), lease).await.unwrap());
    store.close(true).await;
}

async fn requeue_keeps_its_due_time_over_a_restart(test_store: &TestStore) {
    let store = test_store.open().await;
    let ids = [queued(&store, 1, "a").await, queued(&store, 2, "b").await];
    let start = store.now_due();
    // The later due time is written first.
    for (id, seconds) in [(ids[1], 60), (ids[0], 30)] {
        let requeue = Requeue {
            due: start.after(Duration::from_secs(seconds)),
            ..requeue_now(&store, id)
        };
        store.requeue(vec![requeue]).await.unwrap();
    }
    test_store.advance(&store, Duration::from_secs(10));
    let store = test_store.reopen(store).await;
    let due = store.due_events("billing".into(), &[], 10).await.unwrap();
    assert!(
        due.events.is_empty()
            && due
                .next_in
                .is_some_and(|pause| pause <= Duration::from_secs(20)),
        "{due:?}"
    );
    test_store.advance(&store, Duration::from_secs(50));
    let due = store
        .due_events("billing".into(), &[], 10)
        .await
        .unwrap()
        .events;
    assert_eq!(due.iter().map(|due| due.id).collect::<Vec<_>>(), ids);
}

async fn requeue_skips_deliveries_in_another_state(test_store: &TestStore) {
    let store = test_store.open().await;
    let id = queued(&store, 1, "a").await;
    record_attempt(
        &store,
        id,
        1,
        attempt(200),
        AttemptOutcome::Delivered { keep_payload: true },
    )
    .await;
    let dead = Requeue {
        expected_state: Some(DeliveryState::Dead),
        ..requeue_now(&store, id)
    };
    assert_eq!(
        store.requeue(vec![dead]).await.unwrap(),
        [RequeueResult::Unknown]
    );
    assert_eq!(
        store.delivery(id).await.unwrap().unwrap().state,
        DeliveryState::Success
    );
    let success = Requeue {
        expected_state: Some(DeliveryState::Success),
        ..requeue_now(&store, id)
    };
    assert_eq!(
        store.requeue(vec![success]).await.unwrap(),
        [RequeueResult::Queued("billing".into())]
    );
}

async fn matching_deliveries_are_paged_oldest_first(test_store: &TestStore) {
    let store = test_store.open().await;
    for key in 1..=5 {
        let payload = (key != 3).then(|| Payload {
            head: Bytes::from_static(b"head"),
            body: Bytes::new(),
        });
        let change = DeliveryChange {
            payload,
            ..delivery_change("a", DeliveryState::Failed)
        };
        settle(&store, key, tried(1), Some(change)).await;
    }
    queued(&store, 6, "b").await;
    let filter = DeliveryFilter {
        state: Some(DeliveryState::Failed),
        route: Some("billing".into()),
        ..DeliveryFilter::default()
    };
    let page = async |after| {
        store
            .matching_deliveries(filter.clone(), DeliveryId(after), 3)
            .await
            .unwrap()
    };
    assert_eq!(
        page(0).await,
        [
            (DeliveryId(1), true),
            (DeliveryId(2), true),
            (DeliveryId(3), false)
        ]
    );
    assert_eq!(
        page(3).await,
        [(DeliveryId(4), true), (DeliveryId(5), true)]
    );
    assert_eq!(page(5).await, []);
}

async fn success_after_a_failure_extends_its_record(test_store: &TestStore) {
    let store = test_store.open().await;
    let mut failed = delivery_change("a", DeliveryState::Failed);
    failed.attempt = Some(attempt(500));
    failed.payload = Some(Payload {
        head: Bytes::from_static(b"head"),
        body: Bytes::from_static(b"body"),
    });
    let id = settle(&store, 1, tried(1), Some(failed)).await.unwrap();
    let (lease, known) = claim(&store, 1).await;
    let known = known.unwrap();
    assert_eq!(known.delivery, Some(id));
    let record = store.route_stats("billing".into(), 0).await.unwrap();
    assert_eq!((record.successful, record.failed), (0, 1));
    let change = DeliveryChange {
        earlier: known.delivery,
        ..delivery_change("a", DeliveryState::Success)
    };
    let again = store
        .settle(settlement(1, lease.row(), completed(1), Some(change)))
        .await
        .unwrap();
    lease.mark_settled();
    assert_eq!(again, Some(id));
    let view = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.attempts),
        (DeliveryState::Success, vec![attempt(500), attempt(200)])
    );
    assert_eq!(
        view.body, None,
        "the payload of a failed delivery is deleted on success"
    );
    let record = store.route_stats("billing".into(), 0).await.unwrap();
    assert_eq!(
        (
            record.successful,
            record.failed,
            record.total_ms,
            record.recent
        ),
        (1, 0, 12, 1)
    );
}

async fn redelivered_success_counts_once(test_store: &TestStore) {
    let store = test_store.open().await;
    let id = queued(&store, 1, "a").await;
    for number in 1..=3 {
        record_attempt(
            &store,
            id,
            number,
            attempt(200),
            AttemptOutcome::Delivered { keep_payload: true },
        )
        .await;
        let record = store.route_stats("billing".into(), 0).await.unwrap();
        assert_eq!((record.successful, record.total_ms), (1, 12));
        assert_eq!(
            store.requeue(vec![requeue_now(&store, id)]).await.unwrap(),
            [RequeueResult::Queued("billing".into())]
        );
        assert!(
            begin_attempt(&store, id)
                .await
                .unwrap()
                .history
                .possibly_delivered
        );
    }
}

async fn record_of_another_event_is_not_overwritten(test_store: &TestStore) {
    let store = test_store.open().await;
    let first = settle(
        &store,
        1,
        completed(1),
        Some(delivery_change("a", DeliveryState::Success)),
    )
    .await;
    let change = DeliveryChange {
        earlier: first,
        ..delivery_change("b", DeliveryState::Success)
    };
    let second = settle(&store, 2, completed(1), Some(change)).await;
    assert_ne!(first, second);
}

async fn deliveries_are_filtered_newest_first(test_store: &TestStore) {
    let store = test_store.open().await;
    for (key, event) in [(1, "a"), (2, "b"), (3, "c")] {
        settle(
            &store,
            key,
            completed(1),
            Some(delivery_change(event, DeliveryState::Success)),
        )
        .await;
    }
    let dead = queued(&store, 4, "d").await;
    record_attempt(
        &store,
        dead,
        1,
        attempt(404),
        AttemptOutcome::Dead(DeadLetterReason::Rejected),
    )
    .await;
    let find = async |filter: DeliveryFilter| -> String {
        let found = store
            .deliveries(DeliveryFilter { limit: 2, ..filter })
            .await
            .unwrap();
        found.iter().map(|view| view.event_id.as_str()).collect()
    };
    let all = DeliveryFilter::default;
    assert_eq!(find(all()).await, "dc");
    assert_eq!(
        find(DeliveryFilter {
            before: Some(DeliveryId(3)),
            ..all()
        })
        .await,
        "ba"
    );
    assert_eq!(
        find(DeliveryFilter {
            state: Some(DeliveryState::Dead),
            ..all()
        })
        .await,
        "d"
    );
    assert_eq!(
        find(DeliveryFilter {
            state: Some(DeliveryState::Success),
            route: Some("billing".into()),
            ..all()
        })
        .await,
        "cb"
    );
    assert_eq!(
        find(DeliveryFilter {
            route: Some("other".into()),
            ..all()
        })
        .await,
        ""
    );
    assert_eq!(
        find(DeliveryFilter {
            event_id: Some("b".into()),
            ..all()
        })
        .await,
        "b"
    );
    assert_eq!(
        find(DeliveryFilter {
            event_type: Some("none".into()),
            ..all()
        })
        .await,
        ""
    );
    let prefixed = |prefix: &str, from| DeliveryFilter {
        event_id_prefix: Some(prefix.into()),
        from,
        ..all()
    };
    assert_eq!(find(prefixed("b", None)).await, "b");
    assert_eq!(find(prefixed("", Some(DeliveryId(3)))).await, "dc");
    assert_eq!(find(prefixed("%", None)).await, "");
    assert_eq!(find(prefixed("b", Some(DeliveryId(3)))).await, "");
    assert_eq!(
        store
            .count_deliveries(prefixed("", Some(DeliveryId(2))))
            .await
            .unwrap(),
        Some(3)
    );
}

async fn since_is_inclusive_and_until_exclusive(test_store: &TestStore) {
    let store = test_store.open().await;
    for (key, at) in [
        (1, "2026-06-01T12:00:00Z"),
        (2, "2026-06-01T12:00:00.001Z"),
        (3, "2026-06-01T12:00:00.0015Z"),
    ] {
        let change = change_received_at(&key.to_string(), at, DeliveryState::Success);
        settle(&store, key, completed(1), Some(change)).await;
    }
    let find = async |since: Option<&str>, until: Option<&str>| -> (String, Option<usize>) {
        let at = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        let filter = DeliveryFilter {
            since: at(since),
            until: at(until),
            limit: 10,
            ..DeliveryFilter::default()
        };
        let found = store.deliveries(filter.clone()).await.unwrap();
        (
            found.iter().map(|view| view.event_id.as_str()).collect(),
            store.count_deliveries(filter).await.unwrap(),
        )
    };
    assert_eq!(
        find(Some("2026-06-01T12:00:00.001Z"), None).await,
        ("32".into(), Some(2))
    );
    assert_eq!(
        find(Some("2026-06-01T12:00:00.0005Z"), None).await,
        ("32".into(), Some(2))
    );
    assert_eq!(
        find(None, Some("2026-06-01T12:00:00.001Z")).await,
        ("1".into(), Some(1))
    );
    assert_eq!(
        find(
            Some("2026-06-01T12:00:00Z"),
            Some("2026-06-01T12:00:00.001Z")
        )
        .await,
        ("1".into(), Some(1))
    );
    assert_eq!(
        find(Some("2026-06-01T12:00:00.002Z"), None).await,
        (String::new(), Some(0))
    );
}

async fn retention_deletes_only_ended_records(test_store: &TestStore) {
    let store = test_store.open().await;
    let waiting = queued(&store, 1, "waiting").await;
    let dead = queued(&store, 2, "dead").await;
    record_attempt(
        &store,
        dead,
        1,
        attempt(404),
        AttemptOutcome::Dead(DeadLetterReason::Rejected),
    )
    .await;
    for key in 10..20 {
        let event = format!("evt_{key}");
        settle(
            &store,
            key,
            completed(1),
            Some(delivery_change(&event, DeliveryState::Success)),
        )
        .await;
    }
    let routes = |retain| {
        vec![StoreRoute {
            route: "billing".into(),
            retain,
            horizon: WINDOW,
            concurrency: 1,
            attempt_timeout: ATTEMPT_TIMEOUT,
        }]
    };
    // The limit holds three records without a payload.
    store.update_routes(routes(Retain {
        max_bytes: Some(900),
        ..RETAIN
    }));
    wait_for_records(&store, &["evt_19", "evt_18", "evt_17", "dead", "waiting"]).await;
    store.update_routes(routes(Retain {
        keep: Duration::from_secs(40),
        ..RETAIN
    }));
    test_store.advance(&store, Duration::from_secs(50));
    wait_for_records(&store, &["dead", "waiting"]).await;
    assert!(begin_attempt(&store, waiting).await.is_some());
    assert_eq!(
        ledger_entry(&store, 19).await,
        Some(completed(1)),
        "retention does not affect the ledger"
    );
}

async fn queueing_an_event_notifies_its_route(test_store: &TestStore) {
    let store = test_store.open().await;
    let waker = store.queue_notifier(&"billing".into());
    let id = queued(&store, 1, "a").await;
    waker.notified().await;
    record_attempt(
        &store,
        id,
        1,
        attempt(410),
        AttemptOutcome::Dead(DeadLetterReason::Rejected),
    )
    .await;
    store.requeue(vec![requeue_now(&store, id)]).await.unwrap();
    waker.notified().await;
    // The delivery was pending already, and is now due earlier.
    store.requeue(vec![requeue_now(&store, id)]).await.unwrap();
    waker.notified().await;
}

async fn repeated_attempt_counts_once_and_history_is_bounded(test_store: &TestStore) {
    let store = test_store.open().await;
    let id = queued(&store, 1, "a").await;
    let next = AttemptOutcome::Retry {
        after: Duration::ZERO,
        possibly_delivered: false,
    };
    for number in 1..=150 {
        for _ in 0..2 {
            let attempt = AttemptRecord {
                ms: number.into(),
                ..attempt(500)
            };
            record_attempt(&store, id, number, attempt, next).await;
        }
    }
    let view = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(view.attempt_count, 150);
    let times: Vec<_> = view.attempts.iter().map(|attempt| attempt.ms).collect();
    assert_eq!(times, (1..=10).chain(61..=150).collect::<Vec<u64>>());
}

async fn response_bodies_go_with_the_payload(test_store: &TestStore) {
    let store = test_store.open().await;
    let failed = |body: &str| AttemptRecord {
        response: Some(ResponseRecord {
            content_type: Some("text/plain".into()),
            body_bytes: 9,
            body: Some(body.into()),
        }),
        ..attempt(500)
    };
    let bodies = async |id| -> Vec<Option<String>> {
        let view = store.delivery(id).await.unwrap().unwrap();
        let attempts = view.attempts.into_iter();
        attempts.map(|attempt| attempt.response?.body).collect()
    };
    let retry = AttemptOutcome::Retry {
        after: Duration::ZERO,
        possibly_delivered: false,
    };
    let due_bytes = async || {
        let due = store.due_events("billing".into(), &[], 10).await.unwrap();
        due.events
            .iter()
            .map(|event| event.payload_bytes)
            .collect::<Vec<_>>()
    };
    let id = queued(&store, 1, "a").await;
    assert_eq!(due_bytes().await, [8]);
    for number in 1..=6 {
        record_attempt(&store, id, number, failed(&format!("body {number}")), retry).await;
    }
    let kept = [1, 4, 5, 6].map(|number| Some(format!("body {number}")));
    let kept = [&kept[..1], &[None, None], &kept[1..]].concat();
    assert_eq!(bodies(id).await, kept);
    // They count with the payload.
    assert_eq!(due_bytes().await, [8 + 4 * 6]);
    let delivered = AttemptOutcome::Delivered {
        keep_payload: false,
    };
    record_attempt(&store, id, 7, attempt(200), delivered).await;
    assert_eq!(bodies(id).await, vec![None; 7]);
}

async fn concurrent_settlements_share_commits(test_store: &TestStore) {
    let store = test_store.open().await;
    let before = commits(&test_store.metrics);
    let settlements: Vec<_> = (1..=500)
        .map(|key| {
            let store = store.clone();
            tokio::spawn(async move { settle(&store, key, completed(1), None).await })
        })
        .collect();
    for settlement in settlements {
        settlement.await.unwrap();
    }
    assert_eq!(ledger_entry(&store, 500).await, Some(completed(1)));
    let commits = commits(&test_store.metrics) - before;
    assert!(
        commits < 250.0,
        "{commits} commits for 500 concurrent settlements"
    );
}

/// The active routes of these names.
pub(super) fn active(names: &[&str]) -> Vec<StoreRoute> {
    names
        .iter()
        .map(|name| StoreRoute {
            route: (*name).into(),
            retain: RETAIN,
            horizon: WINDOW,
            concurrency: 1,
            attempt_timeout: ATTEMPT_TIMEOUT,
        })
        .collect()
}

/// Settles an event of a route with a payload of `bytes`.
async fn settle_on(store: &Store, key: u128, route: &str, entry: LedgerEntry, bytes: usize) {
    let event = EventMetadata {
        route: route.into(),
        ..(*metadata(&key.to_string())).clone()
    };
    let change = DeliveryChange {
        event: Arc::new(event),
        payload: (bytes > 0).then(|| Payload {
            head: Bytes::new(),
            body: vec![b'x'; bytes].into(),
        }),
        ..delivery_change("", DeliveryState::Failed)
    };
    settle(store, key, entry, Some(change)).await;
}

/// Waits for what a store says of its room, which a shared store polls.
async fn wait_for_room(store: &Store, route: &str, expected: Result<(), StoreError>) {
    for _ in 0..1_000 {
        if store.check_room(Some(route)) == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.check_room(Some(route)), expected, "{route}");
}

async fn growing_route_leaves_room_for_other_routes(test_store: &TestStore) {
    let store = test_store.open().await;
    store.update_routes(active(&["a", "b"]));
    for key in 0..810 {
        let entry = if key % 2 == 0 { tried(1) } else { completed(1) };
        settle_on(&store, key, "a", entry, 0).await;
    }
    wait_for_room(&store, "a", Err(StoreError::ShareFull)).await;
    assert_eq!(store.check_room(Some("b")), Ok(()));
    assert_eq!(store.check_room(None), Ok(()));
    // The holdings are known after a restart, too.
    let store = test_store.reopen(store).await;
    store.update_routes(active(&["a", "b"]));
    wait_for_room(&store, "a", Err(StoreError::ShareFull)).await;
    assert_eq!(store.check_room(Some("b")), Ok(()));
    // A retry takes no more room.
    settle_on(&store, 0, "a", completed(1), 0).await;
    assert_eq!(store.check_room(Some("b")), Ok(()));
}

async fn large_payloads_of_a_route_leave_room_for_others(test_store: &TestStore) {
    let store = test_store.open_with_max_bytes(16 << 20).await;
    store.update_routes(active(&["a", "b"]));
    for key in 0..15 {
        settle_on(&store, key, "a", tried(1), 900_000).await;
    }
    wait_for_room(&store, "a", Err(StoreError::ShareFull)).await;
    assert_eq!(store.check_room(Some("b")), Ok(()));
}

async fn only_route_may_fill_the_store(test_store: &TestStore) {
    let store = test_store.open().await;
    store.update_routes(active(&["a"]));
    for key in 0..999 {
        settle_on(&store, key, "a", completed(1), 0).await;
    }
    wait_for_room(&store, "a", Ok(())).await;
    settle_on(&store, 999, "a", completed(1), 0).await;
    wait_for_room(&store, "a", Err(StoreError::Full)).await;
}

/// Waits until the upkeep has deleted all records but these.
async fn moved_events_are_due_on_the_other_route(test_store: &TestStore) {
    let store = test_store.open().await;
    let (waiting, dead) = (
        queued(&store, 1, "waiting").await,
        queued(&store, 2, "dead").await,
    );
    let retry = AttemptOutcome::Retry {
        after: Duration::from_secs(3_600),
        possibly_delivered: false,
    };
    record_attempt(&store, waiting, 1, attempt(500), retry).await;
    let rejected = AttemptOutcome::Dead(DeadLetterReason::Rejected);
    record_attempt(&store, dead, 1, attempt(404), rejected).await;
    wait_for_counts(&store, (1, 1)).await;
    let waker = store.queue_notifier(&"next".into());
    let move_all = async |state| {
        let moved = store.move_events("billing".into(), "next".into(), state, 10);
        moved.await.unwrap()
    };
    for moved in [1, 0] {
        assert_eq!(move_all(DeliveryState::Pending).await, moved);
        assert_eq!(move_all(DeliveryState::Dead).await, moved);
    }
    waker.notified().await;
    wait_for_counts(&store, (0, 0)).await;
    let due = store.due_events("next".into(), &[], 10).await.unwrap();
    let due: Vec<_> = due.events.into_iter().map(|event| event.id).collect();
    assert_eq!(due, [waiting], "due at once");
    let load = async |route: &str| {
        let event = store.load_event(route.into(), waiting, ATTEMPT_TIMEOUT);
        event.await.unwrap()
    };
    assert!(load("billing").await.is_none());
    let event = load("next").await.unwrap();
    assert_eq!((&*event.event_id, event.history.attempts), ("waiting", 1));
    assert!(event.age < TOLERANCE, "its horizon begins again");
    assert_eq!(event.payload.unwrap().body, Bytes::from_static(b"body"));
    let record = store.delivery(dead).await.unwrap().unwrap();
    assert_eq!(
        (&*record.route, record.state, record.attempts),
        ("next", DeliveryState::Dead, vec![attempt(404)])
    );
    let failed = async |route: &str| store.route_stats(route.into(), 0).await.unwrap().failed;
    assert_eq!((failed("billing").await, failed("next").await), (0, 1));
    assert_eq!(
        store.requeue(vec![requeue_now(&store, dead)]).await,
        Ok(vec![RequeueResult::Queued("next".into())])
    );
    assert_eq!(
        ledger_entry(&store, 1).await,
        Some(completed(1)),
        "the first route still knows the event"
    );
    let store = test_store.reopen(store).await;
    let stats = store.route_stats("next".into(), 0).await.unwrap();
    assert_eq!((stats.pending, stats.dead, stats.failed), (2, 0, 0));
}

async fn events_are_moved_oldest_first(test_store: &TestStore) {
    let store = test_store.open().await;
    let ids = [
        queued(&store, 1, "a").await,
        queued(&store, 2, "b").await,
        queued(&store, 3, "c").await,
    ];
    let moved = store.move_events("billing".into(), "next".into(), DeliveryState::Pending, 2);
    assert_eq!(moved.await, Ok(2));
    assert_eq!(due_ids(&store).await, ids[2..]);
    let due = store.due_events("next".into(), &[], 10).await.unwrap();
    let due: Vec<_> = due.events.into_iter().map(|event| event.id).collect();
    assert_eq!(due, ids[..2]);
}

/// Waits until the store has taken over these active routes.
pub(super) async fn wait_until_registered(store: &Store, route: &str) {
    for _ in 0..1_000 {
        let stats = store.route_stats(route.into(), 0).await.unwrap();
        if stats.created_at.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{route} is not registered");
}

/// Waits for the removed routes to have these numbers of pending events, which a shared store
/// polls.
pub(super) async fn wait_for_removed(store: &Store, expected: &[(&str, u64)]) -> Vec<RemovedRoute> {
    let mut removed = Vec::new();
    for _ in 0..1_000 {
        removed = store.removed_routes().await.unwrap();
        let found = removed.iter().map(|route| (&*route.route, route.pending));
        // The oldest one is searched for after they were counted.
        let is_whole = |route: &RemovedRoute| route.pending == 0 || route.oldest_waiting.is_some();
        if found.eq(expected.iter().copied()) && removed.iter().all(is_whole) {
            return removed;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{removed:?}, not {expected:?}");
}

async fn removed_route_is_listed_while_it_has_events(test_store: &TestStore) {
    let store = test_store.open().await;
    store.update_routes(active(&["billing", "next"]));
    wait_until_registered(&store, "next").await;
    queued(&store, 1, "a").await;
    wait_for_counts(&store, (1, 0)).await;
    assert_eq!(store.removed_routes().await, Ok(vec![]));
    store.update_routes(active(&["next"]));
    let removed = wait_for_removed(&store, &[("billing", 1)]).await.remove(0);
    assert_eq!(
        (removed.dead, removed.oldest_waiting),
        (0, Some(metadata("a").received_at))
    );
    let left = removed.horizon_left.unwrap().unsigned_abs();
    assert!(left <= WINDOW && left + TOLERANCE > WINDOW, "{left:?}");
    test_store.advance(&store, WINDOW + TOLERANCE);
    let removed = wait_for_removed(&store, &[("billing", 1)]).await.remove(0);
    assert!(removed.horizon_left.unwrap().is_negative(), "it waits on");
    let store = test_store.reopen(store).await;
    store.update_routes(active(&["next"]));
    wait_for_removed(&store, &[("billing", 1)]).await;
    let moved = store.move_events("billing".into(), "next".into(), DeliveryState::Pending, 9);
    assert_eq!(moved.await, Ok(1));
    wait_for_removed(&store, &[]).await;
}

async fn removed_route_keeps_its_retention(test_store: &TestStore) {
    const DAY: Duration = Duration::from_secs(86_400);
    let retained = |route: &str, retain| StoreRoute {
        retain,
        ..active(&[route]).remove(0)
    };
    // Nothing is kept of this route, so each sweep shows.
    let swept = || {
        let max_bytes = Some(0);
        retained(
            "swept",
            Retain {
                max_bytes,
                ..RETAIN
            },
        )
    };
    let sweep = async |store: &Store, key: u128, left: &[&str]| {
        for key in [key, key + 1] {
            settle_on(store, key, "swept", tried(1), 0).await;
            wait_for_records(store, left).await;
        }
    };
    let store = test_store.open().await;
    let keep = 9 * DAY;
    store.update_routes(vec![
        retained("billing", Retain { keep, ..RETAIN }),
        swept(),
    ]);
    wait_until_registered(&store, "billing").await;
    let delivered = delivery_change("kept", DeliveryState::Success);
    settle(&store, 1, completed(1), Some(delivered)).await;
    store.update_routes(vec![swept()]);
    test_store.advance(&store, 8 * DAY);
    sweep(&store, 10, &["kept"]).await;
    let store = test_store.reopen(store).await;
    store.update_routes(vec![swept()]);
    sweep(&store, 20, &["kept"]).await;
    test_store.advance(&store, DAY);
    sweep(&store, 30, &[]).await;
}

async fn wait_for_records(store: &Store, events: &[&str]) {
    for _ in 0..2_000 {
        let left = store
            .deliveries(DeliveryFilter {
                limit: 100,
                ..DeliveryFilter::default()
            })
            .await
            .unwrap();
        if left
            .iter()
            .map(|view| view.event_id.as_str())
            .eq(events.iter().copied())
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("other records remain than {events:?}");
}

fn commits(metrics: &Metrics) -> f64 {
    let text = metrics.render(0, 0).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("hookstile_store_commit_duration_seconds_count "));
    line.unwrap().parse().unwrap()
}

/// A step that is applied to the store and to a map.
#[derive(Debug, Clone)]
enum Step {
    Settle { key: u128, completed: bool },
    Pass(u64),
    Restart { clean: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u128..6, any::<bool>()).prop_map(|(key, completed)| Step::Settle { key, completed }),
        2 => (0u64..20).prop_map(|tens| Step::Pass(tens * 10)),
        1 => any::<bool>().prop_map(|clean| Step::Restart { clean }),
    ]
}

#[test]
fn embedded_ledger_agrees_with_a_map() {
    check_against_model(48, &TestStore::embedded());
}

#[test]
fn shared_ledger_agrees_with_a_map() {
    if let Some(test_store) = TestStore::shared() {
        check_against_model(6, &test_store);
    }
}

#[track_caller]
fn check_against_model(cases: u32, test_store: &TestStore) {
    let steps = prop::collection::vec(step(), 0..60);
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let checked = TestRunner::new(config).run(&steps, |steps| {
        test_store.clear();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run_steps(steps, test_store));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

async fn run_steps(steps: Vec<Step>, test_store: &TestStore) {
    // Time passes in steps of ten seconds, so that no entry expires in the middle of one, even with
    // its claim's lease.
    const WINDOW: Duration = Duration::from_secs(95);
    const TERMS: ClaimTerms = ClaimTerms {
        lease: Duration::from_secs(4),
        window: WINDOW,
        purpose: ClaimPurpose::Change,
    };
    let mut store = test_store.open().await;
    let mut model: HashMap<u128, (LedgerEntry, u64)> = HashMap::new();
    let mut now = 0;
    for (number, step) in (1..).zip(steps) {
        match step {
            Step::Settle {
                key,
                completed: done,
            } => {
                let (lease, known) = claim_with(&store, key, TERMS).await;
                // A duplicate is not claimed, so nothing is settled.
                if matches!(
                    known,
                    Some(KnownEvent {
                        entry: LedgerEntry::Completed { .. },
                        ..
                    })
                ) {
                    continue;
                }
                let entry = if done {
                    completed(number)
                } else {
                    tried(number.into())
                };
                let mut settlement = settlement(key, lease.row(), entry, None);
                settlement
                    .event
                    .iter_mut()
                    .for_each(|event| event.window = WINDOW);
                store.settle(settlement).await.unwrap();
                lease.mark_settled();
                model.insert(key, (entry, now + 95));
            }
            Step::Pass(seconds) => {
                test_store.advance(&store, Duration::from_secs(seconds));
                now += seconds;
            }
            Step::Restart { clean } => {
                store.close(clean).await;
                drop(store);
                store = test_store.open().await;
            }
        }
        for key in 0..6 {
            let expected = model
                .get(&key)
                .filter(|(_, ends)| now < *ends)
                .map(|(record, _)| *record);
            let (_, found) = claim_with(&store, key, TERMS).await;
            assert_eq!(found.map(|found| found.entry), expected, "{key} at {now}");
        }
    }
    store.close(true).await;
}

//! What every engine of the store promises, proved on each of them.

#[path = "../../tests/it/harness/cluster.rs"]
mod cluster;
mod given;
mod kept;
#[path = "../../tests/it/harness/programs.rs"]
mod programs;

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::backoff::DeadLetterReason;
use crate::metrics::Metrics;
pub(super) use given::*;
pub(super) use kept::{Files, Kept};

/// Less than what a busy machine may take for a test, and more than it takes.
const MOMENT: Duration = Duration::from_secs(20);

macro_rules! on_each_engine {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Kept::embedded()).await;
            })*
        }
        mod shared {
            $(#[tokio::test]
            async fn $name() {
                if let Some(kept) = super::Kept::shared() {
                    super::$name(&kept).await;
                }
            })*
        }
    };
}

on_each_engine! {
    what_was_settled_is_known_and_survives_a_restart
    a_record_takes_the_place_of_an_earlier_one
    what_is_forgotten_is_new_again_and_its_neighbours_are_not
    a_record_lives_as_long_as_its_window_of_running_time
    time_between_runs_does_not_count
    a_stored_event_is_due_in_the_order_of_arrival_until_it_is_delivered
    a_pause_is_kept
    a_dead_letter_is_kept_whole_and_can_be_delivered_again
    what_is_delivered_again_is_due_when_it_was_asked_for_also_after_a_restart
    what_stands_otherwise_than_it_did_is_left_alone
    those_that_match_come_in_pages_oldest_first_with_what_is_kept_of_them
    a_failed_delivery_and_its_success_are_one_record_with_two_attempts
    a_success_that_is_delivered_again_counts_once
    a_record_of_another_event_is_not_written_over
    deliveries_are_found_by_any_of_their_marks_newest_first
    since_takes_its_moment_and_until_does_not
    records_go_when_they_are_old_or_too_many_and_those_that_wait_or_are_dead_stay
    who_delivers_is_woken_by_whatever_stores_an_event
    an_attempt_that_is_told_twice_counts_once_and_no_number_of_them_fills_a_row
    many_askers_share_a_commit
}

async fn what_was_settled_is_known_and_survives_a_restart(kept: &Kept) {
    let store = kept.open().await;
    end(&store, 1, completed(7), None).await;
    end(&store, 2, tried(2), None).await;
    assert_eq!(record(&store, 1).await, Some(completed(7)));
    assert_eq!(record(&store, 3).await, None);
    let key = store.hash_key();
    let store = kept.reopen(store).await;
    assert_eq!(record(&store, 1).await, Some(completed(7)));
    assert_eq!(record(&store, 2).await, Some(tried(2)));
    assert_eq!(store.hash_key(), key);
}

async fn a_record_takes_the_place_of_an_earlier_one(kept: &Kept) {
    let store = kept.open().await;
    end(&store, 1, tried(1), None).await;
    end(&store, 1, completed(1), None).await;
    assert_eq!(record(&store, 1).await, Some(completed(1)));
}

async fn what_is_forgotten_is_new_again_and_its_neighbours_are_not(kept: &Kept) {
    let store = kept.open().await;
    for key in 1..=3 {
        let delivery = Some(change(&key.to_string(), DeliveryState::Success));
        end(&store, key, completed(1), delivery).await;
    }
    let rows = store.find_rows(EventKey(2)).await.unwrap();
    assert_eq!(
        rows.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        [EventKey(2)],
        "neighbours of other deliveries"
    );
    store.forget_event(rows).await.unwrap();
    assert_eq!(record(&store, 2).await, None);
    let store = kept.reopen(store).await;
    assert_eq!(record(&store, 2).await, None);
    assert_eq!(
        (record(&store, 1).await, record(&store, 3).await),
        (Some(completed(1)), Some(completed(1)))
    );
    assert!(store.find_rows(EventKey(2)).await.unwrap().is_empty());
}

async fn a_record_lives_as_long_as_its_window_of_running_time(kept: &Kept) {
    let store = kept.open().await;
    end(&store, 1, completed(1), None).await;
    kept.pass(&store, WINDOW.saturating_sub(MOMENT));
    assert_eq!(record(&store, 1).await, Some(completed(1)));
    // A claim's lease may be in it.
    kept.pass(&store, MOMENT + TERMS.lease);
    assert_eq!(record(&store, 1).await, None);
}

async fn time_between_runs_does_not_count(kept: &Kept) {
    let store = kept.open().await;
    end(&store, 1, completed(1), None).await;
    store.close(true).await;
    drop(store);
    kept.pass_away(2 * WINDOW);
    let store = kept.open().await;
    assert_eq!(record(&store, 1).await, Some(completed(1)));
}

async fn a_stored_event_is_due_in_the_order_of_arrival_until_it_is_delivered(kept: &Kept) {
    let store = kept.open().await;
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
    let event = loaded(&store, ids[0]).await.unwrap();
    assert_eq!(
        (&*event.event_id, event.tried),
        ("a", AttemptHistory::default())
    );
    assert_eq!(event.payload.unwrap().body, Bytes::from_static(b"body"));
    waits(&store, (2, 0)).await;
    attempted(
        &store,
        ids[0],
        1,
        attempt(200),
        AttemptOutcome::Done {
            keep_payload: false,
        },
    )
    .await;
    waits(&store, (1, 0)).await;
    assert!(loaded(&store, ids[0]).await.is_none());
    let view = store.delivery(ids[0]).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.body, view.attempts),
        (DeliveryState::Success, None, vec![attempt(200)])
    );
    assert_eq!(
        record(&store, 1).await,
        Some(completed(1)),
        "delivered, and still known"
    );
}

async fn a_pause_is_kept(kept: &Kept) {
    let store = kept.open().await;
    let id = queued(&store, 1, "a").await;
    let after = Duration::from_secs(30);
    attempted(
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
    assert!(due.events.is_empty() && due.all_seen, "{due:?}");
    assert!(
        due.next_in
            .is_some_and(|pause| pause <= after && pause + MOMENT > after),
        "{due:?}"
    );
    kept.pass(&store, after);
    assert_eq!(
        store
            .due_events("billing".into(), &[], 10)
            .await
            .unwrap()
            .events
            .len(),
        1
    );
    let event = loaded(&store, id).await.unwrap();
    assert_eq!(
        event.tried,
        AttemptHistory {
            attempts: 1,
            possibly_delivered: true
        }
    );
    assert!(
        event.age >= after && event.age < after + MOMENT,
        "{:?}",
        event.age
    );
}

async fn a_dead_letter_is_kept_whole_and_can_be_delivered_again(kept: &Kept) {
    let store = kept.open().await;
    let id = queued(&store, 1, "a").await;
    attempted(
        &store,
        id,
        1,
        attempt(410),
        AttemptOutcome::Dead(DeadLetterReason::Rejected),
    )
    .await;
    waits(&store, (0, 1)).await;
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
    let store = kept.reopen(store).await;
    waits(&store, (0, 1)).await;
    assert_eq!(
        store.requeue(vec![now(&store, id)]).await.unwrap(),
        [RequeueResult::Queued("billing".into())]
    );
    waits(&store, (1, 0)).await;
    assert_eq!(
        loaded(&store, id).await.unwrap().payload.unwrap().body,
        Bytes::from_static(b"body")
    );
    assert_eq!(
        store
            .requeue(vec![now(&store, DeliveryId(99))])
            .await
            .unwrap(),
        [RequeueResult::Unknown]
    );
}

async fn what_is_delivered_again_is_due_when_it_was_asked_for_also_after_a_restart(kept: &Kept) {
    let store = kept.open().await;
    let ids = [queued(&store, 1, "a").await, queued(&store, 2, "b").await];
    let start = store.now_due();
    // The later one is written first.
    for (id, seconds) in [(ids[1], 60), (ids[0], 30)] {
        let requeue = Requeue {
            due: start.after(Duration::from_secs(seconds)),
            ..now(&store, id)
        };
        store.requeue(vec![requeue]).await.unwrap();
    }
    kept.pass(&store, Duration::from_secs(10));
    let store = kept.reopen(store).await;
    let due = store.due_events("billing".into(), &[], 10).await.unwrap();
    assert!(
        due.events.is_empty()
            && due
                .next_in
                .is_some_and(|pause| pause <= Duration::from_secs(20)),
        "{due:?}"
    );
    kept.pass(&store, Duration::from_secs(50));
    let due = store
        .due_events("billing".into(), &[], 10)
        .await
        .unwrap()
        .events;
    assert_eq!(due.iter().map(|due| due.id).collect::<Vec<_>>(), ids);
}

async fn what_stands_otherwise_than_it_did_is_left_alone(kept: &Kept) {
    let store = kept.open().await;
    let id = queued(&store, 1, "a").await;
    attempted(
        &store,
        id,
        1,
        attempt(200),
        AttemptOutcome::Done { keep_payload: true },
    )
    .await;
    let dead = Requeue {
        expected_state: Some(DeliveryState::Dead),
        ..now(&store, id)
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
        ..now(&store, id)
    };
    assert_eq!(
        store.requeue(vec![success]).await.unwrap(),
        [RequeueResult::Queued("billing".into())]
    );
}

async fn those_that_match_come_in_pages_oldest_first_with_what_is_kept_of_them(kept: &Kept) {
    let store = kept.open().await;
    for key in 1..=5 {
        let payload = (key != 3).then(|| Payload {
            head: Bytes::from_static(b"head"),
            body: Bytes::new(),
        });
        let change = DeliveryChange {
            payload,
            ..change("a", DeliveryState::Failed)
        };
        end(&store, key, tried(1), Some(change)).await;
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

async fn a_failed_delivery_and_its_success_are_one_record_with_two_attempts(kept: &Kept) {
    let store = kept.open().await;
    let mut failed = change("a", DeliveryState::Failed);
    failed.attempt = Some(attempt(500));
    failed.payload = Some(Payload {
        head: Bytes::from_static(b"head"),
        body: Bytes::from_static(b"body"),
    });
    let id = end(&store, 1, tried(1), Some(failed)).await.unwrap();
    let (held, known) = claimed(&store, 1).await;
    let known = known.unwrap();
    assert_eq!(known.delivery, Some(id));
    let record = store.route_record("billing".into(), 0).await.unwrap();
    assert_eq!((record.successful, record.failed), (0, 1));
    let change = DeliveryChange {
        earlier: known.delivery,
        ..change("a", DeliveryState::Success)
    };
    let again = store
        .settle(settlement(1, held.row(), completed(1), Some(change)))
        .await
        .unwrap();
    held.mark_settled();
    assert_eq!(again, Some(id));
    let view = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(
        (view.state, view.attempts),
        (DeliveryState::Success, vec![attempt(500), attempt(200)])
    );
    assert_eq!(
        view.body, None,
        "a payload is kept as long as the delivery has failed"
    );
    let record = store.route_record("billing".into(), 0).await.unwrap();
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

async fn a_success_that_is_delivered_again_counts_once(kept: &Kept) {
    let store = kept.open().await;
    let id = queued(&store, 1, "a").await;
    for number in 1..=3 {
        attempted(
            &store,
            id,
            number,
            attempt(200),
            AttemptOutcome::Done { keep_payload: true },
        )
        .await;
        let record = store.route_record("billing".into(), 0).await.unwrap();
        assert_eq!((record.successful, record.total_ms), (1, 12));
        assert_eq!(
            store.requeue(vec![now(&store, id)]).await.unwrap(),
            [RequeueResult::Queued("billing".into())]
        );
        assert!(loaded(&store, id).await.unwrap().tried.possibly_delivered);
    }
}

async fn a_record_of_another_event_is_not_written_over(kept: &Kept) {
    let store = kept.open().await;
    let first = end(
        &store,
        1,
        completed(1),
        Some(change("a", DeliveryState::Success)),
    )
    .await;
    let change = DeliveryChange {
        earlier: first,
        ..change("b", DeliveryState::Success)
    };
    let second = end(&store, 2, completed(1), Some(change)).await;
    assert_ne!(first, second);
}

async fn deliveries_are_found_by_any_of_their_marks_newest_first(kept: &Kept) {
    let store = kept.open().await;
    for (key, event) in [(1, "a"), (2, "b"), (3, "c")] {
        end(
            &store,
            key,
            completed(1),
            Some(change(event, DeliveryState::Success)),
        )
        .await;
    }
    let dead = queued(&store, 4, "d").await;
    attempted(
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
}

async fn since_takes_its_moment_and_until_does_not(kept: &Kept) {
    let store = kept.open().await;
    for (key, at) in [
        (1, "2026-06-01T12:00:00Z"),
        (2, "2026-06-01T12:00:00.001Z"),
        (3, "2026-06-01T12:00:00.0015Z"),
    ] {
        let change = received(&key.to_string(), at, DeliveryState::Success);
        end(&store, key, completed(1), Some(change)).await;
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

async fn records_go_when_they_are_old_or_too_many_and_those_that_wait_or_are_dead_stay(
    kept: &Kept,
) {
    let store = kept.open().await;
    let waiting = queued(&store, 1, "waiting").await;
    let dead = queued(&store, 2, "dead").await;
    attempted(
        &store,
        dead,
        1,
        attempt(404),
        AttemptOutcome::Dead(DeadLetterReason::Rejected),
    )
    .await;
    for key in 10..20 {
        let event = format!("evt_{key}");
        end(
            &store,
            key,
            completed(1),
            Some(change(&event, DeliveryState::Success)),
        )
        .await;
    }
    let lane = |retain| {
        vec![StoreRoute {
            route: "billing".into(),
            retain,
            concurrency: 1,
        }]
    };
    // Room for three records without a payload.
    store.update_routes(lane(Retain {
        max_bytes: Some(900),
        ..KEEP
    }));
    all_left(&store, &["evt_19", "evt_18", "evt_17", "dead", "waiting"]).await;
    store.update_routes(lane(Retain {
        keep: Duration::from_secs(40),
        ..KEEP
    }));
    kept.pass(&store, Duration::from_secs(50));
    all_left(&store, &["dead", "waiting"]).await;
    assert!(loaded(&store, waiting).await.is_some());
    assert_eq!(
        record(&store, 19).await,
        Some(completed(1)),
        "the ledger does not go with the records"
    );
}

async fn who_delivers_is_woken_by_whatever_stores_an_event(kept: &Kept) {
    let store = kept.open().await;
    let waker = store.queue_notifier(&"billing".into());
    let id = queued(&store, 1, "a").await;
    waker.notified().await;
    attempted(
        &store,
        id,
        1,
        attempt(410),
        AttemptOutcome::Dead(DeadLetterReason::Rejected),
    )
    .await;
    store.requeue(vec![now(&store, id)]).await.unwrap();
    waker.notified().await;
    // It was pending before, and is due earlier.
    store.requeue(vec![now(&store, id)]).await.unwrap();
    waker.notified().await;
}

async fn an_attempt_that_is_told_twice_counts_once_and_no_number_of_them_fills_a_row(kept: &Kept) {
    let store = kept.open().await;
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
            attempted(&store, id, number, attempt, next).await;
        }
    }
    let view = store.delivery(id).await.unwrap().unwrap();
    assert_eq!(view.tried, 150);
    let times: Vec<_> = view.attempts.iter().map(|attempt| attempt.ms).collect();
    assert_eq!(times, (1..=10).chain(61..=150).collect::<Vec<u64>>());
}

async fn many_askers_share_a_commit(kept: &Kept) {
    let store = kept.open().await;
    let before = commits(&kept.metrics);
    let asked: Vec<_> = (1..=500)
        .map(|key| {
            let store = store.clone();
            tokio::spawn(async move { end(&store, key, completed(1), None).await })
        })
        .collect();
    for asked in asked {
        asked.await.unwrap();
    }
    assert_eq!(record(&store, 500).await, Some(completed(1)));
    let commits = commits(&kept.metrics) - before;
    assert!(
        commits < 250.0,
        "{commits} commits for 500 that came together"
    );
}

/// Waits for the upkeep to have left these.
async fn all_left(store: &Store, events: &[&str]) {
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
    panic!("never left: {events:?}");
}

fn commits(metrics: &Metrics) -> f64 {
    let text = metrics.render(0, 0).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("hookstile_store_commit_duration_seconds_count "));
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

#[test]
fn the_embedded_ledger_agrees_with_a_map_over_restarts_and_time() {
    agrees(48, &Kept::embedded());
}

#[test]
fn the_shared_ledger_agrees_with_a_map_over_restarts_and_time() {
    if let Some(kept) = Kept::shared() {
        agrees(6, &kept);
    }
}

#[track_caller]
fn agrees(cases: u32, kept: &Kept) {
    let steps = prop::collection::vec(step(), 0..60);
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let checked = TestRunner::new(config).run(&steps, |steps| {
        kept.clear();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(agrees_over(steps, kept));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

async fn agrees_over(steps: Vec<Step>, kept: &Kept) {
    // Time passes in steps of ten seconds: no record ends in the middle of one, its claim's lease included.
    const WINDOW: Duration = Duration::from_secs(95);
    const TERMS: ClaimTerms = ClaimTerms {
        lease: Duration::from_secs(4),
        window: WINDOW,
        forwards: false,
    };
    let mut store = kept.open().await;
    let mut model: HashMap<u128, (LedgerEntry, u64)> = HashMap::new();
    let mut now = 0;
    for (number, step) in (1..).zip(steps) {
        match step {
            Step::Settle {
                key,
                completed: done,
            } => {
                let (held, known) = claimed_for(&store, key, TERMS).await;
                // A duplicate: nothing is claimed, and nothing ends.
                if matches!(
                    known,
                    Some(KnownEvent {
                        record: LedgerEntry::Completed { .. },
                        ..
                    })
                ) {
                    continue;
                }
                let becomes = if done {
                    completed(number)
                } else {
                    tried(number.into())
                };
                let settled = Settlement {
                    window: WINDOW,
                    ..settlement(key, held.row(), becomes, None)
                };
                store.settle(settled).await.unwrap();
                held.mark_settled();
                model.insert(key, (becomes, now + 95));
            }
            Step::Pass(seconds) => {
                kept.pass(&store, Duration::from_secs(seconds));
                now += seconds;
            }
            Step::Restart { in_good_order } => {
                store.close(in_good_order).await;
                drop(store);
                store = kept.open().await;
            }
        }
        for key in 0..6 {
            let expected = model
                .get(&key)
                .filter(|(_, ends)| now < *ends)
                .map(|(record, _)| *record);
            let (_, found) = claimed_for(&store, key, TERMS).await;
            assert_eq!(found.map(|found| found.record), expected, "{key} at {now}");
        }
    }
    store.close(true).await;
}

//! What only a store that gateways share promises.

use std::time::Duration;

use crate::store::tests::{
    ATTEMPT, Kept, TERMS, attempt, change, claimed, completed, due, end, queued, record,
    settlement, tried,
};
use crate::store::{
    AttemptHistory, AttemptOutcome, ClaimLease, ClaimResult, DeliveryId, DeliveryState, EventKey,
    LedgerEntry, Store, StoreError,
};

const SECOND: Duration = Duration::from_secs(1);

/// Two gateways on one database.
macro_rules! two {
    ($kept:ident, $one:ident, $two:ident) => {
        let Some($kept) = Kept::shared() else { return };
        let ($one, $two) = ($kept.open().await, $kept.open().await);
    };
}

async fn asked(store: &Store, key: u128) -> Option<(ClaimLease, Option<LedgerEntry>)> {
    match store.claim(EventKey(key), TERMS).await.unwrap() {
        ClaimResult::Acquired(held, found) => Some((held, found.map(|found| found.record))),
        ClaimResult::HeldElsewhere => None,
    }
}

async fn possibly_delivered(store: &Store, id: DeliveryId) -> bool {
    store
        .load_event(id, ATTEMPT)
        .await
        .unwrap()
        .unwrap()
        .tried
        .possibly_delivered
}

#[tokio::test]
async fn a_claim_is_one_gateway_s_until_it_is_given_back() {
    two!(kept, one, two);
    let (held, found) = asked(&one, 1).await.unwrap();
    assert_eq!(found, None);
    assert!(asked(&two, 1).await.is_none());
    drop(held);
    let (_held, found) = claimed(&two, 1).await;
    assert!(found.is_none(), "nothing was sent");
    assert!(asked(&one, 1).await.is_none());
}

#[tokio::test]
async fn a_claim_that_lapsed_was_an_attempt_of_unknown_outcome() {
    two!(kept, one, two);
    let (late, _) = asked(&one, 1).await.unwrap();
    kept.pass(&one, TERMS.lease.saturating_sub(SECOND * 5));
    assert!(asked(&two, 1).await.is_none());
    kept.pass(&one, SECOND * 5);
    let (held, found) = asked(&two, 1).await.unwrap();
    assert_eq!(
        found,
        Some(LedgerEntry::Attempted(AttemptHistory {
            attempts: 1,
            possibly_delivered: true
        }))
    );
    // Whoever comes late does not undo what the other is about to do.
    let failed = one.settle(settlement(1, late.row(), tried(1), None)).await;
    assert_eq!(failed, Err(StoreError::Unavailable));
    two.settle(settlement(1, held.row(), tried(2), None))
        .await
        .unwrap();
    held.mark_settled();
    assert_eq!(record(&one, 1).await, Some(tried(2)));
}

#[tokio::test]
async fn a_success_is_recorded_however_late() {
    two!(kept, one, two);
    let (late, _) = asked(&one, 1).await.unwrap();
    kept.pass(&one, TERMS.lease);
    let (held, _) = asked(&two, 1).await.unwrap();
    let success = || Some(change("a", DeliveryState::Success));
    let first = one
        .settle(settlement(1, late.row(), completed(1), success()))
        .await
        .unwrap();
    let second = two
        .settle(settlement(1, held.row(), completed(1), success()))
        .await
        .unwrap();
    assert_eq!(first, second, "one delivery");
    assert_eq!(record(&two, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn a_claim_that_only_looked_prolongs_nothing() {
    let Some(kept) = Kept::shared() else { return };
    let store = kept.open().await;
    end(&store, 1, tried(1), None).await;
    kept.pass(&store, TERMS.window / 2);
    assert_eq!(record(&store, 1).await, Some(tried(1)));
    kept.pass(&store, TERMS.window / 2 + TERMS.lease);
    assert_eq!(record(&store, 1).await, None);
}

#[tokio::test]
async fn what_is_known_of_an_attempt_of_unknown_outcome_lasts_a_window_from_its_lease_s_end() {
    two!(kept, one, two);
    let (_late, _) = asked(&one, 1).await.unwrap();
    kept.pass(
        &one,
        (TERMS.lease + TERMS.window).saturating_sub(SECOND * 20),
    );
    let (held, found) = asked(&two, 1).await.unwrap();
    assert_eq!(
        found,
        Some(LedgerEntry::Attempted(AttemptHistory {
            attempts: 1,
            possibly_delivered: true
        }))
    );
    drop(held);
    assert!(record(&two, 1).await.is_some());
    kept.pass(&one, SECOND * 20);
    assert_eq!(record(&two, 1).await, None);
}

#[tokio::test]
async fn a_stored_event_is_one_gateway_s_to_try_until_its_lease_lapses() {
    two!(kept, one, two);
    let id = queued(&one, 1, "a").await;
    assert_eq!((due(&one).await, due(&two).await), (vec![id], vec![]));
    assert!(two.load_event(id, ATTEMPT).await.unwrap().is_none());
    // It was not begun: nothing was sent.
    kept.pass(&one, SECOND * 15);
    assert_eq!(due(&two).await, [id]);
    assert!(
        one.load_event(id, ATTEMPT).await.unwrap().is_none(),
        "too late"
    );
    assert!(!possibly_delivered(&two, id).await);
    kept.pass(&one, ATTEMPT + SECOND * 5);
    assert!(
        due(&one).await.is_empty(),
        "what came of it is still to be written"
    );
    kept.pass(&one, SECOND * 5);
    assert_eq!(due(&one).await, [id]);
    assert!(possibly_delivered(&one, id).await);
}

#[tokio::test]
async fn of_an_attempt_that_lost_its_lease_only_a_success_counts() {
    two!(kept, one, two);
    let id = queued(&one, 1, "a").await;
    due(&one).await;
    one.load_event(id, ATTEMPT).await.unwrap().unwrap();
    kept.pass(&one, ATTEMPT + SECOND * 10);
    assert_eq!(due(&two).await, [id]);
    let retry = AttemptOutcome::Retry {
        after: SECOND * 60,
        possibly_delivered: false,
    };
    one.record_attempt(id, 1, attempt(500), retry)
        .await
        .unwrap();
    let view = two.delivery(id).await.unwrap().unwrap();
    assert_eq!((view.state, view.tried), (DeliveryState::Pending, 0));
    one.record_attempt(
        id,
        1,
        attempt(200),
        AttemptOutcome::Done {
            keep_payload: false,
        },
    )
    .await
    .unwrap();
    assert_eq!(
        two.delivery(id).await.unwrap().unwrap().state,
        DeliveryState::Success
    );
    assert!(two.load_event(id, ATTEMPT).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_given_back_is_another_gateway_s_at_once() {
    two!(kept, one, two);
    let id = queued(&one, 1, "a").await;
    assert_eq!(due(&one).await, [id]);
    one.release_events(&[id]).await;
    assert_eq!(due(&two).await, [id]);
    one.release_events(&[id]).await;
    assert!(due(&one).await.is_empty(), "it is not ours any more");
}

#[tokio::test]
async fn whoever_delivers_is_woken_by_what_another_gateway_stored() {
    two!(kept, one, two);
    let waker = two.queue_notifier(&"billing".into());
    queued(&one, 1, "a").await;
    waker.notified().await;
}

#[tokio::test]
async fn what_an_operator_said_to_one_gateway_is_told_to_the_other() {
    two!(kept, one, two);
    let mut revision = two.revision().unwrap();
    revision.mark_unchanged();
    let (seen, _) = one.webhooks().await.unwrap();
    assert!(
        one.put_webhook("shop".into(), "{}".into(), seen)
            .await
            .unwrap()
            .is_some()
    );
    revision.changed().await.unwrap();
    assert_eq!(
        two.webhooks().await.unwrap().1,
        [("shop".into(), "{}".into())]
    );
    let behind = two
        .put_webhook("other".into(), "{}".into(), seen)
        .await
        .unwrap();
    assert!(behind.is_none(), "what it saw has changed");
    one.set_paused("billing".into(), true).await.unwrap();
    revision.changed().await.unwrap();
    assert_eq!(two.paused_routes().await.unwrap(), ["billing"]);
}

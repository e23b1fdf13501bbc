//! What tests of the store begin with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::signature::PayloadDigest;
use crate::store::{
    AttemptHistory, AttemptOutcome, AttemptRecord, ClaimLease, ClaimResult, ClaimTerms,
    DeliveryChange, DeliveryId, DeliveryState, EventKey, EventMetadata, EventRow, KnownEvent,
    LedgerEntry, Payload, Payloads, QueuedEvent, Requeue, Retain, RowId, Settlement, Store,
};

pub(in crate::store) const WINDOW: Duration = Duration::from_secs(96 * 3600);
pub(in crate::store) const KEEP: Retain = Retain {
    payloads: Payloads::Failed,
    keep: Duration::from_secs(7 * 86_400),
    max_bytes: None,
};
pub(in crate::store) const ATTEMPT: Duration = Duration::from_secs(10);

pub(in crate::store) fn completed(number: u8) -> LedgerEntry {
    LedgerEntry::Completed {
        digest: PayloadDigest::from_bytes([number; 16]),
    }
}

pub(in crate::store) fn tried(attempts: u32) -> LedgerEntry {
    LedgerEntry::Attempted(AttemptHistory {
        attempts,
        possibly_delivered: attempts > 1,
    })
}

pub(in crate::store) fn subject(event: &str) -> Arc<EventMetadata> {
    Arc::new(EventMetadata {
        route: "billing".into(),
        event_id: event.into(),
        event_type: "user.created".into(),
        received_at: Timestamp::from_second(1_790_000_000).unwrap(),
        secret: "current".into(),
        is_test: false,
    })
}

pub(in crate::store) fn attempt(status: u16) -> AttemptRecord {
    AttemptRecord {
        at: Timestamp::from_second(1_790_000_001).unwrap(),
        ms: 12,
        status: Some(status),
        error: None,
    }
}

pub(in crate::store) fn received(event: &str, at: &str, state: DeliveryState) -> DeliveryChange {
    let subject = EventMetadata {
        received_at: at.parse().unwrap(),
        ..(*subject(event)).clone()
    };
    DeliveryChange {
        event: Arc::new(subject),
        ..change(event, state)
    }
}

pub(in crate::store) fn change(event: &str, state: DeliveryState) -> DeliveryChange {
    DeliveryChange {
        earlier: None,
        event: subject(event),
        state,
        history: AttemptHistory::default(),
        attempt: (state != DeliveryState::Pending).then(|| attempt(200)),
        payload: (state == DeliveryState::Pending).then(|| Payload {
            head: Bytes::from_static(b"head"),
            body: Bytes::from_static(b"body"),
        }),
        due_after: Duration::ZERO,
    }
}

pub(in crate::store) fn settlement(
    key: u128,
    earlier: Option<RowId>,
    becomes: LedgerEntry,
    delivery: Option<DeliveryChange>,
) -> Settlement {
    let names = [
        Some(EventRow {
            key: EventKey(key),
            earlier,
        }),
        None,
    ];
    Settlement {
        names,
        becomes,
        window: WINDOW,
        if_lost: AttemptHistory::default(),
        delivery,
    }
}

pub(in crate::store) const TERMS: ClaimTerms = ClaimTerms {
    lease: Duration::from_secs(10),
    window: WINDOW,
    forwards: true,
};

/// Claims an event; what another asker has of it is on its way back.
pub(in crate::store) async fn claimed(
    store: &Store,
    key: u128,
) -> (ClaimLease, Option<KnownEvent>) {
    claimed_for(store, key, TERMS).await
}

pub(in crate::store) async fn claimed_for(
    store: &Store,
    key: u128,
    terms: ClaimTerms,
) -> (ClaimLease, Option<KnownEvent>) {
    loop {
        match store.claim(EventKey(key), terms).await.unwrap() {
            ClaimResult::Acquired(held, found) => return (held, found),
            ClaimResult::HeldElsewhere => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// What is known of an event.
pub(in crate::store) async fn record(store: &Store, key: u128) -> Option<LedgerEntry> {
    claimed(store, key).await.1.map(|found| found.record)
}

/// Claims an event and ends it so.
pub(in crate::store) async fn end(
    store: &Store,
    key: u128,
    becomes: LedgerEntry,
    delivery: Option<DeliveryChange>,
) -> Option<DeliveryId> {
    let (held, _) = claimed(store, key).await;
    let id = store
        .settle(settlement(key, held.row(), becomes, delivery))
        .await
        .unwrap();
    held.mark_settled();
    id
}

pub(in crate::store) async fn queued(store: &Store, key: u128, event: &str) -> DeliveryId {
    end(
        store,
        key,
        completed(1),
        Some(change(event, DeliveryState::Pending)),
    )
    .await
    .unwrap()
}

/// Those that are due, which are ours to try from then on.
pub(in crate::store) async fn due(store: &Store) -> Vec<DeliveryId> {
    let due = store.due_events("billing".into(), &[], 10).await.unwrap();
    due.events.into_iter().map(|event| event.id).collect()
}

/// Begins an attempt at a stored event.
pub(in crate::store) async fn loaded(store: &Store, id: DeliveryId) -> Option<QueuedEvent> {
    due(store).await;
    store.load_event(id, ATTEMPT).await.unwrap()
}

/// Tries a stored event.
pub(in crate::store) async fn attempted(
    store: &Store,
    id: DeliveryId,
    number: u32,
    attempt: AttemptRecord,
    next: AttemptOutcome,
) {
    due(store).await;
    store
        .record_attempt(id, number, attempt, next)
        .await
        .unwrap();
}

pub(in crate::store) fn now(store: &Store, id: DeliveryId) -> Requeue {
    Requeue {
        id,
        expected_state: None,
        due: store.now_due(),
        completing: Vec::new(),
        window: WINDOW,
    }
}

/// Waits until so many wait and so many are dead, which a shared store learns a moment later.
pub(in crate::store) async fn waits(store: &Store, expected: (u64, u64)) {
    for _ in 0..1_000 {
        if store.queue_counts("billing") == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.queue_counts("billing"), expected);
}

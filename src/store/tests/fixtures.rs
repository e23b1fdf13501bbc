//! Fixtures for tests of the store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::signature::PayloadDigest;
use crate::store::{
    AttemptHistory, AttemptId, AttemptOutcome, AttemptRecord, ClaimLease, ClaimPurpose,
    ClaimResult, ClaimTerms, CreationKey, DeliveryChange, DeliveryId, DeliveryState, EventKey,
    EventMetadata, EventRow, KnownEvent, LedgerEntry, Payload, Payloads, QueuedEvent, Requeue,
    Retain, RowId, SettledRow, Settlement, Store,
};

pub(in crate::store) const WINDOW: Duration = Duration::from_secs(96 * 3600);
pub(in crate::store) const RETAIN: Retain = Retain {
    payloads: Payloads::Failed,
    keep: Duration::from_secs(7 * 86_400),
    max_bytes: None,
};
pub(in crate::store) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

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

pub(in crate::store) fn creation_key(key: &str, request: u8) -> CreationKey {
    CreationKey {
        key: key.into(),
        request: [request; 32],
    }
}

pub(in crate::store) fn metadata(event: &str) -> Arc<EventMetadata> {
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
        cause: None,
        address: None,
        response: None,
    }
}

pub(in crate::store) fn change_received_at(
    event: &str,
    at: &str,
    state: DeliveryState,
) -> DeliveryChange {
    let subject = EventMetadata {
        received_at: at.parse().unwrap(),
        ..(*metadata(event)).clone()
    };
    DeliveryChange {
        event: Arc::new(subject),
        ..delivery_change(event, state)
    }
}

pub(in crate::store) fn delivery_change(event: &str, state: DeliveryState) -> DeliveryChange {
    DeliveryChange {
        earlier: None,
        event: metadata(event),
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
    entry: LedgerEntry,
    delivery: Option<DeliveryChange>,
) -> Settlement {
    let key = EventKey(key);
    Settlement {
        key: Some(key),
        event: Some(SettledRow {
            row: EventRow { key, earlier },
            entry,
            window: WINDOW,
            if_lost: AttemptHistory::default(),
        }),
        copies: None,
        delivery,
    }
}

pub(in crate::store) const TERMS: ClaimTerms = ClaimTerms {
    lease: Duration::from_secs(10),
    window: WINDOW,
    purpose: ClaimPurpose::Forward,
};

/// Claims an event. Waits while another claim on it is being released.
pub(in crate::store) async fn claim(store: &Store, key: u128) -> (ClaimLease, Option<KnownEvent>) {
    claim_with(store, key, TERMS).await
}

pub(in crate::store) async fn claim_with(
    store: &Store,
    key: u128,
    terms: ClaimTerms,
) -> (ClaimLease, Option<KnownEvent>) {
    loop {
        match store.claim(EventKey(key), terms).await.unwrap() {
            ClaimResult::Acquired(lease, found) => return (lease, found),
            ClaimResult::HeldElsewhere => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Returns the ledger entry of an event.
pub(in crate::store) async fn ledger_entry(store: &Store, key: u128) -> Option<LedgerEntry> {
    claim(store, key).await.1.map(|found| found.entry)
}

/// Claims an event and settles it.
pub(in crate::store) async fn settle(
    store: &Store,
    key: u128,
    entry: LedgerEntry,
    delivery: Option<DeliveryChange>,
) -> Option<DeliveryId> {
    let (lease, _) = claim(store, key).await;
    let id = store
        .settle(settlement(key, lease.row(), entry, delivery))
        .await
        .unwrap();
    lease.mark_settled();
    id
}

pub(in crate::store) async fn queued(store: &Store, key: u128, event: &str) -> DeliveryId {
    settle(
        store,
        key,
        completed(1),
        Some(delivery_change(event, DeliveryState::Pending)),
    )
    .await
    .unwrap()
}

/// Leases and returns the due events.
pub(in crate::store) async fn due_ids(store: &Store) -> Vec<DeliveryId> {
    // What another gateway has stored is otherwise found by a poll.
    store.tick();
    let due = store.due_events("billing".into(), &[], 10).await.unwrap();
    due.events.into_iter().map(|event| event.id).collect()
}

/// Begins an attempt at a queued event.
pub(in crate::store) async fn begin_attempt(store: &Store, id: DeliveryId) -> Option<QueuedEvent> {
    due_ids(store).await;
    store
        .load_event("billing".into(), id, ATTEMPT_TIMEOUT)
        .await
        .unwrap()
}

/// Records an attempt at a queued event.
pub(in crate::store) async fn record_attempt(
    store: &Store,
    id: DeliveryId,
    number: u32,
    attempt: AttemptRecord,
    next: AttemptOutcome,
) {
    let event = begin_attempt(store, id).await;
    let id = AttemptId {
        delivery: id,
        identity: event.map(|event| event.identity).unwrap_or_default(),
        number,
    };
    store.record_attempt(id, attempt, next).await.unwrap();
}

pub(in crate::store) fn requeue_now(store: &Store, id: DeliveryId) -> Requeue {
    Requeue {
        id,
        expected_state: None,
        expected_identity: None,
        due: store.now_due(),
        automatic: false,
        completing: Vec::new(),
        window: WINDOW,
    }
}

/// Waits for these numbers of pending events and dead letters, which a shared store polls.
pub(in crate::store) async fn wait_for_counts(store: &Store, expected: (u64, u64)) {
    for _ in 0..1_000 {
        if store.queue_counts("billing") == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.queue_counts("billing"), expected);
}

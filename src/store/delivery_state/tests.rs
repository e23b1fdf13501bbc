//! Tests of the rules of a delivery's state.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::backoff::DeadLetterReason::{Expired, Rejected};
use crate::store::tests::fixtures::{attempt, metadata};
use crate::store::{AttemptHistory, DeliveryId, DueAt, Payload};

const TIME: StoreTime = StoreTime {
    now: Uptime(1_000),
    now_due: Uptime(5_000),
};
const LATER: Duration = Duration::from_millis(300);

fn change(state: DeliveryState, body: &'static [u8]) -> DeliveryChange {
    let payload = Payload {
        head: b"head".as_slice().into(),
        body: body.into(),
    };
    DeliveryChange {
        earlier: None,
        event: metadata("evt_1"),
        state,
        history: AttemptHistory::default(),
        attempt: None,
        payload: (!body.is_empty()).then_some(payload),
        due_after: LATER,
    }
}

fn pending() -> Progress {
    let keys = Some(vec![1; KEY_BYTES]);
    Progress::settled(None, &change(DeliveryState::Pending, b"body"), keys, TIME)
}

fn attempted(before: Progress, outcome: AttemptOutcome) -> Progress {
    before.attempted(&attempt(503), outcome, TIME)
}

fn requeue(automatic: bool) -> Requeue {
    Requeue {
        id: DeliveryId(1),
        expected_state: None,
        expected_identity: None,
        due: DueAt(Uptime(5_200)),
        automatic,
        completing: Vec::new(),
        window: Duration::ZERO,
    }
}

const DELIVERED: AttemptOutcome = AttemptOutcome::Delivered {
    keep_payload: false,
};
const RETRY: AttemptOutcome = AttemptOutcome::Retry {
    after: LATER,
    possibly_delivered: true,
};

#[test]
fn a_stored_event_is_due_and_not_ended() {
    let stored = pending();
    assert_eq!(stored.due, Some(Uptime(5_300)));
    assert_eq!((stored.queued, stored.ended), (Some(Uptime(1_000)), None));
    assert_eq!(stored.stored_bytes, 8);
}

#[test]
fn a_delivered_event_keeps_no_payload_or_key() {
    let delivered = attempted(pending(), DELIVERED);
    assert_eq!(delivered.state, DeliveryState::Success);
    assert_eq!(delivered.ended, Some(Uptime(1_000)));
    assert_eq!((delivered.stored_bytes, &delivered.keys), (0, &None));
}

#[test]
fn keys_of_copies_outlive_the_delivery() {
    let keys = Some(vec![1; 2 * KEY_BYTES]);
    let with_copies = Progress {
        keys: keys.clone(),
        ..pending()
    };
    assert_eq!(attempted(with_copies, DELIVERED).keys, keys);
}

#[test]
fn an_unknown_outcome_is_never_forgotten() {
    let retried = attempted(pending(), RETRY);
    assert!(retried.possibly_delivered);
    assert_eq!((retried.tried, retried.queued), (1, pending().queued));
    assert!(attempted(retried, DELIVERED).possibly_delivered);
}

#[test]
fn an_automatic_redelivery_happens_once() {
    let dead = attempted(pending(), AttemptOutcome::Dead(Rejected));
    assert_eq!(dead.reason, Some(StateReason::DeadLetter(Rejected)));
    let redelivered = dead.requeued(&requeue(true), TIME).unwrap();
    assert_eq!(redelivered.reason, Some(StateReason::Automatic));
    let retried = attempted(redelivered, RETRY);
    assert_eq!(retried.reason, Some(StateReason::Automatic));
    let again = attempted(retried, AttemptOutcome::Dead(Expired));
    assert_eq!(again.reason, Some(StateReason::Again));
    let by_hand = again.requeued(&requeue(false), TIME).unwrap();
    assert_eq!(by_hand.reason, None);
}

#[test]
fn the_horizon_of_a_redelivery_begins_when_due() {
    let requeued = pending().requeued(&requeue(false), TIME).unwrap();
    assert_eq!(requeued.due, Some(Uptime(5_200)));
    assert_eq!(requeued.queued, Some(Uptime(1_200)));
}

#[test]
fn only_kept_payloads_are_redelivered() {
    let delivered = attempted(pending(), DELIVERED);
    let refused = delivered.requeued(&requeue(false), TIME);
    assert_eq!(refused, Err(RequeueResult::NoPayload));
    let expecting_dead = Requeue {
        expected_state: Some(DeliveryState::Dead),
        ..requeue(false)
    };
    let refused = pending().requeued(&expecting_dead, TIME);
    assert_eq!(refused, Err(RequeueResult::Unknown));
}

#[test]
fn stored_reasons_are_read_again() {
    for reason in DeadLetterReason::ALL.map(StateReason::DeadLetter) {
        assert_eq!(StateReason::parse(reason.as_str()), Some(reason));
    }
    assert_eq!(
        StateReason::parse("automatic"),
        Some(StateReason::Automatic)
    );
    assert_eq!(StateReason::parse("again"), Some(StateReason::Again));
    assert_eq!(StateReason::parse("of a later version"), None);
}

fn outcome() -> impl Strategy<Value = Option<AttemptOutcome>> {
    prop_oneof![
        Just(None),
        Just(Some(RETRY)),
        Just(Some(DELIVERED)),
        Just(Some(AttemptOutcome::Delivered { keep_payload: true })),
        Just(Some(AttemptOutcome::Dead(Expired))),
    ]
}

proptest! {
    /// Whatever happens to a delivery, the sum of the changes is one delivery in its last state.
    #[test]
    fn changes_of_counts_add_up(outcomes in proptest::collection::vec(outcome(), 0..12)) {
        let event = metadata("evt_1");
        let mut counts = CountChanges::default();
        let mut last = pending();
        counts.add(&event, &last);
        for outcome in outcomes {
            // `None` is a redelivery, which some states refuse.
            let after = match outcome {
                Some(outcome) => attempted(last.clone(), outcome),
                None => last.clone().requeued(&requeue(false), TIME).unwrap_or(last.clone()),
            };
            let before = StoredDelivery {
                route: event.route.clone(),
                event_id: event.event_id.to_string(),
                received_ms: event.received_at.as_millisecond(),
                progress: last,
            };
            counts.change(&before, &after);
            last = after;
        }
        let route = &counts.routes[&event.route];
        let is = |state| i64::from(last.state == state);
        prop_assert_eq!(route.pending, is(DeliveryState::Pending));
        prop_assert_eq!(route.dead, is(DeliveryState::Dead));
        prop_assert_eq!(route.bytes(), last.counted_bytes());
        prop_assert_eq!(route.kept_bytes, is(DeliveryState::Success) * last.counted_bytes());
        let day = counts.days.values().next();
        prop_assert_eq!(day.map_or(0, |day| day.successful), is(DeliveryState::Success));
        prop_assert_eq!(day.map_or(0, |day| day.failed), is(DeliveryState::Dead));
        let total_ms = is(DeliveryState::Success) * i64::try_from(last.attempts.last_ms())?;
        prop_assert_eq!(day.map_or(0, |day| day.total_ms), total_ms);
    }
}

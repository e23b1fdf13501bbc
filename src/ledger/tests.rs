use bytes::Bytes;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::event::EventId;
use crate::secret::Secret;
use crate::signature::{NamedSecret, Verifier, presets};
use crate::store::{DeliveryId, DeliveryState, EventMetadata, Payload};

const WINDOW: Duration = Duration::from_secs(100);

/// A ledger with the folder of its store.
struct Kept {
    ledger: Arc<Ledger>,
    folder: tempfile::TempDir,
}

impl std::ops::Deref for Kept {
    type Target = Arc<Ledger>;

    fn deref(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

fn claiming(policy: InFlightPolicy, deadline: Instant) -> ClaimOptions {
    ClaimOptions {
        window: WINDOW,
        in_flight: policy,
        deadline,
        purpose: ClaimPurpose::Forward,
    }
}

impl Kept {
    /// Closes this ledger and opens another one on the same folder.
    async fn reopened(self) -> Self {
        self.ledger.store().close(false).await;
        let folder = self.folder;
        open(folder, &Clock::System, 1_000)
    }
}

fn ledger_at(clock: &Clock, capacity: usize) -> Kept {
    open(tempfile::tempdir().unwrap(), clock, capacity)
}

fn open(folder: tempfile::TempDir, clock: &Clock, capacity: usize) -> Kept {
    let settings = crate::store::EmbeddedSettings {
        folder: folder.path().to_owned(),
        durability: crate::store::Durability::Relaxed,
        max_ids: capacity,
        max_bytes: None,
        must_exist: false,
    };
    let metrics = crate::metrics::Metrics::new().unwrap();
    let store = Store::embedded(settings, clock.clone(), metrics.store().clone()).unwrap();
    Kept {
        ledger: Ledger::new(store),
        folder,
    }
}

fn ledger() -> Kept {
    ledger_at(&Clock::System, 1_000)
}

impl Claim {
    fn report() -> DeliveryReport {
        let subject = EventMetadata {
            route: "route".into(),
            event_id: "a".into(),
            event_type: "t".into(),
            received_at: Timestamp::now(),
            secret: "current".into(),
            is_test: false,
        };
        DeliveryReport {
            event: Arc::new(subject),
            attempt: None,
            payload: None,
        }
    }

    async fn settle_as(self, outcome: ClaimOutcome) {
        self.settle(
            outcome,
            Self::report(),
            Instant::now() + Duration::from_secs(30),
        )
        .await
        .unwrap();
    }

    async fn complete(self) {
        self.settle_as(ClaimOutcome::Delivered).await;
    }

    async fn release(self) {
        self.settle_as(ClaimOutcome::Released(FailedAttempt::Refused))
            .await;
    }

    async fn release_as_unknown(self) {
        self.settle_as(ClaimOutcome::Released(FailedAttempt::Unknown))
            .await;
    }
}

/// Returns the digest of a body. Only verified bodies have one.
fn digest(body: &str) -> PayloadDigest {
    let signed = presets::vpn_enterprise()
        .sign(
            &Secret::new("key").unwrap(),
            body.as_bytes(),
            Timestamp::UNIX_EPOCH,
            None,
        )
        .unwrap();
    let secret = NamedSecret {
        name: "key".into(),
        secret: Secret::new("key").unwrap(),
        expires: None,
    };
    let verifier = Verifier::new(
        presets::vpn_enterprise(),
        vec![secret.for_scheme(&presets::vpn_enterprise()).unwrap()],
        false,
    );
    let mut verification = verifier.start(&signed.to_headers(), Timestamp::UNIX_EPOCH);
    verification.update(Bytes::copy_from_slice(body.as_bytes()));
    verification.finish().unwrap().digest()
}

fn id(text: &str) -> EventId {
    EventId::Text(text.into())
}

/// Returns the keys of an event that its ID identifies.
fn keys(ledger: &Arc<Ledger>, event: &str) -> EventKeys {
    ledger.keys("route", EventIdentity::Id(&id(event)))
}

/// Returns the keys of an event whose ID is not signed.
fn unsigned_keys(
    ledger: &Arc<Ledger>,
    event: &str,
    event_type: &str,
    sha256: [u8; 32],
) -> EventKeys {
    let parts = EventParts {
        id: Some(&id(event)),
        event_type,
        sha256,
        signed_at: None,
    };
    ledger.keys("route", EventIdentity::Copy(parts))
}

/// Returns the keys of an event of one type whose ID is not signed.
fn keys_with_body(ledger: &Arc<Ledger>, event: &str, sha256: [u8; 32]) -> EventKeys {
    unsigned_keys(ledger, event, "t", sha256)
}

async fn claim_as(
    ledger: &Arc<Ledger>,
    keys: EventKeys,
    body: &str,
) -> Result<ClaimDecision, StoreError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    ledger
        .claim(
            "route",
            keys,
            digest(body),
            claiming(InFlightPolicy::Reject, deadline),
        )
        .await
}

async fn claim(ledger: &Arc<Ledger>, event: &str) -> ClaimDecision {
    claim_as(ledger, keys(ledger, event), "body").await.unwrap()
}

/// Claims like `claim`, but waits for the holder.
async fn wait_for(ledger: &Arc<Ledger>, event: &str) -> ClaimDecision {
    let deadline = Instant::now() + Duration::from_secs(30);
    ledger
        .claim(
            "route",
            keys(ledger, event),
            digest("body"),
            claiming(InFlightPolicy::Wait, deadline),
        )
        .await
        .unwrap()
}

fn claimed(decision: ClaimDecision) -> Claim {
    match decision {
        ClaimDecision::Claimed(claim) => claim,
        other => panic!("not claimed but {}", name(&other)),
    }
}

fn name(decision: &ClaimDecision) -> &'static str {
    match decision {
        ClaimDecision::Claimed(_) => "claimed",
        ClaimDecision::Duplicate => "duplicate",
        ClaimDecision::PayloadMismatch => "mismatch",
        ClaimDecision::TooManyCopies => "too many",
        ClaimDecision::InFlight => "in flight",
    }
}

#[tokio::test]
async fn completed_event_is_a_duplicate_until_its_window_ends() {
    let (clock, hand) = Clock::manual();
    let ledger = ledger_at(&clock, 10);
    claimed(claim(&ledger, "a").await).complete().await;
    for _ in 0..2 {
        hand.advance((WINDOW / 2).saturating_sub(Duration::from_millis(1)));
        ledger.store().tick();
    }
    assert_eq!(name(&claim(&ledger, "a").await), "duplicate");
    hand.advance(Duration::from_millis(2));
    assert_eq!(name(&claim(&ledger, "a").await), "claimed");
}

#[tokio::test]
async fn released_event_is_claimed_as_the_next_attempt() {
    let ledger = ledger();
    claimed(claim(&ledger, "a").await).release().await;
    let second = claimed(claim(&ledger, "a").await);
    assert_eq!((second.attempt(), second.possible_duplicate()), (2, false));
}

#[tokio::test]
async fn failed_attempts_are_remembered_for_half_the_window() {
    let (clock, hand) = Clock::manual();
    let ledger = ledger_at(&clock, 10);
    let pause = (WINDOW / 2).saturating_sub(Duration::from_millis(1));
    // Each retry renews the memory.
    for attempt in 1..=3 {
        let retry = claimed(claim(&ledger, "a").await);
        assert_eq!(retry.attempt(), attempt);
        retry.release_as_unknown().await;
        hand.advance(pause);
        ledger.store().tick();
    }
    hand.advance(Duration::from_millis(2));
    let forgotten = claimed(claim(&ledger, "a").await);
    assert_eq!(
        (forgotten.attempt(), forgotten.possible_duplicate()),
        (1, false)
    );
}

#[tokio::test]
async fn unknown_outcome_marks_every_later_attempt() {
    let ledger = ledger();
    claimed(claim(&ledger, "a").await)
        .release_as_unknown()
        .await;
    claimed(claim(&ledger, "a").await).release().await;
    let third = claimed(claim(&ledger, "a").await);
    assert_eq!((third.attempt(), third.possible_duplicate()), (3, true));
}

#[tokio::test]
async fn unsettled_claim_counts_as_unknown_outcome() {
    let ledger = ledger();
    drop(claimed(claim(&ledger, "a").await));
    assert!(claimed(wait_for(&ledger, "a").await).possible_duplicate());
    assert!(ledger.abandoned() >= 1);
}

#[tokio::test]
async fn attempt_interrupted_by_a_kill_has_unknown_outcome() {
    for (begun, possible_duplicate) in [(true, true), (false, false)] {
        let ledger = ledger();
        let mut interrupted = claimed(claim(&ledger, "a").await);
        if begun {
            interrupted.begin_attempt().unwrap();
        }
        // Like a kill: no destructor runs.
        std::mem::forget(interrupted);
        let ledger = ledger.reopened().await;
        let retry = claimed(claim(&ledger, "a").await);
        assert_eq!(
            (retry.attempt() == 2, retry.possible_duplicate()),
            (begun, possible_duplicate)
        );
    }
}

#[tokio::test]
async fn completed_event_with_another_body_is_a_mismatch() {
    let ledger = ledger();
    let keys = keys(&ledger, "a");
    claimed(claim_as(&ledger, keys, "one").await.unwrap())
        .complete()
        .await;
    assert_eq!(
        name(&claim_as(&ledger, keys, "two").await.unwrap()),
        "mismatch"
    );
    assert_eq!(
        name(&claim_as(&ledger, keys, "one").await.unwrap()),
        "duplicate"
    );
}

#[tokio::test]
async fn released_event_may_return_with_another_body() {
    let ledger = ledger();
    let keys = keys(&ledger, "a");
    claimed(claim_as(&ledger, keys, "one").await.unwrap())
        .release()
        .await;
    assert_eq!(
        name(&claim_as(&ledger, keys, "two").await.unwrap()),
        "claimed"
    );
}

#[tokio::test]
async fn keys_differ_by_route_and_by_id_type() {
    let ledger = ledger();
    claimed(claim(&ledger, "1").await).complete().await;
    let elsewhere = ledger.keys("other", EventIdentity::Id(&id("1")));
    assert_eq!(
        name(&claim_as(&ledger, elsewhere, "body").await.unwrap()),
        "claimed"
    );
    let number = ledger.keys("route", EventIdentity::Id(&EventId::Integer("1".into())));
    assert_eq!(
        name(&claim_as(&ledger, number, "body").await.unwrap()),
        "claimed"
    );
}

#[tokio::test]
async fn same_body_as_another_event_is_a_possible_replay() {
    let ledger = ledger();
    let events = [
        (unsigned_keys(&ledger, "1", "t", [1; 32]), false),
        (unsigned_keys(&ledger, "2", "t", [1; 32]), true),
        (unsigned_keys(&ledger, "1", "u", [1; 32]), true),
        // The ID of another body's event means nothing.
        (unsigned_keys(&ledger, "1", "t", [2; 32]), false),
    ];
    for (keys, possible_replay) in events {
        let claim = claimed(claim_as(&ledger, keys, "body").await.unwrap());
        assert_eq!(
            (claim.possible_replay(), claim.attempt()),
            (possible_replay, 1)
        );
        claim.complete().await;
    }
    let ledger = ledger.reopened().await;
    for (keys, _) in events {
        let copy = claim_as(&ledger, keys, "body").await.unwrap();
        assert_eq!(name(&copy), "duplicate");
    }
}

#[tokio::test]
async fn failed_copies_of_an_undelivered_body_take_one_row() {
    let ledger = ledger();
    for attempt in 1..=40 {
        let keys = keys_with_body(&ledger, &attempt.to_string(), [1; 32]);
        let claim = claimed(claim_as(&ledger, keys, "body").await.unwrap());
        assert_eq!((claim.attempt(), claim.possible_replay()), (attempt, false));
        claim.release().await;
    }
    assert_eq!(ledger.store().remembered_ids(), 1);
    let keys = keys_with_body(&ledger, "41", [1; 32]);
    claimed(claim_as(&ledger, keys, "body").await.unwrap())
        .complete()
        .await;
    assert_eq!(ledger.store().remembered_ids(), 2);
}

#[tokio::test]
async fn unknown_outcome_makes_other_copies_possible_replays() {
    let ledger = ledger();
    let (one, two) = (
        keys_with_body(&ledger, "1", [1; 32]),
        keys_with_body(&ledger, "2", [1; 32]),
    );
    claimed(claim_as(&ledger, one, "body").await.unwrap())
        .release_as_unknown()
        .await;
    let other = claimed(claim_as(&ledger, two, "body").await.unwrap());
    assert_eq!((other.possible_replay(), other.attempt()), (true, 1));
    other.release_untried();
    let retry = claimed(claim_as(&ledger, one, "body").await.unwrap());
    assert_eq!(
        (
            retry.possible_replay(),
            retry.possible_duplicate(),
            retry.attempt()
        ),
        (false, true, 2)
    );
}

#[tokio::test]
async fn copies_of_a_body_are_limited_whether_or_not_they_succeed() {
    let (clock, hand) = Clock::manual();
    let ledger = ledger_at(&clock, 1_000);
    let keys = |number: u32| keys_with_body(&ledger, &number.to_string(), [1; 32]);
    for number in 0..=MARKED_COPIES_MAX {
        let claim = claimed(claim_as(&ledger, keys(number), "body").await.unwrap());
        assert_eq!(claim.possible_replay(), number > 0);
        // The retries of a copy are not copies.
        if number % 2 == 1 {
            claim.release().await;
            claimed(claim_as(&ledger, keys(number), "body").await.unwrap())
                .complete()
                .await;
        } else {
            claim.complete().await;
        }
    }
    let next = keys(MARKED_COPIES_MAX + 1);
    let decision = async || name(&claim_as(&ledger, next, "body").await.unwrap());
    assert_eq!(decision().await, "too many");
    assert_eq!(
        name(&claim_as(&ledger, keys(3), "body").await.unwrap()),
        "duplicate"
    );
    let other = keys_with_body(&ledger, "0", [2; 32]);
    claimed(claim_as(&ledger, other, "body").await.unwrap())
        .complete()
        .await;
    for _ in 0..2 {
        hand.advance(WINDOW / 2 + Duration::from_secs(1));
        ledger.store().tick();
    }
    assert_eq!(decision().await, "claimed");
}

#[tokio::test]
async fn interrupted_attempt_counts_as_a_copy() {
    let ledger = ledger();
    let keys = |ledger: &Arc<Ledger>, event| keys_with_body(ledger, event, [1; 32]);
    let mut interrupted = claimed(claim_as(&ledger, keys(&ledger, "1"), "body").await.unwrap());
    interrupted.begin_attempt().unwrap();
    std::mem::forget(interrupted);
    let ledger = ledger.reopened().await;
    let other = claimed(claim_as(&ledger, keys(&ledger, "2"), "body").await.unwrap());
    assert!(other.possible_replay());
    other.release_untried();
    let retry = claimed(claim_as(&ledger, keys(&ledger, "1"), "body").await.unwrap());
    assert_eq!(
        (retry.possible_replay(), retry.possible_duplicate()),
        (false, true)
    );
}

#[tokio::test]
async fn event_without_identity_is_always_new() {
    let ledger = ledger();
    let keys = ledger.keys("route", EventIdentity::None);
    for _ in 0..3 {
        let claim = claimed(claim_as(&ledger, keys, "body").await.unwrap());
        assert!(claim.possible_replay());
        claim.complete().await;
    }
    assert_eq!(ledger.store().remembered_ids(), 0);
}

#[tokio::test]
async fn copy_in_flight_is_rejected_or_waits() {
    let ledger = ledger();
    let first = claimed(claim(&ledger, "a").await);
    assert_eq!(name(&claim(&ledger, "a").await), "in flight");
    let waiting = tokio::spawn({
        let ledger = Arc::clone(&*ledger);
        async move {
            let deadline = Instant::now() + Duration::from_secs(30);
            name(
                &ledger
                    .claim(
                        "route",
                        keys(&ledger, "a"),
                        digest("body"),
                        claiming(InFlightPolicy::Wait, deadline),
                    )
                    .await
                    .unwrap(),
            )
        }
    });
    first.complete().await;
    assert_eq!(waiting.await.unwrap(), "duplicate");
}

#[tokio::test]
async fn forgotten_event_is_claimed_as_a_new_one() {
    let ledger = ledger();
    claimed(claim(&ledger, "a").await).complete().await;
    claimed(claim(&ledger, "b").await).complete().await;
    let keys = keys(&ledger, "a");
    assert_eq!(ledger.forget(keys).await, Ok(ForgetResult::Forgotten));
    assert_eq!(ledger.forget(keys).await, Ok(ForgetResult::Unknown));
    let ledger = ledger.reopened().await;
    assert_eq!(name(&claim(&ledger, "b").await), "duplicate");
    let again = claimed(claim(&ledger, "a").await);
    assert_eq!((again.attempt(), again.possible_duplicate()), (1, false));
    again.complete().await;
    assert_eq!(name(&claim(&ledger, "a").await), "duplicate");
    assert_eq!(ledger.store().remembered_ids(), 2);
}

#[tokio::test]
async fn event_is_not_forgotten_while_its_body_is_in_flight() {
    let ledger = ledger();
    let keys = keys_with_body(&ledger, "a", [1; 32]);
    claimed(claim_as(&ledger, keys, "body").await.unwrap())
        .complete()
        .await;
    let other = keys_with_body(&ledger, "b", [1; 32]);
    let in_flight = claimed(claim_as(&ledger, other, "body").await.unwrap());
    assert_eq!(ledger.forget(keys).await, Ok(ForgetResult::InFlight));
    in_flight.release_untried();
    assert_eq!(ledger.forget(keys).await, Ok(ForgetResult::Forgotten));
}

#[tokio::test]
async fn body_is_forgotten_with_its_last_event() {
    let ledger = ledger();
    let keys = |event| keys_with_body(&ledger, event, [1; 32]);
    for event in ["a", "b"] {
        claimed(claim_as(&ledger, keys(event), "body").await.unwrap())
            .complete()
            .await;
    }
    // As the store keeps them beside the delivery.
    let stored = ledger.keys_of(DeliveryId(1)).await.unwrap().unwrap();
    assert_eq!(ledger.forget(stored).await, Ok(ForgetResult::Forgotten));
    assert_eq!(ledger.forget(keys("a")).await, Ok(ForgetResult::Unknown));
    let again = claimed(claim_as(&ledger, keys("a"), "body").await.unwrap());
    assert!(again.possible_replay(), "b was delivered");
    again.release_untried();

    let alone = keys_with_body(&ledger, "c", [3; 32]);
    claimed(claim_as(&ledger, alone, "body").await.unwrap())
        .complete()
        .await;
    assert_eq!(ledger.forget(alone).await, Ok(ForgetResult::Forgotten));
    let again = claimed(claim_as(&ledger, alone, "body").await.unwrap());
    assert!(!again.possible_replay());
}

#[tokio::test]
async fn deliveries_that_share_a_key_are_requeued_one_by_one() {
    let ledger = ledger();
    let mut requested = Vec::new();
    for (event, number) in [("a", 1), ("b", 2)] {
        let claim = claimed(claim(&ledger, "shared").await);
        let subject = EventMetadata {
            event_id: event.into(),
            ..(*Claim::report().event).clone()
        };
        let payload = Some(Payload {
            head: Bytes::from_static(b"head"),
            body: Bytes::from_static(b"body"),
        });
        let report = DeliveryReport {
            event: Arc::new(subject),
            attempt: None,
            payload,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        claim
            .settle(
                ClaimOutcome::Released(FailedAttempt::Refused),
                report,
                deadline,
            )
            .await
            .unwrap();
        let due = ledger.store().now_due();
        requested.push(Redelivery {
            id: DeliveryId(number),
            expected_state: Some(DeliveryState::Failed),
            due,
            automatic: false,
        });
    }
    let queued = || RedeliveryResult::Queued("route".into());
    assert_eq!(
        ledger.redeliver(&requested, |_| WINDOW).await.unwrap(),
        [queued(), RedeliveryResult::InFlight]
    );
    assert_eq!(
        ledger.redeliver(&requested[1..], |_| WINDOW).await.unwrap(),
        [queued()]
    );
    assert_eq!(
        ledger.redeliver(&requested[..1], |_| WINDOW).await.unwrap(),
        [RedeliveryResult::Unknown],
        "it is queued already"
    );
}

#[tokio::test]
async fn full_store_rejects_new_events() {
    let ledger = ledger_at(&Clock::System, 1);
    claimed(claim(&ledger, "a").await).complete().await;
    let keys = keys(&ledger, "b");
    assert_eq!(
        claim_as(&ledger, keys, "body").await.err(),
        Some(StoreError::Full)
    );
}

/// One step in the life of an event.
#[derive(Debug, Clone, Copy)]
enum Step {
    Complete,
    Release,
    Unknown,
    Abandon,
    Wait(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Model {
    Absent,
    Completed {
        until: u64,
    },
    Attempted {
        attempts: u32,
        unknown: bool,
        until: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Complete),
        Just(Step::Release),
        Just(Step::Unknown),
        Just(Step::Abandon),
        (0..59u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Compares the ledger with the states of docs/semantics.md, Ledger, over any order of outcomes
    /// and waits.
    #[test]
    fn ledger_agrees_with_its_state_machine(steps in prop::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (clock, hand) = Clock::manual();
            let ledger = ledger_at(&clock, 10);
            let (mut model, mut now) = (Model::Absent, 0);
            for step in steps {
                if let Step::Wait(seconds) = step {
                    hand.advance(Duration::from_secs(seconds));
                    ledger.store().tick();
                    now += seconds;
                    continue;
                }
                if let Model::Completed { until } | Model::Attempted { until, .. } = model
                    && until <= now
                {
                    model = Model::Absent;
                }
                let decision = wait_for(&ledger, "a").await;
                if matches!(model, Model::Completed { .. }) {
                    assert_eq!(name(&decision), "duplicate");
                    continue;
                }
                let claim = claimed(decision);
                let (attempts, unknown) = match model {
                    Model::Attempted { attempts, unknown, .. } => (attempts, unknown),
                    _ => (0, false),
                };
                assert_eq!((claim.attempt(), claim.possible_duplicate()), (attempts + 1, unknown));
                let until = match step {
                    Step::Complete => now + WINDOW.as_secs(),
                    _ => now + WINDOW.as_secs() / 2,
                };
                model = match step {
                    Step::Complete => {
                        claim.complete().await;
                        Model::Completed { until }
                    }
                    Step::Release => {
                        claim.release().await;
                        Model::Attempted { attempts: attempts + 1, unknown, until }
                    }
                    Step::Unknown => {
                        claim.release_as_unknown().await;
                        Model::Attempted { attempts: attempts + 1, unknown: true, until }
                    }
                    Step::Abandon => {
                        drop(claim);
                        claimed(wait_for(&ledger, "a").await).release_untried();
                        Model::Attempted { attempts: attempts + 1, unknown: true, until }
                    }
                    Step::Wait(_) => unreachable!("handled above"),
                };
            }
        });
    }
}

//! A ledger with a store of its own, and the events to claim in it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookstile::clock::Clock;
use hookstile::event::EventId;
use hookstile::ledger::{
    ClaimDecision, ClaimOptions, ClaimOutcome, DeliveryReport, EventIdentity, InFlightPolicy,
    Ledger,
};
use hookstile::metrics::Metrics;
use hookstile::secret::Secret;
use hookstile::signature::{NamedSecret, PayloadDigest, Verifier, presets};
use hookstile::store::{ClaimPurpose, Durability, EmbeddedSettings, EventMetadata, Store};
use jiff::Timestamp;

const WINDOW: Duration = Duration::from_secs(96 * 3600);

pub async fn claim(ledger: &Arc<Ledger>, digest: PayloadDigest, number: u64) -> ClaimDecision {
    let id = EventId::Text(format!("evt_{number:020}").into());
    let keys = ledger.keys("billing", EventIdentity::Id(&id));
    let deadline = Instant::now() + Duration::from_secs(10);
    let claiming = ClaimOptions {
        window: WINDOW,
        in_flight: InFlightPolicy::Wait,
        deadline,
        purpose: ClaimPurpose::Forward,
    };
    ledger
        .claim("bench", keys, digest, claiming)
        .await
        .expect("room")
}

pub async fn complete(ledger: &Arc<Ledger>, digest: PayloadDigest, number: u64) {
    match claim(ledger, digest, number).await {
        ClaimDecision::Claimed(claim) => {
            let subject = EventMetadata {
                route: "billing".into(),
                event_id: "evt".into(),
                event_type: "user.created".into(),
                received_at: Timestamp::UNIX_EPOCH,
                secret: "current".into(),
                is_test: false,
            };
            let report = DeliveryReport {
                event: Arc::new(subject),
                attempt: None,
                payload: None,
            };
            let deadline = Instant::now() + Duration::from_secs(10);
            claim
                .settle(ClaimOutcome::Delivered, report, deadline)
                .await
                .expect("a disk");
        }
        _ => unreachable!("every number is new"),
    }
}

pub fn open(folder: &Path) -> Store {
    let settings = EmbeddedSettings {
        folder: folder.to_owned(),
        durability: Durability::Relaxed,
        max_ids: usize::MAX,
        max_bytes: None,
        must_exist: false,
    };
    let metrics = Metrics::new().expect("series of different names");
    Store::embedded(settings, Clock::System, metrics.store().clone()).expect("a store")
}

/// Returns a digest, which only a verified body can provide.
pub fn digest() -> PayloadDigest {
    let secret = || Secret::new("key").expect("not empty");
    let signed = presets::vpn_enterprise()
        .sign(&secret(), b"{}", Timestamp::UNIX_EPOCH, None)
        .expect("signs");
    let named = NamedSecret {
        name: "key".into(),
        secret: secret(),
        expires: None,
    };
    let verifier = Verifier::new(
        presets::vpn_enterprise(),
        vec![named.for_scheme(&presets::vpn_enterprise()).expect("a key")],
        false,
    );
    let mut verification = verifier.start(&signed.to_headers(), Timestamp::UNIX_EPOCH);
    verification.update(Bytes::from_static(b"{}"));
    verification
        .finish()
        .expect("signed with this key")
        .digest()
}

//! What the ledger costs a new event (claim, complete) and a replay (claim), one after the other, without waiting for
//! the disk to flush: what the disk and many at once make of it is `benches/store.rs`'s.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hookgate::clock::Clock;
use hookgate::event::EventId;
use hookgate::ledger::{Decision, Ending, InFlightPolicy, Ledger, Report};
use hookgate::metrics::Metrics;
use hookgate::secret::Secret;
use hookgate::signature::{NamedSecret, PayloadDigest, Verifier, presets};
use hookgate::store::{Durability, Settings, Store, Subject};
use jiff::Timestamp;
use tokio::runtime::Runtime;

const WINDOW: Duration = Duration::from_secs(96 * 3600);

fn ledger(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let digest = digest();
    let mut group = c.benchmark_group("ledger");
    for remembered in [0_u64, 100_000] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let ledger = Ledger::new(open(folder.path()));
        let mut number = 0;
        for _ in 0..remembered {
            number += 1;
            runtime.block_on(complete(&ledger, digest, number));
        }
        group.bench_function(BenchmarkId::new("new_event", remembered), |b| {
            b.iter(|| {
                number += 1;
                runtime.block_on(complete(&ledger, digest, number));
            });
        });
        group.bench_function(BenchmarkId::new("replay", remembered), |b| {
            b.iter(|| match runtime.block_on(claim(&ledger, digest, 1)) {
                Decision::Claimed(claim) => claim.release_untried(),
                Decision::Duplicate | Decision::PayloadMismatch | Decision::InFlight => {}
            });
        });
    }
    group.finish();
}

async fn claim(ledger: &Arc<Ledger>, digest: PayloadDigest, number: u64) -> Decision {
    let id = EventId::Text(format!("evt_{number:020}").into());
    let names = ledger.names("billing", &id, None);
    ledger
        .claim(names, digest, WINDOW, InFlightPolicy::Wait, Instant::now() + Duration::from_secs(10))
        .await
        .expect("room")
}

async fn complete(ledger: &Arc<Ledger>, digest: PayloadDigest, number: u64) {
    match claim(ledger, digest, number).await {
        Decision::Claimed(claim) => {
            let subject = Subject {
                route: "billing".into(),
                event_id: "evt".into(),
                event_type: "user.created".into(),
                received_at: Timestamp::UNIX_EPOCH,
                secret: "current".into(),
                is_test: false,
            };
            let report = Report { subject: Arc::new(subject), attempt: None, payload: None };
            let deadline = Instant::now() + Duration::from_secs(10);
            claim.settle(Ending::HandedOver, report, deadline).await.expect("a disk");
        }
        _ => unreachable!("every number is new"),
    }
}

fn open(folder: &Path) -> Store {
    let settings =
        Settings { folder: folder.to_owned(), durability: Durability::Relaxed, max_ids: usize::MAX, max_bytes: None };
    let metrics = Metrics::new().expect("series of different names");
    Store::open(settings, Clock::System, metrics.store().clone()).expect("a store")
}

/// A digest can only be had from a verified body.
fn digest() -> PayloadDigest {
    let secret = || Secret::new("key").expect("not empty");
    let signed = presets::vpn_enterprise().sign(&secret(), b"{}", Timestamp::UNIX_EPOCH, None).expect("signs");
    let named = NamedSecret { name: "key".into(), secret: secret(), expires: None };
    let verifier = Verifier::new(
        presets::vpn_enterprise(),
        vec![named.for_scheme(&presets::vpn_enterprise()).expect("a key")],
        false,
    );
    let mut verification = verifier.begin(&signed.to_headers(), Timestamp::UNIX_EPOCH);
    verification.update(Bytes::from_static(b"{}"));
    verification.finish().expect("signed with this key").digest()
}

criterion_group!(benches, ledger);
criterion_main!(benches);

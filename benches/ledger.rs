//! The cost in the ledger of a new event (claim, complete) and of a replay (claim), one after the
//! other, without disk flushes. `benches/store.rs` measures flushes and concurrency.

#![allow(unreachable_pub, reason = "a benchmark has no public interface")]

#[path = "setup/ledger.rs"]
mod setup;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hookstile::ledger::{ClaimDecision, Ledger};
use setup::{claim, complete, digest, open};
use tokio::runtime::Runtime;

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
                ClaimDecision::Claimed(claim) => claim.release_untried(),
                ClaimDecision::Duplicate
                | ClaimDecision::PayloadMismatch
                | ClaimDecision::TooManyCopies
                | ClaimDecision::InFlight => {}
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ledger);
criterion_main!(benches);

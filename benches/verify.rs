//! The cost of a signature check compared with the bare HMAC of the same bytes.
//!
//! Budget: within 5 % of the bare HMAC from 64 KiB up, and less than 1 µs above it at 1 KiB.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit, Mac};
use hookstile::secret::Secret;
use hookstile::signature::{NamedSecret, Verifier, presets};
use jiff::Timestamp;
use sha2::Sha256;

const KEY: &str = "whsec_bench";

fn verify(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify");
    for size in [1 << 10, 1 << 16, 1 << 20] {
        let body = Bytes::from(vec![b'x'; size]);
        let scheme = presets::vpn_enterprise();
        let secret = Secret::new(KEY).expect("not empty");
        let headers = scheme
            .sign(&secret, &body, Timestamp::UNIX_EPOCH, None)
            .expect("signs")
            .to_headers();
        let named = |name: &str, key: &str| {
            let secret = Secret::new(key).expect("not empty");
            NamedSecret {
                name: name.into(),
                secret,
                expires: None,
            }
            .for_scheme(&scheme)
            .expect("a key")
        };
        let one = Verifier::new(scheme.clone(), vec![named("current", KEY)], false);
        let two = Verifier::new(
            scheme.clone(),
            vec![named("new", "whsec_new"), named("current", KEY)],
            false,
        );
        let check = |verifier: &Verifier| {
            let mut verification = verifier.start(black_box(&headers), Timestamp::UNIX_EPOCH);
            // Chunks as they arrive from a socket, sharing one buffer.
            for start in (0..size).step_by(1 << 16) {
                verification.update(body.slice(start..size.min(start + (1 << 16))));
            }
            verification.finish().expect("signed with this key")
        };
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("one_secret", size), |b| {
            b.iter(|| check(&one));
        });
        group.bench_function(BenchmarkId::new("two_secrets", size), |b| {
            b.iter(|| check(&two));
        });
        let keyed = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).expect("any length");
        group.bench_function(BenchmarkId::new("bare_hmac", size), |b| {
            b.iter(|| keyed.clone().chain_update(black_box(&body)).finalize());
        });
    }
    group.finish();
}

criterion_group!(benches, verify);
criterion_main!(benches);

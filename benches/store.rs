//! The cost of the store: time per commit, bytes per ID in memory and on disk, time to open, and
//! the effect of expiry on other work.
//!
//! `cargo bench --bench store` runs with a million IDs and a hundred thousand queued events;
//! `HOOKSTILE_BENCH_IDS` and `HOOKSTILE_BENCH_EVENTS` set other numbers. `-- attempts` measures failed
//! attempts only. docs/store.md has the figures of one machine.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookstile::cause::Cause;
use hookstile::clock::{Clock, ManualClock};
use hookstile::metrics::Metrics;
use hookstile::signature::PayloadDigest;
use hookstile::store::{
    AttemptHistory, AttemptId, AttemptOutcome, AttemptRecord, ClaimPurpose, ClaimResult,
    ClaimTerms, DeliveryChange, DeliveryIdentity, DeliveryState, Durability, EmbeddedSettings,
    EventKey, EventMetadata, EventRow, LedgerEntry, Payload, RESPONSE_BODY_MAX, ResponseRecord,
    SettledRow, Settlement, Store,
};
use jiff::Timestamp;
use tokio::runtime::Runtime;

const WINDOW: Duration = Duration::from_secs(96 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

fn main() {
    let ids = number("HOOKSTILE_BENCH_IDS", 1_000_000);
    let events = number("HOOKSTILE_BENCH_EVENTS", 100_000);
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        if std::env::args().any(|argument| argument == "attempts") {
            return attempts().await;
        }
        // The backlog runs first, so that its memory figure contains nothing of the others.
        backlog(events).await;
        commits().await;
        recorded().await;
        attempts().await;
        window(ids).await;
    });
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(usual)
}

/// A store in a folder of its own, with a clock that the benchmark moves.
struct Opened {
    folder: tempfile::TempDir,
    clock: Clock,
    hand: Arc<ManualClock>,
    store: Store,
}

/// Returns the size of a closed store in bytes, after its log was checkpointed.
fn file_bytes(folder: &Path) -> f64 {
    let length = |name| std::fs::metadata(folder.join(name)).map_or(0, |file| file.len());
    (length("hookstile.db") + length("hookstile.ledger")) as f64
}

impl Opened {
    fn new(durability: Durability) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let (clock, hand) = Clock::manual();
        let store = open(folder.path(), durability, &clock);
        Self {
            folder,
            clock,
            hand,
            store,
        }
    }
}

fn open(folder: &Path, durability: Durability, clock: &Clock) -> Store {
    let settings = EmbeddedSettings {
        folder: folder.to_owned(),
        durability,
        max_ids: usize::MAX,
        max_bytes: None,
        must_exist: false,
    };
    let metrics = Metrics::new().expect("series of different names");
    Store::embedded(settings, clock.clone(), metrics.store().clone()).expect("a store")
}

/// Measures commits of completed IDs: one caller after the other, then many at once.
async fn commits() {
    for durability in [Durability::Strict, Durability::Relaxed] {
        let opened = Opened::new(durability);
        let mut alone = Vec::new();
        for id in 0..2_000 {
            let began = Instant::now();
            opened
                .store
                .settle(completed(id, None))
                .await
                .expect("a disk");
            alone.push(began.elapsed());
        }
        println!(
            "commit, {durability:?}, one at a time: {}",
            spread(&mut alone)
        );
    }
    for callers in [64, 256] {
        let opened = Opened::new(Durability::Strict);
        let (rate, mut waits) =
            settle_many(&opened.store, 0..300_000, callers, |id| completed(id, None)).await;
        println!(
            "completed IDs, {callers} at once: {rate:.0}/s, {}",
            spread(&mut waits)
        );
    }
}

/// Measures commits that also write a delivery record, and commits of queued events.
async fn recorded() {
    for (what, state) in [
        ("with a record", Some(DeliveryState::Success)),
        ("with a queued event of 1 KiB", Some(DeliveryState::Pending)),
    ] {
        let opened = Opened::new(Durability::Strict);
        let count = 200_000;
        let (rate, mut waits) =
            settle_many(&opened.store, 0..count, 256, move |id| completed(id, state)).await;
        opened.store.close(true).await;
        let bytes = file_bytes(opened.folder.path()) / count as f64;
        println!(
            "completed IDs {what}, 256 at once: {rate:.0}/s, {}, {bytes:.0} bytes each on disk",
            spread(&mut waits)
        );
    }
}

/// Measures failed attempts at queued events: without a cause, as earlier versions recorded them;
/// with one; and with a response of 4 KiB, on which most of the cost depends.
async fn attempts() {
    const EVENTS: u64 = 2_000;
    const ATTEMPTS: u32 = 30;
    let refused = AttemptRecord {
        error: Some("the upstream refuses connections".into()),
        cause: Some(Cause::Refused),
        address: Some("192.168.100.100:8080".into()),
        ..answered(None)
    };
    let plain = AttemptRecord {
        error: Some("could not connect".into()),
        ..answered(None)
    };
    let response = |bytes| AttemptRecord {
        status: Some(500),
        cause: Some(Cause::Status),
        address: refused.address.clone(),
        response: Some(ResponseRecord {
            content_type: Some("application/json".into()),
            body_bytes: bytes as u64,
            body: Some("b".repeat(bytes)),
        }),
        ..answered(None)
    };
    for (what, attempt) in [
        ("without a cause", plain),
        ("with a cause", refused.clone()),
        ("with a response of 200 bytes", response(200)),
        ("with a response of 4 KiB", response(RESPONSE_BODY_MAX)),
    ] {
        let opened = Opened::new(Durability::Relaxed);
        let mut ids = Vec::new();
        for id in 0..EVENTS {
            let stored = completed(id, Some(DeliveryState::Pending));
            ids.push(
                opened
                    .store
                    .settle(stored)
                    .await
                    .expect("a disk")
                    .expect("a delivery"),
            );
        }
        let mut took = Vec::new();
        for number in 1..=ATTEMPTS {
            let began = Instant::now();
            let recorded = ids.iter().map(|&id| {
                let next = AttemptOutcome::Retry {
                    after: HOUR,
                    possibly_delivered: false,
                };
                let id = AttemptId {
                    delivery: id,
                    identity: DeliveryIdentity::default(),
                    number,
                };
                opened.store.record_attempt(id, attempt.clone(), next)
            });
            for recorded in futures_util::future::join_all(recorded).await {
                recorded.expect("a disk");
            }
            took.push(began.elapsed().as_secs_f64() * 1e6 / EVENTS as f64);
        }
        opened.store.close(true).await;
        let bytes = file_bytes(opened.folder.path()) / EVENTS as f64;
        println!(
            "failed attempts {what}: {:.1} µs for the first, {:.1} µs for the 30th, {bytes:.0} bytes on disk for an event with 30",
            took[0],
            took[took.len() - 1],
        );
    }
}

/// Returns the record of an attempt that took 12 ms.
fn answered(status: Option<u16>) -> AttemptRecord {
    AttemptRecord {
        at: Timestamp::UNIX_EPOCH,
        ms: 12,
        status,
        error: None,
        cause: None,
        address: None,
        response: None,
    }
}

/// Measures a full replay window: memory and disk per ID, opening, lookups, and expiry beside other
/// work.
async fn window(ids: u64) {
    let before = resident();
    let opened = Opened::new(Durability::Relaxed);
    let (rate, _) = settle_many(&opened.store, 0..ids, 256, |id| completed(id, None)).await;
    let memory = (resident() - before) as f64 / ids as f64;
    let Opened {
        folder,
        clock,
        hand,
        store,
    } = opened;
    store.close(true).await;
    drop(store);
    let disk = file_bytes(folder.path()) / ids as f64;
    println!(
        "window of {ids} IDs: {memory:.1} bytes of memory and {disk:.1} bytes on disk each, filled at {rate:.0}/s"
    );

    let began = Instant::now();
    let store = open(folder.path(), Durability::Strict, &clock);
    println!(
        "opened with {} IDs in {:.2} s",
        store.remembered_ids(),
        began.elapsed().as_secs_f64()
    );

    let (mut misses, mut hits) = (Vec::new(), Vec::new());
    for id in 0..20_000 {
        let began = Instant::now();
        assert!(!is_known(&store, key(u64::MAX - id)).await);
        misses.push(began.elapsed());
        let began = Instant::now();
        assert!(is_known(&store, key(id * (ids / 20_000).max(1))).await);
        hits.push(began.elapsed());
    }
    println!("lookup of a new ID: {}", spread(&mut misses));
    println!("lookup of a known ID: {}", spread(&mut hits));

    let mut usual = Vec::new();
    settle_for(&store, ids, Duration::from_secs(3), &mut usual).await;
    println!("commit without expiry: {}", spread(&mut usual));
    pass(&store, &hand, WINDOW + 2 * HOUR);
    let (mut meanwhile, began) = (Vec::new(), Instant::now());
    let mut next = 2 * ids;
    while store.remembered_ids() as u64 > 100_000 || began.elapsed() < Duration::from_secs(3) {
        next = settle_for(&store, next, Duration::from_millis(500), &mut meanwhile).await;
    }
    println!(
        "commit during expiry: {}, over {:.1} s",
        spread(&mut meanwhile),
        began.elapsed().as_secs_f64()
    );
}

/// Measures queued events that are not delivered: they stay on disk.
async fn backlog(events: u64) {
    let opened = Opened::new(Durability::Relaxed);
    let before = resident();
    let (rate, _) = settle_many(&opened.store, 0..events, 256, |id| {
        completed(id, Some(DeliveryState::Pending))
    })
    .await;
    let memory = (resident() - before) as f64 / f64::from(1 << 20);
    println!(
        "backlog of {events} events of 1 KiB: {memory:.1} MiB of memory in total (including the ID index), stored at {rate:.0}/s"
    );
    let began = Instant::now();
    let due = opened
        .store
        .due_events("billing".into(), &[], 32)
        .await
        .expect("a disk");
    println!(
        "the first {} of them are found in {:.2} ms",
        due.events.len(),
        began.elapsed().as_secs_f64() * 1e3
    );
}

/// Settles IDs one after the other for a while. Returns the next ID.
async fn settle_for(store: &Store, from: u64, time: Duration, waits: &mut Vec<Duration>) -> u64 {
    let (began, mut id) = (Instant::now(), from);
    while began.elapsed() < time {
        let asked = Instant::now();
        store.settle(completed(id, None)).await.expect("a disk");
        waits.push(asked.elapsed());
        id += 1;
    }
    id
}

/// Settles all of `ids` from `callers` tasks. Returns the rate and the latency of each.
async fn settle_many(
    store: &Store,
    ids: std::ops::Range<u64>,
    callers: u64,
    make: impl Fn(u64) -> Settlement + Copy + Send + 'static,
) -> (f64, Vec<Duration>) {
    let count = ids.end - ids.start;
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (store, ids) = (store.clone(), ids.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                for id in
                    (ids.start + caller..ids.end).step_by(usize::try_from(callers).expect("few"))
                {
                    let asked = Instant::now();
                    store.settle(make(id)).await.expect("a disk");
                    waits.push(asked.elapsed());
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("no panic"));
    }
    (count as f64 / began.elapsed().as_secs_f64(), waits)
}

/// Returns a key distributed like the ledger's hash: unique and uniform.
fn key(id: u64) -> EventKey {
    let mixed =
        u128::from(id.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    EventKey(mixed ^ mixed.rotate_left(61))
}

fn completed(id: u64, state: Option<DeliveryState>) -> Settlement {
    Settlement {
        key: Some(key(id)),
        event: Some(SettledRow {
            row: EventRow {
                key: key(id),
                earlier: None,
            },
            entry: LedgerEntry::Completed {
                digest: PayloadDigest::unknown(),
            },
            window: WINDOW,
            if_lost: AttemptHistory::default(),
        }),
        copies: None,
        delivery: state.map(|state| DeliveryChange {
            earlier: None,
            event: Arc::new(EventMetadata {
                route: "billing".into(),
                event_id: format!("evt_{id:020}").into(),
                event_type: "user.created".into(),
                received_at: Timestamp::UNIX_EPOCH,
                secret: "current".into(),
                is_test: false,
            }),
            state,
            history: AttemptHistory::default(),
            attempt: (state == DeliveryState::Success).then_some(answered(Some(200))),
            payload: (state == DeliveryState::Pending).then(|| Payload {
                head: Bytes::from_static(&[b'h'; 500]),
                body: Bytes::from_static(&[b'b'; 1024]),
            }),
            due_after: Duration::ZERO,
        }),
    }
}

/// Advances the clock in steps that the store accepts.
fn pass(store: &Store, hand: &ManualClock, time: Duration) {
    let step = Duration::from_secs(50);
    for _ in 0..time.as_secs().div_ceil(step.as_secs()) {
        hand.advance(step);
        store.tick();
    }
}

fn spread(waits: &mut [Duration]) -> String {
    waits.sort_unstable();
    let at = |part: f64| {
        let place = ((waits.len() - 1) as f64 * part) as usize;
        waits[place].as_secs_f64() * 1e6
    };
    format!(
        "p50 {:.0} µs, p99 {:.0} µs, longest {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0) / 1e3
    )
}

/// Returns the resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

async fn is_known(store: &Store, key: EventKey) -> bool {
    let terms = ClaimTerms {
        lease: Duration::ZERO,
        window: Duration::ZERO,
        purpose: ClaimPurpose::Forward,
    };
    matches!(
        store.claim(key, terms).await.expect("a disk"),
        ClaimResult::Acquired(_, Some(_))
    )
}

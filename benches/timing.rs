//! Tests whether the time of a signature check leaks how much of a wrong signature is right: `cargo
//! bench --bench timing`.
//!
//! The method is dudect's (Reparaz, Balasch, Verbauwhede: Dude, is my code constant time?, 2017).
//! Wrong signatures of two classes come in random order: in one class no byte is right, in the
//! other all but the last are. Welch's t compares their times: all of them, and the fastest shares,
//! because other work on the machine causes the slowest ones. Each signature is over another body
//! and is made before the clock runs, so that neither class has warmer caches. |t| of 4.5 or more
//! is a leak. Comparisons that end at the first wrong byte are measured as a control: they must
//! show a leak, or the test has proved nothing. The benchmark fails if either result is unexpected.
//!
//! Seen on 2026-11-23 (2 cores of a shared, busy AMD EPYC), five runs: |t| up to 3.4 for the check
//! and its parts, typical times at most 0.1 ns apart; for comparisons that end early, |t| from 948
//! up, and 7 to 11 ns.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use hmac::digest::CtOutput;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hookstile::secret::Secret;
use hookstile::signature::{NamedSecret, Verifier, presets};
use http::HeaderMap;
use jiff::Timestamp;
use sha2::Sha256;

/// The number of counted measurements of each subject.
const MEASUREMENTS: usize = 5_000_000;
/// The number of signatures prepared at once: few, so that they stay in the processor's caches.
const BATCH: usize = 256;
/// The number of uncounted measurements at the start, which warm up and show which times are slow.
const WARM_UP: usize = 20_000;
/// The fastest shares of the measurements that are compared.
const SHARES: [f64; 8] = [1.0, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25];
/// The index of the share that best shows the typical time.
const TYPICAL: usize = 4;
const LEAKS_FROM: f64 = 4.5;
const KEY: &str = "whsec_bench";

type Tag = [u8; 32];

#[derive(Clone, Copy, PartialEq)]
enum Class {
    NothingRight,
    AllButTheLastRight,
}

/// A body with its valid signature and a wrong one.
struct Forged {
    body: Bytes,
    right: Tag,
    wrong: Tag,
}

impl Forged {
    fn new(mac: &Hmac<Sha256>, class: Class) -> Self {
        let body = Bytes::from(format!(
            r#"{{"id":"evt_{:016x}","type":"user.created"}}"#,
            fastrand::u64(..)
        ));
        let right: Tag = mac
            .clone()
            .chain_update(&body)
            .finalize()
            .into_bytes()
            .into();
        let mut wrong = right;
        let first_wrong = if class == Class::NothingRight {
            0
        } else {
            right.len() - 1
        };
        for byte in &mut wrong[first_wrong..] {
            *byte ^= fastrand::u8(1..);
        }
        Self { body, right, wrong }
    }

    fn headers(&self) -> HeaderMap {
        let value = format!("sha256={}", hex::encode(self.wrong))
            .parse()
            .expect("hex");
        HeaderMap::from_iter([("x-vpn-signature".parse().expect("a name"), value)])
    }
}

fn main() -> ExitCode {
    let scheme = presets::vpn_enterprise();
    let secret = Secret::new(KEY).expect("not empty");
    let named = NamedSecret {
        name: "current".into(),
        secret,
        expires: None,
    }
    .for_scheme(&scheme)
    .expect("a key");
    let verifier = Verifier::new(scheme, vec![named], false);
    let mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).expect("a key of any length");
    let forged = |class| Forged::new(&mac, class);
    let begun = |forged: &Forged, headers: &HeaderMap| {
        let mut verification = verifier.start(headers, Timestamp::UNIX_EPOCH);
        verification.update(forged.body.clone());
        verification
    };
    let ends_early = |a: &Tag, b: &Tag| a.iter().zip(b).all(|(a, b)| black_box(a == b));

    println!("{:46}{:>12}{:>9}", "", "difference", "max |t|");
    let constant = [
        measure(
            "the whole check",
            |class| {
                let forged = forged(class);
                let headers = forged.headers();
                (forged, headers)
            },
            |(forged, headers)| begun(&forged, &headers).finish().is_ok(),
        ),
        measure(
            "its end: the rest of the HMAC, the comparison",
            |class| {
                let forged = forged(class);
                begun(&forged, &forged.headers())
            },
            |verification| verification.finish().is_ok(),
        ),
        measure(
            "its comparison alone",
            |class| {
                let Forged { right, wrong, .. } = forged(class);
                [right, wrong].map(|tag| CtOutput::<Hmac<Sha256>>::new(tag.into()))
            },
            |[right, wrong]| right == wrong,
        ),
    ];
    println!("control, ending at the first wrong byte, must show a leak:");
    let leaky = [
        measure(
            "the rest of an HMAC, the comparison",
            |class| {
                let Forged { body, wrong, .. } = forged(class);
                (mac.clone().chain_update(&body), wrong)
            },
            |(mac, wrong)| ends_early(&mac.finalize().into_bytes().into(), &wrong),
        ),
        measure(
            "the comparison alone",
            |class| {
                let Forged { right, wrong, .. } = forged(class);
                (right, wrong)
            },
            |(right, wrong)| ends_early(&right, &wrong),
        ),
    ];
    let proved = constant.iter().all(|t| *t < LEAKS_FROM) && leaky.iter().all(|t| *t >= LEAKS_FROM);
    println!(
        "{}",
        if proved {
            "no leak found, and the control leaks"
        } else {
            "FAILED"
        }
    );
    if proved {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Measures `run` on the values that `prepare` makes of each class; prints and returns the greatest
/// |t|.
fn measure<I>(what: &str, prepare: impl Fn(Class) -> I, run: impl Fn(I) -> bool) -> f64 {
    let mut warm_up = Vec::with_capacity(WARM_UP + BATCH);
    while warm_up.len() < WARM_UP {
        batch(&prepare, &run, |_, time| warm_up.push(time));
    }
    warm_up.sort_by(f64::total_cmp);
    let slowest = SHARES.map(|share| {
        if share < 1.0 {
            share_of(&warm_up, share)
        } else {
            f64::INFINITY
        }
    });
    let mut samples = SHARES.map(|_| [Sample::default(), Sample::default()]);
    for _ in 0..MEASUREMENTS / BATCH {
        batch(&prepare, &run, |class, time| {
            let fast_enough = samples
                .iter_mut()
                .zip(slowest)
                .filter(|(_, slowest)| time <= *slowest);
            fast_enough.for_each(|(sample, _)| sample[class as usize].add(time));
        });
    }
    let t = samples
        .iter()
        .map(|sample| Sample::welch(sample).abs())
        .fold(0.0, f64::max);
    let [nothing, most] = &samples[TYPICAL];
    println!("{what:46}{:>9.2} ns{t:>9.2}", most.mean - nothing.mean);
    t
}

/// Prepares some values, measures each, and reports the nanoseconds that it took.
fn batch<I>(
    prepare: impl Fn(Class) -> I,
    run: impl Fn(I) -> bool,
    mut record: impl FnMut(Class, f64),
) {
    let classes = [Class::NothingRight, Class::AllButTheLastRight];
    let prepared: Vec<_> = (0..BATCH)
        .map(|_| classes[usize::from(fastrand::bool())])
        .map(|class| (class, prepare(class)))
        .collect();
    for (class, input) in prepared {
        let input = black_box(input);
        let start = Instant::now();
        black_box(run(input));
        let nanoseconds = u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX);
        record(class, f64::from(nanoseconds));
    }
}

/// Returns the value that this share of the sorted values does not exceed.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the warm-up is small"
)]
fn share_of(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

#[derive(Clone, Copy, Default)]
struct Sample {
    count: f64,
    mean: f64,
    /// The sum of the squared distances to the mean.
    squares: f64,
}

impl Sample {
    /// Adds a value by Welford's method, which keeps its precision.
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let distance = value - self.mean;
        self.mean += distance / self.count;
        self.squares += distance * (value - self.mean);
    }

    fn welch([a, b]: &[Self; 2]) -> f64 {
        let error = |sample: &Self| sample.squares / (sample.count - 1.0) / sample.count;
        let error = (error(a) + error(b)).sqrt();
        // The fastest may all have had the same clock tick.
        if error > 0.0 {
            (a.mean - b.mean) / error
        } else {
            0.0
        }
    }
}

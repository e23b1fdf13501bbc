//! Whether the time that a signature check takes tells where a wrong signature is wrong. To be run by hand, and read:
//! `cargo bench --bench timing`.
//!
//! Two classes of input in random order, and Welch's t of how long each took, as dudect does it (Reparaz, Balasch,
//! Verbauwhede 2017): also with the slowest measurements, which are the machine's, left out. |t| over 5 that stays from run to
//! run asks for a reason. Not each is a leak: the second and third line compare inputs with other digits, and reading digits,
//! which are the sender's own, takes a time of its own. The last line is a comparison that ends at the first wrong byte: there the method must see one.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use hookgate::secret::Secret;
use hookgate::signature::{NamedSecret, Verifier, presets};
use http::HeaderMap;
use jiff::Timestamp;

const MEASUREMENTS: usize = 1_000_000;
const KEY: &str = "whsec_bench";
const BODY: &[u8] = br#"{"id":"evt_1","type":"user.created"}"#;
/// Shares of the measurements that are kept, the fastest ones.
const KEPT: [f64; 4] = [1.0, 0.99, 0.9, 0.5];

fn main() {
    let scheme = presets::vpn_enterprise();
    let secret = Secret::new(KEY).expect("not empty");
    let right = scheme.sign(&secret, BODY, Timestamp::UNIX_EPOCH, None).expect("signs").to_headers();
    let named = NamedSecret { name: "current".into(), secret, expires: None }.for_scheme(&scheme).expect("a key");
    let verifier = Verifier::new(scheme, vec![named], false);
    let body = Bytes::from_static(BODY);
    let check = |headers: &HeaderMap| {
        let mut verification = verifier.begin(headers, Timestamp::UNIX_EPOCH);
        verification.update(body.clone());
        verification.finish().is_ok()
    };

    let name = right.keys().next().expect("a signature").clone();
    let tag = hex_of(&right);
    let with = |tag: &[u8]| {
        let value = format!("sha256={}", hex::encode(tag)).parse().expect("hex");
        HeaderMap::from_iter([(name.clone(), value)])
    };
    let wrong_at = |position: usize| {
        let mut tag = tag.clone();
        tag[position] ^= 1;
        tag
    };
    let (first, last) = (wrong_at(0), wrong_at(tag.len() - 1));

    println!("{:42}{:>10}{:>10}{:>10}{:>10}", "Welch's t, of the fastest", "100 %", "99 %", "90 %", "50 %");
    report("first byte wrong, last byte wrong", || (with(&first), with(&last)), check);
    report(
        "all bytes wrong, last byte wrong",
        || (with(&tag.iter().map(|byte| !byte).collect::<Vec<_>>()), with(&last)),
        check,
    );
    report(
        "one wrong signature, random ones",
        || (with(&first), with(&std::array::from_fn::<u8, 32, _>(|_| fastrand::u8(..)))),
        check,
    );
    let until_wrong =
        |given: &Vec<u8>| given.iter().zip(&tag).take_while(|(a, b)| black_box(a == b)).count() == tag.len();
    report("ends at the first wrong byte: must be seen", || (first.clone(), last.clone()), until_wrong);
}

fn hex_of(headers: &HeaderMap) -> Vec<u8> {
    let value = headers.values().next().and_then(|value| value.to_str().ok()).expect("a signature");
    hex::decode(value.trim_start_matches("sha256=")).expect("hex")
}

/// Measures `check` on the two inputs that `classes` makes, one of them at a time, and prints the t of each share.
fn report<I>(what: &str, classes: impl Fn() -> (I, I), check: impl Fn(&I) -> bool) {
    let mut times = [Vec::with_capacity(MEASUREMENTS), Vec::with_capacity(MEASUREMENTS)];
    for _ in 0..MEASUREMENTS {
        let class = usize::from(fastrand::bool());
        // Both are made for each measurement, so that neither comes from a warmer place.
        let inputs = classes();
        let input = if class == 0 { &inputs.0 } else { &inputs.1 };
        let start = Instant::now();
        black_box(check(black_box(input)));
        let nanoseconds = u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX);
        times[class].push(f64::from(nanoseconds));
    }
    print!("{what:42}");
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    for kept in KEPT {
        let end = share_of(&all, kept);
        let [a, b] = times.each_ref().map(|times| Sample::of(times.iter().copied().filter(|time| *time <= end)));
        print!("{:>10.2}", a.welch(&b));
    }
    println!();
}

/// The value that this share of the sorted values does not exceed.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a million is small"
)]
fn share_of(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len()) - 1]
}

struct Sample {
    count: f64,
    mean: f64,
    /// Sum of the squared distances to the mean.
    squares: f64,
}

impl Sample {
    /// Welford's, which keeps its precision.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let start = Self { count: 0.0, mean: 0.0, squares: 0.0 };
        values.fold(start, |mut sample, value| {
            sample.count += 1.0;
            let distance = value - sample.mean;
            sample.mean += distance / sample.count;
            sample.squares += distance * (value - sample.mean);
            sample
        })
    }

    fn welch(&self, other: &Self) -> f64 {
        let error = |sample: &Self| sample.squares / (sample.count - 1.0) / sample.count;
        (self.mean - other.mean) / (error(self) + error(other)).sqrt()
    }
}

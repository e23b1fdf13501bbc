//! The cost of the envelope parser relative to the HMAC of the same body.
//!
//! Budget, as a share of `hmac/<size>` in the same run: `webhook` at most 0.5, `strings` at most
//! 0.3, at every size. Best of 300 runs on an EPYC core at 1, 16 and 256 KiB: `webhook` 0.47, 0.41,
//! 0.40; `strings` 0.28, 0.11, 0.10. The aim for `webhook` is 0.5, 0.3, 0.25; it misses the last
//! two, because it has a name or a value every 20 bytes. The other shapes are the worst known, up
//! to twice the HMAC; they are here so that a regression of any is visible.

use std::{fmt::Write as _, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit, Mac};
use hookstile::event::{EnvelopeSpec, IdNames, IdSource, MissingParts, Source, TimestampSpec};
use hookstile::json::Pointer;
use http::HeaderMap;
use sha2::Sha256;

const SIZES: [(&str, usize); 3] = [
    ("1KiB", 1 << 10),
    ("16KiB", 16 << 10),
    ("256KiB", 256 << 10),
];

/// Writes the n-th item of a shape: one member of the array at `/data/items`.
type Item = fn(&mut String, usize);

/// A shape's name, its items, and whether the route also reads `/created_at`.
const SHAPES: [(&str, Item, bool); 9] = [
    ("webhook", webhook, false),
    ("webhook_timestamp", webhook, true),
    ("webhook_pretty", webhook_pretty, false),
    ("strings", strings, false),
    ("non_ascii", non_ascii, false),
    ("escapes", escapes, false),
    ("numbers", numbers, false),
    ("short_members", short_members, false),
    ("deep", deep, false),
];

criterion_group!(benches, envelope, hmac);
criterion_main!(benches);

fn envelope(criterion: &mut Criterion) {
    let pointer = |text: &str| text.parse::<Pointer>().expect("a pointer");
    let headers = HeaderMap::new();
    for (shape, item, timed) in SHAPES {
        let timestamp = TimestampSpec {
            source: Source::Pointer(pointer("/created_at")),
            max_age: None,
        };
        let spec = EnvelopeSpec {
            id: IdSource::Pointer(pointer("/id")),
            id_names: IdNames::Event,
            event_type: Source::Pointer(pointer("/type")),
            missing: MissingParts::default(),
            timestamp: timed.then_some(timestamp),
        };
        let mut group = criterion.benchmark_group(format!("envelope/{shape}"));
        for (name, size) in SIZES {
            let body = body(size, item);
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(
                BenchmarkId::from_parameter(name),
                body.as_bytes(),
                |bencher, body| {
                    bencher.iter(|| spec.parse(black_box(body), &headers).expect("an event"));
                },
            );
        }
    }
}

fn hmac(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hmac");
    for (name, size) in SIZES {
        let body = body(size, webhook);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(name),
            body.as_bytes(),
            |bencher, body| {
                bencher.iter(|| {
                    let mut mac = Hmac::<Sha256>::new_from_slice(b"whsec_0123456789abcdef")
                        .expect("any length");
                    mac.update(black_box(body));
                    mac.finalize()
                });
            },
        );
    }
}

/// Returns an event of about `size` bytes, at most one item longer.
fn body(size: usize, item: Item) -> String {
    let mut body = String::from(
        r#"{"id":"evt_9f8c2f7e5b","type":"billing.invoice.paid","created_at":"2026-08-22T10:15:30Z","data":{"items":["#,
    );
    item(&mut body, 0);
    let mut n = 1;
    while body.len() < size.saturating_sub(item_bytes(item) / 2) {
        body.push(',');
        item(&mut body, n);
        n += 1;
    }
    body.push_str("]}}");
    body
}

fn item_bytes(item: Item) -> usize {
    let mut one = String::new();
    item(&mut one, 0);
    one.len()
}

/// Writes what providers usually send: identifiers, addresses, some prose, a few numbers, nested
/// twice.
fn webhook(out: &mut String, n: usize) {
    let prose = "The customer's subscription was renewed for another period. The payment method on file was charged, \
                 the receipt was sent to the billing address, and access was extended on every location of the plan.";
    let (id, due, tax, seats) = (1_000_000 + n * 7919, 1999 + n % 500, 19 + n % 7, n % 5);
    write!(
        out,
        concat!(
            r#"{{"id":{id},"object":"invoice","customer":{{"id":"cus_{id:016x}","email":"someone.{n}@customer.example.com","#,
            r#""name":"Someone Somewhere","locale":"en-GB"}},"description":"{prose}","amount_due":{due},"currency":"usd","#,
            r#""paid":true,"discount":null,"tax_rate":0.{tax},"lines":[{{"sku":"vpn-pro-{n}","quantity":1,"#,
            r#""unit_amount":{due}}},{{"sku":"extra-seat","quantity":{seats},"unit_amount":299}}],"#,
            r#""hosted_url":"https://pay.example.com/invoices/acct_1032D82eZvKYlo2C/{id:032x}/download?format=pdf","#,
            r#""tags":["renewal","eu-west","priority"]}}"#,
        ),
        id = id, n = n, prose = prose, due = due, tax = tax, seats = seats,
    )
    .expect("a String takes everything");
}

fn webhook_pretty(out: &mut String, n: usize) {
    let mut compact = String::new();
    webhook(&mut compact, n);
    let value: serde_json::Value = serde_json::from_str(&compact).expect("JSON");
    out.push_str(&serde_json::to_string_pretty(&value).expect("JSON"));
}

/// Writes one long string, like an e-mail's body or a file in base64.
fn strings(out: &mut String, n: usize) {
    write!(
        out,
        r#"{{"n":{n},"content":"{}"}}"#,
        "VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIDEzIGxhenkgZG9ncy4g".repeat(14)
    )
    .expect("a String takes everything");
}

fn non_ascii(out: &mut String, n: usize) {
    write!(
        out,
        r#"{{"n":{n},"text":"{}"}}"#,
        "Оплата получена — 支払いを受け取りました 🎉 ".repeat(8)
    )
    .expect("a String takes everything");
}

fn escapes(out: &mut String, n: usize) {
    write!(
        out,
        r#"{{"n":{n},"text":"{}"}}"#,
        r#"a\nb \"c\" \u00e9\/\\x \ud83d\ude00"#.repeat(16)
    )
    .expect("a String takes everything");
}

fn numbers(out: &mut String, n: usize) {
    write!(out, "[{n},-{n}.25,{n}e-3,7,42,3.14159]").expect("a String takes everything");
}

fn short_members(out: &mut String, n: usize) {
    write!(out, r#"{{"a":{},"b":"x","c":[],"d":null}}"#, n % 10)
        .expect("a String takes everything");
}

fn deep(out: &mut String, _: usize) {
    out.push_str(&"[".repeat(60));
    out.push_str(&r#"{"a":"#.repeat(60));
    out.push('1');
    out.push_str(&"}".repeat(60));
    out.push_str(&"]".repeat(60));
}

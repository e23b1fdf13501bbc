//! The facts of the format: the default, the range and the form of each key's value, in one place.
//!
//! The JSON Schema and the reference read them through the attributes in `raw`, the checks and
//! their messages through `compile`. Only `raw` says what a key means. A default that follows from
//! other keys has no fact; the key's doc comment describes it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Bound, RangeBounds};

use schemars::Schema;
use serde::Serialize;
use serde_json::{Number, Value};

use super::de::Field;
use super::raw::{AutomaticRedelivery, LogLevel, Method};
use super::values::{ByteSize, Duration, FileMode};
use crate::activity::CAPTURED_BYTES_MAX;
use crate::event::{IdNames, MissingId};
use crate::handshake::HandshakeResponder;
use crate::ledger::{InFlightPolicy, UnsignedPolicy};
use crate::providers::UNKNOWN_SENDER;
use crate::route::{DeliveryMode, OnDuplicate, Replay};
use crate::signature::{Algorithm, Encoding, KeyEncoding, SignedTime, TimeUnit};
use crate::store::{Durability, PAYLOAD_MAX, Payloads, Retain};

/// A value that has an order: a number, a duration or a size.
pub(super) trait Quantity: Copy + PartialOrd {
    /// Returns the value as it is written in a file.
    fn to_json(self) -> Value;

    /// Returns the value as it is written in a message.
    fn to_text(self) -> String;
}

/// The values that a key takes.
#[derive(Clone, Copy)]
pub(super) struct Range<T> {
    min: Bound<T>,
    max: Bound<T>,
}

/// A quantity that has a default.
#[derive(Clone, Copy)]
pub(super) struct Amount<T> {
    pub default: T,
    pub range: Range<T>,
}

/// The default of a key whose type alone says which values it takes.
#[derive(Clone, Copy)]
pub(super) struct Choice<T> {
    pub default: T,
}

/// A status code out of a few. The first is the default.
#[derive(Clone, Copy)]
pub(super) struct Statuses<const N: usize>(pub [u16; N]);

/// The form of a text.
#[derive(Clone, Copy)]
pub(super) struct TextForm {
    /// The form as a regular expression, for the schema.
    pub pattern: &'static str,
    /// The form in words, for people.
    pub words: &'static str,
}

/// The key of a property's schema that holds the accepted values in words until
/// [`schema`](super::schema) puts them where people read them.
pub(super) const ACCEPTED: &str = "x-accepted";

/// The provider of a route, or of a webhook made over the API, that names none.
pub const DEFAULT_PROVIDER: &str = "vpn-enterprise";

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_millis(1000);
const HOUR: Duration = Duration::from_millis(3_600_000);
const ZERO: Duration = Duration::from_millis(0);
const KIB: ByteSize = ByteSize(1 << 10);
const MIB: ByteSize = ByteSize(1 << 20);
const GIB: ByteSize = ByteSize(1 << 30);

/// A timeout. A value of more than an hour most likely has the wrong unit.
const TIMEOUT: Range<Duration> = Range::more_than(ZERO).at_most(HOUR);
/// A delay of a stop. With 0 there is none.
const STOP_DELAY: Range<Duration> = Range::at_least(ZERO).at_most(HOUR);
/// A time span of any length. The clocks count it in milliseconds.
pub(super) const TIME_SPAN: Range<Duration> = Range::at_least(MILLISECOND);
/// A number of things that happen at once, or in a second.
const MANY: Range<usize> = Range::at_least(1).at_most(1_000_000);

// Top level
pub(super) const LISTEN_ADDRESS: SocketAddr = loopback(8080);
pub(super) const STRICT_START: Choice<bool> = Choice::new(false);
/// The group may connect: a proxy in front seldom runs as the gateway's own user.
pub(super) const SOCKET_MODE: Choice<FileMode> = Choice::new(FileMode(0o660));
pub(super) const PROXY_PROTOCOL: Choice<bool> = Choice::new(false);
pub(super) const ADMIN_ADDRESS: Choice<SocketAddr> = Choice::new(loopback(9180));
/// The default is more than an application has, and bounds what a token for the API can fill: a
/// webhook is at most 64 KiB, and has its own metrics.
pub(super) const MAX_WEBHOOKS: Amount<usize> = MANY.or(10_000);
pub(super) const LOG_LEVEL: Choice<LogLevel> = Choice::new(LogLevel::Info);

// `store`
pub(super) const STORE_PATH: Choice<&str> = Choice::new("./hookstile-data");
pub(super) const DURABILITY: Choice<Durability> = Choice::new(Durability::Strict);
pub(super) const MUST_EXIST: Choice<bool> = Choice::new(false);
pub(super) const MAX_IDS: Amount<usize> =
    Range::at_least(1000).at_most(1_000_000_000).or(50_000_000);
/// The write-ahead log alone may take some MiB. The lower bound also rejects a number whose unit
/// was forgotten.
pub(super) const STORE_SIZE: Range<ByteSize> = Range::at_least(MIB.times(16));

// `dead_letters`
pub(super) const REDELIVER_DEAD_LETTERS: Choice<AutomaticRedelivery> =
    Choice::new(AutomaticRedelivery::Never);

// `notify`
pub(super) const NOTIFY_BEGIN_AFTER: Amount<Duration> = TIMEOUT.or(SECOND.times(30));
/// The lower bound is more than the time after which gateways tell each other of a problem.
pub(super) const NOTIFY_END_AFTER: Amount<Duration> = Range::at_least(SECOND.times(10))
    .at_most(HOUR)
    .or(SECOND.times(120));

// `limits`
pub(super) const CONNECTIONS: Amount<usize> = MANY.or(10_000);
pub(super) const CONNECTIONS_PER_ADDRESS: Amount<usize> = MANY.or(1000);
pub(super) const HEADER_BYTES: Amount<ByteSize> =
    Range::at_least(KIB).at_most(MIB).or(KIB.times(32));
pub(super) const BODY_BYTES_IN_FLIGHT: Amount<ByteSize> =
    Range::at_least(ByteSize(1)).or(MIB.times(256));
pub(super) const HEADER_TIMEOUT: Amount<Duration> = TIMEOUT.or(SECOND.times(5));
pub(super) const IDLE_TIMEOUT: Amount<Duration> = TIMEOUT.or(SECOND.times(60));

// `shutdown`
pub(super) const DRAIN: Amount<Duration> = STOP_DELAY.or(SECOND.times(5));
pub(super) const GRACE: Amount<Duration> = STOP_DELAY.or(SECOND.times(15));

// `routes[]`
/// The longest name, in characters.
pub(super) const NAME_MAX: usize = 64;
/// A name that is safe as a metric's label.
pub(super) const NAME: TextForm = TextForm {
    pattern: r"^[A-Za-z0-9._-]{1,64}$",
    words: "1 to 64 of `A-Z a-z 0-9 . _ -`",
};
pub(super) const METHODS: Choice<[Method; 1]> = Choice::new([Method::Post]);
pub(super) const PROVIDER: Choice<&str> = Choice::new(DEFAULT_PROVIDER);
pub(super) const FORWARD_QUERY: Choice<bool> = Choice::new(false);
pub(super) const DELIVERY: Choice<DeliveryMode> = Choice::new(DeliveryMode::Proxy);
/// The default is that of a sender without a preset; presets have their own.
pub(super) const ACCEPT_STATUS: Statuses<2> = Statuses([202, 200]);
pub(super) const EMPTY_RESPONSES: Choice<bool> = Choice::new(false);
pub(super) const PROBE_STATUS: Statuses<2> = Statuses([200, 204]);
pub(super) const ATTEMPT_TIMEOUT: Range<Duration> = TIMEOUT;
/// The default is that of a sender without a preset; presets have their own.
pub(super) const BUDGET: Amount<Duration> = TIMEOUT.or(Duration(UNKNOWN_SENDER.budget));
pub(super) const BUDGET_MARGIN: Amount<Duration> = TIMEOUT.or(Duration::from_millis(500));
/// The default is that of a sender without a preset; presets have their own.
pub(super) const MAX_BODY: Amount<ByteSize> = Range::at_least(ByteSize(1))
    .at_most(GIB)
    .or(ByteSize(UNKNOWN_SENDER.max_body));
pub(super) const MAX_STORED_BODY: ByteSize = ByteSize(PAYLOAD_MAX);
pub(super) const CONCURRENCY: Amount<usize> = MANY.or(1024);
/// The default for deliveries from the store. No sender waits for them, and an upstream that has
/// recovered should not get its whole backlog at once.
pub(super) const QUEUE_CONCURRENCY: usize = 32;
pub(super) const RATE: Range<u32> = Range::at_least(1).at_most(1_000_000);
pub(super) const ENFORCE: Choice<bool> = Choice::new(true);
pub(super) const CONNECT_TIMEOUT: Range<Duration> = TIMEOUT;
pub(super) const CHALLENGE_MODE: Choice<HandshakeResponder> =
    Choice::new(HandshakeResponder::Gateway);

// `routes[].replay`
pub(super) const WINDOW: Amount<Duration> = TIME_SPAN.or(Duration(Replay::USUAL_WINDOW));
/// The default is that of a sender without a preset; presets have their own.
pub(super) const ON_DUPLICATE: Choice<OnDuplicate> = Choice::new(UNKNOWN_SENDER.on_duplicate);
pub(super) const IN_FLIGHT: Choice<InFlightPolicy> = Choice::new(InFlightPolicy::Wait);
pub(super) const UNSIGNED: Choice<UnsignedPolicy> = Choice::new(UnsignedPolicy::Deliver);

// `routes[].event`
/// The default is that of a sender without a preset; presets have their own.
pub(super) const MISSING_ID: Choice<MissingId> = Choice::new(MissingId::Reject);
pub(super) const ID_NAMES: Choice<IdNames> = Choice::new(IdNames::Event);

// `routes[].retry`
pub(super) const RETRY_INITIAL: Amount<Duration> = TIME_SPAN.or(SECOND.times(5));
pub(super) const RETRY_FACTOR: Amount<f64> = Range::at_least(1.0).at_most(10.0).or(2.0);
pub(super) const RETRY_MAX_INTERVAL: Amount<Duration> = TIME_SPAN.or(HOUR);
pub(super) const RETRY_HORIZON: Amount<Duration> = TIME_SPAN.or(HOUR.times(72));

// `routes[].retry.permanent`
pub(super) const PERMANENT_ATTEMPTS: Amount<u32> = Range::at_least(1).at_most(1000).or(3);
/// With 0, the attempts alone decide.
pub(super) const PERMANENT_AT_LEAST: Amount<Duration> = Range::at_least(ZERO).or(HOUR);

// `routes[].retain`
pub(super) const RETAIN_PAYLOADS: Choice<Payloads> = Choice::new(Retain::DEFAULT.payloads);
pub(super) const RETAIN_FOR: Amount<Duration> = TIME_SPAN.or(Duration(Retain::DEFAULT.keep));
/// Less would hold next to nothing. The lower bound also rejects a number whose unit was forgotten.
pub(super) const RETAIN_SIZE: Amount<ByteSize> = Range::at_least(MIB).or(usual_retained_size());

// `routes[].capture`
/// The upper bound keeps the choice of the request to displace cheap.
pub(super) const CAPTURE_REQUESTS: Amount<usize> = Range::at_least(1).at_most(100).or(20);
/// The lower bound also rejects a number whose unit was forgotten.
pub(super) const CAPTURE_BYTES: Amount<ByteSize> = Range::at_least(KIB)
    .at_most(ByteSize(CAPTURED_BYTES_MAX))
    .or(MIB);
pub(super) const CAPTURE_FOR: Amount<Duration> = TIME_SPAN.or(HOUR.times(24));

// `routes[].signature`
pub(super) const ALGORITHM: Choice<Algorithm> = Choice::new(Algorithm::HmacSha256);
pub(super) const ENCODING: Choice<Encoding> = Choice::new(Encoding::Hex);
pub(super) const SECRET_ENCODING: Choice<KeyEncoding> = Choice::new(KeyEncoding::Utf8);
pub(super) const NO_PREFIX: Choice<&str> = Choice::new("");
pub(super) const SIGNED: Choice<&str> = Choice::new("{body}");
pub(super) const SEPARATOR: Choice<char> = Choice::new(',');
pub(super) const ASSIGN: Choice<char> = Choice::new('=');
pub(super) const TIME_UNIT: Choice<TimeUnit> = Choice::new(TimeUnit::Seconds);
pub(super) const TOLERANCE: Amount<Duration> = Range::at_least(MILLISECOND)
    .at_most(Duration(SignedTime::TOLERANCE_MAX))
    .or(Duration(SignedTime::USUAL_TOLERANCE));

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the size fits into 32 bits"
)]
const fn usual_retained_size() -> ByteSize {
    match Retain::DEFAULT.max_bytes {
        Some(bytes) => ByteSize(bytes as usize),
        None => GIB,
    }
}

impl<T: Copy> Range<T> {
    const fn at_least(min: T) -> Self {
        Self {
            min: Bound::Included(min),
            max: Bound::Unbounded,
        }
    }

    const fn more_than(min: T) -> Self {
        Self {
            min: Bound::Excluded(min),
            max: Bound::Unbounded,
        }
    }

    const fn at_most(self, max: T) -> Self {
        Self {
            min: self.min,
            max: Bound::Included(max),
        }
    }

    const fn or(self, default: T) -> Amount<T> {
        Amount {
            default,
            range: self,
        }
    }
}

impl<T: Quantity> Range<T> {
    pub(super) fn contains(&self, value: T) -> bool {
        (self.min, self.max).contains(&value)
    }

    /// Returns a transform that puts the range into a key's schema.
    pub(super) fn schema(self) -> impl FnMut(&mut Schema) {
        move |schema| {
            // JSON Schema compares numbers only, not texts such as `5s`.
            for (keyword, bound) in [("minimum", self.min), ("maximum", self.max)] {
                if let Bound::Included(Value::Number(number)) = bound.map(T::to_json) {
                    schema.insert(keyword.into(), number.into());
                }
            }
            schema.insert(ACCEPTED.into(), self.to_string().into());
        }
    }
}

/// Writes the range in words: `1KiB to 1MiB`, `more than 0s, at most 1h`.
impl<T: Quantity> fmt::Display for Range<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = (self.min.map(T::to_text), self.max.map(T::to_text));
        match (min, max) {
            (Bound::Included(min), Bound::Included(max)) => write!(f, "{min} to {max}"),
            (Bound::Included(min), _) => write!(f, "at least {min}"),
            (Bound::Excluded(min), Bound::Included(max)) => {
                write!(f, "more than {min}, at most {max}")
            }
            (Bound::Excluded(min), _) => write!(f, "more than {min}"),
            (Bound::Unbounded, Bound::Included(max)) => write!(f, "at most {max}"),
            (Bound::Unbounded, _) => f.write_str("any"),
        }
    }
}

impl<T: Quantity> Amount<T> {
    /// Returns a transform that puts the default and the range into a key's schema.
    pub(super) fn schema(self) -> impl FnMut(&mut Schema) {
        move |schema| {
            self.range.schema()(schema);
            schema.insert("default".into(), self.default.to_json());
        }
    }
}

impl<T> Choice<T> {
    const fn new(default: T) -> Self {
        Self { default }
    }
}

impl<T: Copy> Choice<T> {
    /// Returns the value of `field`, or else the default.
    pub(super) fn value_of(self, field: &Field<T>) -> T {
        field.value().copied().unwrap_or(self.default)
    }
}

impl<T: Serialize> Choice<T> {
    /// Returns a transform that puts the default into a key's schema.
    pub(super) fn schema(self) -> impl FnMut(&mut Schema) {
        move |schema| {
            let default = serde_json::to_value(&self.default).unwrap_or_default();
            schema.insert("default".into(), default);
        }
    }
}

impl<const N: usize> Statuses<N> {
    pub(super) fn contains(self, status: u16) -> bool {
        self.0.contains(&status)
    }

    /// Returns a transform that puts the statuses and the default into a key's schema.
    pub(super) fn schema(self) -> impl FnMut(&mut Schema) {
        move |schema| {
            schema.insert("enum".into(), self.0.to_vec().into());
            schema.insert("default".into(), self.0.first().copied().into());
        }
    }
}

/// Writes the statuses in words: `202 or 200`.
impl<const N: usize> fmt::Display for Statuses<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|status| status.to_string()).join(" or "))
    }
}

impl TextForm {
    /// Returns a transform that puts the form into a key's schema.
    pub(super) fn schema(self) -> impl FnMut(&mut Schema) {
        move |schema| {
            schema.insert("pattern".into(), self.pattern.into());
            schema.insert(ACCEPTED.into(), self.words.into());
        }
    }
}

/// Adds the second limit of `max_body` to the description of the key.
pub(super) fn describe_stored_body(schema: &mut Schema) {
    describe(
        schema,
        &format!(
            "At most {MAX_STORED_BODY} on a route that stores bodies: with `delivery: queue` or \
             `spill`, or `retain.payloads: all`."
        ),
    );
}

/// Adds the second default of `concurrency` to the description of the key.
pub(super) fn describe_queue_concurrency(schema: &mut Schema) {
    describe(
        schema,
        &format!(
            "Deliveries of stored events count towards it. If this key is not set, at most \
             {QUEUE_CONCURRENCY} of them run at once."
        ),
    );
}

fn describe(schema: &mut Schema, sentence: &str) {
    if let Some(Value::String(description)) = schema.get_mut("description") {
        description.push('\n');
        description.push_str(sentence);
    }
}

/// Implements [`Quantity`] for numbers. A message groups the digits: `1,000,000`.
macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Quantity for $type {
            fn to_json(self) -> Value {
                self.to_string().parse::<Number>().map_or(Value::Null, Value::Number)
            }

            fn to_text(self) -> String {
                grouped(&self.to_string())
            }
        })*
    };
}

numbers!(usize, u32, f64);

/// Implements [`Quantity`] for values that are written as text.
macro_rules! texts {
    ($($type:ty),*) => {
        $(impl Quantity for $type {
            fn to_json(self) -> Value {
                self.to_string().into()
            }

            fn to_text(self) -> String {
                self.to_string()
            }
        })*
    };
}

texts!(Duration, ByteSize);

/// Puts a comma before every third digit of a whole number. Leaves any other text as it is.
pub(super) fn grouped(digits: &str) -> String {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits.into();
    }
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

//! The scalar types of the configuration: durations, sizes, addresses.
//!
//! Owns their text forms and the JSON Schema of those. Limits that depend on the key are checked in `compile`.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::{fmt, time};

use ipnet::IpNet;
use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use zeroize::Zeroizing;

/// A time span: a number and a unit, `ms`, `s`, `m`, `h` or `d`, as in `500ms`, `1.5h`, `7d`. At most 3650d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct Duration(pub time::Duration);

/// As it is written, but for fractions of a second.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let friendly = format!(
            "{:#}",
            SignedDuration::from_secs(self.0.as_secs().try_into().unwrap_or(i64::MAX))
        );
        f.write_str(&friendly.replace(' ', ""))
    }
}

/// A number of bytes: whole, with or without a unit (`B`, `KB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct ByteSize(pub usize);

/// An IP address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub SocketAddr);

/// A network in CIDR notation, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network(pub IpNet);

/// A moment in time (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(pub jiff::Timestamp);

/// Text that nobody may see: a secret that stands in the file itself.
pub(super) struct Literal(pub Zeroizing<String>);

/// The longest time span the format knows, so that no sum of two of them overflows a clock.
const LONGEST: time::Duration = time::Duration::from_secs(3650 * 86_400);

/// The largest size the format knows.
const BIGGEST: u64 = 1 << 40;

/// Why a text is not a value.
enum Refusal {
    /// It has not the form of one.
    Form,
    /// It has, and still won't do: what is wrong, and what to write.
    Value(&'static str),
}

impl Duration {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let unit_at = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(Refusal::Form)?;
        let (number, unit) = text.split_at(unit_at);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(Refusal::Form),
        };
        let decimal = number.starts_with(|c: char| c.is_ascii_digit()) && !number.ends_with('.');
        let number: f64 = number
            .parse()
            .ok()
            .filter(|_| decimal)
            .ok_or(Refusal::Form)?;
        match time::Duration::try_from_secs_f64(number * seconds) {
            Ok(duration) if duration <= LONGEST => Ok(Self(duration)),
            _ => Err(Refusal::Value("this duration is too long\nat most `3650d`")),
        }
    }
}

impl ByteSize {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let unit_at = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let bytes: u64 = match unit {
            "" | "B" => 1,
            "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(Refusal::Form),
        };
        if number.is_empty() {
            return Err(Refusal::Form);
        }
        let size = number
            .parse()
            .ok()
            .and_then(|number: u64| number.checked_mul(bytes))
            .filter(|&size| size <= BIGGEST);
        let size = size.and_then(|size| usize::try_from(size).ok());
        size.map(Self)
            .ok_or(Refusal::Value("this size is too big\nat most `1024GiB`"))
    }
}

impl Address {
    fn parse(text: &str) -> Result<Self, Refusal> {
        text.parse().map(Self).map_err(|_| Refusal::Form)
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        match address
            .or_else(|_| text.parse())
            .map_err(|_| Refusal::Form)?
        {
            // Peers' addresses are compared in their IPv4 form.
            IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(Refusal::Value(
                "no sender matches an IPv4-mapped network\nwrite the IPv4 network itself",
            )),
            network => Ok(Self(network)),
        }
    }
}

impl Moment {
    fn parse(text: &str) -> Result<Self, Refusal> {
        text.parse().map(Self).map_err(|_| Refusal::Form)
    }
}

impl Literal {
    /// Never refuses, so that no message has a reason to quote it.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "the other types' parsers can fail"
    )]
    fn parse(text: &str) -> Result<Self, Refusal> {
        Ok(Self(Zeroizing::new(text.into())))
    }
}

/// Deserialises from text, with a noun and the possible forms for messages, and describes itself in the schema.
macro_rules! text_values {
    ($($type:ident: $noun:literal, $forms:literal, $schema:tt;)*) => {
        $(
            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    struct FromText;

                    impl Visitor<'_> for FromText {
                        type Value = $type;

                        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                            f.write_str($forms)
                        }

                        fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                            $type::parse(text).map_err(|refusal| match refusal {
                                Refusal::Form => E::custom(concat!("this is not ", $noun, "\nexpected ", $forms)),
                                Refusal::Value(message) => E::custom(message),
                            })
                        }
                    }

                    deserializer.deserialize_str(FromText)
                }
            }

            impl JsonSchema for $type {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )*
    };
}

text_values! {
    Duration: "a duration", "a number and a unit: `500ms`, `10s`, `4m`, `96h`, `7d`", {
        "description": "A number and a unit, `ms`, `s`, `m`, `h` or `d`: `500ms`, `1.5h`, `7d`. At most `3650d`.",
        "type": "string",
        "pattern": "^[0-9]+(\\.[0-9]+)?(ms|s|m|h|d)$"
    };
    ByteSize: "a size", "a whole number of bytes, or one with a unit: `64KiB`, `1MiB`", {
        "description": "A whole number of bytes, or one with a unit, `B`, `KB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`: `64KiB`. \
            At most `1024GiB`.",
        "type": ["string", "integer"],
        "pattern": "^[0-9]+(B|[KMG]i?B)?$",
        "minimum": 0
    };
    Address: "an address", "an IP address and a port: `127.0.0.1:8080`, `[::1]:8080`", {
        "description": "An IP address and a port: `127.0.0.1:8080`, `[::1]:8080`.",
        "type": "string",
        "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$"
    };
    Network: "a network", "CIDR notation or an IP address: `203.0.113.0/24`, `2001:db8::/32`", {
        "description": "A network in CIDR notation or an IP address: `203.0.113.0/24`, `2001:db8::/32`.",
        "type": "string",
        "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"
    };
    Moment: "a point in time", "RFC 3339: `2026-12-31T00:00:00Z`", {
        "description": "A point in time (RFC 3339): `2026-12-31T00:00:00Z`.",
        "type": "string",
        "format": "date-time"
    };
    Literal: "text", "text", {"description": "Any text but the empty one.", "type": "string", "minLength": 1};
}

//! The scalar types of the configuration: durations, sizes, addresses.
//!
//! Owns their text forms and the JSON Schema of those. The range of a single key is a fact
//! (`facts`).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::{Path, PathBuf};
use std::{fmt, time};

use ipnet::IpNet;
use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::ListenAddress;
use crate::client_network::NO_ADDRESS;

/// A time span: a number and a unit, `ms`, `s`, `m`, `h` or `d`, as in `500ms`, `1.5h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct Duration(pub time::Duration);

/// The units of a duration in milliseconds. Each is used from the first count on and below the
/// second, as people do: `72h` and not `3d`, but `7d`; `60s`, but `5m`.
const UNITS: [(u128, &str, std::ops::Range<u128>); 5] = [
    (86_400_000, "d", 7..u128::MAX),
    (3_600_000, "h", 1..u128::MAX),
    (60_000, "m", 2..1000),
    (1000, "s", 0..1000),
    (1, "ms", 1..1000),
];

/// Writes the duration in the form of the file where one unit is enough, else with several:
/// `72h5m`.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        for (unit, name, counts) in UNITS {
            let count = milliseconds / unit;
            if milliseconds.is_multiple_of(unit) && counts.contains(&count) {
                return write!(f, "{count}{name}");
            }
        }
        let milliseconds = milliseconds.try_into().unwrap_or(i64::MAX);
        let friendly = format!("{:#}", SignedDuration::from_millis(milliseconds));
        f.write_str(&friendly.replace(' ', ""))
    }
}

/// A number of bytes: whole, with or without a unit (`B`, `KB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct ByteSize(pub usize);

/// Writes the size in the largest unit in which it is whole.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// An IP address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub SocketAddr);

/// An IP address or a host's name with a port, or the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListenerAddress(pub ListenAddress);

/// The path of a Unix socket: absolute, and short enough for the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketPath(pub PathBuf);

/// The permissions of a file, in octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileMode(pub u32);

/// A network in CIDR notation, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network(pub IpNet);

/// The networks of a proxy, or `unix` for the peers of Unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proxy(pub IpNet);

/// A point in time (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(pub jiff::Timestamp);

/// Text that is never shown: a secret that is written in the file itself.
pub(super) struct Literal(pub Zeroizing<String>);

/// The longest time span of the format, so that no sum of two of them overflows a clock.
const LONGEST: time::Duration = time::Duration::from_secs(3650 * 86_400);

/// The largest size of the format, in bytes.
const BIGGEST: u64 = 1 << 40;

/// The reason that a text is not a value.
enum ValueError {
    /// The text does not have the form of one.
    Form,
    /// The text does not have the form of one, but it shows what is meant: what to write.
    Almost(String),
    /// The form is right, but the value is not accepted. The first line says what is wrong, the
    /// second what to write.
    Value(&'static str),
}

impl Duration {
    pub(super) const fn from_millis(milliseconds: u64) -> Self {
        Self(time::Duration::from_millis(milliseconds))
    }

    pub(super) const fn times(self, factor: u32) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split_unit(text);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(Self::meant(text).map_or(ValueError::Form, ValueError::Almost)),
        };
        let number = decimal(number).ok_or(ValueError::Form)?;
        match time::Duration::try_from_secs_f64(number * seconds) {
            Ok(duration) if duration <= LONGEST => Ok(Self(duration)),
            _ => Err(ValueError::Value(
                "this duration is too long\nat most `3650d`",
            )),
        }
    }

    /// Returns what to write for a number without a unit, a unit in words, or several of them.
    fn meant(text: &str) -> Option<String> {
        let (number, unit) = split_unit(text);
        if unit.is_empty() {
            decimal(number)?;
            return Some(format!("the unit is missing: `{number}s` are seconds"));
        }
        let (mut rest, mut sum) = (text.trim(), 0.0);
        while !rest.is_empty() {
            let (number, behind) = split_unit(rest);
            let unit_end = behind
                .find(|c: char| !c.is_alphabetic())
                .unwrap_or(behind.len());
            let (unit, behind) = behind.split_at(unit_end);
            sum += decimal(number)? * milliseconds_in_words(&unit.to_lowercase())?;
            rest = behind.trim_start_matches([' ', ',']);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the sum is within the range"
        )]
        #[expect(clippy::cast_sign_loss, reason = "no part of the sum is negative")]
        let sum = (sum < 1e12).then_some(sum.round() as u64)?;
        // One unit, the largest in which it is whole: `90m` and not `1h30m`.
        let shown = match Self::from_millis(sum).to_string() {
            usual if Self::parse(&usual).is_ok() => usual,
            _ if sum.is_multiple_of(60_000) => format!("{}m", sum / 60_000),
            _ if sum.is_multiple_of(1000) => format!("{}s", sum / 1000),
            _ => format!("{sum}ms"),
        };
        Some(format!("write `{shown}`"))
    }
}

/// Splits a number from its unit. One may write a space between them.
fn split_unit(text: &str) -> (&str, &str) {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    (number, unit.strip_prefix(' ').unwrap_or(unit))
}

/// Parses a number without a sign, such as `10` or `1.5`.
fn decimal(number: &str) -> Option<f64> {
    let has_digits = number.starts_with(|c: char| c.is_ascii_digit()) && !number.ends_with('.');
    number.parse().ok().filter(|_| has_digits)
}

/// Returns the milliseconds of a unit that is written in words or in another program's way.
fn milliseconds_in_words(unit: &str) -> Option<f64> {
    Some(match unit {
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1000.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000.0,
        "d" | "day" | "days" => 86_400_000.0,
        "w" | "week" | "weeks" => 7.0 * 86_400_000.0,
        _ => return None,
    })
}

impl ByteSize {
    pub(super) const fn times(self, factor: usize) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split_unit(text);
        let bytes: u64 = match unit {
            "" | "B" => 1,
            "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(Self::meant(text).map_or(ValueError::Form, ValueError::Almost)),
        };
        if number.is_empty() || number.contains('.') {
            return Err(Self::meant(text).map_or(ValueError::Form, ValueError::Almost));
        }
        let size = number
            .parse()
            .ok()
            .and_then(|number: u64| number.checked_mul(bytes))
            .filter(|&size| size <= BIGGEST);
        let size = size.and_then(|size| usize::try_from(size).ok());
        size.map(Self)
            .ok_or(ValueError::Value("this size is too big\nat most `1024GiB`"))
    }

    /// Returns what to write for a unit in another program's way, as in `10mb` or `64k`, or for a
    /// number that is not whole.
    fn meant(text: &str) -> Option<String> {
        let (number, unit) = split_unit(text);
        let unit = match unit.to_lowercase().as_str() {
            "k" | "kb" | "kib" => "KiB",
            "m" | "mb" | "mib" => "MiB",
            "g" | "gb" | "gib" => "GiB",
            _ => return None,
        };
        let number = decimal(number)?;
        let bytes = number * f64::from(1 << Self::parse(&format!("1{unit}")).ok()?.0.ilog2());
        #[expect(
            clippy::cast_precision_loss,
            reason = "the greatest size is far smaller"
        )]
        let is_size = bytes.fract() == 0.0 && bytes <= BIGGEST as f64;
        #[expect(clippy::cast_possible_truncation, reason = "it is checked")]
        #[expect(clippy::cast_sign_loss, reason = "it is not negative")]
        is_size.then(|| format!("write `{}`", Self(bytes as usize)))
    }
}

impl Address {
    fn parse(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| {
            let meant = Self::meant(text).or_else(|| Self::meant_by_name(text));
            meant.map_or(ValueError::Form, ValueError::Almost)
        })
    }

    /// Returns what to write for a port alone, or an address without a port.
    fn meant(text: &str) -> Option<String> {
        let every = |port: &str| {
            format!(
                "write `127.0.0.1:{port}`, or `0.0.0.0:{port}` to be reached from other machines"
            )
        };
        let port = |text: &str| text.parse::<u16>().is_ok();
        if port(text) {
            return Some(every(text));
        }
        if text.parse::<IpAddr>().is_ok() {
            let address = if text.contains(':') {
                format!("[{text}]")
            } else {
                text.to_owned()
            };
            return Some(format!("the port is missing: `{address}:8080`"));
        }
        let (host, behind) = text.rsplit_once(':').filter(|(_, behind)| port(behind))?;
        ["", "*"].contains(&host).then(|| every(behind))
    }

    /// Returns what to write for a name.
    fn meant_by_name(text: &str) -> Option<String> {
        let is_port = |text: &str| text.parse::<u16>().is_ok();
        let (host, behind) = text
            .rsplit_once(':')
            .filter(|(_, behind)| is_port(behind))?;
        match host {
            "localhost" => Some(format!("write `127.0.0.1:{behind}`")),
            _ if host.contains(['/', ':']) => None,
            _ => Some(format!(
                "names are not resolved here; write the IP address of this machine, or \
                 `0.0.0.0:{behind}` for all of them"
            )),
        }
    }
}

/// The longest host name (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 253;

impl ListenerAddress {
    fn parse(text: &str) -> Result<Self, ValueError> {
        if text.starts_with("unix:") {
            return SocketPath::parse(text).map(|path| Self(ListenAddress::Unix(path.0)));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self(ListenAddress::Inet(address)));
        }
        let name = text.rsplit_once(':').and_then(|(host, port)| {
            let port = port.parse().ok().filter(|_| is_host_name(host))?;
            Some(ListenAddress::Name(host.into(), port))
        });
        name.map(Self).ok_or_else(|| {
            let meant = Address::meant(text).or_else(|| Self::meant(text));
            meant.map_or(ValueError::Form, ValueError::Almost)
        })
    }

    /// Returns what to write for a path alone, or a name without a port.
    fn meant(text: &str) -> Option<String> {
        if text.starts_with('/') {
            return Some(format!("a Unix socket is `unix:{text}`"));
        }
        is_host_name(text).then(|| format!("the port is missing: `{text}:8080`"))
    }
}

impl SocketPath {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(ValueError::Value(
                "this is not the path of a Unix socket\nwrite it whole, from the root: \
                 `/run/hookstile/http.sock`",
            ));
        }
        // `//` and `/./` are left out: paths are compared.
        let path: PathBuf = Path::new(path).components().collect();
        match UnixAddr::from_pathname(&path) {
            Ok(_) => Ok(Self(path)),
            Err(_) => Err(ValueError::Value(
                "this path is too long for a Unix socket\nat most 107 bytes on Linux, 103 on macOS",
            )),
        }
    }
}

/// Returns whether `text` has the form of a host's name and not of a number or an address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= NAME_BYTES_MAX
        && name.split('.').all(is_label)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().any(|byte| byte.is_ascii_alphabetic()))
}

impl FileMode {
    /// Parses octal digits, as `chmod` does. YAML's own octal notation is accepted, too.
    fn parse(text: &str) -> Result<Self, ValueError> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ValueError::Form);
        }
        match u32::from_str_radix(digits, 8) {
            Ok(mode @ 0..=0o777) => Ok(Self(mode)),
            _ => Err(ValueError::Form),
        }
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "unix" | "unix:" => Ok(Self(NO_ADDRESS.into())),
            text => Network::parse(text).map(|network| Self(network.0)),
        }
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        match address
            .or_else(|_| text.parse())
            .map_err(|_| ValueError::Form)?
        {
            // Client addresses are compared in their IPv4 form.
            IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(ValueError::Value(
                "an IPv4-mapped network matches no sender\nwrite the IPv4 network itself",
            )),
            network => Ok(Self(network)),
        }
    }
}

impl Moment {
    fn parse(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| ValueError::Form)
    }
}

impl Literal {
    /// Accepts any text, so that no message has a reason to quote it.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "the other types' parsers can fail"
    )]
    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(Self(Zeroizing::new(text.into())))
    }
}

/// Implements `Deserialize` from text, with a noun and the form for messages, and `JsonSchema`.
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
                            $type::parse(text).map_err(|error| match error {
                                ValueError::Form => {
                                    E::custom(concat!("this is not ", $noun, "\nexpected ", $forms))
                                }
                                ValueError::Almost(advice) => {
                                    E::custom(format_args!("this is not {}\n{advice}", $noun))
                                }
                                ValueError::Value(message) => E::custom(message),
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
    Duration: "a duration", "a number and a unit: `500ms`, `10s`, `4m`, `96h` or `7d`", {
        "description": "A number and a unit (`ms`, `s`, `m`, `h` or `d`): `500ms`, `1.5h`, `7d`. A \
            space between them is accepted. At most `3650d`.",
        "type": "string",
        "pattern": "^[0-9]+(\\.[0-9]+)? ?(ms|s|m|h|d)$"
    };
    ByteSize: "a size", "a whole number of bytes, or one with a unit: `64KiB` or `1MiB`", {
        "description": "A whole number of bytes, or one with a unit (`B`, `KB`, `MB`, `GB`, `KiB`, \
            `MiB` or `GiB`): `65536`, `64KiB`. A space between them is accepted. At most `1024GiB`.",
        "type": ["string", "integer"],
        "pattern": "^[0-9]+( ?(B|[KMG]i?B))?$",
        "minimum": 0
    };
    Address: "an address", "an IP address and a port: `127.0.0.1:8080` or `[::1]:8080`", {
        "description": "An IP address and a port: `127.0.0.1:8080`, `[::1]:8080`.",
        "type": "string",
        "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$"
    };
    ListenerAddress: "an address", "an address and a port, or a Unix socket: `127.0.0.1:8080`, `[::1]:8080`, \
        `localhost:8080` or `unix:/run/hookstile/http.sock`", {
        "description": "An IP address or a host's name, and a port: `127.0.0.1:8080`, \
            `[::1]:8080`, `localhost:8080`. Or the path of a Unix socket: \
            `unix:/run/hookstile/http.sock`.",
        "type": "string",
        "pattern": "^(([0-9A-Za-z._-]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}|unix:/.*[^/])$"
    };
    SocketPath: "the path of a Unix socket", "a path from the root: `/run/app/http.sock`", {
        "description": "The path of a Unix socket, from the root: `/run/app/http.sock`.",
        "type": "string",
        "pattern": "^(unix:)?/.*[^/]$"
    };
    FileMode: "a file's permissions", "octal digits: `\"0660\"`", {
        "description": "The permissions of a file, in octal digits: `\"0660\"`.",
        "type": ["string", "integer"],
        "pattern": "^(0o)?0*[0-7]{1,3}$"
    };
    Proxy: "a network", "CIDR notation, an IP address or `unix`: `203.0.113.0/24`", {
        "description": "A network in CIDR notation, or an IP address: `203.0.113.0/24`, \
            `2001:db8::/32`. Or `unix`: everyone who connects to a listener on a Unix socket.",
        "type": "string",
        "pattern": "^([0-9A-Fa-f:.]+(/[0-9]{1,3})?|unix)$"
    };
    Network: "a network", "CIDR notation or an IP address: `203.0.113.0/24` or `2001:db8::/32`", {
        "description": "A network in CIDR notation, or an IP address: `203.0.113.0/24`, \
            `2001:db8::/32`.",
        "type": "string",
        "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"
    };
    Moment: "a point in time", "RFC 3339: `2026-12-31T00:00:00Z`", {
        "description": "A point in time (RFC 3339): `2026-12-31T00:00:00Z`.",
        "type": "string",
        "format": "date-time"
    };
    Literal: "text", "text", {
        "description": "Any text that is not empty.",
        "type": "string",
        "minLength": 1
    };
}

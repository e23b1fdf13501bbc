//! Figures and rejection codes in words.

use std::time::Duration;

use jiff::Timestamp;

use crate::outcome::TOO_MANY_COPIES;

/// The explanation of a rejection for an operator.
pub(in crate::admin) struct Explanation {
    pub cause: &'static str,
    /// The action that an operator should take.
    pub advice: &'static str,
}

/// Explains why a verified event was not delivered. Returns `None` for rejections.
fn explain_undelivered(code: &str, reason: Option<&str>) -> Option<Explanation> {
    let (cause, advice) = match (code, reason) {
        ("duplicate", Some(TOO_MANY_COPIES)) => (
            "The body was delivered before under other IDs, types or signed times, and as often as it \
             may be in the route's `replay.window`.",
            "Somebody may replay a captured request; compare the senders' addresses. If the provider \
             sends equal bodies that often, set `event: {id: {none: true}}`.",
        ),
        ("duplicate", _) => (
            "The event was delivered before; the provider sent it again.",
            "This is normal after a lost response. The first copy is under events.",
        ),
        ("payload_mismatch", _) => (
            "An event with this ID was delivered before, with another body.",
            "If the ID names an object that has several events, set `event: {id: {names: object}}`.",
        ),
        ("ignored", _) => (
            "The route's `events` do not accept the event's type.",
            "If the receiver needs this type, add it to `events`.",
        ),
        _ => return None,
    };
    Some(Explanation { cause, advice })
}

/// Explains a rejection by its code in `Hookstile-Outcome` and its reason in the log.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(in crate::admin) fn explain_rejection(code: &str, reason: Option<&str>) -> Explanation {
    if let Some(explanation) = explain_undelivered(code, reason) {
        return explanation;
    }
    let (cause, advice) = match (code, reason) {
        ("invalid_signature", Some("missing")) => (
            "The request has no signature header, or not the field with the signature.",
            "If the provider sent it, compare the route's scheme with the provider's, and check that \
             no proxy drops the header. Otherwise it is a scanner.",
        ),
        ("invalid_signature", Some("malformed")) => (
            "The signature does not have the format of the route's scheme, or is repeated.",
            "Compare the route's `provider` or `signature` with the sender's documentation.",
        ),
        ("invalid_signature", Some("mismatch")) => (
            "The signature is well formed, but none of the route's secrets makes it for this body.",
            "Compare the secret here with the provider's; one of them usually was changed. If they \
             are equal, a proxy on the way changes the body: fetch such a request with \
             `hookstile capture`, and `hookstile verify` says what was changed.",
        ),
        ("invalid_signature", Some("stale")) => (
            "The signature is valid, but its time is too far from now.",
            "Check this machine's clock first. Otherwise the sender's clock is wrong, or the request \
             was delayed.",
        ),
        ("invalid_event", Some("stale")) => (
            "The event's own time is further from now than the route's `max_age` allows.",
            "If the provider retries old events, raise `max_age` or remove it.",
        ),
        ("invalid_event", Some("invalid_utf8" | "not_json")) => (
            "The signature is valid, but the body is not one JSON text.",
            "If the provider sends forms or another format, read the ID and the type from headers.",
        ),
        ("invalid_event", Some(reason)) if reason.ends_with("_missing") => (
            "The signature is valid, but the event's ID, type or time is not where the route reads it.",
            "Compare the route's `event` with a real event.",
        ),
        ("invalid_event", Some(reason)) if reason.ends_with("_ambiguous") => (
            "The event has its ID, type or time more than once, and receivers could read different ones.",
            "The sender must write each key once.",
        ),
        ("invalid_event", _) => (
            "The signature is valid, but the event's ID, type or time is malformed.",
            "Compare the route's `event` with a real event; an ID is a string of 1 to 255 bytes, or an \
             integer.",
        ),
        ("malformed_request", _) => (
            "Two parsers could read the framing, the target or the headers differently.",
            "No provider sends such requests. A proxy in front may garble them; otherwise it is a \
             scanner.",
        ),
        ("forbidden_address", _) => (
            "The sender's address is not in the route's `allow_from`.",
            "If the provider's addresses have changed, add them. Behind a proxy, set \
             `trusted_proxies`.",
        ),
        ("unknown_route", _) => (
            "No route has this path and host.",
            "Compare the URL at the provider with the routes' paths, letter by letter.",
        ),
        ("inactive", Some("paused")) => (
            "An operator has paused the route.",
            "Resume the route when the upstream is ready. Until then senders get 503 and retry.",
        ),
        ("inactive", _) => (
            "The webhook is inactive.",
            "Set `active` to accept its events again.",
        ),
        ("method_not_allowed", _) => (
            "The route does not accept this method.",
            "Webhooks use POST.",
        ),
        ("body_timeout", _) => (
            "The body did not arrive in time.",
            "The connection or the sender is slow; the route's `budget` bounds the wait.",
        ),
        ("body_too_large", _) => (
            "The body is larger than the route's `max_body`.",
            "Raise `max_body` if the provider sends bodies of that size.",
        ),
        ("headers_too_large", _) => (
            "The request's head is larger than `limits.header_bytes`.",
            "Raise the limit if a proxy in front adds that many headers.",
        ),
        ("rate_limited", _) => (
            "More arrived than the route's `rate_limit` allows; or, if the reason is `unverified`, \
             more that does not verify than its `unverified_rate_limit` allows for one address.",
            "The provider retries later. Raise the limit if the upstream can take more.",
        ),
        ("in_flight", _) => (
            "A copy of the same event was being delivered and did not finish in time.",
            "No action is needed: the provider retries. If it happens often, the upstream is slow.",
        ),
        ("overloaded", _) => (
            "Connections, bodies in memory or the route's `concurrency` were at their limit.",
            "Check whether the upstream is slow. Otherwise raise the limit that the metrics show as \
             reached.",
        ),
        ("draining", _) => (
            "The gateway was stopping.",
            "No action is needed: the provider retries.",
        ),
        _ => ("The request was refused.", "See its line in the log."),
    };
    Explanation { cause, advice }
}

/// Splits a sentence into parts, each with a mark for code, which is written between backticks.
pub(super) fn code_spans(sentence: &str) -> impl Iterator<Item = (bool, &str)> {
    sentence
        .split('`')
        .enumerate()
        .map(|(place, part)| (place % 2 == 1, part))
}

/// Formats a count with thin spaces between thousands.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Formats a count with its noun: `one` for 1, `many` otherwise.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    let noun = if number == 1 { one } else { many };
    format!("{}\u{a0}{noun}", count(number))
}

/// Formats a configured time exactly, in as many units as it needs.
pub(super) fn exact_span(time: Duration) -> String {
    let (seconds, ms) = (time.as_secs(), u64::from(time.subsec_millis()));
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
        (ms, "ms"),
    ];
    let parts: Vec<_> = units
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}\u{a0}{unit}"))
        .collect();
    parts.join(" ")
}

/// Formats the time since `at` in its largest unit.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(at.as_second());
    if seconds <= 0 {
        "just now".into()
    } else {
        format!("{} ago", span(seconds.unsigned_abs()))
    }
}

/// Formats seconds in their largest unit.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}\u{a0}s"),
        60..3_600 => format!("{}\u{a0}min", seconds / 60),
        3_600..86_400 => format!("{}\u{a0}h", seconds / 3_600),
        _ => format!("{}\u{a0}d", seconds / 86_400),
    }
}

/// Formats a duration in milliseconds or seconds, with two significant digits or more.
pub(super) fn milliseconds(seconds: f64) -> String {
    match seconds * 1_000.0 {
        ms if ms < 10.0 => format!("{ms:.1}\u{a0}ms"),
        ms if ms < 1_000.0 => format!("{ms:.0}\u{a0}ms"),
        ms => format!("{:.1}\u{a0}s", ms / 1_000.0),
    }
}

/// Formats a rate per second, or per minute if it is below one a second.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 100.0 => format!("{rate:.0}/s"),
        rate if rate >= 1.0 => format!("{rate:.1}/s"),
        rate if rate > 0.0 => format!("{:.0}/min", (rate * 60.0).ceil()),
        _ => "0".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EnvelopeError;
    use crate::outcome::Code;

    #[test]
    fn every_rejection_has_an_explanation() {
        let unknown = explain_rejection("", None).cause;
        for code in Code::ALL.into_iter().filter(|code| code.is_rejection()) {
            let reasons: &[Option<&str>] = match code {
                Code::InvalidSignature => &[
                    Some("missing"),
                    Some("malformed"),
                    Some("mismatch"),
                    Some("stale"),
                ],
                Code::InvalidEvent => &[
                    Some("not_json"),
                    Some("id_missing"),
                    Some("type_ambiguous"),
                    Some("id_malformed"),
                ],
                _ => &[None],
            };
            for reason in reasons {
                assert_ne!(
                    explain_rejection(code.as_str(), *reason).cause,
                    unknown,
                    "{code:?} {reason:?}"
                );
            }
        }
        let stale = explain_rejection("invalid_event", Some(EnvelopeError::Stale.reason()));
        assert!(stale.advice.contains("max_age"));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!(
            [0, 59, 60, 7_199, 86_400].map(span),
            [
                "0\u{a0}s",
                "59\u{a0}s",
                "1\u{a0}min",
                "1\u{a0}h",
                "1\u{a0}d"
            ]
        );
        assert_eq!(
            [0, 1, 2_000].map(|number| counted(number, "event", "events")),
            ["0\u{a0}events", "1\u{a0}event", "2\u{202f}000\u{a0}events"]
        );
        assert_eq!(
            [500, 90_000, 7_200_000].map(|ms| exact_span(Duration::from_millis(ms))),
            ["500\u{a0}ms", "1\u{a0}min 30\u{a0}s", "2\u{a0}h"]
        );
        assert_eq!(
            [0.0042, 0.25, 12.5].map(milliseconds),
            ["4.2\u{a0}ms", "250\u{a0}ms", "12.5\u{a0}s"]
        );
        assert_eq!(
            [0.0, 0.01, 1.25, 240.4].map(rate),
            ["0", "1/min", "1.2/s", "240/s"]
        );
    }
}

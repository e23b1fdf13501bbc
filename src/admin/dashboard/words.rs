//! Figures and codes in words.

use jiff::Timestamp;

/// Why a request was turned away, for whoever can mend it.
pub(super) struct Why {
    /// What was wrong.
    pub what: &'static str,
    /// What to do about it.
    pub mend: &'static str,
}

/// Codes are those of `Hookstile-Outcome`, reasons those of the log.
pub(super) fn why(code: &str, reason: Option<&str>) -> Why {
    let (what, mend) = match (code, reason) {
        ("invalid_signature", Some("missing")) => (
            "It came without the header, or the field, that the signature stands in.",
            "Is it the provider at all? If so: does the route have the provider's scheme, and does no proxy on the way \
             drop the header?",
        ),
        ("invalid_signature", Some("malformed")) => (
            "The signature is not written as the route's scheme writes it, or is there more than once.",
            "Compare the route's `provider` or `signature` with what the sender documents.",
        ),
        ("invalid_signature", Some("mismatch")) => (
            "The signature is well formed, and none of the route's secrets makes it for this body.",
            "Nearly always the secret: was it changed at the provider, or here? Else something on the way writes the body \
             anew. Capture a request and ask `hookstile verify`.",
        ),
        ("invalid_signature", Some("stale")) => (
            "The signature is genuine, and its time is too far from now.",
            "A clock is off, or the request was held up. Check this machine's clock first.",
        ),
        ("invalid_event", Some("stale")) => (
            "The event's own time is further from now than the route's `max_age` allows.",
            "If the provider retries old events, raise `max_age` or leave it out.",
        ),
        ("invalid_event", Some("invalid_utf8" | "not_json")) => (
            "The signature is genuine, and the body is not one JSON text.",
            "Does the provider send forms or something else here? Take the ID and the type from headers then.",
        ),
        ("invalid_event", Some(reason)) if reason.ends_with("_missing") => (
            "The signature is genuine, and the event's ID, type or time is not where the route looks for it.",
            "Compare the route's `event` with a real event.",
        ),
        ("invalid_event", Some(reason)) if reason.ends_with("_ambiguous") => (
            "The event says its ID, type or time more than once, and receivers could read different ones.",
            "The sender has to write each name once.",
        ),
        ("invalid_event", _) => (
            "The signature is genuine, and the event's ID, type or time can't be used as it is.",
            "Compare the route's `event` with a real event; IDs are texts of 1 to 255 bytes, or integers.",
        ),
        ("malformed_request", _) => (
            "Its framing, target or headers could be read in two ways, so nothing was read from it.",
            "No provider sends such. A proxy in front may garble it; else somebody is trying things.",
        ),
        ("forbidden_address", _) => (
            "The sender's address is not in the route's `allow_from`.",
            "If the provider's addresses changed, add them. Behind a proxy, set `trusted_proxies`.",
        ),
        ("unknown_route", _) => (
            "No route has this path and host.",
            "Compare the URL that is entered at the provider with the routes' paths, to the letter.",
        ),
        ("inactive", _) => (
            "The webhook is switched off.",
            "Switch it on again: `active`.",
        ),
        ("method_not_allowed", _) => (
            "The route does not take this method.",
            "Webhooks come with POST.",
        ),
        ("body_timeout", _) => (
            "The body did not arrive in time.",
            "A slow line or a slow sender; the route's `budget` bounds it.",
        ),
        ("body_too_large", _) => (
            "The body is larger than the route's `max_body`.",
            "Raise `max_body` if it is genuine.",
        ),
        ("headers_too_large", _) => (
            "The head is larger than `limits.header_bytes`.",
            "Raise it if a proxy in front adds that much.",
        ),
        ("rate_limited", _) => (
            "It came faster than the route's `rate_limit` allows.",
            "The provider comes again later. Raise the limit if the upstream can take more.",
        ),
        ("in_flight", _) => (
            "A copy of the same event was being handed over, and did not end in time.",
            "Nothing: the provider comes again. If it happens often, the upstream is slow.",
        ),
        ("overloaded", _) => (
            "Connections, bodies in memory or the route's `concurrency` were at their limit.",
            "Is the upstream slow? Else raise the limit that the metrics show as reached.",
        ),
        ("draining", _) => (
            "The gateway was stopping.",
            "Nothing: the provider comes again.",
        ),
        _ => ("It was not as it should be.", "The log has a line for it."),
    };
    Why { what, mend }
}

/// A sentence's parts: those between backticks are code.
pub(super) fn parts(sentence: &str) -> impl Iterator<Item = (bool, &str)> {
    sentence
        .split('`')
        .enumerate()
        .map(|(place, part)| (place % 2 == 1, part))
}

/// A count with its thousands apart.
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

/// How long ago something was, in its greatest unit.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(at.as_second());
    if seconds <= 0 {
        "just now".into()
    } else {
        format!("{} ago", span(seconds.unsigned_abs()))
    }
}

/// Seconds in their greatest unit.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}\u{a0}s"),
        60..3_600 => format!("{}\u{a0}min", seconds / 60),
        3_600..86_400 => format!("{}\u{a0}h", seconds / 3_600),
        _ => format!("{}\u{a0}d", seconds / 86_400),
    }
}

/// A duration, as short as it is exact enough.
pub(super) fn milliseconds(seconds: f64) -> String {
    match seconds * 1_000.0 {
        ms if ms < 10.0 => format!("{ms:.1}\u{a0}ms"),
        ms if ms < 1_000.0 => format!("{ms:.0}\u{a0}ms"),
        ms => format!("{:.1}\u{a0}s", ms / 1_000.0),
    }
}

/// Events in a second, or in a minute where there are few.
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
    fn every_rejection_has_words_of_its_own() {
        let unknown = why("", None).what;
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
                    why(code.as_str(), *reason).what,
                    unknown,
                    "{code:?} {reason:?}"
                );
            }
        }
        let stale = why("invalid_event", Some(EnvelopeError::Stale.reason()));
        assert!(stale.mend.contains("max_age"));
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
            [0.0042, 0.25, 12.5].map(milliseconds),
            ["4.2\u{a0}ms", "250\u{a0}ms", "12.5\u{a0}s"]
        );
        assert_eq!(
            [0.0, 0.01, 1.25, 240.4].map(rate),
            ["0", "1/min", "1.2/s", "240/s"]
        );
    }
}

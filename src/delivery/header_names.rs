//! The names of headers as a receiver may read them.
//!
//! CGI, WSGI, Rack and PHP make variables of header names. They fold case, and some or all
//! characters outside letters and digits, into one (RFC 3875 §4.1.18). So `X_Real_IP` and
//! `X.Real.IP` are other spellings of `X-Real-IP`. A name is folded before it is compared with the
//! names that the gateway sets or drops. Knows names only, not values.

use http::header::HeaderName;

/// Headers about a connection, or about the framing of a message.
const FRAMING: [&[u8]; 13] = [
    b"connection",
    b"content-length",
    b"expect",
    b"host",
    b"http2-settings",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// Headers that the gateway sets itself on every request.
const REPLACED: [&[u8]; 3] = [
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
];

/// Headers in which a proxy describes the client or the original request. Receivers take an
/// address, a path or a proxy of their own (CVE-2016-5385) from them. Every `X-Forwarded-*` is
/// another one.
const FROM_PROXY: [&[u8]; 6] = [
    b"forwarded",
    b"proxy",
    b"true-client-ip",
    b"x-original-url",
    b"x-real-ip",
    b"x-rewrite-url",
];

const X_FORWARDED: &[u8] = b"x-forwarded";
const HOOKSTILE: &[u8] = b"hookstile";
const IDEMPOTENCY_KEY: &[u8] = b"idempotency-key";

/// The reason why a sender's header may have to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restriction {
    /// The gateway sets it itself, or it is about the connection or the framing.
    Gateway,
    /// Only a trusted proxy may set it, and only under exactly this name.
    TrustedProxy,
    /// A receiver could take it for a header that only a trusted proxy may set, or for one that the
    /// gateway sets if the sender does not.
    Lookalike,
}

/// Returns why a sender's header of this name may have to be dropped. Returns `None` for a name
/// that has no special meaning.
pub(super) fn restriction(name: &HeaderName) -> Option<Restriction> {
    let bytes = name.as_str().as_bytes();
    if folds_to_framing(name) || is_hookstile_header(name) || folds_to_any(bytes, &REPLACED) {
        return Some(Restriction::Gateway);
    }
    let restriction = |exact: bool| {
        if exact {
            Restriction::TrustedProxy
        } else {
            Restriction::Lookalike
        }
    };
    if let Some(proxy_name) = FROM_PROXY.iter().find(|other| folds_to(bytes, other)) {
        return Some(restriction(bytes == *proxy_name));
    }
    if begins_with_word(bytes, X_FORWARDED) {
        return Some(restriction(!bytes.iter().any(|&byte| fold(byte) != byte)));
    }
    (bytes != IDEMPOTENCY_KEY && folds_to(bytes, IDEMPOTENCY_KEY)).then_some(Restriction::Lookalike)
}

/// Returns whether a header is about a connection or the framing of a message. Such headers are set
/// by the gateway.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(&name.as_str().as_bytes())
}

/// Returns whether a receiver could take a header for one about a connection or the framing.
pub(crate) fn folds_to_framing(name: &HeaderName) -> bool {
    folds_to_any(name.as_str().as_bytes(), &FRAMING)
}

/// Returns whether a receiver could take a header for one of the gateway's.
pub(crate) fn is_hookstile_header(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    name.len() > HOOKSTILE.len() && begins_with_word(name, HOOKSTILE)
}

/// Returns whether a receiver could read two names as one: they are equal once case is ignored and
/// every character outside letters and digits counts as `-`.
pub(super) fn folds_to(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && name.iter().zip(other).all(|(&a, &b)| fold(a) == fold(b))
}

/// Returns whether a receiver could read a name as one of the others.
pub(crate) fn folds_to_any(name: &[u8], others: &[&[u8]]) -> bool {
    others.iter().any(|other| folds_to(name, other))
}

/// Returns whether a name folds to `word`, alone or followed by `-` and more.
fn begins_with_word(name: &[u8], word: &[u8]) -> bool {
    name.split_at_checked(word.len())
        .is_some_and(|(start, rest)| {
            folds_to(start, word)
                && rest
                    .first()
                    .is_none_or(|byte| !byte.is_ascii_alphanumeric())
        })
}

const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns every token character outside letters and digits (RFC 9110 §5.6.2).
    fn separators() -> impl Iterator<Item = char> {
        "!#$%&'*+-.^_`|~".chars()
    }

    fn restriction_of(name: &str) -> Option<Restriction> {
        restriction(&HeaderName::from_bytes(name.as_bytes()).unwrap())
    }

    #[test]
    fn names_in_any_spelling_are_restricted() {
        for separator in separators() {
            let spelled = |name: &str| name.replace('-', &separator.to_string());
            for name in ["X-Forwarded-For", "x-forwarded-HOST", "X-Forwarded-Proto"] {
                assert_eq!(
                    restriction_of(&spelled(name)),
                    Some(Restriction::Gateway),
                    "{name}"
                );
            }
            for name in [
                "Keep-Alive",
                "Transfer-Encoding",
                "Hookstile-Event-Id",
                "Hookstile-",
            ] {
                assert_eq!(
                    restriction_of(&spelled(name)),
                    Some(Restriction::Gateway),
                    "{name}"
                );
            }
            let other = if separator == '-' {
                Restriction::TrustedProxy
            } else {
                Restriction::Lookalike
            };
            for name in [
                "X-Real-IP",
                "X-Original-URL",
                "X-Forwarded-Port",
                "True-Client-IP",
            ] {
                assert_eq!(
                    restriction_of(&spelled(name)),
                    Some(other),
                    "{separator} {name}"
                );
            }
            let key = (separator != '-').then_some(Restriction::Lookalike);
            assert_eq!(
                restriction_of(&spelled("Idempotency-Key")),
                key,
                "{separator}"
            );
        }
        for name in ["Forwarded", "proxy", "X-Forwarded", "x-forwarded-prefix"] {
            assert_eq!(
                restriction_of(name),
                Some(Restriction::TrustedProxy),
                "{name}"
            );
        }
    }

    #[test]
    fn other_names_are_not_restricted() {
        for name in [
            "X-Forward",
            "X-Forwardedness",
            "Hookstile",
            "Hookstilekeeper",
            "Forwarded-By",
            "X-Proxy",
            "X-RealIP",
            "Idempotency-Key-2",
            "Authorization",
            "X_Tenant",
        ] {
            assert_eq!(restriction_of(name), None, "{name}");
        }
    }
}

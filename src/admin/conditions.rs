//! The headers by which a client repeats a request, or changes only what it has read: entity tags
//! (RFC 9110 §13) and `Idempotency-Key`.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::error::ApiError;
use crate::webhooks::{Precondition, VersionSet};

/// The header with the client's key for a creation (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header of an answer that an earlier request with the same key got.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest idempotency key in bytes: as long as Stripe's.
const KEY_BYTES_MAX: usize = 255;

/// The JSON Schema's pattern of an idempotency key.
pub(super) const KEY_PATTERN: &str =
    r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--\[\]-~]{1,255})$"#;

/// The JSON Schema's pattern of a list of entity tags.
pub(super) const TAGS_PATTERN: &str =
    r#"^(\*|[ \t,]*(W/)?"[!#-~]*"([ \t]*,([ \t]*(W/)?"[!#-~]*")?)*[ \t]*)$"#;

/// Returns the entity tag of a version. It is a strong one.
pub(super) fn entity_tag(version: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"{version}\"")).ok()
}

/// Parses `If-Match` and `If-None-Match`.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    Ok(Precondition {
        // A weak tag never matches here (RFC 9110 §13.1.1).
        is_one_of: version_set(headers, &header::IF_MATCH, |tag| !tag.is_weak)?,
        is_none_of: version_set(headers, &header::IF_NONE_MATCH, |_| true)?,
    })
}

fn version_set(
    headers: &HeaderMap,
    name: &HeaderName,
    may_match: impl Fn(&EntityTag<'_>) -> bool,
) -> Result<Option<VersionSet>, ApiError> {
    let lines = headers.get_all(name).iter();
    let lines: Option<Vec<_>> = lines.map(|line| line.to_str().ok()).collect();
    let set = match lines.as_deref() {
        Some([]) => return Ok(None),
        Some(["*"]) => Some(VersionSet::Any),
        Some(lines) => {
            let tags: Option<Vec<_>> = lines.iter().map(|line| entity_tags(line)).collect();
            tags.map(|tags| {
                let tags = tags.into_iter().flatten().filter(may_match);
                VersionSet::Listed(tags.map(|tag| tag.opaque.to_owned()).collect())
            })
        }
        None => None,
    };
    set.map(Some).ok_or_else(|| {
        ApiError::InvalidHeader(format!(
            "`{}` must be `*`, or entity tags in double quotes, as an `ETag` has them.",
            spelled(name)
        ))
    })
}

struct EntityTag<'h> {
    is_weak: bool,
    opaque: &'h str,
}

/// Parses a list of entity tags, of which there is one at least.
fn entity_tags(line: &str) -> Option<Vec<EntityTag<'_>>> {
    let blanks = [' ', '\t'];
    let mut rest = line.trim_matches(blanks);
    let (mut tags, mut needs_comma) = (Vec::new(), false);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(',') {
            (rest, needs_comma) = (after.trim_start_matches(blanks), false);
            continue;
        }
        if needs_comma {
            return None;
        }
        let (is_weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
        if !opaque.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        tags.push(EntityTag { is_weak, opaque });
        (rest, needs_comma) = (after.trim_start_matches(blanks), true);
    }
    (!tags.is_empty()).then_some(tags)
}

/// Parses `Idempotency-Key`: a string in double quotes, as the draft wants it (RFC 9651 §3.3.3), or
/// without them, as most clients send it. Both are the same key.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Box<str>>, ApiError> {
    let mut lines = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    let key = line
        .to_str()
        .ok()
        .and_then(|text| match text.strip_prefix('"') {
            Some(quoted) => unescape(quoted),
            None => {
                let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\",\\".contains(&byte);
                text.bytes().all(is_plain).then(|| text.to_owned())
            }
        });
    match key {
        Some(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) && lines.next().is_none() => {
            Ok(Some(key.into()))
        }
        _ => Err(ApiError::InvalidHeader(format!(
            "`Idempotency-Key` must be one key of 1 to {KEY_BYTES_MAX} ASCII characters, such as a \
             UUID, with or without double quotes."
        ))),
    }
}

/// Returns the content of a string, whose closing quote must be the end.
fn unescape(quoted: &str) -> Option<String> {
    let mut content = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return characters.next().is_none().then_some(content),
            '\\' => content.push(characters.next().filter(|next| "\"\\".contains(*next))?),
            ' '..='~' => content.push(character),
            _ => return None,
        }
    }
    None
}

/// Returns a header's name as it is usually spelled.
fn spelled(name: &HeaderName) -> &'static str {
    if *name == header::IF_MATCH {
        "If-Match"
    } else {
        "If-None-Match"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let values = values.iter();
        values
            .map(|value| {
                (
                    name.clone(),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    fn listed(tags: &[&str]) -> VersionSet {
        VersionSet::Listed(tags.iter().map(|tag| (*tag).to_owned()).collect())
    }

    #[test]
    fn entity_tags_are_parsed() {
        for (values, expected) in [
            (&[][..], None),
            (&["*"], Some(VersionSet::Any)),
            (&["\"a\""], Some(listed(&["a"]))),
            (&["\"\""], Some(listed(&[""]))),
            (&["\"a,b\" ,\t\"c\""], Some(listed(&["a,b", "c"]))),
            (&[", \"a\",, \"b\","], Some(listed(&["a", "b"]))),
            (&["\"a\"", "\"b\""], Some(listed(&["a", "b"]))),
        ] {
            for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
                let parsed = precondition(&headers(&name, values)).unwrap();
                let set = if name == header::IF_MATCH {
                    parsed.is_one_of
                } else {
                    parsed.is_none_of
                };
                assert_eq!(set, expected, "{values:?}");
            }
        }
    }

    #[test]
    fn weak_tag_matches_only_if_none_match() {
        let values = ["W/\"a\", \"b\""];
        let parsed = precondition(&headers(&header::IF_MATCH, &values)).unwrap();
        assert_eq!(parsed.is_one_of, Some(listed(&["b"])));
        let parsed = precondition(&headers(&header::IF_NONE_MATCH, &values)).unwrap();
        assert_eq!(parsed.is_none_of, Some(listed(&["a", "b"])));
    }

    #[test]
    fn malformed_tags_are_refused() {
        for values in [
            &[""][..],
            &["a"],
            &["\"a"],
            &["a\""],
            &["\"a\" \"b\""],
            &["\"a b\""],
            &["w/\"a\""],
            &["W/ \"a\""],
            &["\"a\", *"],
            &["*", "\"a\""],
            &[","],
            &["\"\u{e9}\""],
        ] {
            let parsed = precondition(&headers(&header::IF_MATCH, values));
            assert!(
                matches!(parsed, Err(ApiError::InvalidHeader(_))),
                "{values:?}"
            );
        }
    }

    #[test]
    fn idempotency_key_is_a_string_or_bare() {
        let long = "k".repeat(255);
        for (value, key) in [
            (
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
            ),
            ("\"a b\"", "a b"),
            ("\"a\"", "a"),
            ("a", "a"),
            ("\"\\\"\\\\\"", "\"\\"),
            ("a+b/c==;d", "a+b/c==;d"),
            (&long, &long),
        ] {
            let parsed = idempotency_key(&headers(&IDEMPOTENCY_KEY, &[value]));
            assert_eq!(parsed, Ok(Some(key.into())));
        }
        assert_eq!(idempotency_key(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn malformed_key_is_refused() {
        let long = "k".repeat(256);
        for values in [
            &[""][..],
            &["\"\""],
            &["\"a"],
            &["a\""],
            &["\"a\";b"],
            &["\"a\\b\""],
            &["a b"],
            &["a,b"],
            &["a\tb"],
            &["\u{e9}"],
            &[&long],
            &["a", "a"],
        ] {
            let parsed = idempotency_key(&headers(&IDEMPOTENCY_KEY, values));
            assert!(
                matches!(parsed, Err(ApiError::InvalidHeader(_))),
                "{values:?}"
            );
        }
    }
}

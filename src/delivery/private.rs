//! The values that operators are not shown: headers that may authenticate a request, and what looks
//! like a credential in an upstream's response. Pure.

use std::collections::HashSet;

use super::MASK;

/// Words in the names of headers whose values are masked.
const PRIVATE: [&str; 16] = [
    "auth", "cookie", "cred", "csrf", "digest", "hash", "hmac", "key", "mac", "pass", "pin",
    "secret", "session", "sig", "token", "verif",
];

/// Headers that have such a word in their name and are shown nevertheless.
const PUBLIC: [&str; 1] = ["idempotency-key"];

/// Parts of names, in any text, whose values are masked. These are narrower than those of headers:
/// a response says with words such as `key` which part of an event it refuses.
const PRIVATE_IN_TEXT: [&str; 20] = [
    "access_key",
    "accesskey",
    "api-key",
    "api_key",
    "apikey",
    "authentication",
    "authorization",
    "cookie",
    "credential",
    "csrf",
    "hmac",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "secret",
    "session_id",
    "signature",
    "token",
];

/// The beginnings of well-known credentials.
const CREDENTIALS: [&str; 10] = [
    "eyJ",
    "ghp_",
    "github_pat_",
    "glpat-",
    "rk_live_",
    "shpat_",
    "sk_live_",
    "sk_test_",
    "whsec_",
    "xoxb-",
];

/// The words before the credential in `Authorization` (RFC 9110 §11.4).
const SCHEMES: [&str; 4] = ["Basic", "Bearer", "Digest", "Token"];

/// The marks that quote a value, in JSON, JSON within JSON, source code and HTML.
const QUOTES: [&str; 7] = ["\\\"", "\"", "'", "&quot;", "&#34;", "&#39;", "&#x27;"];

/// The length in bytes of the pieces of a private value that are masked wherever they stand.
const PIECE: usize = 8;

/// The length in bytes from which a private value, or a word of it, is masked as a whole.
const WHOLE_MIN: usize = 6;

/// Returns whether the value of a header with this name may authenticate a request: a signature, a
/// token, a cookie.
pub(crate) fn is_private_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PRIVATE.iter().any(|word| name.contains(word)) && !PUBLIC.contains(&&*name)
}

/// Masks a text from outside: `values`, which must not be shown, wherever they or pieces of
/// [`PIECE`] bytes of them stand; the values of names such as `Authorization` or `password`; and
/// what begins like a well-known credential.
pub(crate) fn mask_text(text: &str, values: &[String]) -> String {
    mask_words(&mask_named(&mask_values(text, values)))
}

/// Masks the values: as a whole, as JSON may escape them, and in all pieces of [`PIECE`] bytes. So
/// neither the end of the text nor another value next to it leaves a usable part.
fn mask_values(text: &str, values: &[String]) -> String {
    let escaped = values.iter().map(|value| value.replace('/', "\\/"));
    let forms: Vec<_> = values.iter().cloned().chain(escaped).collect();
    let bytes = text.as_bytes();
    let mut is_masked = vec![false; bytes.len()];
    for whole in forms.iter().flat_map(|form| short_parts(form)) {
        for (at, _) in text.match_indices(whole) {
            is_masked[at..at + whole.len()].fill(true);
        }
    }
    let pieces: HashSet<&[u8]> = forms
        .iter()
        .flat_map(|form| form.as_bytes().windows(PIECE))
        .collect();
    if !pieces.is_empty() {
        for (at, piece) in bytes.windows(PIECE).enumerate() {
            if pieces.contains(piece) {
                is_masked[at..at + PIECE].fill(true);
            }
        }
    }
    let mut masked = String::with_capacity(text.len());
    let mut was_masked = false;
    for (at, c) in text.char_indices() {
        let hides = is_masked[at..at + c.len_utf8()].contains(&true);
        if !hides {
            masked.push(c);
        } else if !was_masked {
            masked.push_str(MASK);
        }
        was_masked = hides;
    }
    masked
}

/// Returns the value and its words, where they are too short to have a piece. Shorter ones stand
/// for themselves in many a text: `1`, `v1`, `Basic`.
fn short_parts(value: &str) -> impl Iterator<Item = &str> {
    std::iter::once(value)
        .chain(value.split_whitespace())
        .filter(|part| (WHOLE_MIN..PIECE).contains(&part.len()) && !SCHEMES.contains(part))
}

/// Masks the values that belong to private names.
fn mask_named(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_name_char) {
        let name = &rest[at..];
        let name = &name[..name.find(|c| !is_name_char(c)).unwrap_or(name.len())];
        let end = at + name.len();
        let value = is_private_name(name)
            .then(|| value_behind(&rest[end..], starts_line(&rest[..at], masked.is_empty())))
            .flatten();
        match value {
            Some((start, length)) => {
                masked.push_str(&rest[..end + start]);
                masked.push_str(MASK);
                rest = &rest[end + start + length..];
            }
            None => {
                masked.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
    }
    masked + rest
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn is_private_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let is_header = ["http_", "x-", "x_"]
        .iter()
        .any(|start| lower.starts_with(start));
    PRIVATE_IN_TEXT.iter().any(|part| lower.contains(part))
        || is_header && is_private_header(&lower)
}

/// Returns whether a name behind `before` is the first word of its line, as in a list of headers.
fn starts_line(before: &str, is_start: bool) -> bool {
    let before = before.trim_end_matches([' ', '\t', '"', '\'', '*', '-']);
    before.ends_with(['\n', '>']) || before.is_empty() && is_start
}

/// Returns where the value is that belongs to the name before `text`, and its length.
fn value_behind(text: &str, starts_line: bool) -> Option<(usize, usize)> {
    let mut rest = text;
    skip_any(&mut rest, &QUOTES);
    skip_any(&mut rest, &["]", ")"]);
    rest = rest.trim_start_matches([' ', '\t']);
    // A cell of an HTML table ends the name, too.
    let separator = if rest.starts_with("</") {
        "<"
    } else {
        skip_any(&mut rest, &["=>", "=", ":"])?
    };
    rest = rest.trim_start();
    while let Some((_, behind)) = rest.strip_prefix('<').and_then(|tag| tag.split_once('>')) {
        rest = behind.trim_start();
    }
    skip_any(&mut rest, &["[", "("]);
    let length = if let Some(quote) = skip_any(&mut rest, &QUOTES) {
        rest.find(quote).unwrap_or(rest.len())
    } else if separator == "<" {
        rest.find('<').unwrap_or(rest.len())
    } else if starts_line && separator == ":" {
        rest.find(['\n', '\r', '<']).unwrap_or(rest.len())
    } else {
        length_unquoted(rest, separator)
    };
    (length > 0).then_some((text.len() - rest.len(), length))
}

/// Skips the first of these tokens that `rest` begins with, and returns it.
fn skip_any(rest: &mut &str, tokens: &[&'static str]) -> Option<&'static str> {
    let token = tokens.iter().find(|token| rest.starts_with(**token))?;
    *rest = &rest[token.len()..];
    Some(token)
}

/// Returns the length of a value without quotes, in a line with other text.
fn length_unquoted(text: &str, separator: &str) -> usize {
    let length = word_length(text);
    let word = &text[..length];
    let is_plain = !word.bytes().any(|byte| byte.is_ascii_digit()) && length < 16;
    if SCHEMES.contains(&word) {
        let behind = text[length..].trim_start_matches(' ');
        text.len() - behind.len() + word_length(behind)
    } else if separator == ":" && is_plain {
        // A word of a sentence: `invalid token: expired`.
        0
    } else {
        length
    }
}

/// Returns where the last word of a text begins, which may be a credential without its end.
pub(crate) fn last_word(text: &str) -> usize {
    text.char_indices()
        .rev()
        .find(|(_, c)| ends_word(*c))
        .map_or(0, |(at, c)| at + c.len_utf8())
}

fn word_length(text: &str) -> usize {
    text.find(ends_word).unwrap_or(text.len())
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || "<>&,;\"'\\{}[]()".contains(c)
}

/// Masks words that begin like a well-known credential, what follows `Bearer` or `Basic`, and the
/// user information of URLs.
fn mask_words(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    let mut is_behind_scheme = false;
    while !rest.is_empty() {
        let length = word_length(rest);
        if length == 0 {
            let end = rest.chars().next().map_or(1, char::len_utf8);
            is_behind_scheme &= rest.starts_with(' ');
            masked.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let (word, behind) = rest.split_at(length);
        let start = CREDENTIALS
            .iter()
            .filter_map(|start| word.find(start))
            .min()
            .filter(|start| word.len() - start >= 16);
        if is_behind_scheme && word.len() >= 8 {
            masked.push_str(MASK);
        } else if let Some(start) = start {
            masked.push_str(&word[..start]);
            masked.push_str(MASK);
        } else if let Some((before, behind)) = around_user_information(word) {
            for part in [before, MASK, behind] {
                masked.push_str(part);
            }
        } else {
            masked.push_str(word);
        }
        is_behind_scheme = ["Basic", "Bearer"].contains(&word);
        rest = behind;
    }
    masked
}

/// Returns the parts of a URL before and behind its user information, if it has a password.
fn around_user_information(word: &str) -> Option<(&str, &str)> {
    let start = word.find("://")? + 3;
    let authority = word[start..].split('/').next()?;
    let at = authority.rfind('@')?;
    authority[..at]
        .contains(':')
        .then_some((&word[..start], &word[start + at..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(text: &str) -> String {
        mask_text(text, &[])
    }

    #[test]
    fn named_credentials_are_masked() {
        for (text, shown) in [
            (
                r#"{"error":"no","api_key": "k1","n":1}"#,
                r#"{"error":"no","api_key": "***","n":1}"#,
            ),
            (
                r#"{"headers":{"authorization":["Bearer a b"]}}"#,
                r#"{"headers":{"authorization":["***"]}}"#,
            ),
            (
                "Host: a\nAuthorization: Digest user=\"x\"\nVia: b",
                "Host: a\nAuthorization: ***\nVia: b",
            ),
            ("a=1&token=s3&b=2", "a=1&token=***&b=2"),
            (
                "<tr><td>HTTP_X_SIG</td>\n<td class=\"c\"><pre>&#x27;ab&#x27;</pre></td>",
                "<tr><td>HTTP_X_SIG</td>\n<td class=\"c\"><pre>&#x27;***&#x27;</pre></td>",
            ),
            ("'password' => 'x y',", "'password' => '***',"),
            (r#"{\"token\":\"abc\"}"#, r#"{\"token\":\"***\"}"#),
            ("the secret: 12345678", "the secret: ***"),
            ("got Bearer abcdefgh.ijk, sorry", "got Bearer ***, sorry"),
            (
                "key whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw is wrong",
                "key *** is wrong",
            ),
            (
                "cannot reach postgres://app:pw@db:5432/x",
                "cannot reach postgres://***@db:5432/x",
            ),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn explanations_stay_readable() {
        for text in [
            "invalid token: expired",
            r#"{"errors":[{"key":"email","message":"is missing"}],"token":null}"#,
            "signature mismatch",
            "see https://example.com/a:b@c",
            "",
            "token=",
            "Authorization:",
            "ünïcode: ☃",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn sent_values_are_masked_wherever_they_stand() {
        let sent = ["sha256=0123456789abcdef01/2345".to_owned()];
        for (text, shown) in [
            ("got sha256=0123456789abcdef01/2345!", "got ***!"),
            (r#"["sha256=0123456789abcdef01\/2345"]"#, r#"["***"]"#),
            ("expected 0123456789abcdef01", "expected ***"),
            ("expected 0123456789 instead", "expected *** instead"),
            ("expected 0123456", "expected 0123456"),
        ] {
            assert_eq!(mask_text(text, &sent), shown);
        }
    }

    #[test]
    fn overlapping_values_are_masked_whole() {
        let sent = ["abcdef".to_owned(), "xyz-abcdef-uvwxyz12".to_owned()];
        assert_eq!(mask_text("<xyz-abcdef-uvwxyz12>", &sent), "<***>");
        assert_eq!(mask_text("<abcdef>", &sent), "<***>");
    }

    proptest! {
        #[test]
        fn any_text_can_be_masked(text in "(\\PC|token|[:=<>\"'&\\\\ \n])*") {
            masked(&text);
        }
    }
}

//! The parts of a configuration file that no output shows, because output ends up in CI logs.
//!
//! Owns the choice of bytes. `diagnostics` renders them as `***`.

use std::rc::Rc;

use super::de::nearest;
use super::tree::{Node, Span, Value};

/// The keys of a reference whose values only say where the secret is.
const REFERENCE: [&str; 4] = ["env", "file", "name", "expires"];

/// The words in keys that have a secret below them, in this format and in common mistakes.
const SENSITIVE: [&str; 8] = [
    "secret",
    "token",
    "password",
    "value",
    "headers",
    "auth",
    "cookie",
    "credential",
];

/// Returns the masks for a file that was parsed, in order and not overlapping.
pub(super) fn mask_trees(documents: &[Rc<Node>]) -> Vec<Span> {
    let mut masks = Vec::new();
    for root in documents {
        visit(root, false, &mut masks);
    }
    masks.sort_unstable();
    masks.dedup();
    masks
}

/// Masks all text below a sensitive key, except the text of a reference that says where the secret
/// is.
fn visit(node: &Node, sensitive: bool, masks: &mut Vec<Span>) {
    match &node.value {
        Value::Scalar { text, .. }
            if sensitive || has_user_information(text) || has_credentials(text) =>
        {
            masks.push(node.span);
        }
        Value::Null | Value::Wrong | Value::Scalar { .. } => {}
        Value::Sequence(items) => items.iter().for_each(|item| visit(item, sensitive, masks)),
        Value::Mapping(entries) => {
            for entry in entries {
                // A value whose key is not text may have been moved from anywhere by a typing
                // mistake.
                let Some(key) = entry.key.text() else {
                    visit(&entry.key, true, masks);
                    visit(&entry.value, true, masks);
                    continue;
                };
                if sensitive
                    && matches!(entry.value.value, Value::Null)
                    && nearest(key, &REFERENCE).is_none()
                {
                    // In `{whsec_…}` the secret itself is parsed as a key.
                    masks.push(entry.key.span);
                }
                let is_sensitive = match (key, entry.value.text()) {
                    // Everywhere: a reference may stand below a key that is not sensitive.
                    ("env", Some(name)) => !is_shown_variable(bare_variable(name)),
                    ("file", Some(path)) if has_secret_prefix(path) => true,
                    _ if sensitive && REFERENCE.contains(&key) => false,
                    _ => sensitive || is_sensitive(key),
                };
                visit(&entry.value, is_sensitive, masks);
            }
        }
    }
}

fn is_sensitive(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace("secret_encoding", "");
    // A header's name, where a typing mistake took the key `headers` above it.
    key.starts_with("x-") || SENSITIVE.iter().any(|word| key.contains(word))
}

/// Returns whether `text` is the value of an `Authorization` header.
fn has_credentials(text: &str) -> bool {
    let scheme = text.split(' ').next().unwrap_or_default();
    ["bearer", "basic"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
        && text.len() > scheme.len()
}

/// Returns whether `text` is marked as a secret, as Standard Webhooks does it.
pub(super) fn has_secret_prefix(text: &str) -> bool {
    text.starts_with("whsec_")
}

/// Returns whether `text` may be shown as the name of an environment variable. Many secrets are
/// words of letters and digits too, so only the usual form is shown: words in upper case, with
/// digits at their ends at most.
pub(crate) fn is_shown_variable(text: &str) -> bool {
    let is_usual = |part: &str| {
        let letters = part.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = part.len() - letters.len();
        part.len() <= 4
            || (letters.len() <= 20 && digits <= 8 && !letters.bytes().any(|b| b.is_ascii_digit()))
    };
    text.len() <= 64
        && is_variable(text)
        && !text.bytes().any(|byte| byte.is_ascii_lowercase())
        && text.split('_').all(is_usual)
}

/// Returns the name in `$NAME`, `${NAME}`, `$(NAME)`, `%NAME%` or `{{NAME}}`; other text as it is.
pub(super) fn bare_variable(text: &str) -> &str {
    let forms = [
        ("${", "}"),
        ("$(", ")"),
        ("{{", "}}"),
        ("%", "%"),
        ("$", ""),
    ];
    forms
        .iter()
        .find_map(|(start, end)| text.strip_prefix(start)?.strip_suffix(end))
        .map(str::trim)
        .filter(|name| is_variable(name))
        .unwrap_or(text)
}

/// Returns whether `text` can be the name of an environment variable and does not look like a
/// secret.
pub(super) fn is_variable(text: &str) -> bool {
    let is_word = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_word && !text.starts_with(|first: char| first.is_ascii_digit()) && !has_secret_prefix(text)
}

/// Returns whether `text` may be a URL with user information: `https://user:password@host/`.
fn has_user_information(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(_, rest)| rest.contains('@'))
}

/// Returns the masks for a file that could not be parsed. It works line by line and prefers to mask
/// too much: on a line with a sensitive word, and on all lines indented below it, everything is
/// masked but a first key that is sensitive itself or belongs to a reference.
pub(super) fn mask_text(source: &str) -> Vec<Span> {
    let mut masks = Vec::new();
    let mut above: Option<usize> = None;
    let mut start = 0;
    for line in source.split_inclusive('\n') {
        let text = line.trim_end();
        let indent = text.len() - text.trim_start().len();
        let key = text[indent..].split_once(':').map(|(key, _)| key);
        if is_sensitive(text) || has_user_information(text) || text.contains("env:") {
            above = Some(above.map_or(indent, |above| above.min(indent)));
        } else if above.is_some_and(|above| indent <= above) && key.is_some_and(is_word) {
            above = None;
        }
        if above.is_some() {
            let word = key.map(|key| key.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
            let shown = match word {
                Some(word) if is_sensitive(word) || REFERENCE.contains(&word) => {
                    indent + key.map_or(0, str::len) + 1
                }
                _ => indent,
            };
            let shown = text.len() - text[shown..].trim_start().len();
            if shown < text.len() {
                masks.push(Span {
                    start: start + shown,
                    end: start + text.len(),
                });
            }
        }
        start += line.len();
    }
    masks
}

/// Returns whether the start of a line looks like a key of the format, and not like part of a
/// secret.
fn is_word(key: &str) -> bool {
    let key = key.strip_prefix("- ").unwrap_or(key);
    !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

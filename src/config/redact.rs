//! Which parts of a configuration file are never shown, not even to whoever wrote them: output ends up in CI logs.
//!
//! Owns the choice of bytes. Rendering them as `***` is up to `diagnostics`.

use std::rc::Rc;

use super::de::nearest;
use super::tree::{Node, Span, Value};

/// Keys of a secret's reference whose values only say where the secret is.
const REFERENCE: [&str; 4] = ["env", "file", "name", "expires"];

/// What a key is called that has a secret below it, in this format and in what people write by mistake.
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

/// The masks for a file that was parsed: in order, and not overlapping.
pub(super) fn of_trees(documents: &[Rc<Node>]) -> Vec<Span> {
    let mut masks = Vec::new();
    for root in documents {
        visit(root, false, &mut masks);
    }
    masks.sort_unstable();
    masks.dedup();
    masks
}

/// Below a sensitive key all text is masked, save in a reference the text that says where the secret is.
fn visit(node: &Node, sensitive: bool, masks: &mut Vec<Span>) {
    match &node.value {
        Value::Scalar { text, .. } if sensitive || has_user_information(text) => {
            masks.push(node.span)
        }
        Value::Null | Value::Scalar { .. } => {}
        Value::Sequence(items) => items.iter().for_each(|item| visit(item, sensitive, masks)),
        Value::Mapping(entries) => {
            for entry in entries {
                // What stands under no key at all may have slipped out of any place.
                let Some(key) = entry.key.text() else {
                    visit(&entry.key, true, masks);
                    visit(&entry.value, true, masks);
                    continue;
                };
                if sensitive
                    && matches!(entry.value.value, Value::Null)
                    && nearest(key, &REFERENCE).is_none()
                {
                    // `{whsec_…}`: the secret itself, taken for a key.
                    masks.push(entry.key.span);
                }
                let says_where = sensitive && REFERENCE.contains(&key);
                let names_a_variable = key != "env" || entry.value.text().is_none_or(is_variable);
                visit(
                    &entry.value,
                    if says_where {
                        !names_a_variable
                    } else {
                        sensitive || is_sensitive(key)
                    },
                    masks,
                );
            }
        }
    }
}

fn is_sensitive(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace("secret_encoding", "");
    SENSITIVE.iter().any(|word| key.contains(word))
}

/// Whether `text` can be the name of an environment variable, and does not look like a secret in its place.
pub(super) fn is_variable(text: &str) -> bool {
    let shaped = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    shaped && !text.starts_with(|first: char| first.is_ascii_digit()) && !text.starts_with("whsec_")
}

/// `https://user:password@host/`
fn has_user_information(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(_, rest)| rest.contains('@'))
}

/// The masks for a file that could not be parsed. Line by line, and rather too many than too few: from a line that
/// names something sensitive, and from all that is indented below it, everything but the first key is masked; that too
/// where it is none of a secret's reference.
pub(super) fn of_text(source: &str) -> Vec<Span> {
    let mut masks = Vec::new();
    let mut above: Option<usize> = None;
    let mut start = 0;
    for line in source.split_inclusive('\n') {
        let text = line.trim_end();
        let indent = text.len() - text.trim_start().len();
        let key = text[indent..].split_once(':').map(|(key, _)| key);
        if is_sensitive(text) || has_user_information(text) {
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

/// Whether a line's beginning looks like a key of the format, and not like the rest of a secret.
fn is_word(key: &str) -> bool {
    let key = key.strip_prefix("- ").unwrap_or(key);
    !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

//! A second, simple implementation of the envelope on top of `serde_json`, to compare with.
//!
//! Shared by the property tests, the replay of the corpus and the fuzz target, so it uses only the
//! public interface.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::event::{
    EnvelopeError, EnvelopeSpec, Event, EventId, IdNames, IdSource, MissingParts, Source,
    TimestampSpec,
};

/// Pointers to the ID, the type and the timestamp: usual, shared and nested ones, array elements
/// and odd names.
const POINTERS: [[&str; 3]; 5] = [
    ["/id", "/type", "/at"],
    ["/id", "/id", "/id"],
    ["/event/id", "/event/type", "/event"],
    ["/0", "/1/id", "/data/k/s"],
    ["", "/", "/a~1b"],
];

/// Panics if the envelope reads from `body` anything that the model does not read.
pub(super) fn check(body: &[u8]) {
    let model = serde_json::from_slice::<Tree>(body).ok();
    let alike = model.is_some() == serde_json::from_slice::<Value>(body).is_ok();
    assert!(
        alike || holds_a_key_of_serde_json(body),
        "the model reads what serde_json reads"
    );
    for [id, event_type, at] in POINTERS {
        let spec = EnvelopeSpec {
            id: IdSource::Pointer(id.parse().expect("a pointer")),
            id_names: IdNames::Event,
            event_type: Source::Pointer(event_type.parse().expect("a pointer")),
            missing: MissingParts::default(),
            timestamp: Some(TimestampSpec {
                source: Source::Pointer(at.parse().expect("a pointer")),
                max_age: None,
            }),
        };
        let outcome = spec.parse(body, &http::HeaderMap::new());
        match &model {
            None => assert!(
                matches!(
                    outcome,
                    Err(EnvelopeError::NotJson | EnvelopeError::InvalidUtf8)
                ),
                "serde_json refuses what gave {outcome:?}"
            ),
            Some(tree) if outcome == Err(EnvelopeError::NotJson) => {
                assert!(
                    tree.holds_huge_number(),
                    "serde_json accepts what was refused"
                );
            }
            Some(tree) => check_parts(
                outcome,
                [id, event_type, at].map(|pointer| tree.at(pointer)),
                matches!(tree, Tree::Array(items) if !items.is_empty()),
            ),
        }
    }
}

/// Returns whether `body` holds a key that `serde_json`, with its feature `raw_value`, takes for
/// its own mark and accepts only before a string.
fn holds_a_key_of_serde_json(body: &[u8]) -> bool {
    const MARK: &[u8] = b"$serde_json::private::";
    body.windows(MARK.len()).any(|bytes| bytes == MARK)
}

/// Checks the parts of an event. A batch may lack ID and type.
fn check_parts(
    outcome: Result<Event, EnvelopeError>,
    [id, event_type, at]: [Found<'_>; 3],
    may_be_batch: bool,
) {
    let unless_batch = |checked| match checked {
        Err("id_missing" | "type_missing") if may_be_batch => {
            if let Ok(event) = &outcome {
                assert!(event.is_batch, "{event:?}");
            }
            Ok(())
        }
        checked => checked,
    };
    let expected = unless_batch(check_id(&outcome, id))
        .and_then(|()| unless_batch(check_event_type(&outcome, event_type)))
        .and_then(|()| check_time(&outcome, at));
    match expected {
        Ok(()) => assert!(outcome.is_ok(), "{outcome:?}, but nothing is wrong"),
        Err(reason) => assert_eq!(outcome.map_err(EnvelopeError::reason), Err(reason)),
    }
}

fn check_id(outcome: &Result<Event, EnvelopeError>, id: Found<'_>) -> Result<(), &'static str> {
    let expected = match id {
        Found::Nothing => return Err("id_missing"),
        Found::Ambiguous => return Err("id_ambiguous"),
        Found::Value(Tree::Leaf(Value::String(text))) if is_printable(text) => {
            EventId::Text(text.as_str().into())
        }
        Found::Value(Tree::Leaf(Value::Number(number))) if number.is_f64() => {
            return check_float(outcome, number.as_f64());
        }
        Found::Value(Tree::Leaf(Value::Number(number))) => {
            EventId::Integer(number.to_string().into())
        }
        Found::Value(_) => return Err("id_malformed"),
    };
    if let Ok(event) = outcome {
        assert_eq!(event.id, Some(expected));
    }
    Ok(())
}

/// Checks an ID that `serde_json` reads as a float. It keeps no digits of an integer beyond 64
/// bits, so the model cannot tell such an integer from a fraction.
fn check_float(
    outcome: &Result<Event, EnvelopeError>,
    number: Option<f64>,
) -> Result<(), &'static str> {
    match outcome {
        Ok(Event {
            id: Some(EventId::Integer(digits)),
            ..
        }) => {
            let (ours, theirs) = (
                digits.parse::<f64>().unwrap_or(f64::NAN),
                number.unwrap_or(f64::NAN),
            );
            let digits_only = digits.bytes().skip(1).all(|byte| byte.is_ascii_digit());
            // Without its feature `float_roundtrip`, `serde_json` may miss the nearest double.
            let same = (ours - theirs).abs() <= theirs.abs() * 1e-14;
            assert!(
                digits_only && digits.len() > 18 && same,
                "{digits} is not {theirs}"
            );
            Ok(())
        }
        Ok(event) => panic!("a number gave {:?}", event.id),
        Err(EnvelopeError::IdMalformed) => Err("id_malformed"),
        Err(_) => Ok(()),
    }
}

fn check_event_type(
    outcome: &Result<Event, EnvelopeError>,
    event_type: Found<'_>,
) -> Result<(), &'static str> {
    match event_type {
        Found::Nothing => Err("type_missing"),
        Found::Ambiguous => Err("type_ambiguous"),
        Found::Value(Tree::Leaf(Value::String(text))) if is_printable(text) => {
            if let Ok(event) = outcome {
                assert_eq!(*event.event_type, **text);
            }
            Ok(())
        }
        Found::Value(_) => Err("type_malformed"),
    }
}

fn check_time(outcome: &Result<Event, EnvelopeError>, at: Found<'_>) -> Result<(), &'static str> {
    match at {
        Found::Nothing => Err("timestamp_missing"),
        Found::Ambiguous => Err("timestamp_ambiguous"),
        Found::Value(Tree::Leaf(Value::Number(number)))
            if number.as_u64().is_some_and(|n| n < 253_402_207_200_000) =>
        {
            let number = i128::from(number.as_u64().unwrap_or_default());
            let milliseconds = if number < 100_000_000_000 {
                number * 1000
            } else {
                number
            };
            if let Ok(event) = outcome {
                assert_eq!(
                    event.timestamp.map(jiff::Timestamp::as_nanosecond),
                    Some(milliseconds * 1_000_000)
                );
            }
            Ok(())
        }
        // The strings that are times have unit tests of their own.
        Found::Value(Tree::Leaf(Value::String(_))) if outcome.is_ok() => Ok(()),
        Found::Value(_) => Err("timestamp_malformed"),
    }
}

fn is_printable(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && !text
            .chars()
            .any(|c| matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'))
}

/// A JSON value that keeps every member of an object in the order of the text.
enum Tree {
    Object(Vec<(String, Tree)>),
    Array(Vec<Tree>),
    Leaf(Value),
}

#[derive(Clone, Copy)]
enum Found<'a> {
    Nothing,
    Ambiguous,
    Value(&'a Tree),
}

impl Tree {
    fn at(&self, pointer: &str) -> Found<'_> {
        pointer
            .split('/')
            .skip(1)
            .fold(Found::Value(self), |found, step| match found {
                Found::Value(Self::Object(members)) => {
                    member(members, &step.replace("~1", "/").replace("~0", "~"))
                }
                Found::Value(Self::Array(elements)) => match step.parse::<usize>() {
                    Ok(index) if index.to_string() == step => {
                        elements.get(index).map_or(Found::Nothing, Found::Value)
                    }
                    _ => Found::Nothing,
                },
                Found::Value(Self::Leaf(_)) => Found::Nothing,
                not_found => not_found,
            })
    }

    fn holds_huge_number(&self) -> bool {
        match self {
            Self::Object(members) => members.iter().any(|(_, value)| value.holds_huge_number()),
            Self::Array(elements) => elements.iter().any(Self::holds_huge_number),
            Self::Leaf(value) => value
                .as_f64()
                .is_some_and(|number| number.abs() > 0.999e308),
        }
    }
}

fn member<'a>(members: &'a [(String, Tree)], name: &str) -> Found<'a> {
    let alike: Vec<_> = members
        .iter()
        .filter(|(key, _)| fold(key) == fold(name))
        .collect();
    match alike[..] {
        [(key, value)] if key == name => Found::Value(value),
        [] | [_] => Found::Nothing,
        _ => Found::Ambiguous,
    }
}

/// Folds a name's case. This is sufficient for the ASCII names in [`POINTERS`].
fn fold(name: &str) -> String {
    let fold = |char| match char {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{131}' => 'i',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).collect()
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Tree::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Object(members))
    }
}

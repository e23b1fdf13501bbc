//! Models of how receivers read JSON, and a second, simple implementation of the envelope, to
//! compare with.
//!
//! Shared by the property tests, the replay of the corpus and the fuzz target, so it uses only the
//! public interface.

use serde_json::Value;

use super::event::{
    EnvelopeError, EnvelopeSpec, Event, EventId, IdNames, IdSource, MissingParts, Source,
    TimestampSpec,
};

/// Pointers to the ID, the type and the timestamp: usual, shared and nested ones, array elements
/// and odd names.
const POINTERS: [[&str; 3]; 6] = [
    ["/id", "/type", "/at"],
    ["/id", "/id", "/id"],
    ["/event/id", "/event/type", "/event"],
    ["/0", "/1/id", "/data/k/s"],
    ["", "/", "/a~1b"],
    ["/message_id", "/kind", "/timestamp"],
];

/// The deepest text to compare, since the models call themselves once a level.
const DEPTH_MAX: usize = 1_000;

const READERS: [Reader; 7] = [
    Reader {
        name: "Python: json.loads",
        byte_order_mark: true,
        not_finite: true,
        names: Names::Exact,
        repeated: Repeated::Last,
        replaces_halves: false,
    },
    Reader {
        name: "JavaScript: await response.json()",
        byte_order_mark: true,
        not_finite: false,
        names: Names::Exact,
        repeated: Repeated::Last,
        replaces_halves: false,
    },
    Reader {
        name: "Go: encoding/json",
        byte_order_mark: false,
        not_finite: false,
        names: Names::SimpleFolding,
        repeated: Repeated::Last,
        replaces_halves: true,
    },
    Reader {
        name: "Java: Jackson with case-insensitive properties",
        byte_order_mark: true,
        not_finite: false,
        names: Names::EqualsIgnoreCase,
        repeated: Repeated::Last,
        replaces_halves: false,
    },
    Reader {
        name: "Java: org.json",
        byte_order_mark: false,
        not_finite: false,
        names: Names::Exact,
        repeated: Repeated::Refused,
        replaces_halves: false,
    },
    Reader {
        name: "C++: simdjson on demand",
        byte_order_mark: true,
        not_finite: false,
        names: Names::Exact,
        repeated: Repeated::First,
        replaces_halves: true,
    },
    // PowerShell's `ConvertFrom-Json` refuses twins; others convert names to upper or lower case.
    Reader {
        name: "any that folds case in every way, and refuses twins",
        byte_order_mark: true,
        not_finite: true,
        names: Names::EveryFolding,
        repeated: Repeated::Refused,
        replaces_halves: false,
    },
];

/// The properties of a reader on which readers disagree.
struct Reader {
    name: &'static str,
    /// Skips a byte order mark, instead of refusing the text.
    byte_order_mark: bool,
    /// Accepts `NaN`, `Infinity` and `-Infinity`.
    not_finite: bool,
    names: Names,
    repeated: Repeated,
    /// Reads the escape of half a surrogate pair as U+FFFD.
    replaces_halves: bool,
}

/// The names that a reader takes for the same.
#[derive(Clone, Copy)]
enum Names {
    Exact,
    SimpleFolding,
    EqualsIgnoreCase,
    EveryFolding,
}

/// The member that a reader takes of several with the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    First,
    Last,
    Refused,
}

/// A value as a receiver sees it. Numbers are as written; receivers may round them.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    Nothing,
    Text(Vec<u16>),
    Number(String),
    Other,
}

/// Panics if the envelope reads from `body` anything that a receiver does not read, refuses what
/// all receivers read alike, or differs from the simple implementation.
pub(super) fn check(body: &[u8]) {
    let text = std::str::from_utf8(body);
    let is_deep = text.is_ok_and(|text| depth(text) > DEPTH_MAX);
    let model = match text {
        Ok(text) if !is_deep => Model::parse(text),
        _ => None,
    };
    if !is_deep {
        check_model(model.as_ref(), body);
    }
    for pointers in POINTERS {
        let [id, event_type, at] = pointers;
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
            _ if is_deep => {}
            None if text.is_err() => assert_eq!(outcome, Err(EnvelopeError::InvalidUtf8)),
            None => assert_eq!(outcome, Err(EnvelopeError::NotJson)),
            Some(model) => {
                let found = pointers.map(|pointer| model.tree.find(pointer));
                check_parts(&outcome, found, model.tree.is_filled_array());
                check_readers(&outcome, model, pointers);
            }
        }
    }
}

/// Checks that the model reads what `serde_json` reads, and that only what is odd makes a
/// difference.
fn check_model(model: Option<&Model>, body: &[u8]) {
    let is_strict = serde_json::from_slice::<Value>(body).is_ok();
    assert!(
        model.is_some() || !is_strict,
        "serde_json reads what the model refuses"
    );
    assert!(
        model.is_none_or(|model| model.is_odd) || is_strict || holds_a_key_of_serde_json(body),
        "serde_json refuses what the model reads"
    );
}

/// Returns whether `body` holds a key that `serde_json`, with its feature `raw_value`, takes for
/// its own mark and accepts only before a string.
fn holds_a_key_of_serde_json(body: &[u8]) -> bool {
    const MARK: &[u8] = b"$serde_json::private::";
    body.windows(MARK.len()).any(|bytes| bytes == MARK)
}

/// Checks that every receiver that reads an accepted event reads the same, and that two receivers
/// differ about an ambiguous event, or one refuses it.
fn check_readers(outcome: &Result<Event, EnvelopeError>, model: &Model, pointers: [&str; 3]) {
    let mut readings = READERS.iter().map(|reader| {
        let reads = model.is_read_by(reader);
        let parts = pointers.map(|pointer| model.tree.read(reader, pointer));
        (reader.name, reads.then_some(parts))
    });
    let ambiguous = match outcome {
        // No part of a batch identifies it.
        Ok(event) if event.is_batch => return,
        Ok(event) => {
            let (_, python) = readings.next().expect("a reader");
            let python = python.expect("Python reads whatever is accepted");
            assert_eq!(python[0], expected_id(event));
            assert_eq!(
                python[1],
                Reading::Text(event.event_type.encode_utf16().collect())
            );
            for (name, parts) in readings {
                assert!(
                    parts.as_ref().is_none_or(|parts| *parts == python),
                    "{name} reads {parts:?} instead of {python:?}"
                );
            }
            return;
        }
        Err(EnvelopeError::IdAmbiguous) => 0,
        Err(EnvelopeError::TypeAmbiguous) => 1,
        Err(EnvelopeError::TimestampAmbiguous) => 2,
        Err(_) => return,
    };
    let readings: Vec<_> = readings
        .map(|(_, parts)| {
            parts.map(|mut parts| std::mem::replace(&mut parts[ambiguous], Reading::Other))
        })
        .collect();
    assert!(
        readings
            .iter()
            .any(|reading| reading.is_none() || *reading != readings[0]),
        "all readers agree on {:?}, which was refused as ambiguous",
        readings[0]
    );
}

fn expected_id(event: &Event) -> Reading {
    match event.id.as_ref().expect("an ID from the body") {
        EventId::Text(text) => Reading::Text(text.encode_utf16().collect()),
        EventId::Integer(digits) => Reading::Number(digits.to_string()),
    }
}

/// Checks the parts of an event. A batch may lack ID and type.
fn check_parts(
    outcome: &Result<Event, EnvelopeError>,
    [id, event_type, at]: [Found<'_>; 3],
    may_be_batch: bool,
) {
    let unless_batch = |checked| match checked {
        Err("id_missing" | "type_missing") if may_be_batch => {
            if let Ok(event) = outcome {
                assert!(event.is_batch, "{event:?}");
            }
            Ok(())
        }
        checked => checked,
    };
    let expected = unless_batch(check_id(id))
        .and_then(|()| unless_batch(check_event_type(event_type)))
        .and_then(|()| check_time(outcome, at));
    let reason = outcome.as_ref().map(drop).map_err(|error| error.reason());
    assert_eq!(reason, expected);
}

fn check_id(id: Found<'_>) -> Result<(), &'static str> {
    match id {
        Found::Nothing => Err("id_missing"),
        Found::Ambiguous => Err("id_ambiguous"),
        Found::Value(Tree::Text(units)) if is_printable(units) => Ok(()),
        Found::Value(Tree::Number(number))
            if number.len() <= 40 && !number.contains(['.', 'e', 'E']) && number != "-0" =>
        {
            Ok(())
        }
        Found::Value(_) => Err("id_malformed"),
    }
}

fn check_event_type(event_type: Found<'_>) -> Result<(), &'static str> {
    match event_type {
        Found::Nothing => Err("type_missing"),
        Found::Ambiguous => Err("type_ambiguous"),
        Found::Value(Tree::Text(units)) if is_printable(units) => Ok(()),
        Found::Value(_) => Err("type_malformed"),
    }
}

fn check_time(outcome: &Result<Event, EnvelopeError>, at: Found<'_>) -> Result<(), &'static str> {
    match at {
        Found::Nothing => Err("timestamp_missing"),
        Found::Ambiguous => Err("timestamp_ambiguous"),
        Found::Value(Tree::Number(number)) => match number.parse::<u64>() {
            Ok(number @ 0..253_402_207_200_000) => {
                let number = i128::from(number);
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
            _ => Err("timestamp_malformed"),
        },
        // The strings that are times have unit tests of their own.
        Found::Value(Tree::Text(_)) if outcome.is_ok() => Ok(()),
        Found::Value(_) => Err("timestamp_malformed"),
    }
}

fn is_printable(units: &[u16]) -> bool {
    String::from_utf16(units).is_ok_and(|text| {
        (1..=255).contains(&text.len())
            && !text
                .chars()
                .any(|c| matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'))
    })
}

/// A JSON value that keeps every member of an object in the order of the text. Strings are UTF-16,
/// which can hold half a surrogate pair.
enum Tree {
    Object(Vec<(Vec<u16>, Tree)>),
    Array(Vec<Tree>),
    Text(Vec<u16>),
    Number(String),
    /// `true`, `false`, `null`, or a number that is not finite.
    Other,
}

#[derive(Clone, Copy)]
enum Found<'a> {
    Nothing,
    Ambiguous,
    Value(&'a Tree),
}

impl Tree {
    fn is_filled_array(&self) -> bool {
        matches!(self, Self::Array(items) if !items.is_empty())
    }

    /// Finds the value at a pointer as the envelope does.
    fn find(&self, pointer: &str) -> Found<'_> {
        steps(pointer).fold(Found::Value(self), |found, step| match found {
            Found::Value(Self::Object(members)) => {
                let alike: Vec<_> = members
                    .iter()
                    .filter(|(key, _)| Names::EveryFolding.are_same(key, &step))
                    .collect();
                match alike[..] {
                    [(key, value)] if Names::Exact.are_same(key, &step) => Found::Value(value),
                    [] | [_] => Found::Nothing,
                    _ => Found::Ambiguous,
                }
            }
            Found::Value(Self::Array(elements)) => {
                element(elements, &step).map_or(Found::Nothing, Found::Value)
            }
            Found::Value(_) => Found::Nothing,
            not_found => not_found,
        })
    }

    /// Reads the value at a pointer as a receiver does.
    fn read(&self, reader: &Reader, pointer: &str) -> Reading {
        let found = steps(pointer).try_fold(self, |tree, step| match tree {
            Self::Object(members) => {
                let mut same = members
                    .iter()
                    .filter(|(key, _)| reader.names.are_same(key, &step));
                let member = match reader.repeated {
                    Repeated::First => same.next(),
                    Repeated::Last | Repeated::Refused => same.next_back(),
                };
                member.map(|(_, value)| value)
            }
            Self::Array(elements) => element(elements, &step),
            _ => None,
        });
        match found {
            None => Reading::Nothing,
            Some(Self::Text(units)) if reader.replaces_halves => {
                Reading::Text(String::from_utf16_lossy(units).encode_utf16().collect())
            }
            Some(Self::Text(units)) => Reading::Text(units.clone()),
            Some(Self::Number(number)) => Reading::Number(number.clone()),
            Some(_) => Reading::Other,
        }
    }

    /// Returns whether an object has two names that the reader takes for the same.
    fn has_twins(&self, names: Names) -> bool {
        match self {
            Self::Object(members) => {
                let keys: Vec<_> = members.iter().map(|(key, _)| names.fold(key)).collect();
                let distinct: std::collections::HashSet<_> = keys.iter().collect();
                distinct.len() < keys.len()
                    || members.iter().any(|(_, value)| value.has_twins(names))
            }
            Self::Array(elements) => elements.iter().any(|value| value.has_twins(names)),
            _ => false,
        }
    }
}

/// Iterates over a pointer's steps.
fn steps(pointer: &str) -> impl Iterator<Item = String> {
    pointer
        .split('/')
        .skip(1)
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
}

fn element<'a>(elements: &'a [Tree], step: &str) -> Option<&'a Tree> {
    let index = step.parse::<usize>().ok()?;
    elements.get(index).filter(|_| index.to_string() == *step)
}

impl Names {
    fn are_same(self, key: &[u16], name: &str) -> bool {
        let name: Vec<_> = name.encode_utf16().collect();
        self.fold(key) == self.fold(&name)
    }

    /// Returns the same text for all names that the reader takes for the same.
    fn fold(self, key: &[u16]) -> Vec<u16> {
        let text = String::from_utf16_lossy(key);
        let folded: String = match self {
            Self::Exact => return key.to_vec(),
            Self::SimpleFolding => text.chars().map(fold_simply).collect(),
            Self::EqualsIgnoreCase => text
                .chars()
                .map(|char| match char {
                    '\u{130}' | '\u{131}' => 'i',
                    other => fold_simply(other),
                })
                .collect(),
            Self::EveryFolding => text
                .replace(['\u{130}', '\u{131}'], "i")
                .to_lowercase()
                .to_uppercase()
                .to_lowercase(),
        };
        folded.encode_utf16().collect()
    }
}

/// Folds the case of a character as CaseFolding.txt's simple foldings do, as far as the ASCII names
/// in [`POINTERS`] need it.
fn fold_simply(char: char) -> char {
    match char {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

/// A text that follows JSON's grammar, or what some receivers read besides.
struct Model {
    tree: Tree,
    has_byte_order_mark: bool,
    has_not_finite: bool,
    /// Some receivers refuse the text, although nothing in it is ambiguous.
    is_odd: bool,
}

impl Model {
    fn parse(text: &str) -> Option<Self> {
        let json = text.strip_prefix('\u{feff}');
        let mut parser = Parser {
            rest: json.unwrap_or(text),
            has_not_finite: false,
            is_odd: json.is_some() || depth(text) > 127,
        };
        let tree = parser.value()?;
        parser.skip_white_space();
        parser.rest.is_empty().then_some(Self {
            tree,
            has_byte_order_mark: json.is_some(),
            has_not_finite: parser.has_not_finite,
            is_odd: parser.is_odd,
        })
    }

    fn is_read_by(&self, reader: &Reader) -> bool {
        (reader.byte_order_mark || !self.has_byte_order_mark)
            && (reader.not_finite || !self.has_not_finite)
            && (reader.repeated != Repeated::Refused || !self.tree.has_twins(reader.names))
    }
}

/// Returns the deepest nesting, or more if a string holds brackets.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

struct Parser<'a> {
    rest: &'a str,
    has_not_finite: bool,
    is_odd: bool,
}

impl Parser<'_> {
    fn value(&mut self) -> Option<Tree> {
        self.skip_white_space();
        if self.consume("{") {
            let mut members = Vec::new();
            while self.goes_on("}", members.is_empty())? {
                self.skip_white_space();
                self.consume("\"").then_some(())?;
                let key = self.string()?;
                self.skip_white_space();
                self.consume(":").then_some(())?;
                members.push((key, self.value()?));
            }
            return Some(Tree::Object(members));
        }
        if self.consume("[") {
            let mut elements = Vec::new();
            while self.goes_on("]", elements.is_empty())? {
                elements.push(self.value()?);
            }
            return Some(Tree::Array(elements));
        }
        if self.consume("\"") {
            return self.string().map(Tree::Text);
        }
        if ["true", "false", "null"]
            .iter()
            .any(|word| self.consume(word))
        {
            return Some(Tree::Other);
        }
        if ["NaN", "Infinity", "-Infinity"]
            .iter()
            .any(|word| self.consume(word))
        {
            self.has_not_finite = true;
            self.is_odd = true;
            return Some(Tree::Other);
        }
        self.number()
    }

    /// Consumes the comma before the next value, if there is one, or else the closing bracket.
    fn goes_on(&mut self, closing: &str, is_first: bool) -> Option<bool> {
        self.skip_white_space();
        if self.consume(closing) {
            return Some(false);
        }
        (is_first || self.consume(",")).then_some(true)
    }

    fn string(&mut self) -> Option<Vec<u16>> {
        let mut units = Vec::new();
        loop {
            let char = self.next_char()?;
            let plain = match char {
                '"' => break,
                '\0'..='\u{1f}' => return None,
                '\\' => match self.next_char()? {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let hex = self.rest.get(..4)?;
                        let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
                        units.push(u16::from_str_radix(hex, 16).ok().filter(|_| is_hex)?);
                        self.rest = &self.rest[4..];
                        continue;
                    }
                    same @ ('"' | '\\' | '/') => same,
                    _ => return None,
                },
                other => other,
            };
            units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
        }
        self.is_odd |= String::from_utf16(&units).is_err();
        Some(units)
    }

    fn number(&mut self) -> Option<Tree> {
        let length = self
            .rest
            .find(|char: char| !char.is_ascii_digit() && !"+-.eE".contains(char))
            .unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(length);
        let digits = number.strip_prefix('-').unwrap_or(number);
        let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (digits, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
        let are_digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_number = are_digits(whole)
            && (whole == "0" || !whole.starts_with('0'))
            && fraction.is_none_or(are_digits)
            && exponent.is_none_or(are_digits);
        if !is_number {
            return None;
        }
        self.rest = rest;
        self.is_odd |= number.parse::<f64>().is_ok_and(|value| value.abs() > 1e308);
        Some(Tree::Number(number.into()))
    }

    fn consume(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip_white_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn next_char(&mut self) -> Option<char> {
        let char = self.rest.chars().next()?;
        self.rest = &self.rest[char.len_utf8()..];
        Some(char)
    }
}

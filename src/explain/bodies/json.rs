//! Writes JSON again, in the styles of the libraries that senders and proxies use.
//!
//! Numbers keep their spelling, and keys keep their order unless they are sorted. Serde's writers
//! cannot do this: they change numbers and a string's escapes.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::json::find;

/// The largest text to parse, in bytes. The tree takes up to 34 times the memory of its text.
const TEXT_BYTES_MAX: usize = 512 << 10;

/// The most bytes to write for each byte of the text, besides [`WRITTEN_BYTES_MIN`]. Indentation
/// would otherwise multiply a text that is deep: anyone can send one.
const WRITTEN_FACTOR_MAX: usize = 8;
const WRITTEN_BYTES_MIN: usize = 64 << 10;

/// The most levels of arrays and objects to parse, because the parser calls itself for each.
const DEPTH_MAX: usize = 127;

/// A library's style of writing JSON.
#[derive(Clone, Copy)]
pub(super) struct Style {
    comma: &'static str,
    colon: &'static str,
    /// Spaces per level, with each value on its own line.
    indent: Option<usize>,
    strings: Strings,
    sorted: bool,
    /// Writes `/` as `\/`.
    slashed: bool,
    /// The most bytes to write.
    bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Strings {
    Unchanged,
    /// Escapes only what must be escaped.
    Plain,
    /// Escapes everything that is not ASCII, too.
    Ascii,
}

impl Style {
    pub(super) const fn compact() -> Self {
        let strings = Strings::Unchanged;
        Self {
            comma: ",",
            colon: ":",
            indent: None,
            strings,
            sorted: false,
            slashed: false,
            bytes_max: usize::MAX,
        }
    }

    pub(super) const fn spaced() -> Self {
        Self {
            comma: ", ",
            colon: ": ",
            ..Self::compact()
        }
    }

    pub(super) const fn pretty(spaces: usize) -> Self {
        Self {
            colon: ": ",
            indent: Some(spaces),
            ..Self::compact()
        }
    }

    pub(super) const fn plain(self) -> Self {
        Self {
            strings: Strings::Plain,
            ..self
        }
    }

    pub(super) const fn ascii(self) -> Self {
        Self {
            strings: Strings::Ascii,
            ..self
        }
    }

    pub(super) const fn sorted(self) -> Self {
        Self {
            sorted: true,
            ..self
        }
    }

    pub(super) const fn slashed(self) -> Self {
        Self {
            slashed: true,
            ..self
        }
    }

    /// Writes the body in this style; returns `None` if it is not JSON, too long or too deep to
    /// parse, or too long when it is written.
    pub(super) fn write(self, body: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(body)
            .ok()
            .filter(|text| text.len() <= TEXT_BYTES_MAX && is_valid(text))?;
        let value = Reader {
            rest: text,
            depth: 0,
        }
        .value()?;
        let bounded = Self {
            bytes_max: text.len() * WRITTEN_FACTOR_MAX + WRITTEN_BYTES_MIN,
            ..self
        };
        let mut written = String::with_capacity(text.len());
        bounded.write_value(&value, 0, &mut written);
        (written.len() <= bounded.bytes_max).then(|| written.into_bytes())
    }

    fn write_value(self, value: &Value<'_>, level: usize, to: &mut String) {
        match value {
            Value::Scalar(text) => to.push_str(text),
            Value::String(raw) => self.write_string(raw, to),
            Value::Array(values) => {
                self.write_list('[', ']', values, level, to, |value, to| {
                    self.write_value(value, level + 1, to);
                });
            }
            Value::Object(members) => {
                let mut members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| (*key, unescaped(key), value))
                    .collect();
                if self.sorted {
                    members.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
                }
                self.write_list('{', '}', &members, level, to, |(key, _, value), to| {
                    self.write_string(key, to);
                    to.push_str(self.colon);
                    self.write_value(value, level + 1, to);
                });
            }
        }
    }

    fn write_list<T>(
        self,
        open: char,
        close: char,
        items: &[T],
        level: usize,
        to: &mut String,
        each: impl Fn(&T, &mut String),
    ) {
        to.push(open);
        for (number, item) in items.iter().enumerate() {
            if to.len() > self.bytes_max {
                return;
            }
            if number > 0 {
                to.push_str(self.comma);
            }
            self.write_line_break(level + 1, to);
            each(item, to);
        }
        if !items.is_empty() {
            self.write_line_break(level, to);
        }
        to.push(close);
    }

    fn write_line_break(self, level: usize, to: &mut String) {
        if let Some(spaces) = self.indent {
            to.push('\n');
            to.extend(std::iter::repeat_n(' ', spaces * level));
        }
    }

    /// Writes a string; `raw` is the text between its quotes.
    fn write_string(self, raw: &str, to: &mut String) {
        let start = to.len() + 1;
        if self.strings == Strings::Unchanged {
            let _ = write!(to, "\"{raw}\"");
        } else {
            let text = unescaped(raw);
            match serde_json::to_string(&text) {
                Ok(quoted) if self.strings == Strings::Ascii => push_ascii(&quoted, to),
                Ok(quoted) => to.push_str(&quoted),
                Err(_) => unreachable!("a string can be written"),
            }
        }
        if self.slashed && to[start..].contains('/') {
            let slashed = to[start..].replace("\\/", "/").replace('/', "\\/");
            to.truncate(start);
            to.push_str(&slashed);
        }
    }
}

fn push_ascii(quoted: &str, to: &mut String) {
    for char in quoted.chars() {
        if char.is_ascii() {
            to.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(to, "\\u{unit:04x}");
            }
        }
    }
}

fn unescaped(raw: &str) -> Cow<'_, str> {
    if raw.contains('\\') {
        serde_json::from_str::<String>(&format!("\"{raw}\"")).map_or(Cow::Borrowed(raw), Cow::Owned)
    } else {
        Cow::Borrowed(raw)
    }
}

/// Returns whether this is exactly one JSON text, without a byte order mark.
pub(super) fn is_valid(text: &str) -> bool {
    !text.starts_with('\u{feff}') && find(text, []).is_ok()
}

/// A JSON value with the original spelling of its scalars.
enum Value<'a> {
    Scalar(&'a str),
    /// The text between the quotes.
    String(&'a str),
    Array(Vec<Value<'a>>),
    Object(Vec<(&'a str, Value<'a>)>),
}

/// A parser for text that is known to be valid.
struct Reader<'a> {
    rest: &'a str,
    /// The number of open arrays and objects.
    depth: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Option<Value<'a>> {
        match self.peek()? {
            '"' => self.string().map(Value::String),
            '[' => {
                let mut values = Vec::new();
                self.items(']', |reader| {
                    values.push(reader.value()?);
                    Some(())
                })?;
                Some(Value::Array(values))
            }
            '{' => {
                let mut members = Vec::new();
                self.items('}', |reader| {
                    reader.peek()?;
                    let key = reader.string()?;
                    reader.consume(':').then_some(())?;
                    members.push((key, reader.value()?));
                    Some(())
                })?;
                Some(Value::Object(members))
            }
            _ => {
                let end = self
                    .rest
                    .find([',', ']', '}', ' ', '\t', '\r', '\n'])
                    .unwrap_or(self.rest.len());
                let (scalar, rest) = self.rest.split_at(end);
                self.rest = rest;
                Some(Value::Scalar(scalar))
            }
        }
    }

    fn items(&mut self, close: char, mut each: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.rest = &self.rest[1..];
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        let mut closed = self.consume(close);
        while !closed {
            each(self)?;
            closed = self.consume(close);
            (closed || self.consume(',')).then_some(())?;
        }
        self.depth -= 1;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let text = self.rest.strip_prefix('"')?;
        let mut from = 0;
        loop {
            let at = from + text.get(from..)?.find(['"', '\\'])?;
            if text.as_bytes()[at] == b'"' {
                self.rest = &text[at + 1..];
                return Some(&text[..at]);
            }
            from = at + 2;
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.rest.chars().next()
    }

    fn consume(&mut self, wanted: char) -> bool {
        let next = self.peek();
        if next == Some(wanted) {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        next == Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#" { "b" : [ 1.0 , "é\/\n" , { } , [ ] ] , "a" : null } "#;

    fn written(style: Style) -> String {
        String::from_utf8(style.write(TEXT.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn styles_match_common_libraries() {
        let cases = [
            (Style::compact(), r#"{"b":[1.0,"é\/\n",{},[]],"a":null}"#),
            (
                Style::compact().plain(),
                r#"{"b":[1.0,"é/\n",{},[]],"a":null}"#,
            ),
            (
                Style::compact().ascii().slashed(),
                r#"{"b":[1.0,"\u00e9\/\n",{},[]],"a":null}"#,
            ),
            (
                Style::spaced().ascii(),
                r#"{"b": [1.0, "\u00e9/\n", {}, []], "a": null}"#,
            ),
            (
                Style::compact().plain().sorted(),
                r#"{"a":null,"b":[1.0,"é/\n",{},[]]}"#,
            ),
            (
                Style::pretty(2).plain(),
                "{\n  \"b\": [\n    1.0,\n    \"é/\\n\",\n    {},\n    []\n  ],\n  \"a\": null\n}",
            ),
        ];
        for (style, expected) in cases {
            assert_eq!(written(style), expected);
        }
        assert_eq!(
            Style::compact().ascii().write("\"😀\"".as_bytes()).unwrap(),
            br#""\ud83d\ude00""#
        );
    }

    #[test]
    fn deep_json_is_not_multiplied() {
        let text = "[".repeat(120) + &"0,".repeat(100_000) + "0" + &"]".repeat(120);
        assert!(Style::compact().write(text.as_bytes()).is_some());
        assert_eq!(Style::pretty(4).write(text.as_bytes()), None);
    }

    #[test]
    fn invalid_json_is_not_written() {
        for text in ["", "{", "{} x", "nul", "\u{feff}{}"] {
            assert!(Style::compact().write(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn deep_json_is_not_written() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let written = |depth| Style::compact().write(nested(depth).as_bytes());
        assert!(written(DEPTH_MAX).is_some());
        assert_eq!(written(DEPTH_MAX + 1), None);
        assert_eq!(written(1_000_000), None);
        let wide = format!("[{}]", vec!["[]"; 1_000].join(","));
        assert!(Style::compact().write(wide.as_bytes()).is_some());
    }

    proptest! {
        #[test]
        fn written_json_means_the_same(text in r#"[\[\]{}",:0-9a\\/u é-]{0,24}"#) {
            let value = serde_json::from_str::<serde_json::Value>(&text).ok();
            for style in [
                Style::compact(),
                Style::spaced().ascii().slashed(),
                Style::pretty(4).plain().sorted(),
            ] {
                let written = style.write(text.as_bytes());
                if let Some(written) = written {
                    let written = serde_json::from_slice::<serde_json::Value>(&written).ok();
                    prop_assert_eq!(written, value.clone());
                }
            }
        }
    }
}

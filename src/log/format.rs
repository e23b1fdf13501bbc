//! Writes a log line in either format.

use std::fmt::{self, Write};

use jiff::{Timestamp, Unit};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::libraries::Origin;
use super::{CurrentFormat, Format};

/// The most bytes of a library's field: it may quote what a client sent.
const LIBRARY_FIELD_BYTES_MAX: usize = 1024;

impl<S, N> FormatEvent<S, N> for CurrentFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = Timestamp::now();
        let now = now.round(Unit::Millisecond).unwrap_or(now);
        let level = level_name(*event.metadata().level());
        let library = Origin::of_library(event);
        match self.get() {
            Format::Json => {
                write!(writer, r#"{{"time":"{now:.3}","level":"{level}""#)?;
                if let Some(library) = &library {
                    writer.write_str(r#","target":"#)?;
                    write_json(&mut writer, &library.target)?;
                }
                let mut fields = JsonFields {
                    writer: &mut writer,
                    is_library: library.is_some(),
                    written: Ok(()),
                };
                event.record(&mut fields);
                fields.written?;
                writer.write_str("}\n")
            }
            Format::Pretty => {
                let mut fields = PrettyFields {
                    message: String::new(),
                    rest: String::new(),
                    is_library: library.is_some(),
                };
                event.record(&mut fields);
                writeln!(
                    writer,
                    "{now:.3} {level:5} {}{}",
                    fields.message, fields.rest
                )
            }
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Returns whether a field says only where in its source a library wrote the line. `log.file` is a
/// path of the machine that built the gateway.
fn is_source(field: &Field) -> bool {
    field.name().starts_with("log.")
}

/// Returns a library's text without the folders of the machine that built the gateway, and cut at
/// [`LIBRARY_FIELD_BYTES_MAX`].
fn library_text(text: &str) -> String {
    let end = text
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= LIBRARY_FIELD_BYTES_MAX)
        .last()
        .unwrap_or(0);
    let cut = without_build_folders(&text[..end]);
    if end < text.len() { cut + "…" } else { cut }
}

/// Removes the folder of each crate's source: `/home/ci/.cargo/registry/src/index-1/h2-0.4/src/a.rs`
/// becomes `h2-0.4/src/a.rs`.
pub(super) fn without_build_folders(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, (_, after))) = ["/registry/src/", "/git/checkouts/", "/rustc/"]
        .into_iter()
        .filter_map(|folder| Some((rest.find(folder)?, folder)))
        .min()
        .and_then(|(at, folder)| Some((&rest[..at], rest[at + folder.len()..].split_once('/')?)))
    {
        let start = before
            .rfind(|c: char| c.is_whitespace() || "\"'`(<[=:,".contains(c))
            .map_or(0, |at| {
                at + before[at..].chars().next().map_or(0, char::len_utf8)
            });
        shown.push_str(&before[..start]);
        rest = after;
    }
    shown + rest
}

struct JsonFields<'a, 'w> {
    writer: &'a mut Writer<'w>,
    is_library: bool,
    written: fmt::Result,
}

impl JsonFields<'_, '_> {
    /// Writes a field. Field names are Rust identifiers, so they need no escaping.
    fn write_field(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.is_library && is_source(field) {
            return;
        }
        let writer = &mut *self.writer;
        self.written = self.written.and_then(|()| {
            writer.write_str(",\"")?;
            writer.write_str(field.name())?;
            writer.write_str("\":")?;
            value(writer)
        });
    }
}

impl Visit for JsonFields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.is_library {
            let value = library_text(value);
            return self.write_field(field, |writer| write_json(writer, &value));
        }
        self.write_field(field, |writer| write_json(writer, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write_field(field, |writer| write!(writer, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write_field(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write_field(field, |writer| write!(writer, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.write_field(field, |writer| write!(writer, "{value}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.is_library {
            return self.record_str(field, &format!("{value:?}"));
        }
        self.write_field(field, |writer| {
            writer.write_char('"')?;
            write!(JsonText(writer), "{value:?}")?;
            writer.write_char('"')
        });
    }
}

/// The inside of a JSON string, as which text is written to `W`.
struct JsonText<'w, W>(&'w mut W);

impl<W: Write> Write for JsonText<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_json_text(self.0, text)
    }
}

struct PrettyFields {
    message: String,
    rest: String,
    is_library: bool,
}

impl PrettyFields {
    fn push(&mut self, field: &Field, value: &str) {
        let shortened;
        let value = if self.is_library {
            if is_source(field) {
                return;
            }
            shortened = library_text(value);
            &shortened
        } else {
            value
        };
        if field.name() == "message" {
            push_escaped(&mut self.message, value);
        } else {
            let _ = write!(self.rest, " {}=", field.name());
            push_escaped(&mut self.rest, value);
        }
    }
}

impl Visit for PrettyFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
}

/// Writes a JSON string.
fn write_json(writer: &mut impl Write, text: &str) -> fmt::Result {
    writer.write_char('"')?;
    write_json_text(writer, text)?;
    writer.write_char('"')
}

/// Writes the inside of a JSON string. Beyond what RFC 8259 requires, escapes every character that
/// could move a terminal's cursor or change the direction of its text.
fn write_json_text(writer: &mut impl Write, text: &str) -> fmt::Result {
    if is_plain_ascii(text) {
        return writer.write_str(text);
    }
    let mut rest = text;
    while let Some(at) =
        rest.find(|character| matches!(character, '"' | '\\') || is_unsafe(character))
    {
        let (plain, from) = rest.split_at(at);
        writer.write_str(plain)?;
        let mut characters = from.chars();
        match characters.next() {
            Some('\n') => writer.write_str("\\n")?,
            Some(character @ ('"' | '\\')) => write!(writer, "\\{character}")?,
            Some(character) => write_json_escape(writer, character)?,
            None => {}
        }
        rest = characters.as_str();
    }
    writer.write_str(rest)
}

/// Returns whether a text needs no escapes, as most do not.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches it is vectorised"
)]
fn is_plain_ascii(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| {
        plain & matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
    })
}

/// Writes the JSON escape of a character: two of them outside the Basic Multilingual Plane.
pub(crate) fn write_json_escape(writer: &mut impl Write, character: char) -> fmt::Result {
    for unit in character.encode_utf16(&mut [0; 2]) {
        write!(writer, "\\u{unit:04x}")?;
    }
    Ok(())
}

fn push_escaped(line: &mut String, text: &str) {
    for character in text.chars() {
        if is_unsafe(character) {
            let _ = write!(line, "{}", character.escape_unicode());
        } else {
            line.push(character);
        }
    }
}

/// Returns whether a character must be escaped where a person reads text from outside: control
/// characters, line and paragraph separators, the marks that change a text's direction, and
/// characters that show nothing (Unicode's `Default_Ignorable_Code_Point`, and the interlinear
/// marks).
pub(crate) fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> String {
        let mut line = String::new();
        write_json(&mut line, text).unwrap();
        line
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        let hostile = "a\u{1b}[2J\u{7f}\u{9b}\r\n\u{202e}\u{200b}\u{e0041}z";
        let (mut pretty, json) = (String::new(), json(hostile));
        push_escaped(&mut pretty, hostile);
        for line in [pretty, json] {
            assert!(!line.chars().any(is_unsafe), "{line:?}");
        }
    }

    #[test]
    fn library_text_holds_no_folder_of_the_build() {
        for (text, shown) in [
            (
                "at /home/ci/.cargo/registry/src/index-1/h2-0.4/src/a.rs:7",
                "at h2-0.4/src/a.rs:7",
            ),
            (
                "a (/b/registry/src/c/d.rs) \"/e/git/checkouts/f-1/g.rs\" /rustc/1a2b/library/std.rs",
                "a (d.rs) \"g.rs\" library/std.rs",
            ),
            ("GET /registry/src/", "GET /registry/src/"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(library_text(text), shown);
        }
        let long = library_text(&"ü".repeat(4000));
        assert!(long.len() <= LIBRARY_FIELD_BYTES_MAX + "…".len() && long.ends_with('…'));
    }

    proptest! {
        #[test]
        fn json_string_round_trips(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&json(&text)).unwrap(), text);
        }
    }
}

//! Writes a log line in either format.

use std::fmt::{self, Write};

use jiff::{Timestamp, Unit};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Format;

impl<S, N> FormatEvent<S, N> for Format
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
        let metadata = event.metadata();
        match self {
            Self::Json => {
                write!(
                    writer,
                    r#"{{"time":"{now:.3}","level":"{}""#,
                    level_name(*metadata.level())
                )?;
                if !metadata.target().starts_with("hookstile") {
                    writer.write_str(r#","target":"#)?;
                    write_json(&mut writer, metadata.target())?;
                }
                let mut fields = JsonFields {
                    writer: &mut writer,
                    written: Ok(()),
                };
                event.record(&mut fields);
                fields.written?;
                writer.write_str("}\n")
            }
            Self::Pretty => {
                let mut fields = PrettyFields {
                    message: String::new(),
                    rest: String::new(),
                };
                event.record(&mut fields);
                writeln!(
                    writer,
                    "{now:.3} {:5} {}{}",
                    level_name(*metadata.level()),
                    fields.message,
                    fields.rest
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

struct JsonFields<'a, 'w> {
    writer: &'a mut Writer<'w>,
    written: fmt::Result,
}

impl JsonFields<'_, '_> {
    /// Writes a field. Field names are Rust identifiers, so they need no escaping.
    fn write_field(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
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
        self.write_field(field, |writer| write_json(writer, &format!("{value:?}")));
    }
}

struct PrettyFields {
    message: String,
    rest: String,
}

impl PrettyFields {
    fn push(&mut self, field: &Field, value: &str) {
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

/// Writes a JSON string. Beyond what RFC 8259 requires, escapes every character that could move a
/// terminal's cursor or change the direction of its text.
fn write_json(writer: &mut impl Write, text: &str) -> fmt::Result {
    writer.write_char('"')?;
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
            Some(character) => write!(writer, "\\u{:04x}", u32::from(character))?,
            None => {}
        }
        rest = characters.as_str();
    }
    writer.write_str(rest)?;
    writer.write_char('"')
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

/// Returns whether a character must be escaped: control characters, line and paragraph separators,
/// and the marks that change a text's direction. All are in the Basic Multilingual Plane, so four
/// hexadecimal digits are enough.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
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

    proptest! {
        #[test]
        fn json_string_round_trips(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&json(&text)).unwrap(), text);
        }
    }
}

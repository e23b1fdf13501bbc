//! The two line formats.

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
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = Timestamp::now();
        let now = now.round(Unit::Millisecond).unwrap_or(now);
        let metadata = event.metadata();
        let mut line = String::with_capacity(512);
        match self {
            Self::Json => {
                write!(line, r#"{{"time":"{now:.3}","level":"{}""#, level(*metadata.level()))?;
                if !metadata.target().starts_with("hookgate") {
                    line.push_str(r#","target":"#);
                    push_json(&mut line, metadata.target());
                }
                event.record(&mut JsonFields(&mut line));
                line.push('}');
            }
            Self::Pretty => {
                let mut fields = PrettyFields { message: String::new(), rest: String::new() };
                event.record(&mut fields);
                write!(line, "{now:.3} {:5} {}{}", level(*metadata.level()), fields.message, fields.rest)?;
            }
        }
        writeln!(writer, "{line}")
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct JsonFields<'a>(&'a mut String);

impl JsonFields<'_> {
    fn key(&mut self, field: &Field) {
        // Field names are identifiers of this program, or of a library's: no escaping needed but for safety's sake.
        self.0.push(',');
        push_json(self.0, field.name());
        self.0.push(':');
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.key(field);
        let _ = write!(self.0, "{value}");
    }
}

impl Visit for JsonFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field);
        push_json(self.0, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.key(field);
        push_json(self.0, &format!("{value:?}"));
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

/// A JSON string. Beyond what RFC 8259 asks for, everything is escaped that could move a terminal's cursor or turn
/// the direction of its text.
fn push_json(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            character if is_unsafe(character) => {
                let _ = write!(line, "\\u{:04x}", u32::from(character));
            }
            character => line.push(character),
        }
    }
    line.push('"');
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

/// Control characters, line and paragraph separators, and the marks that change a text's direction. All are of the
/// basic plane, so four hexadecimal digits name them.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> String {
        let mut line = String::new();
        push_json(&mut line, text);
        line
    }

    #[test]
    fn nothing_that_moves_a_cursor_is_written_as_it_is() {
        let hostile = "a\u{1b}[2J\u{7f}\u{9b}\r\n\u{202e}z";
        let (mut pretty, json) = (String::new(), json(hostile));
        push_escaped(&mut pretty, hostile);
        for line in [pretty, json] {
            assert!(!line.chars().any(is_unsafe), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn a_json_string_says_what_it_was_made_of(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&json(&text)).unwrap(), text);
        }
    }
}

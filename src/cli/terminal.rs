//! Prints lines and columns, with everything escaped that a terminal would interpret.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::FAILED;
use crate::log::{is_unsafe, write_json_escape};

/// Returns whether to write colours: on a terminal, unless `NO_COLOR` is set (no-color.org).
pub(super) fn supports_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes a line of data to standard output.
pub(super) fn print(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Ends a command: prints its data to standard output, or its error to standard error.
pub(super) fn finish(output: Result<String, String>) -> ExitCode {
    let output = match output {
        Ok(output) => output,
        Err(problem) => {
            print_message(&problem);
            return ExitCode::from(FAILED);
        }
    };
    match io::stdout().lock().write_all(output.as_bytes()) {
        // A closed pipe is not an error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            print_message(&format!("cannot write to standard output: {error}"));
            ExitCode::from(FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints a message to standard error, ignoring errors. It may quote text from outside.
pub(super) fn print_message(message: &str) {
    print_line(&format!("hookstile: {message}"));
}

/// Prints a line to standard error, ignoring errors. It may quote text from outside.
pub(super) fn print_line(line: &str) {
    print_raw(&format!("{}\n", visible(line, true)));
}

/// Prints text to standard error as it is, ignoring errors.
pub(super) fn print_raw(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Escapes the control characters of text from outside, the marks that change its direction, and
/// invisible characters; with `lines`, keeps line feeds and tabs.
pub(super) fn visible(text: &str, lines: bool) -> Cow<'_, str> {
    let harmless = |c: char| !is_unsafe(c) || (lines && matches!(c, '\n' | '\t'));
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmless(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    Cow::Owned(shown)
}

/// Writes a JSON document on one line, with the characters escaped that [`visible`] escapes. They
/// occur only in strings, where an escape means the same.
pub(super) fn json_line(document: &Value) -> String {
    escape_json(&document.to_string())
}

/// Escapes the unsafe characters of compact JSON. Line breaks between its parts become spaces.
pub(super) fn escape_json(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if is_unsafe(c) => {
                let _ = write_json_escape(&mut line, c);
            }
            c => line.push(c),
        }
    }
    line
}

/// Converts header fields to JSON: each name with its value, or with a list of its values.
pub(super) fn json_fields(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()));
    let values = |name| -> Value {
        let mut values: Vec<_> = headers.get_all(name).iter().map(text).collect();
        if values.len() == 1 {
            values.remove(0)
        } else {
            values.into()
        }
    };
    headers
        .keys()
        .map(|name| (name.to_string(), values(name)))
        .collect()
}

/// Prints rows as [`table`] formats them.
pub(super) fn print_table<const N: usize>(rows: &[[String; N]]) -> io::Result<()> {
    table(rows).iter().try_for_each(|line| print(line))
}

/// Formats rows as [`columns`] does. On a terminal, cuts the widest columns to fit its width.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let stdout = io::stdout();
    let size = stdout
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
        .flatten();
    let width = size.map_or(0, |size| usize::from(size.ws_col));
    columns_within(rows, if width == 0 { usize::MAX } else { width })
}

/// Formats rows as lines with aligned columns; the first row is the heading.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    columns_within(rows, usize::MAX)
}

/// The width below which no column is cut: a shorter text says too little.
const COLUMN_MIN: usize = 8;

/// The spaces between two columns.
const GAP: usize = 2;

fn columns_within<const N: usize>(rows: &[[String; N]], available: usize) -> Vec<String> {
    let rows: Vec<[Cow<'_, str>; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| visible(cell, false)))
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let total = |widths: &[usize; N]| widths.iter().sum::<usize>() + GAP * N.saturating_sub(1);
    while total(&widths) > available {
        let widest = widths.iter_mut().max_by_key(|width| **width);
        match widest.filter(|width| **width > COLUMN_MIN) {
            Some(widest) => *widest -= 1,
            None => break,
        }
    }
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(widths).map(|(cell, width)| {
                let cell = cut(cell, width);
                format!("{cell:width$}")
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

/// Cuts a text to a width in characters.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    match text.char_indices().nth(width) {
        None => text.into(),
        Some(_) => text
            .chars()
            .take(width.saturating_sub(1))
            .chain(['…'])
            .collect(),
    }
}

/// Formats a time to the second, or `-` for none.
pub(super) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(
        || "-".into(),
        |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_escapes_control_characters() {
        assert_eq!(visible("evt_1", false), "evt_1");
        assert_eq!(
            visible("a\u{1b}[2Jb\nc\u{9b}1m", false),
            "a\\u{1b}[2Jb\\nc\\u{9b}1m"
        );
        assert_eq!(visible("{\n\t\"a\": 1}\r", true), "{\n\t\"a\": 1}\\r");
    }

    #[test]
    fn visible_escapes_direction_and_invisible_marks() {
        for c in [
            '\u{61c}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{ad}',
            '\u{fe0f}',
            '\u{e0041}',
            '\u{e01ef}',
        ] {
            let shown = visible(&format!("a{c}b"), true).into_owned();
            assert_eq!(shown, format!("a{}b", c.escape_unicode()));
            let document = Value::from(format!("a{c}b"));
            let line = json_line(&document);
            assert!(line.is_ascii(), "{line:?}");
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), document);
        }
    }

    #[test]
    fn json_line_escapes_control_characters() {
        let document = Value::from("a\u{1b}\u{7f}\u{9b}\u{e9}");
        let line = json_line(&document);
        assert_eq!(line, "\"a\\u001b\\u007f\\u009b\u{e9}\"");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), document);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [["ID", "ROUTE"], ["del_1000", "ü"], ["del_1", "-"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            columns(&rows),
            ["ID        ROUTE", "del_1000  ü", "del_1     -"]
        );
    }

    #[test]
    fn widest_columns_are_cut_to_fit() {
        let rows = [
            ["ID", "EVENT", "TYPE"],
            ["del_1", "evt_0123456789", "user.created"],
        ]
        .map(|row| row.map(str::to_owned));
        let lines = columns_within(&rows, 27);
        assert_eq!(lines[1], "del_1  evt_0123…  user.cre…");
        assert!(columns_within(&rows, 1)[1].starts_with("del_1  evt_012…"));
        assert_eq!(columns_within(&rows, 35), columns(&rows));
    }
}

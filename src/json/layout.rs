//! JSON laid out over lines, each token as sent: a repeated key stays, a number keeps its digits.

use super::{compact, find};

/// The most levels of arrays and objects that are laid out. More lines would be mostly indentation.
const DEPTH_MAX: usize = 127;

/// Lays out `text` over indented lines. Returns `None` for text that is not JSON, or nested deeper
/// than [`DEPTH_MAX`].
pub(crate) fn pretty(text: &str) -> Option<String> {
    find(text, []).ok()?;
    let (mut lines, mut depth) = (String::with_capacity(text.len() * 2), 0);
    let (mut in_string, mut escaped) = (false, false);
    let compact = compact(text);
    let mut chars = compact.chars().peekable();
    while let Some(char) = chars.next() {
        if in_string {
            in_string = escaped || char != '"';
            escaped = !escaped && char == '\\';
            lines.push(char);
            continue;
        }
        match char {
            '{' | '[' => {
                lines.push(char);
                match chars.next_if(|next| matches!(next, '}' | ']')) {
                    Some(closing) => lines.push(closing),
                    None => {
                        depth += 1;
                        if depth > DEPTH_MAX {
                            return None;
                        }
                        break_line(&mut lines, depth);
                    }
                }
            }
            '}' | ']' => {
                depth -= 1;
                break_line(&mut lines, depth);
                lines.push(char);
            }
            ',' => {
                lines.push(char);
                if lines.len() > LONGER_MAX * text.len().max(1_024) {
                    return None;
                }
                break_line(&mut lines, depth);
            }
            ':' => lines.push_str(": "),
            _ => {
                in_string = char == '"';
                lines.push(char);
            }
        }
    }
    Some(lines)
}

/// The length of a layout, at most, in multiples of its text.
const LONGER_MAX: usize = 8;

fn break_line(lines: &mut String, depth: usize) {
    lines.push('\n');
    lines.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_keeps_every_token() {
        let text = r#" {"a":1.00,"a":[ ],"b":{"c\":{":"[,]\\","d":[1,{}]}} "#;
        let laid_out = r#"{
  "a": 1.00,
  "a": [],
  "b": {
    "c\":{": "[,]\\",
    "d": [
      1,
      {}
    ]
  }
}"#;
        assert_eq!(pretty(text).as_deref(), Some(laid_out));
        assert_eq!(
            pretty("9007199254740993").as_deref(),
            Some("9007199254740993")
        );
        for text in ["", "{", "a=1&b=2", "{}x", "[1,]"] {
            assert_eq!(pretty(text), None, "{text}");
        }
    }

    #[test]
    fn deep_nesting_has_no_layout() {
        let nested = |depth: usize, within: &str| {
            format!("{}{within}{}", "[".repeat(depth), "]".repeat(depth))
        };
        assert!(pretty(&nested(DEPTH_MAX, "1")).is_some());
        assert_eq!(pretty(&nested(DEPTH_MAX + 1, "1")), None);
        let wide = nested(100, &vec!["[1]"; 20_000].join(","));
        assert!(
            pretty(&wide).is_none_or(|shown| shown.len() < 10 * wide.len()),
            "indentation without end"
        );
    }
}

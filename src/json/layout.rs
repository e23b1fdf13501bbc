//! JSON laid out over lines, every token as it was sent: a name given twice stays twice, a number keeps its digits.

use serde::de::IgnoredAny;

use super::compact;

/// `None` for what is no JSON.
pub(crate) fn pretty(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
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

fn break_line(lines: &mut String, depth: usize) {
    lines.push('\n');
    lines.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_stays_as_it_is() {
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
        assert_eq!(pretty("9007199254740993").as_deref(), Some("9007199254740993"));
        for text in ["", "{", "a=1&b=2", "{}x", "[1,]"] {
            assert_eq!(pretty(text), None, "{text}");
        }
    }
}

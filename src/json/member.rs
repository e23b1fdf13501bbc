//! One member of a JSON text, to be cut out byte for byte.
//!
//! Decides which bytes belong to a member: its name, its value, and the comma to its neighbour.

use std::ops::Range;

use super::find::{BYTE_ORDER_MARK, PointerValue, find};
use super::pointer::Pointer;

/// A member of a JSON text whose value is a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    /// The string between its quotes. It holds no escapes.
    pub value: &'a str,
    /// The range to cut out. For an object's first member: from its name to the next member's name.
    /// For any other: from the comma before it to the end of its value.
    pub cut: Range<usize>,
}

/// A reason why there is no member to cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberError {
    /// The text is JSON and has no such member.
    Missing,
    /// The text is not JSON; or the member occurs twice (also if the names differ in case or escapes
    /// only), is not a string, or is written with escapes.
    Malformed,
}

/// Finds the member at `pointer`, which must name a member.
pub(crate) fn member<'a>(text: &'a str, pointer: &Pointer) -> Result<Member<'a>, MemberError> {
    let [found] = find(text, [Some(pointer)]).map_err(|_| MemberError::Malformed)?;
    let value = match found {
        PointerValue::Nothing => return Err(MemberError::Missing),
        PointerValue::Text(value) => value.unescaped().ok_or(MemberError::Malformed)?,
        PointerValue::Ambiguous | PointerValue::Number(_) | PointerValue::Other => {
            return Err(MemberError::Malformed);
        }
    };
    let name = pointer.name().ok_or(MemberError::Malformed)?;
    // `value` is a slice of `text`, so the difference of their addresses is its offset.
    let opening = (value.as_ptr() as usize - text.as_ptr() as usize)
        .checked_sub(1)
        .ok_or(MemberError::Malformed)?;
    let end = opening + value.len() + 2;
    let start = name_start(&text[..opening], name).ok_or(MemberError::Malformed)?;
    let before = text[..start].trim_end_matches(WHITE_SPACE);
    let cut = if before.ends_with(',') {
        before.len() - 1..end
    } else {
        start..next_name(text, end)
    };
    Ok(Member { value, cut })
}

/// The white space of RFC 8259 §2.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Returns the start of the name that ends `before`, with a colon behind it; `None` if it is not
/// spelled like `name`. A string without escapes holds no quote, so the name is everything between
/// the last two quotes.
fn name_start(before: &str, name: &str) -> Option<usize> {
    let before = before.trim_end_matches(WHITE_SPACE).strip_suffix(':')?;
    let before = before.trim_end_matches(WHITE_SPACE).strip_suffix('"')?;
    before.strip_suffix(name)?.strip_suffix('"').map(str::len)
}

/// Returns the start of the next member's name, or `end` if there is none.
fn next_name(text: &str, end: usize) -> usize {
    let rest = text[end..].trim_start_matches(WHITE_SPACE);
    match rest.strip_prefix(',') {
        Some(rest) => text.len() - rest.trim_start_matches(WHITE_SPACE).len(),
        None => end,
    }
}

/// Removes the white space between the tokens of `text`, which is JSON, and a byte order mark
/// before them.
pub(crate) fn compact(text: &str) -> String {
    let mut compact = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for char in text.trim_start_matches(BYTE_ORDER_MARK).chars() {
        if in_string {
            in_string = escaped || char != '"';
            escaped = !escaped && char == '\\';
        } else if WHITE_SPACE.contains(&char) {
            continue;
        } else {
            in_string = char == '"';
        }
        compact.push(char);
    }
    compact
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str) -> Result<String, MemberError> {
        let member = member(text, &"/signature".parse().unwrap())?;
        assert_eq!(member.value, "s");
        Ok(format!(
            "{}{}",
            &text[..member.cut.start],
            &text[member.cut.end..]
        ))
    }

    #[test]
    fn member_is_cut_with_its_comma() {
        let cases = [
            (r#"{"a":1,"signature":"s"}"#, r#"{"a":1}"#),
            (r#"{"a":1,"signature":"s","b":2}"#, r#"{"a":1,"b":2}"#),
            (r#"{"signature":"s","a":1}"#, r#"{"a":1}"#),
            (r#"{"signature":"s"}"#, "{}"),
            (r#"{"a": 1, "signature": "s"}"#, r#"{"a": 1}"#),
            (
                r#"{"a": 1, "signature": "s", "b": 2}"#,
                r#"{"a": 1, "b": 2}"#,
            ),
            (r#"{"signature": "s", "a": 1}"#, r#"{"a": 1}"#),
            (
                "{\n  \"a\": 1,\n  \"signature\": \"s\"\n}",
                "{\n  \"a\": 1\n}",
            ),
            (
                "{\n  \"signature\": \"s\",\n  \"a\": 1\n}\n",
                "{\n  \"a\": 1\n}\n",
            ),
            (
                "{\n  \"a\": 1,\n  \"signature\": \"s\",\n  \"b\": 2\n}",
                "{\n  \"a\": 1,\n  \"b\": 2\n}",
            ),
            (" { \"signature\" : \"s\" } ", " {  } "),
            (
                r#"{"a":{"signature":"t"},"signature":"s"}"#,
                r#"{"a":{"signature":"t"}}"#,
            ),
            (
                r#"{"a":"\",\"signature\":\"s\"","signature":"s"}"#,
                r#"{"a":"\",\"signature\":\"s\""}"#,
            ),
            (
                "\u{feff}{\"signature\":\"s\",\"a\":NaN}",
                "\u{feff}{\"a\":NaN}",
            ),
            (
                r#"{"a":"\ud83d","a":-Infinity,"signature":"s"}"#,
                r#"{"a":"\ud83d","a":-Infinity}"#,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(without(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn ambiguous_member_is_malformed() {
        let malformed = [
            r#"{"signature":"s","signature":"s"}"#,
            r#"{"signature":"s","Signature":"s"}"#,
            r#"{"signature":"s","\u0073ignature":"s"}"#,
            r#"{"\u0073ignature":"s"}"#,
            r#"{"signature":"\u0073"}"#,
            r#"{"signature":1}"#,
            r#"{"signature":null}"#,
            r#"{"signature":["s"]}"#,
            r#"{"signature":"s"} x"#,
            r#"{"signature":"s""#,
            "",
        ];
        for text in malformed {
            assert_eq!(without(text), Err(MemberError::Malformed), "{text}");
        }
        for text in [
            "{}",
            "[]",
            "1",
            r#"{"a":{"signature":"s"}}"#,
            r#"["signature","s"]"#,
        ] {
            assert_eq!(without(text), Err(MemberError::Missing), "{text}");
        }
    }

    #[test]
    fn nested_member_is_cut_from_its_object() {
        let text = r#"{"meta":{"v":1,"signature":"s"},"a":1}"#;
        let member = member(text, &"/meta/signature".parse().unwrap()).unwrap();
        assert_eq!(
            format!("{}{}", &text[..member.cut.start], &text[member.cut.end..]),
            r#"{"meta":{"v":1},"a":1}"#
        );
    }

    #[test]
    fn array_element_is_no_member() {
        assert_eq!(
            member(r#"["s"]"#, &"/0".parse().unwrap()),
            Err(MemberError::Malformed)
        );
        assert_eq!(
            member(r#"{"a":"x","0":["s"]}"#, &"/0/0".parse().unwrap()),
            Err(MemberError::Malformed)
        );
        assert_eq!(
            member(r#""s""#, &"".parse().unwrap()),
            Err(MemberError::Malformed)
        );
    }

    #[test]
    fn compact_keeps_white_space_in_strings() {
        let text = "{ \"a b\" : [ 1.0 , \"\\\" x\\\\\" , \"\\u0020\" ] }\n";
        assert_eq!(compact(text), r#"{"a b":[1.0,"\" x\\","\u0020"]}"#);
        assert_eq!(compact("\u{feff} [\"\u{feff}\"]"), "[\"\u{feff}\"]");
    }
}

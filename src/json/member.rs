//! One member of a JSON text, to be cut out of it byte for byte.
//!
//! Owns which bytes a member is: its name, its value, and the comma that joined it to its neighbours.

use std::ops::Range;

use super::find::{PointerValue, find};
use super::pointer::Pointer;

/// A member whose value is a string, in a JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    /// The string between its quotes. It holds no escapes.
    pub value: &'a str,
    /// What goes when the member is cut out. For any member but an object's first that is everything from the comma
    /// before it to the end of its value; for the first, everything from its name to the next member's name.
    pub cut: Range<usize>,
}

/// Why there is no member to cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberError {
    /// The text is strict JSON and has no such member.
    Missing,
    /// It is no JSON, or the member is there twice (by a name that differs in case or escapes only, too), is no string,
    /// or is written with escapes.
    Malformed,
}

/// The member at `pointer`, which must name one.
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
    // `value` is a part of `text`: the difference of their places is where it stands.
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

/// RFC 8259 §2.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Where the name begins that ends `before`, a colon behind it. `None` if it is not written as `name` is: a string
/// without escapes holds no quote, so what is between the last two is all of it.
fn name_start(before: &str, name: &str) -> Option<usize> {
    let before = before.trim_end_matches(WHITE_SPACE).strip_suffix(':')?;
    let before = before.trim_end_matches(WHITE_SPACE).strip_suffix('"')?;
    before.strip_suffix(name)?.strip_suffix('"').map(str::len)
}

/// Where the next member's name begins, or `end` if there is none.
fn next_name(text: &str, end: usize) -> usize {
    let rest = text[end..].trim_start_matches(WHITE_SPACE);
    match rest.strip_prefix(',') {
        Some(rest) => text.len() - rest.trim_start_matches(WHITE_SPACE).len(),
        None => end,
    }
}

/// `text`, which is strict JSON, without the white space between its tokens.
pub(crate) fn compact(text: &str) -> String {
    let mut compact = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for char in text.chars() {
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
    fn a_member_goes_with_the_comma_that_joined_it_wherever_it_stands() {
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
        ];
        for (text, expected) in cases {
            assert_eq!(without(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_member_that_receivers_may_read_differently_is_refused() {
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
    fn a_nested_member_is_cut_out_of_its_own_object() {
        let text = r#"{"meta":{"v":1,"signature":"s"},"a":1}"#;
        let member = member(text, &"/meta/signature".parse().unwrap()).unwrap();
        assert_eq!(
            format!("{}{}", &text[..member.cut.start], &text[member.cut.end..]),
            r#"{"meta":{"v":1},"a":1}"#
        );
    }

    #[test]
    fn an_element_of_an_array_is_no_member() {
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
    fn compacting_leaves_out_white_space_outside_strings_only() {
        let text = "{ \"a b\" : [ 1.0 , \"\\\" x\\\\\" , \"\\u0020\" ] }\n";
        assert_eq!(compact(text), r#"{"a b":[1.0,"\" x\\","\u0020"]}"#);
    }
}

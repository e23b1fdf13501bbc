//! A compiled JSON pointer (RFC 6901).
//!
//! Parses the pointer and compares an object's key with one of its steps. [`find`](super::find)
//! walks the JSON text.

use std::{fmt, str::FromStr};

use super::cursor::Text;

/// A JSON pointer (RFC 6901, section 3), unescaped into its steps: `/event/type`, `/items/0/id`, or
/// empty for the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Box<[Step]>);

/// One step of a pointer: the key of a member, or the index of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    key: Box<str>,
    /// The key after [`fold_case`], as a receiver that ignores case compares it.
    folded: Box<str>,
    /// The array index, if the step is one: digits without a leading zero (RFC 6901, section 4).
    pub(super) index: Option<usize>,
}

/// The result of comparing a key of the body with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyMatch {
    /// The same key, whatever its escapes.
    Same,
    /// Another key that a receiver which ignores case takes for the same.
    Twin,
    Other,
}

/// A reason why a text is not a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    #[error("a JSON pointer starts with `/`, as in `/id` or `/event/type` (RFC 6901)")]
    NoLeadingSlash,
    #[error("in a JSON pointer `~` is written `~0` and a `/` inside a key `~1` (RFC 6901)")]
    BadEscape,
    #[error("a JSON pointer may have at most {} steps", Pointer::MAX_STEPS)]
    TooDeep,
}

impl Pointer {
    /// The most steps of a pointer. [`find`](super::find) keeps one bit a step, and calls itself
    /// once a step.
    pub const MAX_STEPS: usize = 127;

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Iterates over the keys, from the outermost.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|step| &*step.key)
    }

    /// Returns whether this pointer's target is that of `other`, or a part of it.
    pub fn is_at_or_below(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Returns the last key: the name of the member, unless that is an array's element. `None` for
    /// the whole document.
    pub fn name(&self) -> Option<&str> {
        self.0.last().map(|step| &*step.key)
    }
}

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() {
            return Ok(Self(Box::default()));
        }
        let keys = text.strip_prefix('/').ok_or(PointerError::NoLeadingSlash)?;
        let steps = keys
            .split('/')
            .map(Step::parse)
            .collect::<Result<Box<[_]>, _>>()?;
        if steps.len() > Self::MAX_STEPS {
            return Err(PointerError::TooDeep);
        }
        Ok(Self(steps))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|step| write!(out, "/{}", step.key.replace('~', "~0").replace('/', "~1")))
    }
}

impl Step {
    fn parse(step: &str) -> Result<Self, PointerError> {
        let mut key = String::with_capacity(step.len());
        let mut chars = step.chars();
        while let Some(char) = chars.next() {
            key.push(match char {
                '~' => match chars.next() {
                    Some('0') => '~',
                    Some('1') => '/',
                    _ => return Err(PointerError::BadEscape),
                },
                other => other,
            });
        }
        Ok(Self {
            folded: key.chars().flat_map(fold_case).collect::<String>().into(),
            index: index(&key),
            key: key.into(),
        })
    }

    /// Compares the step with a key. Two comparisons of bytes decide for nearly every key.
    pub(super) fn match_key(&self, key: Text<'_>) -> KeyMatch {
        if key.starts_unlike(&self.folded) {
            return KeyMatch::Other;
        }
        let is_twin = match key.unescaped() {
            Some(plain) if plain == &*self.key => return KeyMatch::Same,
            Some(plain) if plain.is_ascii() => plain.eq_ignore_ascii_case(&self.folded),
            _ if key.chars().eq(self.key.chars().map(Some)) => return KeyMatch::Same,
            // Go reads half a surrogate pair as the replacement character.
            _ => key
                .chars()
                .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
                .flat_map(fold_case)
                .eq(self.folded.chars()),
        };
        if is_twin {
            KeyMatch::Twin
        } else {
            KeyMatch::Other
        }
    }
}

fn index(key: &str) -> Option<usize> {
    let canonical = key == "0"
        || (!key.starts_with('0') && !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit()));
    if canonical { key.parse().ok() } else { None }
}

/// Returns the same characters for all that some receiver takes for `char` in another case.
///
/// Such receivers fold the case of names as Go's `encoding/json` does, where `ſ` (U+017F) is an `s`
/// and the Kelvin sign (U+212A) a `k`; compare them as Java's `equalsIgnoreCase` does, where `İ`
/// (U+0130) and `ı` (U+0131) are an `i`; or convert them to upper or lower case first, where `ﬆ`
/// (U+FB06) becomes `ST`. This is wider than any one of them: one twin too many refuses a body that
/// no provider sends, one too few lets two receivers read two IDs.
fn fold_case(char: char) -> impl Iterator<Item = char> {
    let char = match char {
        '\u{130}' | '\u{131}' => 'i',
        other => other,
    };
    // Twice, because `ẞ` (U+1E9E) has no upper case and `ß` as its lower one, which becomes `SS`.
    char.to_uppercase()
        .flat_map(char::to_lowercase)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::{super::cursor::Text, *};

    fn step(text: &str) -> Step {
        Step::parse(text).expect("a token")
    }

    fn match_keys(pointer_step: &str, raw_key: &str) -> KeyMatch {
        step(pointer_step).match_key(Text::from_raw(raw_key))
    }

    #[test]
    fn pointer_survives_a_round_trip() {
        for text in [
            "",
            "/id",
            "/event/type",
            "/items/0/id",
            "/a~1b/m~0n",
            "/",
            "/~01",
            "/ /\u{e9}",
        ] {
            assert_eq!(text.parse::<Pointer>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn malformed_pointer_is_rejected() {
        assert_eq!("id".parse::<Pointer>(), Err(PointerError::NoLeadingSlash));
        assert_eq!("$.id".parse::<Pointer>(), Err(PointerError::NoLeadingSlash));
        assert_eq!("#/id".parse::<Pointer>(), Err(PointerError::NoLeadingSlash));
        assert_eq!("/a~".parse::<Pointer>(), Err(PointerError::BadEscape));
        assert_eq!("/a~2".parse::<Pointer>(), Err(PointerError::BadEscape));
        assert!("/a".repeat(Pointer::MAX_STEPS).parse::<Pointer>().is_ok());
        assert_eq!(
            "/a".repeat(Pointer::MAX_STEPS + 1).parse::<Pointer>(),
            Err(PointerError::TooDeep)
        );
    }

    #[test]
    fn index_has_no_leading_zero() {
        assert_eq!(step("0").index, Some(0));
        assert_eq!(step("17").index, Some(17));
        for text in [
            "",
            "00",
            "01",
            "-",
            "-1",
            "+1",
            "1e0",
            "99999999999999999999999",
        ] {
            assert_eq!(step(text).index, None, "{text}");
        }
    }

    #[test]
    fn escaped_key_is_the_same() {
        assert_eq!(match_keys("id", "id"), KeyMatch::Same);
        assert_eq!(match_keys("id", r"\u0069d"), KeyMatch::Same);
        assert_eq!(match_keys("a~1b", r"a\/b"), KeyMatch::Same);
        assert_eq!(match_keys("\u{1f389}", r"\ud83c\uDF89"), KeyMatch::Same);
    }

    #[test]
    fn key_in_another_case_is_a_twin() {
        for key in ["ID", "Id", r"\u0049d", "\u{131}d", "\u{130}d", r"\u0130D"] {
            assert_eq!(match_keys("id", key), KeyMatch::Twin, "{key}");
        }
        assert_eq!(match_keys("ids", "id\u{17f}"), KeyMatch::Twin);
        assert_eq!(match_keys("key", r"\u212aey"), KeyMatch::Twin);
        assert_eq!(match_keys("\u{212a}", "k"), KeyMatch::Twin);
        assert_eq!(match_keys("\u{3c3}", "\u{3c2}"), KeyMatch::Twin);
        assert_eq!(match_keys("stra\u{df}e", "STRA\u{1e9e}E"), KeyMatch::Twin);
        assert_eq!(match_keys("stra\u{df}e", "STRASSE"), KeyMatch::Twin);
        assert_eq!(match_keys("timestamp", "time\u{fb06}amp"), KeyMatch::Twin);
        assert_eq!(match_keys("\u{fffd}", r"\ud800"), KeyMatch::Twin);
    }

    #[test]
    fn similar_key_is_another() {
        for key in [
            "",
            "i",
            "idd",
            "1d",
            " id",
            "id\u{200b}",
            r"id\u0000",
            "\u{456}d",
            r"id\ud800",
            r"\udc00id",
        ] {
            assert_eq!(match_keys("id", key), KeyMatch::Other, "{key}");
        }
    }

    #[test]
    fn fold_is_the_same_for_every_case_of_a_character() {
        let folded = |chars: &mut dyn Iterator<Item = char>| -> String {
            chars.flat_map(fold_case).collect()
        };
        for char in '\0'..=char::MAX {
            let all = folded(&mut [char].into_iter());
            assert_eq!(
                folded(&mut char.to_uppercase()),
                all,
                "{char:?} in upper case"
            );
            // The lower case of `İ` is an `i` and a combining dot, which no receiver takes for `i`.
            if char != '\u{130}' {
                assert_eq!(
                    folded(&mut char.to_lowercase()),
                    all,
                    "{char:?} in lower case"
                );
            }
            assert_eq!(folded(&mut all.chars()), all, "{char:?} folded twice");
        }
    }
}

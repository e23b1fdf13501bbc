//! Where something stands in a body: a JSON pointer (RFC 6901), compiled.
//!
//! Owns the pointer's grammar and how an object's key compares with a token. Knows nothing of the JSON text itself:
//! [`find`](super::find) walks that.

use std::{fmt, str::FromStr};

use super::cursor::Text;

/// A JSON pointer (RFC 6901, section 3), unescaped into its tokens: `/event/type`, `/items/0/id`, or empty for the
/// whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Box<[Step]>);

/// One step of a pointer: the key of a member, or the index of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    key: Box<str>,
    /// The key as [`fold`] leaves it; what a case-blind receiver would look for.
    folded: Box<str>,
    /// Set when the token is also an array index: digits without a leading zero (RFC 6901, section 4).
    pub(super) index: Option<usize>,
}

/// How a key of the body stands to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyMatch {
    /// The token's key, however it was escaped.
    Same,
    /// Not the same, but a receiver that matches names without case takes it for the same.
    Twin,
    Other,
}

/// Why a text is no pointer.
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
    /// A body may not be nested deeper than this, so a longer pointer finds nothing.
    pub const MAX_STEPS: usize = super::cursor::MAX_DEPTH;

    pub(super) fn tokens(&self) -> &[Step] {
        &self.0
    }

    /// The keys on the way, from the outermost.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|token| &*token.key)
    }

    /// Whether it points at what `other` points at, or at a part of that.
    pub fn is_at_or_below(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The name of the member that it points at, if that is not an element of an array; `None` for the whole document.
    pub fn name(&self) -> Option<&str> {
        self.0.last().map(|token| &*token.key)
    }
}

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() {
            return Ok(Self(Box::default()));
        }
        let steps = text.strip_prefix('/').ok_or(PointerError::NoLeadingSlash)?;
        let tokens = steps
            .split('/')
            .map(Step::parse)
            .collect::<Result<Box<[_]>, _>>()?;
        if tokens.len() > Self::MAX_STEPS {
            return Err(PointerError::TooDeep);
        }
        Ok(Self(tokens))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|token| {
            write!(out, "/{}", token.key.replace('~', "~0").replace('/', "~1"))
        })
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
            folded: key.chars().map(fold).collect(),
            index: index(&key),
            key: key.into(),
        })
    }

    /// Two comparisons of bytes decide for nearly every key; the rest is exact.
    pub(super) fn match_key(&self, key: Text<'_>) -> KeyMatch {
        if key.starts_unlike(&self.folded) {
            return KeyMatch::Other;
        }
        if key.unescaped() == Some(&*self.key) || key.chars().eq(self.key.chars()) {
            return KeyMatch::Same;
        }
        if key.chars().map(fold).eq(self.folded.chars()) {
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

/// The one character that stands for all that differ from `char` only by case.
///
/// Follows Unicode simple case folding as Go's `encoding/json` applies it, where `ſ` (U+017F) is an `s` and the
/// Kelvin sign (U+212A) a `k`. It is a little wider (`ı` is an `i`, as in Java's `equalsIgnoreCase`): a twin too many
/// refuses a body that nobody sends, a twin too few lets two receivers read two IDs.
fn fold(char: char) -> char {
    if char.is_ascii() {
        return char.to_ascii_lowercase();
    }
    let upper = single(char.to_uppercase()).unwrap_or(char);
    single(upper.to_lowercase()).unwrap_or(upper)
}

/// Mappings to several characters (`ß` to `SS`) belong to full folding, which receivers do not apply to names.
fn single(mut mapping: impl Iterator<Item = char>) -> Option<char> {
    let first = mapping.next();
    if mapping.next().is_some() {
        None
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::{super::cursor::Text, *};

    fn token(text: &str) -> Step {
        Step::parse(text).expect("a token")
    }

    fn likeness(pointer_step: &str, raw_key: &str) -> KeyMatch {
        token(pointer_step).match_key(Text::from_raw(raw_key))
    }

    #[test]
    fn a_pointer_reads_back_as_it_was_written() {
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
    fn what_is_no_pointer_is_refused() {
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
    fn only_digits_without_a_leading_zero_are_an_index() {
        assert_eq!(token("0").index, Some(0));
        assert_eq!(token("17").index, Some(17));
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
            assert_eq!(token(text).index, None, "{text}");
        }
    }

    #[test]
    fn a_key_is_the_same_however_it_is_escaped() {
        assert_eq!(likeness("id", "id"), KeyMatch::Same);
        assert_eq!(likeness("id", r"\u0069d"), KeyMatch::Same);
        assert_eq!(likeness("a~1b", r"a\/b"), KeyMatch::Same);
        assert_eq!(likeness("\u{1f389}", r"\ud83c\uDF89"), KeyMatch::Same);
    }

    #[test]
    fn a_key_that_differs_by_case_is_a_twin() {
        for key in ["ID", "Id", r"\u0049d", "\u{131}d"] {
            assert_eq!(likeness("id", key), KeyMatch::Twin, "{key}");
        }
        assert_eq!(likeness("ids", "id\u{17f}"), KeyMatch::Twin);
        assert_eq!(likeness("key", r"\u212aey"), KeyMatch::Twin);
        assert_eq!(likeness("\u{212a}", "k"), KeyMatch::Twin);
        assert_eq!(likeness("\u{3c3}", "\u{3c2}"), KeyMatch::Twin);
        assert_eq!(likeness("stra\u{df}e", "STRA\u{1e9e}E"), KeyMatch::Twin);
    }

    #[test]
    fn a_key_that_only_resembles_is_another() {
        for key in [
            "",
            "i",
            "idd",
            "1d",
            " id",
            "id\u{200b}",
            r"id\u0000",
            "\u{456}d",
        ] {
            assert_eq!(likeness("id", key), KeyMatch::Other, "{key}");
        }
        assert_eq!(likeness("ss", "\u{df}"), KeyMatch::Other);
    }
}

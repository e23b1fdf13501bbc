//! A reader of one JSON text (RFC 8259), token by token, that builds nothing.
//!
//! Checks the grammar everywhere, also in the parts that are skipped. Accepts what some receivers
//! read and others do not: any depth of nesting, escapes of unpaired surrogates, numbers too large
//! for a double, and `NaN`, `Infinity` and `-Infinity`, which Python writes. Such a value is no
//! character or number, so nothing is read from it. [`find`](super::find) knows what is searched
//! for; this module does not.

#![expect(
    clippy::inline_always,
    reason = "left to itself, the compiler takes a third longer over every body"
)]

use super::block::Specials;

/// The error of a text that is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotJson;

/// A reader that goes through a text once, from start to end.
///
/// The text is valid UTF-8 (RFC 8259, section 8.1); the grammar itself is ASCII and read as bytes.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    specials: Specials,
}

/// A string between its quotes. Its escapes follow the grammar, and are not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    raw: &'a str,
    escaped: bool,
}

/// The innermost open arrays and objects. The very innermost decides what may follow a value.
#[derive(Debug, Default)]
struct Nesting {
    /// The number of levels here, at most [`Nesting::LEVELS_MAX`].
    depth: u32,
    /// One bit a level, the innermost lowest: 1 for an object, 0 for an array.
    objects: u128,
    /// The byte that closes the innermost level.
    closing: u8,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            specials: Specials::default(),
        }
    }

    /// Checks that only white space is left.
    pub(super) fn end(self) -> Result<(), NotJson> {
        if white_space_end(self.text.as_bytes(), self.at) == self.text.len() {
            Ok(())
        } else {
            Err(NotJson)
        }
    }

    /// Consumes the next byte that is not white space.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<u8, NotJson> {
        let bytes = self.text.as_bytes();
        let mut byte = bytes.get(self.at);
        if byte.is_some_and(|&byte| byte <= b' ') {
            self.at = white_space_end(bytes, self.at);
            byte = bytes.get(self.at);
        }
        self.at += 1;
        byte.copied().ok_or(NotJson)
    }

    /// Consumes `byte` if it comes next.
    #[inline(always)]
    pub(super) fn consume_if(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&byte) {
            self.at = white_space_end(bytes, self.at);
            if bytes.get(self.at) != Some(&byte) {
                return false;
            }
        }
        self.at += 1;
        true
    }

    /// Consumes the name of a member and the colon.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Text<'a>, NotJson> {
        self.expect(b'"')?;
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// Consumes the rest of a string whose opening quote is consumed.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Text<'a>, NotJson> {
        let start = self.at;
        let escaped = self.skip_string()?;
        let raw = self.text.get(start..self.at - 1).ok_or(NotJson)?;
        Ok(Text { raw, escaped })
    }

    /// Consumes the rest of a number whose first byte, a sign or a digit, is consumed; returns the
    /// number as written, or `-Infinity`.
    pub(super) fn number(&mut self) -> Result<&'a str, NotJson> {
        let start = self.at - 1;
        self.skip_number()?;
        self.text.get(start..self.at).ok_or(NotJson)
    }

    /// Consumes the rest of a value whose first byte, `first`, is consumed.
    pub(super) fn skip_value(&mut self, first: u8) -> Result<(), NotJson> {
        // A copy that nothing else can see stays in registers, which takes a third of the time.
        let mut cursor = self.clone();
        cursor.skip_value_in_registers::<false>(first)?;
        *self = cursor;
        Ok(())
    }

    /// Consumes the rest of a value. With `DEEP`, levels that do not fit into a [`Nesting`] are
    /// kept on the heap, one bit each: an eighth of the text's length at most. Otherwise that is
    /// left to [`skip_deep_value`], because a vector in this loop costs every body a tenth.
    #[inline(always)]
    fn skip_value_in_registers<const DEEP: bool>(&mut self, mut first: u8) -> Result<(), NotJson> {
        let (mut open, mut outer) = (Nesting::default(), Vec::new());
        'value: loop {
            match first {
                b'"' => {
                    self.skip_string()?;
                }
                b'{' | b'[' if !DEEP && open.depth == Nesting::LEVELS_MAX => {
                    self.at = skip_deep_value(self.text, self.at, first)?;
                }
                b'{' | b'[' => {
                    if DEEP && open.depth == Nesting::LEVELS_MAX {
                        outer.push(open.objects);
                        open = Nesting::default();
                    }
                    open.push(first);
                    if !self.consume_if(open.closing) {
                        first = self.next_member(&open)?;
                        continue 'value;
                    }
                    open.pop();
                    if DEEP {
                        open.refill(&mut outer);
                    }
                }
                _ => self.skip_scalar(first)?,
            }
            while open.depth > 0 {
                match self.next()? {
                    b',' => {
                        first = self.next_member(&open)?;
                        continue 'value;
                    }
                    byte if byte == open.closing => {
                        open.pop();
                        if DEEP {
                            open.refill(&mut outer);
                        }
                    }
                    _ => return Err(NotJson),
                }
            }
            return Ok(());
        }
    }

    /// Consumes the next value's name, if it has one, and its first byte.
    #[inline(always)]
    fn next_member(&mut self, open: &Nesting) -> Result<u8, NotJson> {
        if open.closing == b'}' {
            self.expect(b'"')?;
            self.skip_string()?;
            self.expect(b':')?;
        }
        self.next()
    }

    /// Consumes the rest of a value that is no string, array or object, and whose first byte,
    /// `first`, is consumed.
    #[inline(always)]
    pub(super) fn skip_scalar(&mut self, first: u8) -> Result<(), NotJson> {
        match first {
            b't' => self.literal(b"rue"),
            b'f' => self.literal(b"alse"),
            b'n' => self.literal(b"ull"),
            _ => self.skip_number(),
        }
    }

    #[inline(always)]
    fn literal(&mut self, rest: &[u8]) -> Result<(), NotJson> {
        let end = self.at + rest.len();
        if self.text.as_bytes().get(self.at..end) != Some(rest) {
            return Err(NotJson);
        }
        self.at = end;
        Ok(())
    }

    /// Consumes the rest of a string with its closing quote; returns whether it holds escapes.
    #[inline(always)]
    fn skip_string(&mut self) -> Result<bool, NotJson> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        loop {
            self.at = self.specials.next(bytes, self.at).ok_or(NotJson)?;
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    self.at += bytes
                        .get(self.at..)
                        .and_then(escape_length)
                        .ok_or(NotJson)?;
                    escaped = true;
                }
                _ => return Err(NotJson),
            }
        }
    }

    #[inline(always)]
    fn skip_number(&mut self) -> Result<(), NotJson> {
        let (bytes, start) = (self.text.as_bytes(), self.at - 1);
        self.at = match number_end(bytes, start) {
            Some(end) => end,
            None => not_finite_end(bytes, start).ok_or(NotJson)?,
        };
        Ok(())
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.consume_if(byte) {
            Ok(())
        } else {
            Err(NotJson)
        }
    }
}

impl<'a> Text<'a> {
    /// Wraps a string that is not written as JSON, such as a header's value.
    pub(crate) fn plain(text: &'a str) -> Self {
        Self {
            raw: text,
            escaped: false,
        }
    }

    /// Returns the string itself, if it holds no escapes.
    pub(crate) fn unescaped(self) -> Option<&'a str> {
        if self.escaped { None } else { Some(self.raw) }
    }

    /// Iterates over the characters, escapes decoded. `None` is the escape of half a surrogate
    /// pair: some receivers keep it, some replace it, and some refuse it.
    pub(crate) fn chars(self) -> impl Iterator<Item = Option<char>> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            let (char, length) = match rest.chars().next()? {
                '\\' if self.escaped => unescape(rest.as_bytes())?,
                plain => (Some(plain), plain.len_utf8()),
            };
            rest = rest.get(length..)?;
            Some(char)
        })
    }

    /// Returns `true` if the first byte as written proves that the string differs from `folded` in
    /// more than case. May return `false` although it does.
    pub(super) fn starts_unlike(self, folded: &str) -> bool {
        let first = self.raw.as_bytes().first().map(u8::to_ascii_lowercase);
        first.is_none_or(|first| first.is_ascii() && first != b'\\')
            && first != folded.as_bytes().first().copied()
    }

    #[cfg(test)]
    pub(crate) fn from_raw(raw: &'a str) -> Self {
        Self {
            raw,
            escaped: raw.contains('\\'),
        }
    }
}

impl Nesting {
    const LEVELS_MAX: u32 = u128::BITS;

    #[cold]
    fn full(objects: u128) -> Self {
        let mut full = Self {
            depth: Self::LEVELS_MAX,
            objects,
            closing: 0,
        };
        full.set_closing();
        full
    }

    #[inline(always)]
    fn push(&mut self, opening: u8) {
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(opening == b'{');
        self.set_closing();
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
        self.set_closing();
    }

    /// Goes on with the levels in `outer` when there are none left here.
    fn refill(&mut self, outer: &mut Vec<u128>) {
        if self.depth == 0
            && let Some(objects) = outer.pop()
        {
            *self = Self::full(objects);
        }
    }

    #[inline(always)]
    fn set_closing(&mut self) {
        self.closing = if self.objects & 1 == 1 { b'}' } else { b']' };
    }
}

/// Returns the end of the value inside [`Nesting::LEVELS_MAX`] others whose first byte, `first`, is
/// before `at`.
#[cold]
#[inline(never)]
fn skip_deep_value(text: &str, at: usize, first: u8) -> Result<usize, NotJson> {
    let mut cursor = Cursor {
        text,
        at,
        specials: Specials::starting_at(at),
    };
    cursor.skip_value_in_registers::<true>(first)?;
    Ok(cursor.at)
}

/// Returns the end of the white space at `at` (RFC 8259, section 2).
fn white_space_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Returns the end of the number at `start` (RFC 8259, section 6); `None` if it is malformed.
#[inline(always)]
fn number_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
    match bytes.get(at)? {
        b'0' => at += 1,
        b'1'..=b'9' => at = digits_end(bytes, at),
        _ => return None,
    }
    if let Some(b'.') = bytes.get(at) {
        let fraction = at + 1;
        at = digits_end(bytes, fraction);
        if at == fraction {
            return None;
        }
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let exponent = at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits_end(bytes, exponent);
        if at == exponent {
            return None;
        }
    }
    Some(at)
}

#[inline(always)]
fn digits_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// Returns the end of the value at `start`, if it is one that Python's `json.dumps` writes for a
/// float that is not a number.
#[cold]
fn not_finite_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = bytes.get(start..)?;
    ["NaN", "Infinity", "-Infinity"]
        .into_iter()
        .find(|word| rest.starts_with(word.as_bytes()))
        .map(|word| start + word.len())
}

/// Returns the length in bytes of the escape at the start of `bytes` (RFC 8259, section 7).
fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => code_unit(bytes).map(|_| UNICODE_ESCAPE_BYTES),
        _ => None,
    }
}

/// The length of `\uXXXX`.
const UNICODE_ESCAPE_BYTES: usize = 6;

/// Decodes the escape at the start of `bytes` into a character and the escape's length in bytes.
/// Half a surrogate pair is no character.
fn unescape(bytes: &[u8]) -> Option<(Option<char>, usize)> {
    let char = match bytes.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unicode(bytes),
        _ => return None,
    };
    Some((Some(char), 2))
}

/// Decodes `\uXXXX`, or two of them for a character outside the basic plane.
fn unescape_unicode(bytes: &[u8]) -> Option<(Option<char>, usize)> {
    let unit = code_unit(bytes)?;
    let next = bytes.get(UNICODE_ESCAPE_BYTES..).and_then(code_unit);
    Some(match next {
        Some(low) if (0xD800..0xDC00).contains(&unit) && (0xDC00..0xE000).contains(&low) => {
            let char = char::from_u32(0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00));
            (char, 2 * UNICODE_ESCAPE_BYTES)
        }
        _ => (char::from_u32(unit), UNICODE_ESCAPE_BYTES),
    })
}

fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(br"\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, &digit| {
        Some(unit << 4 | char::from(digit).to_digit(16)?)
    })
}

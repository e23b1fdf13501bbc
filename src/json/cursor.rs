//! A strict reader of one JSON text (RFC 8259), token by token, that builds nothing.
//!
//! Accepts only what `serde_json` accepts, also in the parts that are skipped. This excludes what
//! the RFC leaves open and receivers treat differently: nesting deeper than [`MAX_DEPTH`], escapes
//! of unpaired surrogates, and numbers too large for a double. [`find`](super::find) knows what is
//! searched for; this module does not.

#![expect(
    clippy::inline_always,
    reason = "left to itself, the compiler takes a third longer over every body"
)]

use super::block::Specials;

/// The levels of arrays and objects that a text may have; `serde_json`'s own limit.
pub const MAX_DEPTH: usize = 127;

/// The error of a text that is not strict JSON.
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

/// A string between its quotes. Its escapes are valid, and not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    raw: &'a str,
    escaped: bool,
}

/// The open arrays and objects. The innermost decides what may follow a value.
#[derive(Debug)]
struct Nesting {
    depth: usize,
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

    /// Consumes the rest of a number whose first byte is consumed; returns the number as written.
    pub(super) fn number(&mut self) -> Result<&'a str, NotJson> {
        let start = self.at - 1;
        self.skip_number()?;
        self.text.get(start..self.at).ok_or(NotJson)
    }

    /// Consumes the rest of a value whose first byte, `first`, is consumed, inside `depth` open arrays
    /// and objects.
    pub(super) fn skip_value(&mut self, first: u8, depth: usize) -> Result<(), NotJson> {
        // A copy that nothing else can see stays in registers, which takes a third of the time.
        let mut cursor = self.clone();
        cursor.skip_value_in_registers(first, depth)?;
        *self = cursor;
        Ok(())
    }

    #[inline(always)]
    fn skip_value_in_registers(&mut self, mut first: u8, depth: usize) -> Result<(), NotJson> {
        let mut open = Nesting::new(depth);
        'value: loop {
            match first {
                b'"' => {
                    self.skip_string()?;
                }
                b'{' | b'[' => {
                    open.push(first)?;
                    if !self.consume_if(open.closing) {
                        first = self.next_member(&open)?;
                        continue 'value;
                    }
                    open.pop();
                }
                _ => self.skip_scalar(first)?,
            }
            while open.depth > depth {
                match self.next()? {
                    b',' => {
                        first = self.next_member(&open)?;
                        continue 'value;
                    }
                    byte if byte == open.closing => open.pop(),
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

    /// Consumes the rest of a number, `true`, `false` or `null` whose first byte, `first`, is consumed.
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
                    let (_, length) = bytes.get(self.at..).and_then(unescape).ok_or(NotJson)?;
                    self.at += length;
                    escaped = true;
                }
                _ => return Err(NotJson),
            }
        }
    }

    #[inline(always)]
    fn skip_number(&mut self) -> Result<(), NotJson> {
        self.at = number_end(self.text.as_bytes(), self.at - 1).ok_or(NotJson)?;
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

    /// Iterates over the characters, escapes decoded.
    pub(crate) fn chars(self) -> impl Iterator<Item = char> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            let (char, length) = match rest.chars().next()? {
                '\\' if self.escaped => unescape(rest.as_bytes())?,
                plain => (plain, plain.len_utf8()),
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
    fn new(depth: usize) -> Self {
        Self {
            depth,
            objects: 0,
            closing: 0,
        }
    }

    #[inline(always)]
    fn push(&mut self, opening: u8) -> Result<(), NotJson> {
        if self.depth >= MAX_DEPTH {
            return Err(NotJson);
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(opening == b'{');
        self.set_closing();
        Ok(())
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
        self.set_closing();
    }

    #[inline(always)]
    fn set_closing(&mut self) {
        self.closing = if self.objects & 1 == 1 { b'}' } else { b']' };
    }
}

/// Returns the end of the white space at `at` (RFC 8259, section 2).
fn white_space_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Returns the end of the number at `start` (RFC 8259, section 6); `None` if it is malformed, or
/// larger than [`magnitude_is_safe`] allows.
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
    let mut exponent_digits = 0;
    if let Some(b'e' | b'E') = bytes.get(at) {
        let exponent = at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits_end(bytes, exponent);
        exponent_digits = at - exponent;
        if exponent_digits == 0 {
            return None;
        }
    }
    let surely_safe = at - start <= 200 && exponent_digits <= 2;
    if surely_safe || magnitude_is_safe(bytes.get(start..at)?) {
        Some(at)
    } else {
        None
    }
}

#[inline(always)]
fn digits_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// Returns whether the number is at most 1e308, and so a finite double however a receiver rounds.
#[cold]
fn magnitude_is_safe(number: &[u8]) -> bool {
    let value = str::from_utf8(number)
        .ok()
        .and_then(|number| number.parse::<f64>().ok());
    value.is_some_and(|value| value.abs() <= 1e308)
}

/// Decodes the escape at the start of `bytes` into a character and the escape's length in bytes
/// (RFC 8259, section 7). Half a surrogate pair is no character.
fn unescape(bytes: &[u8]) -> Option<(char, usize)> {
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
    Some((char, 2))
}

/// Decodes `\uXXXX`, or two of them for a character outside the basic plane.
fn unescape_unicode(bytes: &[u8]) -> Option<(char, usize)> {
    let unit = code_unit(bytes)?;
    if let Some(char) = char::from_u32(unit) {
        return Some((char, 6));
    }
    let low = code_unit(bytes.get(6..)?)?;
    if !(0xD800..0xDC00).contains(&unit) || !(0xDC00..0xE000).contains(&low) {
        return None;
    }
    let char = char::from_u32(0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00))?;
    Some((char, 12))
}

fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(br"\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, &digit| {
        Some(unit << 4 | char::from(digit).to_digit(16)?)
    })
}

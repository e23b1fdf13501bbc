//! Splits one command of a POSIX shell into words, with the common extension `$'…'`.
//!
//! Existing crates do not support `$'…'`, which browsers use when they copy a request as curl, and
//! report no line numbers.

use super::CapturedError;

/// Returns the words of the first command in `text`, which starts at `line`. Variables and
/// substitutions are errors, because their values are unknown.
pub(super) fn words(text: &[u8], line: usize) -> Result<Vec<Word>, CapturedError> {
    let mut lexer = Lexer { rest: text, line };
    let mut words = Vec::new();
    while let Some(word) = lexer.word()? {
        words.push(word);
    }
    Ok(words)
}

pub(super) struct Word {
    pub bytes: Vec<u8>,
    pub line: usize,
}

struct Lexer<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Lexer<'_> {
    /// Returns the next word, or `None` at the end of the command.
    fn word(&mut self) -> Result<Option<Word>, CapturedError> {
        loop {
            if self.consume(b"\\\n")
                || self.consume(b"\\\r\n")
                || self.consume(b" ")
                || self.consume(b"\t")
            {
                continue;
            }
            break;
        }
        let line = self.line;
        let mut word: Option<Vec<u8>> = None;
        loop {
            if self.consume(b"\\\n") || self.consume(b"\\\r\n") {
                continue;
            }
            if self.rest.starts_with(b"$'") {
                self.rest = &self.rest[2..];
                self.escaped(word.get_or_insert_default())?;
                continue;
            }
            match self.rest.first() {
                None | Some(b' ' | b'\t' | b'\n' | b'\r' | b';' | b'|' | b'&' | b'<' | b'>') => {
                    break;
                }
                Some(b'#') if word.is_none() => break,
                Some(b'\'') => self.single(word.get_or_insert_default())?,
                Some(b'"') => self.double(word.get_or_insert_default())?,
                Some(b'\\') => {
                    self.rest = &self.rest[1..];
                    let byte = self.next("a backslash ends the command")?;
                    word.get_or_insert_default().push(byte);
                }
                Some(_) => {
                    let byte = self.literal()?;
                    word.get_or_insert_default().push(byte);
                }
            }
        }
        Ok(word.map(|bytes| Word { bytes, line }))
    }

    fn single(&mut self, word: &mut Vec<u8>) -> Result<(), CapturedError> {
        let opened = self.line;
        self.rest = &self.rest[1..];
        loop {
            match self.next("").map_err(|_| unclosed_quote(opened, "'"))? {
                b'\'' => return Ok(()),
                byte => word.push(byte),
            }
        }
    }

    fn double(&mut self, word: &mut Vec<u8>) -> Result<(), CapturedError> {
        let opened = self.line;
        self.rest = &self.rest[1..];
        loop {
            if self.consume(b"\\\n") {
                continue;
            }
            match self.rest {
                [] => return Err(unclosed_quote(opened, "\"")),
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Ok(());
                }
                [b'\\', byte @ (b'$' | b'`' | b'"' | b'\\'), rest @ ..] => {
                    word.push(*byte);
                    self.rest = rest;
                }
                _ => word.push(self.literal()?),
            }
        }
    }

    /// Reads the rest of `$'…'`.
    fn escaped(&mut self, word: &mut Vec<u8>) -> Result<(), CapturedError> {
        let opened = self.line;
        let unclosed = |_| unclosed_quote(opened, "$'");
        loop {
            match self.next("").map_err(unclosed)? {
                b'\'' => return Ok(()),
                b'\\'
                    if self
                        .rest
                        .first()
                        .is_some_and(|digit| matches!(digit, b'0'..=b'7')) =>
                {
                    let byte = self.number(3, 8)?;
                    word.push(u8::try_from(byte).map_err(|_| self.bad_escape())?);
                }
                b'\\' => {
                    let byte = match self.next("").map_err(unclosed)? {
                        b'n' => b'\n',
                        b't' => b'\t',
                        b'r' => b'\r',
                        b'a' => 7,
                        b'b' => 8,
                        b'e' | b'E' => 27,
                        b'f' => 12,
                        b'v' => 11,
                        b'x' => u8::try_from(self.number(2, 16)?).map_err(|_| self.bad_escape())?,
                        letter @ (b'u' | b'U') => {
                            let number = self.number(if letter == b'u' { 4 } else { 8 }, 16)?;
                            let char = char::from_u32(number).ok_or_else(|| self.bad_escape())?;
                            word.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                            continue;
                        }
                        byte => byte,
                    };
                    word.push(byte);
                }
                byte => word.push(byte),
            }
        }
    }

    /// Reads a number of 1 to `most` digits.
    fn number(&mut self, most: usize, radix: u32) -> Result<u32, CapturedError> {
        let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
        let length = self.rest.iter().take(most).take_while(is_digit).count();
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| u32::from_str_radix(digits, radix).ok());
        number.ok_or_else(|| self.bad_escape())
    }

    fn bad_escape(&self) -> CapturedError {
        CapturedError::new(self.line, "an escape in `$'…'` is not a valid character")
    }

    /// Reads a literal byte. Fails if the shell would substitute something for it.
    fn literal(&mut self) -> Result<u8, CapturedError> {
        let begins_name =
            |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'{' | b'(');
        match self.rest {
            [b'`', ..] => {
                return Err(self.unknown("the output of a backtick command"));
            }
            [b'$', next, ..] if begins_name(next) => {
                return Err(self.unknown("the value of a `$` expansion"));
            }
            _ => {}
        }
        self.next("the command ends here")
    }

    fn unknown(&self, what: &str) -> CapturedError {
        CapturedError::new(
            self.line,
            format!("{what} is unknown: write it out, or quote it with '…'"),
        )
    }

    fn next(&mut self, problem: &str) -> Result<u8, CapturedError> {
        let (&byte, rest) = self
            .rest
            .split_first()
            .ok_or_else(|| CapturedError::new(self.line, problem))?;
        self.rest = rest;
        self.line += usize::from(byte == b'\n');
        Ok(byte)
    }

    fn consume(&mut self, wanted: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        if let Some(rest) = rest {
            self.rest = rest;
            self.line += usize::from(wanted.ends_with(b"\n"));
        }
        rest.is_some()
    }
}

fn unclosed_quote(line: usize, quote: &str) -> CapturedError {
    CapturedError::new(line, format!("the quote {quote} opened here is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<Vec<String>, CapturedError> {
        let words = words(text.as_bytes(), 1)?;
        Ok(words
            .into_iter()
            .map(|word| String::from_utf8(word.bytes).unwrap())
            .collect())
    }

    #[test]
    fn words_split_like_in_a_shell() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  a\tb ", &["a", "b"]),
            ("a\\\n  b", &["a", "b"]),
            ("a\\\r\n  b", &["a", "b"]),
            ("a\nb", &["a"]),
            ("a | b", &["a"]),
            ("a > b; c", &["a"]),
            ("a # b", &["a"]),
            ("a#b", &["a#b"]),
            ("'a b'c\"d e\"", &["a bcd e"]),
            ("'' \"\"", &["", ""]),
            (r"'a\n' a\ b \'", &[r"a\n", "a b", "'"]),
            (r#""a\"b\\c\n\$d" "#, &[r#"a"b\c\n$d"#]),
            ("'a\nb'", &["a\nb"]),
            (r"$'a\n\t\'\\\x41\u00e9\101'b", &["a\n\t'\\AéAb"]),
            ("a$ $1", &["a$", "$1"]),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text).unwrap(), *expected, "{text}");
        }
    }

    #[test]
    fn errors_and_substitutions_name_their_line() {
        let cases = [
            ("a \\\n 'b", 2),
            ("\"a", 1),
            ("$'a", 1),
            ("a\\", 1),
            ("$HOME", 1),
            ("a \"\n$(b)\"", 2),
            ("`a`", 1),
            (r"$'\xzz'", 1),
            (r"$'\ud800'", 1),
            (r"$'\777'", 1),
        ];
        for (text, line) in cases {
            assert_eq!(split(text).unwrap_err().line, line, "{text}");
        }
    }
}

//! One command line of a POSIX shell, and what `$'…'` means in most of them, split into words.
//!
//! Crates for this know no `$'…'`, which browsers write when they copy a request, and give no line.

use super::CapturedError;

/// The words of the first command in `text`, which begins at `line`. Variables and substitutions are unknown here, and an error.
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
    /// `None` at the end of the command.
    fn word(&mut self) -> Result<Option<Word>, CapturedError> {
        loop {
            if self.takes(b"\\\n") || self.takes(b"\\\r\n") || self.takes(b" ") || self.takes(b"\t")
            {
                continue;
            }
            break;
        }
        let line = self.line;
        let mut word: Option<Vec<u8>> = None;
        loop {
            if self.takes(b"\\\n") || self.takes(b"\\\r\n") {
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
            match self.next("").map_err(|_| open(opened, "'"))? {
                b'\'' => return Ok(()),
                byte => word.push(byte),
            }
        }
    }

    fn double(&mut self, word: &mut Vec<u8>) -> Result<(), CapturedError> {
        let opened = self.line;
        self.rest = &self.rest[1..];
        loop {
            if self.takes(b"\\\n") {
                continue;
            }
            match self.rest {
                [] => return Err(open(opened, "\"")),
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

    /// The rest of `$'…'`.
    fn escaped(&mut self, word: &mut Vec<u8>) -> Result<(), CapturedError> {
        let opened = self.line;
        let unclosed = |_| open(opened, "$'");
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

    /// At least one digit, and at most `most`.
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
        CapturedError::new(self.line, "an escape in `$'…'` stands for no character")
    }

    /// A byte that stands for itself, unless the shell would put something else there.
    fn literal(&mut self) -> Result<u8, CapturedError> {
        let begins_name =
            |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'{' | b'(');
        match self.rest {
            [b'`', ..] => {
                return Err(self.unknown("what the shell would put in the place of a backtick"));
            }
            [b'$', next, ..] if begins_name(next) => {
                return Err(self.unknown("what the shell would put in the place of a `$`"));
            }
            _ => {}
        }
        self.next("the command ends here")
    }

    fn unknown(&self, what: &str) -> CapturedError {
        CapturedError::new(
            self.line,
            format!("{what} is not known here: write it out, or quote it with '…'"),
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

    fn takes(&mut self, wanted: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        if let Some(rest) = rest {
            self.rest = rest;
            self.line += usize::from(wanted.ends_with(b"\n"));
        }
        rest.is_some()
    }
}

fn open(line: usize, quote: &str) -> CapturedError {
    CapturedError::new(
        line,
        format!("the quote {quote} is opened here and not closed"),
    )
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
    fn words_are_split_as_a_shell_splits_them() {
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
    fn what_a_shell_would_not_take_or_would_replace_is_told_with_its_line() {
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

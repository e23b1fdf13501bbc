//! Parses captured requests as people save them: raw HTTP, or a curl command.
//!
//! The input is untrusted. Every input gives a request, or an error with its line.

mod curl;
mod http1;
mod shell;

use super::Request;

/// The error of a text that is not a captured request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct CapturedError {
    /// The line, counted from 1.
    pub line: usize,
    pub problem: String,
}

/// Reads the file that a curl command names; `-` is standard input. The error is a message.
pub type Files<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

impl Request {
    /// Parses a saved message: a curl command if its first word is `curl`, else raw HTTP.
    ///
    /// # Errors
    /// The problem, with its line.
    pub fn parse(text: &[u8], files: &mut Files<'_>) -> Result<Self, CapturedError> {
        match curl::command(text) {
            Some((command, line)) => curl::parse(command, line, files),
            None => http1::parse(text),
        }
    }

    /// Parses a head without a body: one `Name: value` per line, with or without a first line.
    ///
    /// # Errors
    /// The problem, with its line.
    pub fn parse_head(text: &[u8]) -> Result<Self, CapturedError> {
        http1::parse_head(text)
    }
}

impl CapturedError {
    fn new(line: usize, problem: impl Into<String>) -> Self {
        Self {
            line,
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_parses_or_fails_with_a_valid_line() {
        let requests = ["captured", "found/captured"].map(|folder| {
            let mut requests = 0;
            for text in crate::corpus::files(folder).into_values() {
                let mut files = |name: &str| {
                    if name.len() < 8 {
                        Ok(name.into())
                    } else {
                        Err("no such file".into())
                    }
                };
                let lines = text.split(|&byte| byte == b'\n').count();
                match Request::parse(&text, &mut files) {
                    Ok(request) => requests += usize::from(!request.headers.is_empty()),
                    Err(error) => assert!((1..=lines).contains(&error.line), "{error}"),
                }
            }
            requests
        });
        assert_eq!(requests[0], 3);
    }
}

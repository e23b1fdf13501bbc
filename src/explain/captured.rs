//! Captured requests as people save them: raw HTTP, or a curl command line.
//!
//! Owns both notations. Reads bytes from outside: whatever they are, there is a request or an error with its line.

mod curl;
mod http1;
mod shell;

use super::Request;

/// Why a text is no captured request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct CapturedError {
    /// Counted from 1.
    pub line: usize,
    pub problem: String,
}

/// Looks up the file that a curl command names; `-` is standard input. The error says why it can't.
pub type Files<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

impl Request {
    /// Reads a saved message: a curl command line if its first word is `curl`, else raw HTTP.
    ///
    /// # Errors
    /// What can't be read, and where.
    pub fn parse(text: &[u8], files: &mut Files<'_>) -> Result<Self, CapturedError> {
        match curl::command(text) {
            Some((command, line)) => curl::parse(command, line, files),
            None => http1::parse(text),
        }
    }

    /// Reads a head alone: `Name: value` a line, with or without the request's line before. The body is empty.
    ///
    /// # Errors
    /// What can't be read, and where.
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
    fn the_corpus_is_read_or_refused_with_one_of_its_lines() {
        let requests = ["captured", "found/captured"].map(|folder| {
            let mut requests = 0;
            for text in crate::corpus::of(folder).into_values() {
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

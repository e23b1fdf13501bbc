//! Parses captured requests as people and programs save them. The form is detected.
//!
//! Raw HTTP and curl commands hold one request. `hookstile capture` and `catch`, what `curl -v` and
//! `curl --trace` print, and a browser's HAR may hold several. The input is untrusted. Every input
//! gives requests, or an error with its line.

mod catch;
mod curl;
mod document;
mod http1;
mod shell;
mod trace;

use jiff::Timestamp;

use super::Request;

/// A request out of a capture.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// Empty if the capture does not say it.
    pub method: String,
    pub request: Request,
    /// The time at which the request was received, or sent.
    pub at: Option<Timestamp>,
    /// The reason why the capture does not hold the body.
    pub no_body: Option<&'static str>,
    /// What the reader should know about the form of the capture.
    pub note: Option<&'static str>,
}

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

/// The header in which the gateway tells receivers the time of the request. `hookstile capture`
/// writes it, too.
const RECEIVED_AT: &str = "hookstile-received-at";

impl Captured {
    /// Parses a capture in any of its forms. There is at least one request.
    ///
    /// # Errors
    /// The problem, with its line.
    pub fn parse(text: &[u8], files: &mut Files<'_>) -> Result<Vec<Self>, CapturedError> {
        let mut captured = if let Some((command, line)) = curl::command(text) {
            let (method, request) = curl::parse(command, line, files)?;
            vec![Self {
                method,
                ..Self::new(request)
            }]
        } else if document::is_json(text) {
            document::parse(text)?
        } else if catch::is_output(text) {
            catch::parse(text)?
        } else if trace::is_output(text) {
            trace::parse(text)?
        } else {
            let (method, request) = http1::parse(text)?;
            vec![Self {
                method,
                ..Self::new(request)
            }]
        };
        for captured in &mut captured {
            let header = captured.request.headers.get(RECEIVED_AT);
            let at = header.and_then(|at| at.to_str().ok()?.parse().ok());
            captured.at = captured.at.or(at);
        }
        Ok(captured)
    }

    fn new(request: Request) -> Self {
        Self {
            request,
            ..Self::default()
        }
    }
}

impl Request {
    /// Parses a saved message: a curl command if its first word is `curl`, else raw HTTP.
    ///
    /// # Errors
    /// The problem, with its line.
    pub fn parse(text: &[u8], files: &mut Files<'_>) -> Result<Self, CapturedError> {
        match curl::command(text) {
            Some((command, line)) => curl::parse(command, line, files).map(|(_, request)| request),
            None => http1::parse(text).map(|(_, request)| request),
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
                match Captured::parse(&text, &mut files) {
                    Ok(captured) => {
                        assert!(!captured.is_empty());
                        let has_headers =
                            |captured: &&Captured| !captured.request.headers.is_empty();
                        requests += captured.iter().filter(has_headers).count();
                    }
                    Err(error) => assert!((1..=lines).contains(&error.line), "{error}"),
                }
            }
            requests
        });
        assert_eq!(requests[0], 10);
    }
}

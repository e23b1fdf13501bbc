//! The HTTP client, and the formatting of a response.

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

use super::request::SignedRequest;
use crate::cli::terminal;

/// Bytes of a response's body that are read.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// Bytes of a response's body that are shown as text.
const SHOWN_MAX: usize = 1 << 10;

pub(super) struct Client(Agent);

pub(super) struct Response {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    /// The first [`RESPONSE_BYTES_MAX`] bytes, plus one if the body is longer.
    body: Vec<u8>,
    duration: Duration,
}

impl Client {
    /// Creates a client for requests to this URL.
    pub(super) fn new(url: &str, timeout: Duration) -> Self {
        let proxy = if is_local(url) {
            None
        } else {
            Proxy::try_from_env()
        };
        let config = Agent::config_builder()
            .proxy(proxy)
            .max_redirects(0)
            .http_status_as_error(false)
            // Providers usually open a connection for each request.
            .max_idle_connections(0)
            .timeout_global(Some(timeout))
            .user_agent(concat!("hookstile/", env!("CARGO_PKG_VERSION")))
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::PlatformVerifier)
                    .build(),
            )
            .build();
        Self(config.into())
    }

    /// Sends a request and reads the response.
    ///
    /// # Errors
    /// The reason why there is no response.
    pub(super) fn post(&self, url: &str, request: &SignedRequest) -> Result<Response, String> {
        let reason = |error: ureq::Error| match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused; is it running there?".into()
            }
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        };
        let mut post = self.0.post(url);
        for (name, value) in &request.headers {
            post = post.header(name, value);
        }
        let started = Instant::now();
        let mut response = post.send(&request.body[..]).map_err(reason)?;
        let mut body = Vec::new();
        let mut read = response
            .body_mut()
            .as_reader()
            .take(RESPONSE_BYTES_MAX as u64 + 1);
        read.read_to_end(&mut body)
            .map_err(|error| format!("the response is incomplete: {error}"))?;
        let after = started.elapsed();
        let (head, _) = response.into_parts();
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
            duration: after,
        })
    }
}

/// Returns whether a URL points to this machine, which a proxy cannot reach.
fn is_local(url: &str) -> bool {
    let uri = url.parse::<Uri>().ok();
    let host = uri
        .as_ref()
        .and_then(Uri::host)
        .unwrap_or_default()
        .trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Response {
    /// Formats the response as a line, with the body below it if that is a short text.
    pub(super) fn to_text(&self) -> String {
        let after = format!("in {:.1} ms", self.milliseconds());
        let [outcome, id] = ["hookstile-outcome", "hookstile-event-id"]
            .map(|name| self.header(name).unwrap_or_default());
        let status = format!("{} {outcome}", self.status.as_u16());
        let event = if id.is_empty() {
            String::new()
        } else {
            format!("event {id}")
        };
        let line = [status.trim_end(), &after, &event].join("  ");
        let mut lines = vec![terminal::visible(line.trim_end(), false).into_owned()];
        match self.text().filter(|text| text.len() <= SHOWN_MAX) {
            Some(body) => {
                lines.extend(
                    terminal::visible(body.trim_end(), true)
                        .lines()
                        .map(|line| format!("  {line}")),
                );
            }
            None if self.body.len() > RESPONSE_BYTES_MAX => {
                lines.push(format!("  (more than {RESPONSE_BYTES_MAX} bytes)"));
            }
            None => lines.push(format!("  ({} bytes)", self.body.len())),
        }
        lines.join("\n")
    }

    /// Formats the response and the sent headers as one JSON object. The signature is `null` unless
    /// `verbose`.
    pub(super) fn to_json(&self, request: &SignedRequest, verbose: bool) -> String {
        let mut sent = terminal::json_fields(&request.headers);
        if let Some(signature) = request.signature.as_ref().filter(|_| !verbose) {
            sent.insert(signature.to_string(), Value::Null);
        }
        terminal::json_line(&json!({
            "status": self.status.as_u16(),
            "outcome": self.header("hookstile-outcome"),
            "event_id": self.header("hookstile-event-id"),
            "duration_ms": (self.milliseconds() * 1e3).round() / 1e3,
            "body": self.text(),
            "sent": { "headers": sent, "bytes": request.body.len() },
        }))
    }

    fn milliseconds(&self) -> f64 {
        self.duration.as_secs_f64() * 1e3
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the body, if it was read completely and is text.
    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body)
            .ok()
            .filter(|text| text.len() <= RESPONSE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(body: &[u8]) -> Response {
        let headers = [
            ("hookstile-outcome", "duplicate"),
            ("hookstile-event-id", "evt_1"),
        ];
        let headers =
            headers.map(|(name, value)| (name.try_into().unwrap(), value.try_into().unwrap()));
        let after = Duration::from_micros(12_345);
        Response {
            status: StatusCode::CONFLICT,
            headers: headers.into_iter().collect(),
            body: body.to_vec(),
            duration: after,
        }
    }

    #[test]
    fn local_urls_bypass_the_proxy() {
        for url in [
            "http://localhost:80/a",
            "http://127.0.0.1/",
            "https://[::1]:8443/x",
        ] {
            assert!(is_local(url), "{url}");
        }
        for url in [
            "http://localhost.example/",
            "http://192.0.2.1:80/",
            "https://[2001:db8::1]/",
            "http://127.0.0.1.nip/",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }

    #[test]
    fn response_text_has_only_short_text_bodies() {
        let line = "409 duplicate  in 12.3 ms  event evt_1";
        assert_eq!(response(b"").to_text(), line);
        assert_eq!(
            response(b"a\nb\x1b[2J\n").to_text(),
            format!("{line}\n  a\n  b\\u{{1b}}[2J")
        );
        assert_eq!(
            response(b"\xff\xfe").to_text(),
            format!("{line}\n  (2 bytes)")
        );
        assert_eq!(
            response(&[b'a'; 2000]).to_text(),
            format!("{line}\n  (2000 bytes)")
        );
        assert_eq!(
            response(&vec![b'a'; RESPONSE_BYTES_MAX + 1]).to_text(),
            format!("{line}\n  (more than 65536 bytes)")
        );
    }

    #[test]
    fn json_hides_the_signature_unless_verbose() {
        let header = |name: &'static str, value| {
            (
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )
        };
        let headers = [
            header("x-signature", "5257"),
            header("x-other", "a"),
            header("x-other", "b"),
        ];
        let request = SignedRequest {
            target: "http://localhost/".into(),
            headers: headers.into_iter().collect(),
            body: b"{}".to_vec(),
            unsigned: b"{}".to_vec(),
            signature: Some("x-signature".try_into().unwrap()),
        };
        let json = |verbose| -> Value {
            serde_json::from_str(&response(b"no").to_json(&request, verbose)).unwrap()
        };
        assert_eq!(
            json(false),
            json!({
                "status": 409,
                "outcome": "duplicate",
                "event_id": "evt_1",
                "duration_ms": 12.345,
                "body": "no",
                "sent": { "headers": { "x-signature": null, "x-other": ["a", "b"] }, "bytes": 2 },
            })
        );
        assert_eq!(json(true)["sent"]["headers"]["x-signature"], "5257");
    }
}

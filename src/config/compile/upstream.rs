//! A route's upstream, and the headers that the gateway sets on requests to it.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};

use super::Compiler;
use crate::config::de::{Field, Located, Pairs};
use crate::config::diagnostics::Diagnostic;
use crate::config::facts;
use crate::config::raw::{self, HeaderText, Reference};
use crate::config::redact::has_secret_prefix;
use crate::config::tree::Span;
use crate::config::{Listen, ListenAddress};
use crate::delivery::{folds_to_framing, is_hookstile_header, is_spelling_of};
use crate::signature::Scheme;
use crate::tls::{NameProblem, TrustedCertificate};
use crate::upstream::{Target, TrustedCa};

impl Compiler<'_> {
    pub(super) fn target(
        &self,
        field: &Field<raw::Upstream>,
        span: Span,
        listen: &[Listen],
    ) -> Option<Target> {
        let upstream = self.required(field, span, "route", "upstream")?;
        let timeout = self.duration(&upstream.value.connect_timeout, facts::CONNECT_TIMEOUT);
        let url = self.required(&upstream.value.url, upstream.span, "upstream", "url")?;
        let mut target = Target::parse(&url.value, timeout)
            .map_err(|error| {
                let problem = Diagnostic::error(url.span, "this is not an upstream's URL");
                self.report(problem.label(format!("{error}")));
            })
            .ok()?;
        target.socket = match &upstream.value.socket {
            Field::Absent => None,
            Field::Wrong => return None,
            Field::Given(path) => Some(path.value.0.as_path().into()),
        };
        let ca = match upstream.value.ca.given() {
            None => None,
            Some(path) => Some(self.trusted_ca(path, &target.host)?),
        };
        if let (false, Some(ca)) = (target.tls, upstream.value.ca.given()) {
            let warning = Diagnostic::warning(ca.span, "`ca` has no effect without TLS");
            self.report(warning.help("use `https://` in the upstream's `url`, or remove `ca`"));
        }
        if listen.iter().any(|listen| reaches(&target, listen)) {
            let warning = Diagnostic::warning(url.span, "this is the gateway's own address");
            self.report(
                warning.help("events would loop through the gateway; use the application's port"),
            );
        }
        Some(Target { ca, ..target })
    }

    fn trusted_ca(&self, path: &Located<String>, host: &str) -> Option<TrustedCa> {
        let ca = TrustedCa::from_pem(&self.read(path)?, host)
            .map_err(|error| self.report_file(path, error))
            .ok()?;
        for certificate in ca.certificates() {
            self.warn_of_unusable(path, certificate, certificate.is_for_host(host));
        }
        let problems = ca.certificates().iter().map(|it| it.name_problem(host));
        // One that fits is enough: a bundle may be for several hosts.
        if let Some(problem) = problems
            .collect::<Option<Vec<_>>>()
            .and_then(|it| it.into_iter().next())
        {
            self.warn_of_name(path, host, &problem);
        }
        Some(ca)
    }

    /// Warns about a trusted certificate with which no connection can be verified. The validity of
    /// a CA is not looked at, only that of the upstream's own.
    fn warn_of_unusable(
        &self,
        path: &Located<String>,
        certificate: &TrustedCertificate,
        is_own: bool,
    ) {
        let TrustedCertificate {
            not_before,
            not_after,
            unusable_key,
            ..
        } = certificate;
        if is_own && *not_after <= self.sources.now {
            let warning = Diagnostic::warning(
                path.span,
                format!("this file has a certificate that expired at {not_after}"),
            );
            self.report(
                warning.help("an upstream that shows it is not trusted any more; replace it"),
            );
        } else if is_own && *not_before > self.sources.now {
            let warning = Diagnostic::warning(
                path.span,
                format!("this file has a certificate that is not valid before {not_before}"),
            );
            self.report(
                warning
                    .help("until then, an upstream that shows it is not trusted; check the clock"),
            );
        }
        if let Some(reason) = unusable_key {
            let warning = Diagnostic::warning(
                path.span,
                format!("this file has a certificate that cannot be used: {reason}"),
            );
            self.report(
                warning.help("use RSA with at least 2048 bits, ECDSA (P-256, P-384) or Ed25519"),
            );
        }
    }

    /// Warns that the certificates of a file can't make the upstream trusted.
    fn warn_of_name(&self, path: &Located<String>, host: &str, problem: &NameProblem) {
        let (message, help) = match problem {
            NameProblem::CommonNameOnly => (
                format!("this certificate has `{host}` only as its common name, which TLS ignores"),
                "if the upstream shows this certificate itself, make it with a subject alternative \
                 name: `openssl req -x509 … -addext subjectAltName=DNS:…`",
            ),
            NameProblem::OtherNames(names) => (
                format!(
                    "this certificate is for {}, and not for `{host}`",
                    quoted(names)
                ),
                "the upstream must show a certificate for the host of its `url`, or one that a CA \
                 in this file has signed",
            ),
            NameProblem::Nameless => (
                "this certificate is for no name, and is no CA".to_owned(),
                "the upstream must show a certificate for the host of its `url`, or one that a CA \
                 in this file has signed",
            ),
        };
        self.report(Diagnostic::warning(path.span, message).help(help));
    }

    /// Returns the headers to set on requests to the upstream. Headers of the signature `scheme`
    /// are reserved: the upstream may verify the signature again.
    /// Adds secrets that cannot be read to `unreadable`. `None` if the value of one is wrong.
    pub(super) fn headers(
        &self,
        field: &Field<Pairs<HeaderText>>,
        scheme: Option<&Scheme>,
        unreadable: &mut Vec<String>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut value = |name: &Located<String>, text: &Located<HeaderText>| match &text.value {
            HeaderText::Text(value) => {
                self.warn_of_credential(name, value, text.span);
                self.header_value(value, text.span)
            }
            HeaderText::Secret(reference) => self.secret_header(reference, text.span, unreadable),
        };
        self.header_pairs(field, &mut value, |header| reserved(header, scheme))
    }

    /// Returns a header's value that is a secret.
    fn secret_header(
        &self,
        reference: &Reference,
        span: Span,
        unreadable: &mut Vec<String>,
    ) -> Option<HeaderValue> {
        let secret = self.header_secret(reference, span, unreadable)?;
        let text = std::str::from_utf8(secret.expose()).unwrap_or_default();
        let mut value = self.header_value(text, span)?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Warns about a header that authenticates the gateway and is written in the configuration
    /// itself.
    fn warn_of_credential(&self, name: &Located<String>, value: &str, span: Span) {
        let is_written_here = !self.problems.is_inserted(span) && !value.is_empty();
        if is_written_here && is_credential(&name.value, value) {
            let warning =
                Diagnostic::warning(span, "a credential is written in the configuration itself");
            self.report(warning.help(
                "anyone who can read this file has it; use `{env: NAME}` or `{file: PATH}`, with \
                 the header's whole value",
            ));
        }
    }

    /// Returns headers to set. `reserved` says why one cannot be set, if so.
    pub(super) fn header_pairs<T>(
        &self,
        field: &Field<Pairs<T>>,
        mut value: impl FnMut(&Located<String>, &Located<T>) -> Option<HeaderValue>,
        reserved: impl Fn(&HeaderName) -> Option<&'static str>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, text) in field.value().into_iter().flat_map(|pairs| &pairs.0) {
            let value = text.given().and_then(|text| value(name, text));
            let Some(header) = self.header_name(&name.value, name.span) else {
                continue;
            };
            if let Some(reason) = reserved(&header) {
                self.report(
                    Diagnostic::error(name.span, "this header cannot be set here").label(reason),
                );
            } else if headers.iter().any(|(other, _)| *other == header) {
                let error = Diagnostic::error(name.span, "this header is set twice");
                self.report(
                    error.help("header names are not case-sensitive; remove one of the two"),
                );
            } else {
                headers.extend(value.map(|value| (header, value)));
            }
        }
        headers
    }

    pub(super) fn header_name(&self, name: &str, span: Span) -> Option<HeaderName> {
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
        if parsed.is_none() {
            let error = Diagnostic::error(span, "this is not a header name");
            self.report(error.label("expected letters, digits and `-`: `X-Api-Key`"));
        }
        parsed
    }

    pub(super) fn header_value(&self, value: &str, span: Span) -> Option<HeaderValue> {
        let visible =
            value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && value.trim() == value;
        let parsed = HeaderValue::from_str(value).ok().filter(|_| visible);
        if parsed.is_none() {
            let error = Diagnostic::error(span, "this is not a header value");
            self.report(error.label("expected visible ASCII characters on one line"));
        }
        parsed
    }
}

/// Returns whether a header most likely holds a credential, by its name or the form of its value.
fn is_credential(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['-', '_'], "");
    let scheme = value.split_once(' ').map(|(scheme, _)| scheme);
    [
        "authorization",
        "cookie",
        "apikey",
        "token",
        "secret",
        "password",
        "credential",
    ]
    .iter()
    .any(|word| name.contains(word))
        || scheme.is_some_and(|it| ["bearer", "basic"].contains(&it.to_ascii_lowercase().as_str()))
        || has_secret_prefix(value)
}

/// The number of a certificate's names that a message has.
const NAMES_SHOWN: usize = 5;

fn quoted(names: &[Box<str>]) -> String {
    let shown = names
        .iter()
        .take(NAMES_SHOWN)
        .map(|name| format!("`{name}`"));
    shown.collect::<Vec<_>>().join(", ")
}

fn reserved(header: &HeaderName, scheme: Option<&Scheme>) -> Option<&'static str> {
    if folds_to_framing(header) {
        Some("the gateway sets or removes it itself")
    } else if is_hookstile_header(header) {
        Some("`Hookstile-…` headers are reserved for the gateway")
    } else if scheme.is_some_and(|scheme| {
        scheme
            .headers()
            .any(|read| is_spelling_of(header, &read.name))
    }) {
        Some("the upstream gets the sender's signature unchanged")
    } else {
        None
    }
}

/// Returns whether a connection to `target` would reach `listen`. Names other than `localhost` are
/// not resolved.
fn reaches(target: &Target, listen: &Listen) -> bool {
    let listen = match (&listen.address, &target.socket) {
        (ListenAddress::Unix(own), Some(socket)) => return *own == **socket,
        (ListenAddress::Name(name, port), None) => {
            return *name == target.host && *port == target.port;
        }
        (ListenAddress::Inet(address), None) => address,
        _ => return false,
    };
    let loopback = &*target.host == "localhost";
    let address: Option<IpAddr> = target.host.parse().ok();
    let own = listen.ip();
    let same_host = match address {
        Some(address) => address == own || (own.is_unspecified() && address.is_loopback()),
        None => loopback && (own.is_loopback() || own.is_unspecified()),
    };
    same_host && target.port == listen.port()
}

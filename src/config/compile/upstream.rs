//! A route's upstream, and the headers that the gateway sets on requests to it.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};

use super::Compiler;
use crate::config::Listen;
use crate::config::de::{Field, Located, Pairs};
use crate::config::diagnostics::Diagnostic;
use crate::config::tree::Span;
use crate::config::{facts, raw};
use crate::delivery::{folds_to_framing, is_hookstile_header, is_spelling_of};
use crate::signature::Scheme;
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
        let ca = match upstream.value.ca.given() {
            None => None,
            Some(path) => Some(self.trusted_ca(path)?),
        };
        let url = self.required(&upstream.value.url, upstream.span, "upstream", "url")?;
        let target = Target::parse(&url.value, timeout)
            .map_err(|error| {
                let problem = Diagnostic::error(url.span, "this is not an upstream's URL");
                self.report(problem.label(format!("{error}")));
            })
            .ok()?;
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

    fn trusted_ca(&self, path: &Located<String>) -> Option<TrustedCa> {
        TrustedCa::from_pem(&self.read(path)?)
            .map_err(|error| self.report_file(path, error))
            .ok()
    }

    /// Returns the headers to set on requests to the upstream. Headers of the signature `scheme`
    /// are reserved: the upstream may verify the signature again.
    pub(super) fn headers(
        &self,
        field: &Field<Pairs<String>>,
        scheme: Option<&Scheme>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        self.header_pairs(field, |header| reserved(header, scheme))
    }

    /// Returns headers to set. `reserved` says why one cannot be set, if so.
    pub(super) fn header_pairs(
        &self,
        field: &Field<Pairs<String>>,
        reserved: impl Fn(&HeaderName) -> Option<&'static str>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in field.value().into_iter().flat_map(|pairs| &pairs.0) {
            let value = value
                .given()
                .and_then(|given| self.header_value(&given.value, given.span));
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

    fn header_value(&self, value: &str, span: Span) -> Option<HeaderValue> {
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
    let loopback = &*target.host == "localhost";
    let address: Option<IpAddr> = target.host.parse().ok();
    let own = listen.address.ip();
    let same_host = match address {
        Some(address) => address == own || (own.is_unspecified() && address.is_loopback()),
        None => loopback && (own.is_loopback() || own.is_unspecified()),
    };
    same_host && target.port == listen.address.port()
}

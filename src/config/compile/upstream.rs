//! A route's upstream and the headers that are set on the way to it.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};

use super::Compiler;
use crate::config::Listen;
use crate::config::de::{Field, Pairs};
use crate::config::diagnostics::Diagnostic;
use crate::config::raw;
use crate::config::tree::Span;
use crate::delivery::{is_framing, is_hookstile_header};
use crate::signature::Scheme;
use crate::upstream::{Target, TrustedCa};

impl Compiler<'_> {
    pub(super) fn target(
        &self,
        field: &Field<raw::Upstream>,
        place: Span,
        listen: &[Listen],
    ) -> Option<Target> {
        let upstream = self.required(field, place, "route", "upstream")?;
        let timeout = self.duration(&upstream.value.connect_timeout);
        let ca = match upstream.value.ca.given() {
            None => None,
            Some(path) => Some(self.read(path).and_then(|pem| {
                let refuse =
                    |error| self.report(Diagnostic::error(path.span, format!("this file {error}")));
                TrustedCa::from_pem(&pem).map_err(refuse).ok()
            })?),
        };
        let url = self.required(&upstream.value.url, upstream.span, "upstream", "url")?;
        let refuse = |error| {
            self.report(
                Diagnostic::error(url.span, "this is not an upstream's URL")
                    .label(format!("{error}")),
            )
        };
        let target = Target::parse(&url.value, timeout).map_err(refuse).ok()?;
        if let (false, Some(ca)) = (target.tls, upstream.value.ca.given()) {
            let warning =
                Diagnostic::warning(ca.span, "without TLS there is no certificate to check");
            self.report(
                warning.help("write `https://` in the upstream's `url`, or leave `ca` out"),
            );
        }
        if listen.iter().any(|listen| leads_to(&target, listen)) {
            let warning = Diagnostic::warning(url.span, "this is where the gateway itself listens");
            self.report(
                warning.help("events would go round in circles; name the application's own port"),
            );
        }
        Some(Target { ca, ..target })
    }

    /// Headers for the upstream. `signature` is the one that the receiver may want to check again.
    pub(super) fn headers(
        &self,
        field: &Field<Pairs<String>>,
        scheme: Option<&Scheme>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in field.value().into_iter().flat_map(|pairs| &pairs.0) {
            let value = value
                .given()
                .and_then(|given| self.header_value(&given.value, given.span));
            let Some(header) = self.header_name(&name.value, name.span) else {
                continue;
            };
            if let Some(reason) = reserved(&header, scheme) {
                self.report(
                    Diagnostic::error(name.span, "this header cannot be set here").label(reason),
                );
            } else if headers.iter().any(|(other, _)| *other == header) {
                let error = Diagnostic::error(name.span, "this header is set twice");
                self.report(
                    error.help("the case of letters makes no difference in a header's name"),
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
            let error = Diagnostic::error(span, "this is not a header's name");
            self.report(error.label("expected letters, digits and `-`, as in `X-Api-Key`"));
        }
        parsed
    }

    fn header_value(&self, value: &str, span: Span) -> Option<HeaderValue> {
        let visible =
            value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && value.trim() == value;
        let parsed = HeaderValue::from_str(value).ok().filter(|_| visible);
        if parsed.is_none() {
            let error = Diagnostic::error(span, "this cannot be a header's value");
            self.report(error.label("expected visible ASCII characters on one line"));
        }
        parsed
    }
}

fn reserved(header: &HeaderName, scheme: Option<&Scheme>) -> Option<&'static str> {
    if is_framing(header) {
        Some("the gateway sets it, or drops it, itself")
    } else if is_hookstile_header(header) {
        Some("`Hookstile-…` headers are the gateway's own")
    } else if scheme.is_some_and(|scheme| scheme.reads_header(header)) {
        Some("the receiver gets the sender's signature as it is")
    } else {
        None
    }
}

/// Whether a connect to `target` would end at `listen`. Names other than `localhost` are not resolved.
fn leads_to(target: &Target, listen: &Listen) -> bool {
    let loopback = &*target.host == "localhost";
    let address: Option<IpAddr> = target.host.parse().ok();
    let own = listen.address.ip();
    let same_host = match address {
        Some(address) => address == own || (own.is_unspecified() && address.is_loopback()),
        None => loopback && (own.is_loopback() || own.is_unspecified()),
    };
    same_host && target.port == listen.address.port()
}

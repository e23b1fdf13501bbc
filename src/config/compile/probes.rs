//! A route's responses to its provider's probes.

use std::sync::Arc;

use http::{HeaderName, Method, StatusCode, header};

use super::Compiler;
use crate::config::de::Field;
use crate::config::diagnostics::Diagnostic;
use crate::config::{facts, raw};
use crate::delivery::{folds_to_framing, is_hookstile_header};
use crate::route::Probe;

impl Compiler<'_> {
    /// Returns the responses to probes. `methods` are those of the route's events.
    pub(super) fn probes(&self, field: &Field<raw::Probes>, methods: &[Method]) -> Vec<Arc<Probe>> {
        let Some(probes) = field.value() else {
            return Vec::new();
        };
        [
            (Method::HEAD, &probes.head),
            (Method::GET, &probes.get),
            (Method::OPTIONS, &probes.options),
        ]
        .into_iter()
        .filter_map(|(method, field)| {
            let given = field.given()?;
            if methods.contains(&method) {
                let error = Diagnostic::error(
                    given.span,
                    format!("`methods` has {method} too, so it is an event and no probe"),
                );
                self.report(error.help("remove the method from one of the two"));
                return None;
            }
            Some(Arc::new(Probe {
                method,
                status: self.status(&given.value.status, facts::PROBE_STATUS, StatusCode::OK),
                headers: self.header_pairs(
                    &given.value.headers,
                    |_, text| self.header_value(&text.value, text.span),
                    reserved,
                ),
            }))
        })
        .collect()
    }
}

fn reserved(header: &HeaderName) -> Option<&'static str> {
    (folds_to_framing(header) || is_hookstile_header(header) || header == header::DATE)
        .then_some("the gateway sets it itself")
}

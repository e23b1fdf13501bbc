//! Advises on a request that no change makes genuine: where to look next.

use http::HeaderName;

use super::quoted::Named;
use super::{Case, finding};
use crate::signature::{Scheme, SignatureError};

/// The most providers that a note names for one header.
const PROVIDERS_MAX: usize = 3;

/// The most headers with a note each.
const NOTES_MAX: usize = 3;

/// Parts of the names of headers that hold signatures.
const TELLING: [&str; 3] = ["signature", "hmac", "webhook-sign"];

/// A header of the request that other schemes sign with, or that is named like one.
struct OtherSignature<'a> {
    header: &'a HeaderName,
    /// The presets that sign with it.
    providers: Vec<&'static str>,
}

/// Returns a note for each header of the request that looks like the signature of another scheme.
pub(super) fn notes(case: &Case<'_>) -> Vec<String> {
    let others = other_signatures(case);
    let notes = others.iter().map(|other| {
        let header = Named::header(other.header, case).of_header();
        match &other.providers[..] {
            [] => format!("the request has {header}, which may be the signature of another scheme"),
            providers => format!(
                "the request has {header}, in which {} signs",
                named(providers)
            ),
        }
    });
    notes.take(NOTES_MAX).collect()
}

/// Says what to do, one step a sentence.
pub(super) fn advice(case: &Case<'_>, failure: SignatureError) -> Vec<String> {
    match failure {
        SignatureError::Missing if finding::has_no_signature(case) => of_missing(case),
        SignatureError::Missing | SignatureError::Malformed => vec![
            "Check that the route's `provider`, or its `signature`, is the one that the sender \
             uses."
                .into(),
            "Check that nothing between the sender and the gateway changes the header.".into(),
        ],
        SignatureError::Mismatch | SignatureError::Stale => vec![
            "Copy the secret again from the provider's settings into a file, and try it with \
             --secret-file."
                .into(),
            "Capture the raw bytes of the request before any proxy or framework changes them, and \
             verify those."
                .into(),
        ],
    }
}

/// Advises on a request without a signature of the scheme. No secret would help.
fn of_missing(case: &Case<'_>) -> Vec<String> {
    let other = other_signatures(case)
        .into_iter()
        .find(|other| !other.providers.is_empty());
    let first = match other {
        Some(other) => format!(
            "Send this request to a route whose `provider` is {}, or configure the route so.",
            named(&other.providers)
        ),
        None => {
            "Check that the sender signs its requests: many do only once a secret is set where \
                 the webhook is configured."
                .into()
        }
    };
    let dropped = "Check that no proxy in front of the gateway drops the header, and that it was \
                   captured.";
    vec![first, dropped.into()]
}

fn other_signatures<'a>(case: &'a Case<'_>) -> Vec<OtherSignature<'a>> {
    let names = case.request.headers.keys();
    let foreign = names.filter(|name| !signs_with(case.scheme, name));
    let seen = foreign.map(|header| {
        let signing = case.others.iter();
        let signing = signing.filter(|(_, scheme)| signs_with(scheme, header));
        let providers = signing.map(|(provider, _)| *provider).collect();
        OtherSignature { header, providers }
    });
    let is_telling = |header: &HeaderName| TELLING.iter().any(|it| header.as_str().contains(it));
    seen.filter(|seen| !seen.providers.is_empty() || is_telling(seen.header))
        .collect()
}

fn signs_with(scheme: &Scheme, header: &HeaderName) -> bool {
    let mut own = scheme.locations.iter().filter_map(finding::location_header);
    own.any(|own| own.name == *header)
}

/// Names providers, and how many more there are.
fn named(providers: &[&str]) -> String {
    let shown: Vec<_> = providers
        .iter()
        .take(PROVIDERS_MAX)
        .map(|provider| format!("`{provider}`"))
        .collect();
    let more = if providers.len() > PROVIDERS_MAX {
        " or another"
    } else {
        ""
    };
    shown.join(" or ") + more
}

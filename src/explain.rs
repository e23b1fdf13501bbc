//! Explains why a captured request is not genuine, and what would have to change for it to be.
//!
//! This module owns the hypotheses, the order in which they are tried, and the limits of the
//! search. It is pure: it uses no clock (`now` is an argument), no file and no socket. Its results
//! hold no secret and no computed signature, because an attacker could use the signature of a body
//! that they wrote.

mod advice;
mod bodies;
pub mod captured;
mod contents;
mod finding;
mod quoted;
mod readings;
mod search;
mod secrets;
mod sentence;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;

use crate::event::{EnvelopeError, EnvelopeSpec};
use crate::handshake::Challenge;
use crate::signature::{NamedKey, NamedSecret, Scheme, SignatureError, Verifier};
use search::Search;

pub use captured::Captured;
pub use sentence::{Explainer, Sentence};

/// A request as it was captured.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The request target of the first line: a path with its query.
    pub target: Option<String>,
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// A secret that may have signed the request.
#[derive(Debug)]
pub struct Candidate {
    pub named: NamedSecret,
    /// The gateway uses this secret, unless it has expired. Any other secret is a hypothesis.
    pub configured: bool,
}

/// A request with everything that the gateway would verify it with, and what else to try.
pub struct Case<'a> {
    pub request: &'a Request,
    /// The gateway's scheme, including the endpoint's URL if that is signed and known.
    pub scheme: &'a Scheme,
    pub candidates: &'a [Candidate],
    pub envelope: &'a EnvelopeSpec,
    /// The provider's handshake, if it has one.
    pub handshake: Option<&'a Challenge>,
    /// The schemes of other providers, by name.
    pub others: &'a [(&'static str, Scheme)],
    /// The URL of the endpoint, as the sender knows it.
    pub url: Option<&'a str>,
    /// The time at which the request was received.
    pub now: Timestamp,
    pub limits: Limits,
}

/// The limits of the search.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes hashed or rewritten. The default takes a second or two.
    pub bytes: u64,
    /// Signatures computed.
    pub tries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 512 << 20,
            tries: 20_000,
        }
    }
}

/// The result for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Genuine {
        /// The name of the secret that verified the request.
        secret: Arc<str>,
        content: GenuineContent,
    },
    NotGenuine(Diagnosis),
}

/// The content of a genuine request.
#[derive(Debug, PartialEq, Eq)]
pub enum GenuineContent {
    Event {
        /// The event ID; `None` if the body is the ID.
        id: Option<Box<str>>,
        event_type: Box<str>,
    },
    Handshake,
    /// An event that the gateway rejects.
    Invalid(EnvelopeError),
}

/// The reasons why a request is not genuine.
#[derive(Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The failure as the gateway's metrics and log name it.
    pub failure: SignatureError,
    /// The failure in words, with the header.
    pub found: String,
    /// Other observations.
    pub notes: Vec<String>,
    /// The explanations with the fewest changes, the most likely first. Empty if nothing matches.
    pub explanations: Vec<Explanation>,
    /// What to do if there is no explanation, one step a sentence.
    pub advice: Vec<String>,
    /// Signatures computed.
    pub tried: u64,
    /// The search reached its limits before everything was tried.
    pub cut_short: bool,
}

/// A set of changes that makes the request genuine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The name of the secret that signed the request.
    pub secret: Arc<str>,
    pub changes: Vec<Change>,
}

/// A difference between the request and what the gateway expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    /// A clause that says what happened, as far as the change tells it.
    pub fact: String,
    /// The end of the sentence "it would match …".
    pub how: String,
    /// A sentence that says what to do.
    pub advice: String,
}

/// The subject of a [`Change`]. Explanations are sorted by this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Scheme,
    Secret,
    Signature,
    Algorithm,
    Content,
    Body,
    Clock,
}

impl ChangeKind {
    /// Returns the word for `--json`; a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Scheme => "scheme",
            Self::Secret => "secret",
            Self::Signature => "signature",
            Self::Algorithm => "algorithm",
            Self::Content => "content",
            Self::Body => "body",
            Self::Clock => "clock",
        }
    }
}

impl Change {
    fn new(kind: ChangeKind, how: impl Into<String>, advice: impl Into<String>) -> Self {
        let how = how.into();
        Self {
            kind,
            fact: format!("it would match {how}"),
            how,
            advice: advice.into(),
        }
    }

    /// Sets the clause that says what happened.
    fn with_fact(self, fact: impl Into<String>) -> Self {
        Self {
            fact: fact.into(),
            ..self
        }
    }
}

impl Case<'_> {
    /// Verifies the request as the gateway does. If that fails, searches for changes that make it
    /// genuine.
    pub fn verify(&self) -> Verdict {
        let (keys, mut notes) = self.keys();
        let gateway = Verifier::new(self.scheme.clone(), keys, false);
        let mut verification = gateway.start(&self.request.headers, self.now);
        verification.update(self.request.body.clone());
        let failure = match verification.finish() {
            Ok(verified) => {
                let content = if self
                    .handshake
                    .is_some_and(|handshake| handshake.is_handshake(&verified))
                {
                    GenuineContent::Handshake
                } else {
                    self.parse_content()
                };
                return Verdict::Genuine {
                    secret: Arc::clone(verified.secret()),
                    content,
                };
            }
            Err(failure) => failure,
        };
        notes.extend(finding::notes(self));
        if failure == SignatureError::Missing && finding::has_no_signature(self) {
            notes.extend(advice::notes(self));
        }
        let mut search = Search::new(self.limits);
        let explanations = search.explanations(self);
        Verdict::NotGenuine(Diagnosis {
            failure,
            found: finding::describe(self, failure),
            notes,
            advice: if explanations.is_empty() {
                advice::advice(self, failure)
            } else {
                Vec::new()
            },
            explanations,
            tried: search.tried(),
            cut_short: search.cut_short(),
        })
    }

    /// Returns the gateway's keys, and a note for each secret that is not a key for the scheme.
    fn keys(&self) -> (Vec<NamedKey>, Vec<String>) {
        let (mut keys, mut notes) = (Vec::new(), Vec::new());
        for Candidate { named, configured } in self.candidates {
            match named.for_scheme(self.scheme) {
                Ok(key) if *configured => keys.push(key),
                Ok(_) => {}
                Err(error) => notes.push(format!(
                    "`{}` is not a key for this scheme: {error}",
                    named.name
                )),
            }
        }
        (keys, notes)
    }

    fn parse_content(&self) -> GenuineContent {
        let parsed = self
            .envelope
            .parse(&self.request.body, &self.request.headers);
        let fresh =
            parsed.and_then(|event| self.envelope.check_fresh(&event, self.now).map(|()| event));
        match fresh {
            Ok(event) => GenuineContent::Event {
                id: event.id.as_ref().map(|id| id.as_str().into()),
                event_type: event.event_type,
            },
            Err(error) => GenuineContent::Invalid(error),
        }
    }
}

#[cfg(test)]
mod tests;

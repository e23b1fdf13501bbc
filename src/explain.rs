//! Why a captured request is not genuine, and what would have to change for it to be.
//!
//! Owns the hypotheses, the order in which they are tried, and their bound. Pure: knows no clock (`now` is an argument),
//! no file and no socket. What it says holds no secret and no signature that it computed: for a body of somebody
//! else's making that would be a signature to use.

mod bodies;
pub mod captured;
mod contents;
mod finding;
mod readings;
mod search;
mod secrets;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;

use crate::event::{EnvelopeError, EnvelopeSpec};
use crate::handshake::Challenge;
use crate::signature::{NamedKey, NamedSecret, Scheme, SignatureError, Verifier};
use search::Search;

/// A request as it was captured.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// What its first line asks for: a path with its query.
    pub target: Option<String>,
    pub headers: HeaderMap,
    /// Byte for byte.
    pub body: Bytes,
}

/// A secret that the request may have been signed with.
#[derive(Debug)]
pub struct Candidate {
    pub named: NamedSecret,
    /// The gateway has it too, unless it has expired. One that it has not is a hypothesis.
    pub configured: bool,
}

/// A request with all that the gateway would judge it by, and what else to try.
pub struct Case<'a> {
    pub request: &'a Request,
    /// With the endpoint's URL in it, where that is signed and known.
    pub scheme: &'a Scheme,
    pub candidates: &'a [Candidate],
    pub envelope: &'a EnvelopeSpec,
    /// How the sender asks whether the endpoint is there.
    pub asks: Option<&'a Challenge>,
    /// Schemes of other senders, by name.
    pub others: &'a [(&'static str, Scheme)],
    /// The URL that the sender knows the endpoint by.
    pub url: Option<&'a str>,
    /// When the request was received.
    pub now: Timestamp,
    pub limits: Limits,
}

/// Where the search ends, whatever was found.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes hashed or rewritten. A second or two.
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

/// What is to be said of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Genuine {
        /// The name of the secret that it was signed with.
        secret: Arc<str>,
        content: GenuineContent,
    },
    NotGenuine(Diagnosis),
}

/// What a genuine request brings.
#[derive(Debug, PartialEq, Eq)]
pub enum GenuineContent {
    Event {
        /// `None` where the body is its own ID.
        id: Option<Box<str>>,
        kind: Box<str>,
    },
    Handshake,
    /// The gateway refuses it.
    Invalid(EnvelopeError),
}

/// Why a request is not genuine.
#[derive(Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What the gateway's metrics and log call it.
    pub failure: SignatureError,
    /// The same in words, with the header.
    pub found: String,
    /// What stands out besides.
    pub notes: Vec<String>,
    /// All with the same, smallest number of changes; the most telling first. Empty when nothing matches.
    pub explanations: Vec<Explanation>,
    /// Signatures computed.
    pub tried: u64,
    /// Not everything was tried: the limits came first.
    pub cut_short: bool,
}

/// With these changes, and no others, the request would be genuine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The name of the secret that it was signed with.
    pub secret: Arc<str>,
    pub changes: Vec<Change>,
}

/// One thing that is other than the gateway expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub what: What,
    /// As in "it would match …".
    pub how: String,
    /// A sentence: what to do.
    pub advice: String,
}

/// What a [`Change`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Scheme,
    Secret,
    Signature,
    Algorithm,
    Content,
    Body,
    Clock,
}

impl What {
    /// The closed set of words in `--json`.
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
    fn new(what: What, how: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            what,
            how: how.into(),
            advice: advice.into(),
        }
    }
}

impl Case<'_> {
    /// Judges the request as the gateway does, and looks for what would make it genuine if it is not.
    pub fn judge(&self) -> Verdict {
        let (keys, mut notes) = self.keys();
        let gateway = Verifier::new(self.scheme.clone(), keys, false);
        let mut verification = gateway.start(&self.request.headers, self.now);
        verification.update(self.request.body.clone());
        let failure = match verification.finish() {
            Ok(verified) => {
                let content = if self
                    .asks
                    .is_some_and(|question| question.is_handshake(&verified))
                {
                    GenuineContent::Handshake
                } else {
                    self.content()
                };
                return Verdict::Genuine {
                    secret: Arc::clone(verified.secret()),
                    content,
                };
            }
            Err(failure) => failure,
        };
        notes.extend(finding::notes(self));
        let mut search = Search::new(self.limits);
        let explanations = search.run(self);
        Verdict::NotGenuine(Diagnosis {
            failure,
            found: finding::in_words(self, failure),
            notes,
            explanations,
            tried: search.tried(),
            cut_short: search.cut_short(),
        })
    }

    /// The keys that the gateway has, and why some secrets are none.
    fn keys(&self) -> (Vec<NamedKey>, Vec<String>) {
        let (mut keys, mut notes) = (Vec::new(), Vec::new());
        for Candidate { named, configured } in self.candidates {
            match named.for_scheme(self.scheme) {
                Ok(key) if *configured => keys.push(key),
                Ok(_) => {}
                Err(error) => notes.push(format!(
                    "`{}` is no key for this scheme: {error}",
                    named.name
                )),
            }
        }
        (keys, notes)
    }

    fn content(&self) -> GenuineContent {
        let parsed = self
            .envelope
            .parse(&self.request.body, &self.request.headers);
        let fresh =
            parsed.and_then(|event| self.envelope.check_fresh(&event, self.now).map(|()| event));
        match fresh {
            Ok(event) => GenuineContent::Event {
                id: event.id.as_ref().map(|id| id.as_str().into()),
                kind: event.event_type,
            },
            Err(error) => GenuineContent::Invalid(error),
        }
    }
}

#[cfg(test)]
mod tests;

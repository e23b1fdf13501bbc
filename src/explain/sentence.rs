//! Explains a rejected request in one sentence, for the gateway's own log and lists.
//!
//! The sentence holds names that the operator chose, names of headers and numbers: no secret, no
//! signature, and no part of the body or the query.

use jiff::Timestamp;

use super::{Candidate, Case, Change, Diagnosis, Explanation, Limits, Request, Verdict};
use crate::event::EnvelopeSpec;
use crate::signature::{Scheme, SignatureError};

/// The limits of a search that nobody waits for. It takes a tenth of a second of one core.
const LIMITS: Limits = Limits {
    bytes: 64 << 20,
    tries: 5000,
};

/// The longest sentence, and the longest advice, in characters.
const SENTENCE_MAX: usize = 400;

/// What a route's rejected requests are explained with, beside its scheme.
#[derive(Debug)]
pub struct Explainer {
    /// The route's secrets, expired ones included.
    pub candidates: Vec<Candidate>,
    /// The schemes of other providers, by name.
    pub others: &'static [(&'static str, Scheme)],
}

/// An explanation in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    pub text: String,
    /// What to do about the cause. Set if a change was found that makes the request genuine.
    pub advice: Option<String>,
}

impl Explainer {
    /// Explains a request that was received at `now` and is not genuine. Returns `None` if it is.
    pub fn explain(
        &self,
        request: &Request,
        scheme: &Scheme,
        envelope: &EnvelopeSpec,
        now: Timestamp,
    ) -> Option<Sentence> {
        let case = Case {
            request,
            scheme,
            candidates: &self.candidates,
            envelope,
            handshake: None,
            others: self.others,
            url: None,
            now,
            limits: LIMITS,
        };
        match case.verify() {
            Verdict::Genuine { .. } => None,
            Verdict::NotGenuine(diagnosis) => Some(diagnosis.sentence()),
        }
    }
}

impl Diagnosis {
    /// Returns the most likely explanation as one sentence.
    pub fn sentence(&self) -> Sentence {
        let cause = self.explanations.first().map(Explanation::clause);
        let advice = self.explanations.first().map(Explanation::advice);
        let text = match (self.failure, cause) {
            // What is found is the cause.
            (SignatureError::Stale, _) => self.found.clone(),
            (SignatureError::Mismatch, Some(cause)) => cause,
            (SignatureError::Missing | SignatureError::Malformed, Some(cause)) => {
                format!("{}; {cause}", self.found)
            }
            (SignatureError::Mismatch, None) => format!(
                "{}: it is signed with another secret, or the body was changed in a way that was \
                 not tried",
                self.found
            ),
            (SignatureError::Missing | SignatureError::Malformed, None) => self.found.clone(),
        };
        let bounded = |text: String| text.chars().take(SENTENCE_MAX).collect();
        Sentence {
            text: bounded(text),
            advice: advice.map(bounded),
        }
    }
}

impl Explanation {
    /// Returns what happened, and the secret that proves it.
    fn clause(&self) -> String {
        let facts: Vec<_> = self.changes.iter().map(Change::fact).collect();
        let name = format!("`{}`", self.secret);
        let facts = facts.join("; ");
        if facts.contains(&name) {
            facts
        } else {
            format!("{facts} (secret {name})")
        }
    }

    fn advice(&self) -> String {
        let advice = self.changes.iter().map(|change| change.advice.as_str());
        advice.collect::<Vec<_>>().join(" ")
    }
}

impl Change {
    fn fact(&self) -> &str {
        &self.fact
    }
}

//! Searches for explanations: every combination of hypotheses with no change, then with one, then
//! with two, until some match.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use super::bodies::{BODY_HYPOTHESES, BodyHypothesis};
use super::contents::{Framing, framings};
use super::readings::Readings;
use super::secrets::{KeyForm, key_forms};
use super::{Case, Change, ChangeKind, Explanation, Limits, finding};
use crate::json::{compact, member};
use crate::signature::{BodySignature, Scheme};

/// The most changes in one explanation. Longer ones would not help the user.
const CHANGES_MAX: usize = 2;

/// The most explanations to return. Several usually describe the same cause.
const EXPLANATIONS_MAX: usize = 5;

/// A search in progress.
pub(super) struct Search {
    limits: Limits,
    bytes: u64,
    tried: u64,
}

/// One scheme, with all hypotheses except those about the body.
struct SearchSpace<'a> {
    scheme: Option<Change>,
    /// The problem of the signed time, if any. It is a fact, not a hypothesis, so it does not count
    /// as a change.
    clock: Option<Change>,
    readings: Readings<'a>,
    framings: Vec<Framing>,
    keys: Vec<KeyForm>,
}

/// The error of a search that reached its limits.
struct LimitReached;

impl Search {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            bytes: 0,
            tried: 0,
        }
    }

    pub(super) fn tried(&self) -> u64 {
        self.tried
    }

    pub(super) fn cut_short(&self) -> bool {
        self.bytes >= self.limits.bytes || self.tried >= self.limits.tries
    }

    /// Returns the explanations with the fewest changes.
    pub(super) fn explanations(&mut self, case: &Case<'_>) -> Vec<Explanation> {
        let mut spaces = vec![SearchSpace::new(case, case.scheme, None)];
        for (name, scheme) in case
            .others
            .iter()
            .filter(|(_, scheme)| scheme != case.scheme)
        {
            let as_other = Change::new(
                ChangeKind::Scheme,
                format!("as `{name}` signs"),
                format!("The request is signed as `{name}` signs: set `provider: {name}`."),
            )
            .with_fact(format!("it is signed as `{name}` signs"));
            spaces.push(SearchSpace::new(case, scheme, Some(as_other)));
        }
        // Without a signature or a key, nothing can match.
        spaces.retain(|space| !space.readings.all.is_empty() && !space.keys.is_empty());
        let mut found = Vec::new();
        for changes in 0..=CHANGES_MAX {
            for space in &spaces {
                if self.search_space(case, space, changes, &mut found).is_err() {
                    break;
                }
            }
            if !found.is_empty() || self.cut_short() {
                break;
            }
        }
        found.sort_by_key(|explanation| explanation.changes.iter().map(|change| change.kind).min());
        // The name of another provider explains all that its header or content would.
        let named = |explanation: &Explanation| {
            explanation
                .changes
                .iter()
                .any(|change| change.kind == ChangeKind::Scheme)
        };
        if found.iter().any(named) {
            found.retain(named);
        }
        found.truncate(EXPLANATIONS_MAX);
        found
    }

    /// Adds the explanations with exactly this number of changes.
    fn search_space(
        &mut self,
        case: &Case<'_>,
        space: &SearchSpace<'_>,
        changes: usize,
        found: &mut Vec<Explanation>,
    ) -> Result<(), LimitReached> {
        let Some(left) = changes.checked_sub(usize::from(space.scheme.is_some())) else {
            return Ok(());
        };
        let raw = &case.request.body;
        let whole = match space.readings.cut {
            Some(in_body) => match body_without_signature(raw, in_body) {
                Some(body) => body,
                None => return Ok(()),
            },
            None => raw.to_vec(),
        };
        let hasher = RandomState::new();
        let mut seen = HashSet::from([hasher.hash_one(&whole)]);
        self.search_body(space, &whole, &[], left, found)?;
        let headers = &case.request.headers;
        for hypothesis in BODY_HYPOTHESES.iter().filter(|_| left >= 1) {
            self.spend(hypothesis.cost(whole.len()))?;
            let Some(body) = hypothesis.apply(&whole, headers) else {
                continue;
            };
            if seen.insert(hasher.hash_one(&body)) {
                self.search_body(space, &body, &[hypothesis], left - 1, found)?;
            }
        }
        for first in BODY_HYPOTHESES.iter().filter(|_| left >= 2) {
            self.spend(first.cost(whole.len()))?;
            let Some(once) = first.apply(&whole, headers) else {
                continue;
            };
            for second in BODY_HYPOTHESES {
                self.spend(second.cost(once.len()))?;
                let Some(twice) = second.apply(&once, headers) else {
                    continue;
                };
                if seen.insert(hasher.hash_one(&twice)) {
                    self.search_body(space, &twice, &[first, second], left - 2, found)?;
                }
            }
        }
        Ok(())
    }

    /// Adds the explanations with this body and exactly this number of other changes.
    fn search_body(
        &mut self,
        space: &SearchSpace<'_>,
        body: &[u8],
        hypotheses: &[&BodyHypothesis],
        changes: usize,
        found: &mut Vec<Explanation>,
    ) -> Result<(), LimitReached> {
        for framing in &space.framings {
            for reading in &space.readings.all {
                let Some(left) = changes.checked_sub(framing.changes.len() + reading.changes.len())
                else {
                    continue;
                };
                for key in space.keys.iter().filter(|key| key.changes.len() == left) {
                    self.spend(framing.before.len() + body.len() + framing.after.len())?;
                    self.tried += 1;
                    let parts = [&framing.before, body, &framing.after];
                    if reading.algorithm.produces(&reading.tag, &key.bytes, &parts) {
                        let body_changes = hypotheses.iter().map(|hypothesis| hypothesis.change());
                        let others = [&key.changes, &reading.changes, &framing.changes]
                            .into_iter()
                            .flatten();
                        let changes = space
                            .scheme
                            .iter()
                            .chain(others)
                            .cloned()
                            .chain(body_changes);
                        let changes = changes.chain(space.clock.clone()).collect();
                        found.push(Explanation {
                            secret: key.secret.clone(),
                            changes,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), LimitReached> {
        let bytes = bytes as u64;
        if self.tried >= self.limits.tries || self.bytes + bytes > self.limits.bytes {
            // A smaller hypothesis might still fit, but would then be tried out of order.
            self.bytes = self.limits.bytes;
            return Err(LimitReached);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl<'a> SearchSpace<'a> {
    fn new(case: &Case<'_>, scheme: &'a Scheme, other: Option<Change>) -> Self {
        let mut readings = Readings::new(case, scheme);
        if other.is_some() {
            // Other schemes are tried only as they are; all other changes only with the own scheme.
            readings.all.retain(|reading| reading.changes.is_empty());
        }
        Self {
            scheme: other,
            clock: finding::clock_change(case, scheme),
            framings: framings(case, scheme),
            keys: key_forms(case, scheme),
            readings,
        }
    }
}

/// Returns the body without its signature, as the sender hashed it.
fn body_without_signature(body: &[u8], in_body: &BodySignature) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    let found = member(text, &in_body.pointer).ok()?;
    let rest = [&text[..found.cut.start], &text[found.cut.end..]].concat();
    Some(
        if in_body.compact {
            compact(&rest)
        } else {
            rest
        }
        .into_bytes(),
    )
}

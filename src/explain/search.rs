//! The search: every combination of hypotheses with no change, then with one, then with two, until some match.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use super::bodies::{ROWS, Row};
use super::contents::{Framing, framings};
use super::readings::Readings;
use super::secrets::{KeyForm, forms};
use super::{Case, Change, Explanation, Limits, What, finding};
use crate::json::{compact, member};
use crate::signature::{InBody, Scheme};

/// More would not help anybody.
const CHANGES_MAX: usize = 2;

/// Explanations that are given. Several ways to say the same are usual, many are not.
const EXPLANATIONS_MAX: usize = 5;

/// A search in progress.
pub(super) struct Search {
    limits: Limits,
    bytes: u64,
    tried: u64,
}

/// One scheme, and all that may be other about it but the body.
struct Space<'a> {
    scheme: Option<Change>,
    /// What is wrong with its time besides: no hypothesis, but a fact, and so not counted.
    clock: Option<Change>,
    readings: Readings<'a>,
    framings: Vec<Framing>,
    keys: Vec<KeyForm>,
}

/// The limits were reached.
struct Spent;

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

    /// The explanations with the fewest changes.
    pub(super) fn run(&mut self, case: &Case<'_>) -> Vec<Explanation> {
        let mut spaces = vec![Space::new(case, case.scheme, None)];
        for (name, scheme) in case
            .others
            .iter()
            .filter(|(_, scheme)| scheme != case.scheme)
        {
            let as_other = Change::new(
                What::Scheme,
                format!("as `{name}` signs"),
                format!("This is signed as `{name}` signs: say `provider: {name}`."),
            );
            spaces.push(Space::new(case, scheme, Some(as_other)));
        }
        // Nothing could match without one of these.
        spaces.retain(|space| !space.readings.all.is_empty() && !space.keys.is_empty());
        let mut found = Vec::new();
        for changes in 0..=CHANGES_MAX {
            for space in &spaces {
                if self.space(case, space, changes, &mut found).is_err() {
                    break;
                }
            }
            if !found.is_empty() || self.cut_short() {
                break;
            }
        }
        found.sort_by_key(|explanation| explanation.changes.iter().map(|change| change.what).min());
        // A provider's name says all that its header does.
        let named = |explanation: &Explanation| {
            explanation
                .changes
                .iter()
                .any(|change| change.what == What::Scheme)
        };
        if found.iter().any(named) {
            found.retain(named);
        }
        found.truncate(EXPLANATIONS_MAX);
        found
    }

    /// All with exactly this many changes.
    fn space(
        &mut self,
        case: &Case<'_>,
        space: &Space<'_>,
        changes: usize,
        found: &mut Vec<Explanation>,
    ) -> Result<(), Spent> {
        let Some(left) = changes.checked_sub(usize::from(space.scheme.is_some())) else {
            return Ok(());
        };
        let raw = &case.request.body;
        let whole = match space.readings.cut {
            Some(in_body) => match without(raw, in_body) {
                Some(body) => body,
                None => return Ok(()),
            },
            None => raw.to_vec(),
        };
        let hasher = RandomState::new();
        let mut seen = HashSet::from([hasher.hash_one(&whole)]);
        self.body(space, &whole, &[], left, found)?;
        let headers = &case.request.headers;
        for row in ROWS.iter().filter(|_| left >= 1) {
            self.spend(row.cost(whole.len()))?;
            let Some(body) = row.of(&whole, headers) else {
                continue;
            };
            if seen.insert(hasher.hash_one(&body)) {
                self.body(space, &body, &[row], left - 1, found)?;
            }
        }
        for first in ROWS.iter().filter(|_| left >= 2) {
            self.spend(first.cost(whole.len()))?;
            let Some(once) = first.of(&whole, headers) else {
                continue;
            };
            for second in ROWS {
                self.spend(second.cost(once.len()))?;
                let Some(twice) = second.of(&once, headers) else {
                    continue;
                };
                if seen.insert(hasher.hash_one(&twice)) {
                    self.body(space, &twice, &[first, second], left - 2, found)?;
                }
            }
        }
        Ok(())
    }

    /// All with this body, and this many changes besides.
    fn body(
        &mut self,
        space: &Space<'_>,
        body: &[u8],
        rows: &[&Row],
        changes: usize,
        found: &mut Vec<Explanation>,
    ) -> Result<(), Spent> {
        for framing in &space.framings {
            for reading in &space.readings.all {
                let Some(left) = changes.checked_sub(framing.changes.len() + reading.changes.len())
                else {
                    continue;
                };
                for key in space.keys.iter().filter(|key| key.changes.len() == left) {
                    self.spend(framing.before.len() + body.len() + framing.behind.len())?;
                    self.tried += 1;
                    let parts = [&framing.before, body, &framing.behind];
                    if reading.algorithm.produces(&reading.tag, &key.bytes, &parts) {
                        let of_body = rows.iter().map(|row| row.change());
                        let others = [&key.changes, &reading.changes, &framing.changes]
                            .into_iter()
                            .flatten();
                        let changes = space.scheme.iter().chain(others).cloned().chain(of_body);
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

    fn spend(&mut self, bytes: usize) -> Result<(), Spent> {
        let bytes = bytes as u64;
        if self.tried >= self.limits.tries || self.bytes + bytes > self.limits.bytes {
            // What is smaller might fit yet; but then the order would be another.
            self.bytes = self.limits.bytes;
            return Err(Spent);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl<'a> Space<'a> {
    fn new(case: &Case<'_>, scheme: &'a Scheme, other: Option<Change>) -> Self {
        let mut readings = Readings::of(case, scheme);
        if other.is_some() {
            // Another scheme is tried for what stands where it says. The rest is tried with the scheme at hand.
            readings.all.retain(|reading| reading.changes.is_empty());
        }
        Self {
            scheme: other,
            clock: finding::clock(case, scheme),
            framings: framings(case, scheme),
            keys: forms(case, scheme),
            readings,
        }
    }
}

/// The body without its signature, as the sender hashed it.
fn without(body: &[u8], in_body: &InBody) -> Option<Vec<u8>> {
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

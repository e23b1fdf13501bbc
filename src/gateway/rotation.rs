//! Hints for a rotation: which of a route's secrets nobody signs with any more, and which are still used shortly before
//! they expire.
//!
//! Looks at the counters now and then; requests know nothing of it.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

/// So long a secret must have verified nothing, others having been used, to be called unused.
const UNUSED_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// So long before its end a secret that is still used is told of.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(24);

/// One of a route's secrets as it stands.
#[derive(Debug, Clone)]
pub(super) struct SecretUse {
    pub name: Arc<str>,
    pub expires: Option<Timestamp>,
    /// Requests that it has verified so far.
    pub verified: u64,
}

/// What an operator should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hint {
    /// It has verified nothing for a day, and another secret of its route has.
    Unused(Arc<str>),
    /// Requests signed with it still come, and will be refused from then on.
    EndsWhileUsed(Arc<str>, Timestamp),
}

impl Hint {
    /// Writes it to the log.
    pub(super) fn tell(&self, route: &str) {
        match self {
            Self::Unused(secret) => tracing::info!(
                route,
                secret = &**secret,
                "nothing was signed with this secret for a day, and others of the route were used: if all senders \
                 have changed over, take it out"
            ),
            Self::EndsWhileUsed(secret, end) => tracing::warn!(
                route,
                secret = &**secret,
                expires = %end,
                "requests signed with this secret still come, and will be refused from the moment it expires"
            ),
        }
    }
}

/// What was seen of all secrets so far, by route and name.
#[derive(Debug, Default)]
pub(super) struct Rotation(HashMap<(Arc<str>, Arc<str>), Seen>);

#[derive(Debug)]
struct Seen {
    verified: u64,
    /// The last look at which it had verified more than before; the first look for one that has verified nothing.
    used_at: Timestamp,
    told_unused: bool,
    told_end: bool,
}

impl Rotation {
    /// Forgets the routes that are no more.
    pub(super) fn keep(&mut self, served: impl Fn(&str) -> bool) {
        self.0.retain(|(route, _), _| served(route));
    }

    /// Looks at a route's secrets. Each hint is given once, until the secret is used again.
    pub(super) fn look(
        &mut self,
        route: &Arc<str>,
        secrets: &[SecretUse],
        now: Timestamp,
    ) -> Vec<Hint> {
        let mut hints = Vec::new();
        let mut last_use = Vec::new();
        for secret in secrets {
            let key = (Arc::clone(route), Arc::clone(&secret.name));
            let unseen = Seen {
                verified: 0,
                used_at: now,
                told_unused: false,
                told_end: false,
            };
            let seen = self.0.entry(key).or_insert(unseen);
            let used = secret.verified > seen.verified;
            if used {
                (seen.used_at, seen.told_unused) = (now, false);
            }
            // A route that was away begins to count anew.
            seen.verified = secret.verified;
            let ends_soon = secret
                .expires
                .filter(|end| now < *end && end.duration_since(now) <= ENDS_SOON);
            if let Some(end) = ends_soon.filter(|_| used && !seen.told_end) {
                seen.told_end = true;
                hints.push(Hint::EndsWhileUsed(Arc::clone(&secret.name), end));
            }
            last_use.push((secret, seen.used_at));
        }
        for (place, (secret, used_at)) in last_use.iter().enumerate() {
            // One that was never used may be yet to come into use, unless it stands behind one that is.
            let others = if secret.verified > 0 {
                &last_use[..]
            } else {
                &last_use[..place]
            };
            let another_used = others.iter().any(|(other, at)| {
                other.name != secret.name
                    && other.verified > 0
                    && now.duration_since(*at) < UNUSED_AFTER
            });
            let expired = secret.expires.is_some_and(|end| end <= now);
            let key = (Arc::clone(route), Arc::clone(&secret.name));
            if let Some(seen) = self.0.get_mut(&key).filter(|seen| !seen.told_unused)
                && another_used
                && !expired
                && now.duration_since(*used_at) >= UNUSED_AFTER
            {
                seen.told_unused = true;
                hints.push(Hint::Unused(Arc::clone(&secret.name)));
            }
        }
        hints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    fn secret(name: &str, verified: u64) -> SecretUse {
        SecretUse {
            name: name.into(),
            expires: None,
            verified,
        }
    }

    fn unused(name: &str) -> Vec<Hint> {
        vec![Hint::Unused(name.into())]
    }

    #[test]
    fn a_secret_that_verified_nothing_for_a_day_while_another_did_is_told_once() {
        let (mut rotation, route) = (Rotation::default(), "billing".into());
        let mut look = |hours, new, old| {
            rotation.look(&route, &[secret("new", new), secret("old", old)], at(hours))
        };
        assert_eq!(look(0, 0, 5), []);
        assert_eq!(look(1, 3, 6), []);
        assert_eq!(look(24, 9, 6), []);
        assert_eq!(look(25, 10, 6), unused("old"));
        assert_eq!(look(26, 11, 6), []);
        // It is used after all, and told again when that has stopped for a day.
        assert_eq!(look(30, 12, 7), []);
        assert_eq!(look(53, 13, 7), []);
        assert_eq!(look(54, 14, 7), unused("old"));
    }

    #[test]
    fn a_secret_that_is_yet_to_come_into_use_is_not_called_unused_and_one_behind_the_used_one_is() {
        let (mut rotation, route) = (Rotation::default(), "billing".into());
        let secrets = |used| [secret("next", 0), secret("current", used), secret("old", 0)];
        assert_eq!(rotation.look(&route, &secrets(1), at(0)), []);
        assert_eq!(rotation.look(&route, &secrets(2), at(24)), unused("old"));
        assert_eq!(rotation.look(&route, &secrets(3), at(48)), []);
    }

    #[test]
    fn where_nothing_comes_at_all_no_secret_is_called_unused() {
        let (mut rotation, route) = (Rotation::default(), "quiet".into());
        for hours in 0..100 {
            assert_eq!(
                rotation.look(&route, &[secret("new", 0), secret("old", 1)], at(hours)),
                []
            );
        }
        for hours in 0..100 {
            assert_eq!(
                rotation.look(&"alone".into(), &[secret("only", 1)], at(hours)),
                []
            );
        }
    }

    #[test]
    fn a_secret_that_is_used_on_its_last_day_is_told_once() {
        let (mut rotation, route) = (Rotation::default(), "billing".into());
        let mut look = |hours, verified| {
            let old = SecretUse {
                expires: Some(at(48)),
                ..secret("old", verified)
            };
            rotation.look(&route, &[secret("new", 0), old], at(hours))
        };
        assert_eq!(look(0, 1), []);
        assert_eq!(look(23, 2), []);
        assert_eq!(look(24, 2), []);
        assert_eq!(look(25, 3), [Hint::EndsWhileUsed("old".into(), at(48))]);
        assert_eq!(look(26, 4), []);
        assert_eq!(look(100, 4), []);
    }
}

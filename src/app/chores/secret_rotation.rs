//! Hints for a rotation: which of a route's secrets no sender uses any more, and which are still
//! used shortly before they expire.
//!
//! Compares the counters of two runs; requests are not involved.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

/// The time after which a secret counts as unused, if others of its route were used meanwhile.
const UNUSED_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// The time before its expiry from which a secret that is still used is reported.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(24);

/// The state of one of a route's secrets.
#[derive(Debug, Clone)]
pub(super) struct SecretUse {
    pub name: Arc<str>,
    pub expires: Option<Timestamp>,
    /// The number of requests it has verified so far.
    pub verified: u64,
}

/// A hint for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hint {
    /// The secret has verified nothing for a day, and another one of its route has.
    Unused(Arc<str>),
    /// The secret is still used and expires at this time.
    ExpiresWhileUsed(Arc<str>, Timestamp),
}

impl Hint {
    /// Writes the hint to the log.
    pub(super) fn log(&self, route: &str) {
        match self {
            Self::Unused(secret) => tracing::info!(
                route,
                secret = &**secret,
                "secret unused for a day while others of its route were used; remove it once all \
                 senders have switched"
            ),
            Self::ExpiresWhileUsed(secret, expires) => tracing::warn!(
                route,
                secret = &**secret,
                %expires,
                "secret expires soon and is still used; requests signed with it will be rejected"
            ),
        }
    }
}

/// The history of all secrets, by route and name.
#[derive(Debug, Default)]
pub(super) struct SecretRotation(HashMap<(Arc<str>, Arc<str>), History>);

#[derive(Debug)]
struct History {
    /// The number of requests it had verified at the last check.
    verified: u64,
    /// The last check at which that number had grown; the first check if it never has.
    used_at: Timestamp,
    reported_unused: bool,
    reported_expiry: bool,
}

impl SecretRotation {
    /// Forgets the routes for which `is_served` is false.
    pub(super) fn retain_routes(&mut self, is_served: impl Fn(&str) -> bool) {
        self.0.retain(|(route, _), _| is_served(route));
    }

    /// Checks a route's secrets. Each hint is returned once, until the secret is used again.
    pub(super) fn check_route(
        &mut self,
        route: &Arc<str>,
        secrets: &[SecretUse],
        now: Timestamp,
    ) -> Vec<Hint> {
        let mut hints = Vec::new();
        let mut last_use = Vec::new();
        for secret in secrets {
            let (used_at, hint) = self.record_use(route, secret, now);
            last_use.push((secret, used_at));
            hints.extend(hint);
        }
        for (index, (secret, _)) in last_use.iter().enumerate() {
            let key = (Arc::clone(route), Arc::clone(&secret.name));
            if let Some(history) = self.0.get_mut(&key)
                && !history.reported_unused
                && is_unused(&last_use, index, now)
            {
                history.reported_unused = true;
                hints.push(Hint::Unused(Arc::clone(&secret.name)));
            }
        }
        hints
    }

    /// Records whether a secret was used since the last check. Returns its last use, and a hint if
    /// it was used and expires soon.
    fn record_use(
        &mut self,
        route: &Arc<str>,
        secret: &SecretUse,
        now: Timestamp,
    ) -> (Timestamp, Option<Hint>) {
        let key = (Arc::clone(route), Arc::clone(&secret.name));
        let history = self.0.entry(key).or_insert(History {
            verified: 0,
            used_at: now,
            reported_unused: false,
            reported_expiry: false,
        });
        let used = secret.verified > history.verified;
        if used {
            (history.used_at, history.reported_unused) = (now, false);
        }
        // The counter of a route that was removed and added again starts from 0.
        history.verified = secret.verified;
        let hint = secret
            .expires
            .filter(|end| now < *end && end.duration_since(now) <= EXPIRES_SOON)
            .filter(|_| used && !history.reported_expiry)
            .map(|end| Hint::ExpiresWhileUsed(Arc::clone(&secret.name), end));
        history.reported_expiry |= hint.is_some();
        (history.used_at, hint)
    }
}

/// Returns whether the secret at `index` has been unused for [`UNUSED_AFTER`] while another one of
/// its route was used.
fn is_unused(last_use: &[(&SecretUse, Timestamp)], index: usize, now: Timestamp) -> bool {
    let (secret, used_at) = last_use[index];
    // A secret that was never used may be a new one, unless it is listed after one that is used.
    let others = if secret.verified > 0 {
        last_use
    } else {
        &last_use[..index]
    };
    let another_used = others.iter().any(|(other, at)| {
        other.name != secret.name && other.verified > 0 && now.duration_since(*at) < UNUSED_AFTER
    });
    let expired = secret.expires.is_some_and(|end| end <= now);
    another_used && !expired && now.duration_since(used_at) >= UNUSED_AFTER
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
    fn never_used_secret_is_reported_only_behind_a_used_one() {
        let (mut rotation, route) = (SecretRotation::default(), "billing".into());
        let secrets = |used| [secret("next", 0), secret("current", used), secret("old", 0)];
        assert_eq!(rotation.check_route(&route, &secrets(1), at(0)), []);
        assert_eq!(
            rotation.check_route(&route, &secrets(2), at(24)),
            unused("old")
        );
        assert_eq!(rotation.check_route(&route, &secrets(3), at(48)), []);
    }

    #[test]
    fn idle_route_has_no_unused_secret() {
        let (mut rotation, route) = (SecretRotation::default(), "quiet".into());
        for hours in 0..100 {
            assert_eq!(
                rotation.check_route(&route, &[secret("new", 0), secret("old", 1)], at(hours)),
                []
            );
        }
        for hours in 0..100 {
            assert_eq!(
                rotation.check_route(&"alone".into(), &[secret("only", 1)], at(hours)),
                []
            );
        }
    }

    #[test]
    fn use_on_the_last_day_is_reported_once() {
        let (mut rotation, route) = (SecretRotation::default(), "billing".into());
        let mut check = |hours, verified| {
            let old = SecretUse {
                expires: Some(at(48)),
                ..secret("old", verified)
            };
            rotation.check_route(&route, &[secret("new", 0), old], at(hours))
        };
        assert_eq!(check(0, 1), []);
        assert_eq!(check(23, 2), []);
        assert_eq!(check(24, 2), []);
        assert_eq!(check(25, 3), [Hint::ExpiresWhileUsed("old".into(), at(48))]);
        assert_eq!(check(26, 4), []);
        assert_eq!(check(100, 4), []);
    }
}

//! Sessions of browsers that have logged in. They are kept in memory only: a restart ends them all.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::admin::audit::Role;
use crate::secret::SecretDigest;

/// The duration of a session, unless its token expires earlier.
pub(in crate::admin) const DURATION: SignedDuration = SignedDuration::from_hours(12);

/// The most sessions of one role. One more ends the oldest of them.
const SESSIONS_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Sessions(Mutex<VecDeque<Session>>);

/// The token that a browser has logged in with, and its role at that time.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct LoginToken {
    pub digest: SecretDigest,
    pub role: Role,
}

struct Session {
    digest: SecretDigest,
    token: LoginToken,
    end: Timestamp,
}

impl Sessions {
    /// Begins a session that lasts until `end` at most, and returns the cookie's value.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn begin(
        &self,
        token: LoginToken,
        end: Timestamp,
    ) -> Result<String, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let id = hex::encode(bytes);
        let mut sessions = self.lock();
        let has_role = |session: &Session| session.token.role == token.role;
        if sessions.iter().filter(|session| has_role(session)).count() >= SESSIONS_MAX
            && let Some(oldest) = sessions.iter().position(has_role)
        {
            sessions.remove(oldest);
        }
        sessions.push_back(Session {
            digest: SecretDigest::new(id.as_bytes()),
            token,
            end,
        });
        Ok(id)
    }

    /// Returns the token of the session with this cookie.
    pub(super) fn token(&self, id: &str, now: Timestamp) -> Option<LoginToken> {
        let mut sessions = self.lock();
        sessions.retain(|session| now < session.end);
        sessions
            .iter()
            .find(|session| session.digest.matches(id.as_bytes()))
            .map(|session| session.token.clone())
    }

    pub(super) fn end(&self, id: &str) {
        self.lock()
            .retain(|session| !session.digest.matches(id.as_bytes()));
    }

    /// Ends all sessions of other tokens than these.
    pub(super) fn end_others(&self, is_accepted: impl Fn(&LoginToken) -> bool) {
        self.lock().retain(|session| is_accepted(&session.token));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Timestamp = Timestamp::UNIX_EPOCH;

    fn token(role: Role) -> LoginToken {
        LoginToken {
            digest: SecretDigest::new(b"token"),
            role,
        }
    }

    #[test]
    fn session_is_valid_until_its_end() {
        let (sessions, before) = (Sessions::default(), END - SignedDuration::from_secs(1));
        let role = |id: &str, at| sessions.token(id, at).map(|token| token.role);
        let [reader, operator] =
            [Role::Reader, Role::Operator].map(|role| sessions.begin(token(role), END).unwrap());
        assert_eq!(role(&reader, before), Some(Role::Reader));
        assert_eq!(role(&operator, before), Some(Role::Operator));
        assert_eq!(role("", before), None);
        assert_eq!(role(&operator[1..], before), None);
        sessions.end(&reader);
        assert_eq!(
            (role(&reader, before), role(&operator, before)),
            (None, Some(Role::Operator))
        );
        assert_eq!(role(&operator, END), None);
    }

    #[test]
    fn session_over_the_limit_ends_the_oldest() {
        let (sessions, before) = (Sessions::default(), END - SignedDuration::from_secs(1));
        let role = |id: &str, at| sessions.token(id, at).map(|token| token.role);
        let operator = sessions.begin(token(Role::Operator), END).unwrap();
        let ids: Vec<_> = (0..=SESSIONS_MAX)
            .map(|_| sessions.begin(token(Role::Reader), END).unwrap())
            .collect();
        let known = ids.iter().filter(|id| role(id, before).is_some()).count();
        assert_eq!((known, role(&ids[0], before)), (SESSIONS_MAX, None));
        assert_eq!(
            role(&operator, before),
            Some(Role::Operator),
            "readers push no operator out"
        );
    }
}

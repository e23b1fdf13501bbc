//! Browsers that have logged in: a cookie stands for the token that was typed in.
//!
//! In memory alone: a restart logs everybody out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::Role;
use crate::secret::SecretDigest;

/// How long a login lasts, unless its token expires before.
pub(in crate::admin) const LASTS: SignedDuration = SignedDuration::from_hours(12);

/// With one token: more than there are people. With one more, the oldest of these has to log in again.
const SESSIONS_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Sessions(Mutex<VecDeque<Session>>);

struct Session {
    digest: SecretDigest,
    role: Role,
    ends: Timestamp,
}

impl Sessions {
    /// Begins one that ends at `ends`. Answers the cookie's value.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn begin(&self, role: Role, ends: Timestamp) -> Result<String, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let id = hex::encode(bytes);
        let mut sessions = self.sessions();
        if sessions
            .iter()
            .filter(|session| session.role == role)
            .count()
            >= SESSIONS_MAX
        {
            let oldest = sessions.iter().position(|session| session.role == role);
            oldest.map(|oldest| sessions.remove(oldest));
        }
        sessions.push_back(Session {
            digest: SecretDigest::new(id.as_bytes()),
            role,
            ends,
        });
        Ok(id)
    }

    /// Whose cookie this is.
    pub(super) fn role(&self, id: &str, now: Timestamp) -> Option<Role> {
        let mut sessions = self.sessions();
        sessions.retain(|session| now < session.ends);
        sessions
            .iter()
            .find(|session| session.digest.matches(id.as_bytes()))
            .map(|session| session.role)
    }

    pub(super) fn end(&self, id: &str) {
        self.sessions()
            .retain(|session| !session.digest.matches(id.as_bytes()));
    }

    fn sessions(&self) -> MutexGuard<'_, VecDeque<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_session_is_known_until_it_ends_and_by_its_own_cookie_alone() {
        let (sessions, before) = (Sessions::default(), END - SignedDuration::from_secs(1));
        let [reader, operator] =
            [Role::Reader, Role::Operator].map(|role| sessions.begin(role, END).unwrap());
        assert_eq!(sessions.role(&reader, before), Some(Role::Reader));
        assert_eq!(sessions.role(&operator, before), Some(Role::Operator));
        assert_eq!(sessions.role("", before), None);
        assert_eq!(sessions.role(&operator[1..], before), None);
        sessions.end(&reader);
        assert_eq!(
            (
                sessions.role(&reader, before),
                sessions.role(&operator, before)
            ),
            (None, Some(Role::Operator))
        );
        assert_eq!(sessions.role(&operator, END), None);
    }

    #[test]
    fn one_login_too_many_ends_the_oldest() {
        let (sessions, before) = (Sessions::default(), END - SignedDuration::from_secs(1));
        let operator = sessions.begin(Role::Operator, END).unwrap();
        let ids: Vec<_> = (0..=SESSIONS_MAX)
            .map(|_| sessions.begin(Role::Reader, END).unwrap())
            .collect();
        let known = ids
            .iter()
            .filter(|id| sessions.role(id, before).is_some())
            .count();
        assert_eq!(
            (known, sessions.role(&ids[0], before)),
            (SESSIONS_MAX, None)
        );
        assert_eq!(
            sessions.role(&operator, before),
            Some(Role::Operator),
            "readers push no operator out"
        );
    }
}

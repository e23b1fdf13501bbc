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

struct Session {
    digest: SecretDigest,
    role: Role,
    end: Timestamp,
}

impl Sessions {
    /// Begins a session that lasts until `end`, and returns the cookie's value.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn begin(&self, role: Role, end: Timestamp) -> Result<String, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let id = hex::encode(bytes);
        let mut sessions = self.lock();
        let of_role = sessions.iter().filter(|session| session.role == role);
        if of_role.count() >= SESSIONS_MAX
            && let Some(oldest) = sessions.iter().position(|session| session.role == role)
        {
            sessions.remove(oldest);
        }
        sessions.push_back(Session {
            digest: SecretDigest::new(id.as_bytes()),
            role,
            end,
        });
        Ok(id)
    }

    /// Returns the role of the session with this cookie.
    pub(super) fn role(&self, id: &str, now: Timestamp) -> Option<Role> {
        let mut sessions = self.lock();
        sessions.retain(|session| now < session.end);
        sessions
            .iter()
            .find(|session| session.digest.matches(id.as_bytes()))
            .map(|session| session.role)
    }

    pub(super) fn end(&self, id: &str) {
        self.lock()
            .retain(|session| !session.digest.matches(id.as_bytes()));
    }

    /// Ends all sessions of a role.
    pub(super) fn end_all(&self, role: Role) {
        self.lock().retain(|session| session.role != role);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn session_is_valid_until_its_end() {
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
    fn session_over_the_limit_ends_the_oldest() {
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

//! Who asks, and the one log line for each change that they ask for.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::admin::operations::Refused;
use crate::admin::problem::Problem;
use crate::log::AUDIT;

/// What somebody who was let in may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Role {
    /// Looks.
    Reader,
    /// Looks and changes.
    Operator,
}

/// How somebody was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Means {
    /// The listener has no token.
    Nothing,
    Token,
    /// A browser that has logged in.
    Login,
}

/// Somebody who was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) struct Caller {
    pub role: Role,
    pub means: Means,
    pub peer: Option<IpAddr>,
}

/// Somebody who may change things. Nothing is changed without one.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin) struct Operator(Caller);

impl Caller {
    /// Who asks for a change, `subject` telling of which.
    ///
    /// # Errors
    /// [`Problem::ReadOnly`] for those who may only look, which is written down.
    pub(in crate::admin) fn operator(self, subject: &str) -> Result<Operator, Problem> {
        match self.role {
            Role::Operator => Ok(Operator(self)),
            Role::Reader => {
                self.audit("change", subject, Problem::ReadOnly.code());
                Err(Problem::ReadOnly)
            }
        }
    }

    /// As [`Operator::audited`], for what anybody may ask for.
    pub(in crate::admin) fn audit(
        self,
        operation: &'static str,
        subject: &str,
        outcome: &'static str,
    ) {
        tracing::info!(
            target: AUDIT,
            operation,
            subject,
            outcome,
            by = self.means.as_str(),
            peer = self.peer.map(tracing::field::display),
            "audit"
        );
    }
}

impl Operator {
    /// Writes down that this was asked for, and what came of it.
    pub(in crate::admin) fn audited<T>(
        self,
        operation: &'static str,
        subject: &str,
        done: Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.0.audit(
            operation,
            subject,
            done.as_ref().err().map_or("done", Refused::code),
        );
        done
    }
}

impl Means {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "anybody",
            Self::Token => "token",
            Self::Login => "login",
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Left there by the door. What it does not guard knows nobody.
        parts.extensions.get().copied().ok_or(Problem::Unauthorized)
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Caller::from_request_parts(parts, state)
            .await?
            .operator(parts.uri.path())
    }
}

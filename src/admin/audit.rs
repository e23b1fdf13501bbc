//! Callers, and the one log line for each change that they request.

use std::net::IpAddr;

use super::error::{ApiError, OperationError};
use crate::log::AUDIT;

/// The permissions of an authenticated caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Reads.
    Reader,
    /// Reads and changes.
    Operator,
}

/// The way in which a caller was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthMethod {
    /// The listener has no token.
    Open,
    Token,
    /// A browser's session.
    Login,
}

/// An authenticated caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub role: Role,
    pub method: AuthMethod,
    pub peer: Option<IpAddr>,
}

/// A caller who may change things. Every operation that changes something takes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operator(Caller);

impl Caller {
    /// Returns the operator behind a requested change of `subject`.
    ///
    /// # Errors
    /// [`ApiError::ReadOnly`] for a reader, after writing the attempt to the audit log.
    pub(super) fn operator(self, subject: &str) -> Result<Operator, ApiError> {
        match self.role {
            Role::Operator => Ok(Operator(self)),
            Role::Reader => {
                self.audit("change", subject, ApiError::ReadOnly.code());
                Err(ApiError::ReadOnly)
            }
        }
    }

    /// Writes an audit line, as [`Operator::audited`] does, for an operation that needs no
    /// operator.
    pub(super) fn audit(self, operation: &'static str, subject: &str, outcome: &'static str) {
        self.audit_sampled(operation, subject, outcome, 0);
    }

    /// Writes an audit line of a kind that is sampled. `suppressed` is the number of lines like it
    /// that were left out before.
    pub(super) fn audit_sampled(
        self,
        operation: &'static str,
        subject: &str,
        outcome: &'static str,
        suppressed: u64,
    ) {
        tracing::info!(
            target: AUDIT,
            operation,
            subject,
            outcome,
            by = self.method.as_str(),
            peer = self.peer.map(tracing::field::display),
            suppressed = (suppressed > 0).then_some(suppressed),
            "audit"
        );
    }
}

impl Operator {
    /// Writes the requested change and its outcome to the audit log, and returns `result`.
    pub(super) fn audited<T>(
        self,
        operation: &'static str,
        subject: &str,
        result: Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        let outcome = result.as_ref().err().map_or("done", OperationError::code);
        self.0.audit(operation, subject, outcome);
        result
    }

    /// Writes to the audit log that the answer to an earlier request was repeated.
    pub(super) fn audit_repeated(self, operation: &'static str, subject: &str) {
        self.0.audit(operation, subject, "repeated");
    }
}

impl AuthMethod {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "anybody",
            Self::Token => "token",
            Self::Login => "login",
        }
    }
}

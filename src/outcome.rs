//! The closed set of what can become of a request: the codes of answers, metric labels and log lines alike.

/// One code for each row of the answers table in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Code {
    Delivered,
    UpstreamRejected,
    Queued,
    Duplicate,
    InFlight,
    PayloadMismatch,
    Ignored,
    Challenge,
    InvalidSignature,
    InvalidEvent,
    MalformedRequest,
    ForbiddenAddress,
    UnknownRoute,
    Inactive,
    MethodNotAllowed,
    BodyTimeout,
    BodyTooLarge,
    HeadersTooLarge,
    RateLimited,
    UpstreamUnreachable,
    Overloaded,
    StoreUnavailable,
    Draining,
    BudgetExceeded,
}

/// What became of a request, for those who look at many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Handed over, or stored to be.
    Accepted,
    /// Genuine, and not taken: the upstream's trouble, or ours.
    Failed,
    /// A copy of what was taken before, or is being handed over.
    Duplicate,
    /// Genuine, and nothing to be handed over.
    Skipped,
    /// Not as it should be.
    Rejected,
}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 24] = [
        Self::Delivered,
        Self::UpstreamRejected,
        Self::Queued,
        Self::Duplicate,
        Self::InFlight,
        Self::PayloadMismatch,
        Self::Ignored,
        Self::Challenge,
        Self::InvalidSignature,
        Self::InvalidEvent,
        Self::MalformedRequest,
        Self::ForbiddenAddress,
        Self::UnknownRoute,
        Self::Inactive,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::HeadersTooLarge,
        Self::RateLimited,
        Self::UpstreamUnreachable,
        Self::Overloaded,
        Self::StoreUnavailable,
        Self::Draining,
        Self::BudgetExceeded,
    ];

    /// Whether the request was turned away for what it is or for what it came with, so that anybody can cause it at
    /// will.
    pub const fn is_rejection(self) -> bool {
        !matches!(
            self,
            Self::Delivered
                | Self::UpstreamRejected
                | Self::Queued
                | Self::UpstreamUnreachable
                | Self::BudgetExceeded
                | Self::Duplicate
                | Self::PayloadMismatch
                | Self::Ignored
                | Self::Challenge
                | Self::StoreUnavailable
        )
    }

    pub const fn disposition(self) -> Disposition {
        match self {
            Self::Delivered | Self::Queued => Disposition::Accepted,
            Self::UpstreamRejected
            | Self::UpstreamUnreachable
            | Self::BudgetExceeded
            | Self::Inactive
            | Self::Overloaded
            | Self::StoreUnavailable
            | Self::Draining => Disposition::Failed,
            Self::Duplicate | Self::InFlight | Self::PayloadMismatch => Disposition::Duplicate,
            Self::Ignored | Self::Challenge => Disposition::Skipped,
            Self::InvalidSignature
            | Self::InvalidEvent
            | Self::MalformedRequest
            | Self::ForbiddenAddress
            | Self::UnknownRoute
            | Self::MethodNotAllowed
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::HeadersTooLarge
            | Self::RateLimited => Disposition::Rejected,
        }
    }

    /// The name in `Hookstile-Outcome`, in problem documents, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::UpstreamRejected => "upstream_rejected",
            Self::Queued => "queued",
            Self::Duplicate => "duplicate",
            Self::InFlight => "in_flight",
            Self::PayloadMismatch => "payload_mismatch",
            Self::Ignored => "ignored",
            Self::Challenge => "challenge",
            Self::InvalidSignature => "invalid_signature",
            Self::InvalidEvent => "invalid_event",
            Self::MalformedRequest => "malformed_request",
            Self::ForbiddenAddress => "forbidden_address",
            Self::UnknownRoute => "unknown_route",
            Self::Inactive => "inactive",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::RateLimited => "rate_limited",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::Overloaded => "overloaded",
            Self::StoreUnavailable => "store_unavailable",
            Self::Draining => "draining",
            Self::BudgetExceeded => "budget_exceeded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_code_at_its_own_number() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
        }
        assert_eq!(Code::ALL.len(), Code::BudgetExceeded as usize + 1);
    }
}

//! The closed set of outcomes of a request. Responses, metrics and the log all use these codes.

/// The outcome of a request: one code for each row of the table in docs/answers.md.
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
    BudgetExceeded,
}

/// The reason of a `duplicate` whose body came too often as other events.
pub(crate) const TOO_MANY_COPIES: &str = "too_many_copies";

/// The outcomes in five groups, for statistics over many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// A new event that was delivered, or stored for delivery.
    Accepted,
    /// An event that was not accepted because of a problem of the upstream or of the gateway.
    Failed,
    /// A copy of an event that was accepted before, or is being delivered.
    Duplicate,
    /// A verified request that needs no delivery: an event type that the route ignores, or a
    /// handshake.
    Skipped,
    /// A request that failed a check: signature, framing, address, limits.
    Rejected,
}

impl Code {
    /// Every code, at the index of its own discriminant.
    pub const ALL: [Self; 23] = [
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
        Self::BudgetExceeded,
    ];

    /// Returns whether the gateway rejected the request for reasons that any client can cause at
    /// will. The log samples these.
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

    /// Returns whether operators find the request among the rejections: it was rejected, or it was
    /// verified and not delivered.
    pub const fn is_listed(self) -> bool {
        self.is_rejection()
            || matches!(
                self,
                Self::Duplicate | Self::PayloadMismatch | Self::Ignored
            )
    }

    /// Returns whether only a verified request has this outcome. Those that fail behind the check
    /// because the gateway is overloaded, or its store is not available, may not have come to it.
    pub const fn is_verified(self) -> bool {
        matches!(
            self,
            Self::Delivered
                | Self::UpstreamRejected
                | Self::Queued
                | Self::Duplicate
                | Self::InFlight
                | Self::PayloadMismatch
                | Self::Ignored
                | Self::UpstreamUnreachable
                | Self::BudgetExceeded
        )
    }

    /// Returns the group that this outcome belongs to.
    pub const fn disposition(self) -> Disposition {
        match self {
            Self::Delivered | Self::Queued => Disposition::Accepted,
            Self::UpstreamRejected
            | Self::UpstreamUnreachable
            | Self::BudgetExceeded
            | Self::Inactive
            | Self::Overloaded
            | Self::StoreUnavailable => Disposition::Failed,
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

    /// Returns the code as written in `Hookstile-Outcome`, problem documents, metrics and logs.
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
            Self::BudgetExceeded => "budget_exceeded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_code_at_its_index() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
        }
        assert_eq!(Code::ALL.len(), Code::BudgetExceeded as usize + 1);
    }
}

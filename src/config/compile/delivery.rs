//! The delivery of a route's events: at once or from the store, the retry schedule, and the
//! retention.

use http::StatusCode;

use super::Compiler;
use super::route::Layered;
use crate::backoff::{Backoff, PermanentFailure};
use crate::config::de::Field;
use crate::config::diagnostics::Diagnostic;
use crate::config::{facts, raw};
use crate::providers::SenderDefaults;
use crate::route::{DeliveryMode, Replay};
use crate::store::{PAYLOAD_MAX, Payloads, Retain};

impl Compiler<'_> {
    /// Returns the delivery mode. Warns about a route's own keys for stored events if it stores
    /// none; those in `defaults` may be for other routes.
    pub(super) fn delivery_mode(&self, raw: &Layered<'_>) -> DeliveryMode {
        let mode = facts::DELIVERY.value_of(raw.get(|route| &route.delivery));
        if mode.stores() {
            return mode;
        }
        if let Some(status) = raw.own.accept_status.given() {
            let warning = Diagnostic::warning(
                status.span,
                "with `delivery: proxy`, the response has the upstream's status",
            );
            self.report(
                warning.help("`accept_status` applies to `delivery: queue` and `spill` only"),
            );
        }
        let retry = raw.own.retry.given().map(|retry| ("retry", retry.span));
        let timeout = raw
            .own
            .attempt_timeout
            .given()
            .map(|timeout| ("attempt_timeout", timeout.span));
        for (key, span) in [retry, timeout].into_iter().flatten() {
            let warning = Diagnostic::warning(
                span,
                "with `delivery: proxy`, events are not retried automatically",
            );
            self.report(warning.help(format!(
                "`{key}` then applies only to events that an operator redelivers"
            )));
        }
        mode
    }

    pub(super) fn accept_status(
        &self,
        field: &Field<u16>,
        defaults: &SenderDefaults,
    ) -> StatusCode {
        self.status(field, facts::ACCEPT_STATUS, defaults.accept_status)
    }

    /// Returns a status that must be one of a few, or else the default.
    pub(super) fn status<const N: usize>(
        &self,
        field: &Field<u16>,
        statuses: facts::Statuses<N>,
        default: StatusCode,
    ) -> StatusCode {
        let status = field.given().and_then(|given| {
            if statuses.contains(given.value) {
                return StatusCode::from_u16(given.value).ok();
            }
            let error = Diagnostic::error(given.span, "this value is out of range");
            self.report(error.label(format!("expected {statuses}")));
            None
        });
        status.unwrap_or(default)
    }

    /// Returns the retry schedule. A default that conflicts with a given value is adjusted to it.
    pub(super) fn retry(&self, field: &Field<raw::Retry>) -> Backoff {
        let absent = raw::Retry::default();
        let retry = field.value().unwrap_or(&absent);
        let initial = self.duration(&retry.initial, facts::TIME_SPAN);
        let max_interval = self.duration(&retry.max_interval, facts::TIME_SPAN);
        let max_interval = max_interval.unwrap_or_else(|| {
            let default = facts::RETRY_MAX_INTERVAL.default.0;
            default.max(initial.unwrap_or_default())
        });
        let horizon = self.amount(&retry.horizon, facts::RETRY_HORIZON).0;
        let initial = initial.unwrap_or_else(|| {
            let default = facts::RETRY_INITIAL.default.0;
            default.min(max_interval).min(horizon)
        });
        let factor = self.amount(&retry.factor, facts::RETRY_FACTOR);
        let [max_interval_at, horizon_at, initial_at] =
            [&retry.max_interval, &retry.horizon, &retry.initial]
                .map(|field| field.given().map(|given| given.span));
        if max_interval < initial {
            self.report(Diagnostic::error(
                max_interval_at,
                "`max_interval` is shorter than `initial`",
            ));
        }
        if horizon < initial {
            let error = Diagnostic::error(
                horizon_at.or(initial_at),
                "`horizon` is shorter than `initial`",
            );
            self.report(error.label("an event would be dead-lettered before its second attempt"));
        }
        Backoff {
            initial,
            factor,
            max_interval,
            horizon,
            permanent: self.permanent(&retry.permanent),
        }
    }

    fn permanent(&self, field: &Field<raw::Permanent>) -> PermanentFailure {
        let absent = raw::Permanent::default();
        let permanent = field.value().unwrap_or(&absent);
        PermanentFailure {
            attempts: self.amount(&permanent.attempts, facts::PERMANENT_ATTEMPTS),
            at_least: self
                .amount(&permanent.at_least, facts::PERMANENT_AT_LEAST)
                .0,
        }
    }

    /// Warns if a stored event may outlive its ID. It is not an error: a sender that got a 2xx
    /// response has no reason to send the event again.
    pub(super) fn compare_with_window(
        &self,
        raw: &Layered<'_>,
        delivery_mode: DeliveryMode,
        retry: &Backoff,
        replay: Replay,
    ) {
        if delivery_mode == DeliveryMode::Proxy || replay.window >= retry.horizon {
            return;
        }
        let window = raw
            .get(|route| &route.replay)
            .value()
            .and_then(|replay| replay.window.given());
        let horizon = raw
            .get(|route| &route.retry)
            .value()
            .and_then(|retry| retry.horizon.given());
        let span = window.or(horizon).map(|given| given.span);
        let warning = Diagnostic::warning(span, "`replay.window` is shorter than `retry.horizon`");
        let warning = warning.label("an ID may be forgotten while its event is still queued");
        self.report(warning.help(format!(
            "a copy that arrives then counts as a new event; raise `replay.window`, or lower \
             `retry.horizon` (default {})",
            facts::RETRY_HORIZON.default
        )));
    }

    pub(super) fn retain(&self, field: &Field<raw::Retain>) -> Retain {
        let absent = raw::Retain::default();
        let retain = field.value().unwrap_or(&absent);
        Retain {
            payloads: facts::RETAIN_PAYLOADS.value_of(&retain.payloads),
            keep: self.amount(&retain.keep, facts::RETAIN_FOR).0,
            max_bytes: Some(self.amount(&retain.max_size, facts::RETAIN_SIZE).0 as u64),
        }
    }

    /// Reports a `max_body` above the store's limit on a route that stores its bodies.
    pub(super) fn check_storable(
        &self,
        raw: &Layered<'_>,
        delivery_mode: DeliveryMode,
        retain: Retain,
    ) {
        let Some(size) = raw
            .get(|route| &route.max_body)
            .given()
            .filter(|size| size.value.0 > PAYLOAD_MAX)
        else {
            return;
        };
        let delivery = raw
            .get(|route| &route.delivery)
            .given()
            .map(|delivery| delivery.span);
        let payloads = raw
            .get(|route| &route.retain)
            .value()
            .and_then(|retain| retain.payloads.given());
        let reason = match delivery_mode {
            DeliveryMode::Queue | DeliveryMode::Spill => delivery,
            DeliveryMode::Proxy => payloads
                .filter(|_| retain.payloads == Payloads::All)
                .map(|payloads| payloads.span),
        };
        if let Some(span) = reason {
            let error = Diagnostic::error(
                size.span,
                format!("bodies above {} cannot be stored", facts::MAX_STORED_BODY),
            );
            self.report(
                error
                    .also(span, "this makes the route store bodies")
                    .help("lower `max_body`, or do not store bodies"),
            );
        }
    }
}

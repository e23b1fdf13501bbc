//! How a route's events get to the upstream: at once or from the store, how often they are tried, what is kept of them.

use std::time::Duration;

use http::StatusCode;

use super::route::Layered;
use super::{Compiler, HOUR};
use crate::backoff::Backoff;
use crate::config::de::Field;
use crate::config::diagnostics::Diagnostic;
use crate::config::raw;
use crate::route::{DeliveryMode, Replay};
use crate::store::{PAYLOAD_MAX, Payloads, Retain};

const DEFAULT_INITIAL: Duration = Duration::from_secs(5);
const DEFAULT_MAX_INTERVAL: Duration = HOUR;
const DEFAULT_HORIZON: Duration = HOUR.saturating_mul(72);
/// Fewer would hold next to nothing: a number without its unit, most likely.
const RETAINED_BYTES_MIN: usize = 1 << 20;

impl Compiler<'_> {
    /// Warns about what a route that stores nothing says of stored events. `defaults` may say it for other routes.
    pub(super) fn handover(&self, raw: &Layered<'_>) -> DeliveryMode {
        match raw.get(|route| &route.delivery).value() {
            Some(raw::Delivery::Queue) => return DeliveryMode::Queue,
            Some(raw::Delivery::Spill) => return DeliveryMode::Spill,
            None | Some(raw::Delivery::Proxy) => {}
        }
        if let Some(status) = raw.own.accept_status.given() {
            let warning = Diagnostic::warning(
                status.span,
                "with `delivery: proxy` the upstream's status is the answer's",
            );
            self.report(warning.help("`accept_status` is for `delivery: queue` and `spill`"));
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
                "with `delivery: proxy` no event is tried again by itself",
            );
            self.report(warning.help(format!(
                "`{key}` is then only for events that are redelivered on request"
            )));
        }
        DeliveryMode::Proxy
    }

    pub(super) fn accept_status(&self, field: &Field<u16>) -> StatusCode {
        match field.given() {
            Some(status) if status.value == 200 => StatusCode::OK,
            Some(status) if status.value != 202 => {
                let error = Diagnostic::error(status.span, "this value is out of range");
                self.report(error.label("expected 202 or 200"));
                StatusCode::ACCEPTED
            }
            _ => StatusCode::ACCEPTED,
        }
    }

    /// A default gives way where it is at odds with what was written.
    pub(super) fn retry(&self, field: &Field<raw::Retry>) -> Backoff {
        let absent = raw::Retry::default();
        let retry = field.value().unwrap_or(&absent);
        let initial = self.positive(&retry.initial);
        let max_interval = self.positive(&retry.max_interval);
        let max_interval =
            max_interval.unwrap_or(DEFAULT_MAX_INTERVAL.max(initial.unwrap_or_default()));
        let horizon = self.positive(&retry.horizon).unwrap_or(DEFAULT_HORIZON);
        let initial = initial.unwrap_or(DEFAULT_INITIAL.min(max_interval).min(horizon));
        let factor = self
            .within(&retry.factor, 1.0..=10.0, "1 to 10")
            .unwrap_or(2.0);
        let places = [
            retry.max_interval.given(),
            retry.horizon.given(),
            retry.initial.given(),
        ];
        let [longest_at, horizon_at, initial_at] =
            places.map(|given| given.map(|given| given.span));
        if max_interval < initial {
            self.report(Diagnostic::error(
                longest_at,
                "`max_interval` is shorter than `initial`",
            ));
        }
        if horizon < initial {
            let error = Diagnostic::error(
                horizon_at.or(initial_at),
                "`horizon` is shorter than `initial`",
            );
            self.report(
                error.label("an event would be given up while it waits for its second attempt"),
            );
        }
        Backoff {
            initial,
            factor,
            max_interval,
            horizon,
        }
    }

    /// Warns where a stored event may outlive its ID. No error: a sender that was answered with 2xx has no reason to send
    /// the event again.
    pub(super) fn compare_with_window(
        &self,
        raw: &Layered<'_>,
        handover: DeliveryMode,
        retry: &Backoff,
        replay: Replay,
    ) {
        if handover == DeliveryMode::Proxy || replay.window >= retry.horizon {
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
        self.report(warning.label("an ID may be forgotten while its event still waits").help(
            "a copy that comes then is taken for a new event; raise the one, or lower the other (by default 72h)",
        ));
    }

    pub(super) fn retain(&self, field: &Field<raw::Retain>) -> Retain {
        let absent = raw::Retain::default();
        let retain = field.value().unwrap_or(&absent);
        let size = self.size(
            &retain.max_size,
            RETAINED_BYTES_MIN..=usize::MAX,
            "at least 1MiB",
        );
        Retain {
            payloads: match retain.payloads.value() {
                Some(raw::Payloads::None) => Payloads::None,
                None => Retain::DEFAULT.payloads,
                Some(raw::Payloads::Failed) => Payloads::Failed,
                Some(raw::Payloads::All) => Payloads::All,
            },
            keep: self.positive(&retain.keep).unwrap_or(Retain::DEFAULT.keep),
            max_bytes: size.map_or(Retain::DEFAULT.max_bytes, |size| Some(size as u64)),
        }
    }

    /// Refuses bodies that are too big for the store where all of them are stored.
    pub(super) fn check_storable(&self, raw: &Layered<'_>, handover: DeliveryMode, retain: Retain) {
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
        let reason = match handover {
            DeliveryMode::Queue | DeliveryMode::Spill => delivery,
            DeliveryMode::Proxy => payloads
                .filter(|_| retain.payloads == Payloads::All)
                .map(|payloads| payloads.span),
        };
        if let Some(span) = reason {
            let error = Diagnostic::error(size.span, "bodies above 256MiB cannot be stored");
            self.report(
                error
                    .also(span, "this route stores them")
                    .help("lower `max_body`, or do without the store"),
            );
        }
    }
}

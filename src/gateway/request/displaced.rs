//! Delays the response to a displaced request, so that its sender does not return at once.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::exchange::Exchange;
use crate::gateway::response::{Outcome, Rejection};

/// The delay. A sender that fills the memory and returns as soon as it is displaced would displace
/// the next one at once, and so on, as fast as the processor allows.
const DELAY: Duration = Duration::from_secs(2);

/// Waits if `outcome` is that of a displaced request, at most until its response is due.
///
/// The body has been freed by then, and over HTTP/1.1 nothing else arrives on the connection. An
/// HTTP/2 stream ends at once instead, because its memory is counted until then.
pub(super) async fn delay_response(exchange: &Exchange<'_>, outcome: &Outcome) {
    if !matches!(outcome, Outcome::Rejected(Rejection::NoMemory)) || exchange.session.is_http2() {
        return;
    }
    let due = (Instant::now() + DELAY).min(exchange.response_deadline());
    sleep_until(due.into()).await;
}

//! The limits on what requests hold in memory: totals, shares and reserves.
//!
//! A request passes three phases. *Unverified*, it holds its head and as much of its body as has
//! arrived, and may be displaced by another sender's. *Verified*, it holds its body until it has
//! been delivered, in a pool of its own, of which each route has a share. *Answering*, it holds its
//! response until the sender has read it, and may be displaced again.
//!
//! Large requests, and small ones that wait for their sender, are listed: a small request that
//! arrives in one piece takes no lock. This module knows nothing of sessions, and has no clock.
//!
//! The total of bodies, `limits.body_bytes_in_flight`, is split like this:
//!
//! | part | for |
//! | --- | --- |
//! | 1/8 | unverified small requests, of up to 64 KiB |
//! | 1/8 | verified small requests |
//! | 6/8 | large requests; verified ones take at most half of this, or 4/8 for the first of a route |
//!
//! A small verified request whose part is full counts in the part of the large ones. An unverified
//! large request that is the only one may use the whole total, less the bytes of verified large
//! requests. A verified request that is the only one in its part always fits.

mod reservation;
mod totals;
mod verified;
mod waiting;
pub(crate) mod worst_case;

use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;
use prometheus::IntGauge;

pub(crate) use reservation::Reservation;
pub(crate) use totals::Exhausted;
pub(crate) use verified::RouteShare;

use totals::{Bytes, UNVERIFIED_STREAMS_MAX};
use verified::VerifiedPool;
use waiting::{Room, WaitingPool};

/// The streams that are offered to all HTTP/2 connections together, as long as each has at least
/// [`STREAMS_OFFERED_MIN`].
const STREAMS_OFFERED: usize = 2048;

/// The most streams that a connection may have open (RFC 9113 §5.1.2 recommends at least 100).
const STREAMS_OFFERED_MAX: usize = 100;

/// The least that a connection is offered, however many connections are open.
const STREAMS_OFFERED_MIN: usize = 8;

/// The head size, in bytes, above which values that several fields share are counted only once.
const SHARED_HEAD_MIN: usize = 4096;

/// The limits on all requests in flight.
pub(crate) struct RequestLimits {
    waiting: WaitingPool,
    verified: VerifiedPool,
    /// The total of `limits.body_bytes_in_flight`.
    body_bytes: AtomicUsize,
    http2_connections: AtomicUsize,
}

impl RequestLimits {
    /// Creates the limits. `body_bytes` is the total of `limits.body_bytes_in_flight`; `gauge`
    /// follows the bytes that are held.
    pub(crate) fn new(body_bytes: usize, gauge: IntGauge) -> Self {
        Self {
            waiting: WaitingPool::new(UNVERIFIED_STREAMS_MAX, gauge.clone()),
            verified: VerifiedPool::new(gauge),
            body_bytes: AtomicUsize::new(body_bytes),
            http2_connections: AtomicUsize::new(0),
        }
    }

    /// Changes the total of bodies. What is in flight stays counted as it is; a smaller total binds
    /// whatever is added from now on.
    pub(crate) fn resize(&self, body_bytes: usize) {
        self.body_bytes.store(body_bytes, Ordering::Relaxed);
    }

    fn bytes(&self) -> Bytes {
        Bytes::new(self.body_bytes.load(Ordering::Relaxed))
    }

    /// Returns the room for requests that wait for their sender.
    fn room(&self) -> Room {
        Room {
            bytes: self.bytes(),
            verified_large: self.verified.large(),
        }
    }

    /// Counts a new HTTP/2 connection, until [`RequestLimits::http2_closed`]. Returns the streams
    /// to offer to it: fewer when many are open.
    pub(crate) fn http2_opened(&self) -> usize {
        streams_offered(self.http2_connections.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn http2_closed(&self) {
        self.http2_connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the reservation of a new HTTP/1.1 request.
    pub(crate) fn begin(&self) -> Reservation<'_> {
        Reservation::new(self, false, None)
    }

    /// Returns the reservation of a new HTTP/2 request. If all slots are in use, displaces the
    /// oldest unverified request of the largest holder, and waits until it has ended: the memory of
    /// a request is counted until it is freed.
    pub(crate) async fn begin_stream(&self) -> Reservation<'_> {
        let slot = self.waiting.acquire_slot().await;
        Reservation::new(self, true, Some(slot))
    }
}

/// Returns the streams to offer to a new HTTP/2 connection while `open` are open, itself included.
fn streams_offered(open: usize) -> usize {
    (STREAMS_OFFERED / open.max(1)).clamp(STREAMS_OFFERED_MIN, STREAMS_OFFERED_MAX)
}

/// Returns the bytes of an HTTP/2 head in memory. Where fields share a value, as HPACK makes them,
/// it is counted once. `decoded` is the size of all fields (RFC 9113 §6.5.2).
pub(crate) fn head_bytes(decoded: usize, headers: &HeaderMap) -> usize {
    if decoded <= SHARED_HEAD_MIN {
        return decoded;
    }
    let mut values: Vec<_> = headers
        .values()
        .map(|value| (value.as_bytes().as_ptr(), value.len()))
        .collect();
    let all: usize = values.iter().map(|(_, length)| length).sum();
    values.sort_unstable();
    values.dedup_by_key(|(start, _)| *start);
    let distinct: usize = values.iter().map(|(_, length)| length).sum();
    decoded.saturating_sub(all) + distinct
}

#[cfg(test)]
mod tests;

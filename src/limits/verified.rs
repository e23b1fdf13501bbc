//! The requests that are verified and not delivered yet: a pool of its own, shared by the routes.

use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;

use super::totals::{Bytes, Exhausted, Size, VERIFIED_STREAMS_MAX, to_gauge};

/// A route may hold this many times what is free. So one route alone gets three quarters of a
/// total, and there is always room for a route that holds less.
const SHARE_OF_FREE: usize = 3;

/// The totals of all routes.
pub(super) struct VerifiedPool {
    used: RouteShare,
    /// Follows the bytes that are held.
    pub(super) gauge: IntGauge,
}

/// The part of the verified requests that are one route's.
#[derive(Debug, Default)]
pub(crate) struct RouteShare {
    streams: AtomicUsize,
    small: AtomicUsize,
    large: AtomicUsize,
}

/// The bytes of one verified request, released on drop.
pub(crate) struct VerifiedReservation<'a> {
    pool: &'a VerifiedPool,
    route: &'a RouteShare,
    bytes: usize,
    size: Size,
    is_stream: bool,
}

impl VerifiedPool {
    pub(super) fn new(gauge: IntGauge) -> Self {
        Self {
            used: RouteShare::default(),
            gauge,
        }
    }

    /// Returns the bytes that large requests hold.
    pub(super) fn large(&self) -> usize {
        self.used.large.load(Ordering::Relaxed)
    }

    /// Counts `bytes` for `route`. Returns the total that they count in.
    fn reserve(&self, totals: Bytes, route: &RouteShare, bytes: usize) -> Result<Size, Exhausted> {
        let small = totals.small();
        if totals.size_of(bytes) == Size::Small
            && reserve(&self.used.small, &route.small, bytes, small, small)
        {
            return Ok(Size::Small);
        }
        let large = totals.large();
        let (most, first) = (large / 2, large - large / 3);
        if reserve(&self.used.large, &route.large, bytes, most, first) {
            Ok(Size::Large)
        } else {
            Err(Exhausted)
        }
    }

    fn reserve_stream(&self, route: &RouteShare) -> bool {
        let total = VERIFIED_STREAMS_MAX;
        reserve(&self.used.streams, &route.streams, 1, total, total)
    }
}

impl<'a> VerifiedReservation<'a> {
    /// Counts a verified request for `route`.
    ///
    /// # Errors
    /// When it does not fit into the total, or the route's share.
    pub(super) fn new(
        pool: &'a VerifiedPool,
        totals: Bytes,
        route: &'a RouteShare,
        bytes: usize,
        is_stream: bool,
    ) -> Result<Self, Exhausted> {
        if is_stream && !pool.reserve_stream(route) {
            return Err(Exhausted);
        }
        let size = pool.reserve(totals, route, bytes).inspect_err(|_| {
            if is_stream {
                release(&pool.used.streams, &route.streams, 1);
            }
        })?;
        pool.gauge.add(to_gauge(bytes));
        Ok(Self {
            pool,
            route,
            bytes,
            size,
            is_stream,
        })
    }
}

impl Drop for VerifiedReservation<'_> {
    fn drop(&mut self) {
        let used = &self.pool.used;
        match self.size {
            Size::Small => release(&used.small, &self.route.small, self.bytes),
            Size::Large => release(&used.large, &self.route.large, self.bytes),
        }
        if self.is_stream {
            release(&used.streams, &self.route.streams, 1);
        }
        self.pool.gauge.sub(to_gauge(self.bytes));
    }
}

/// Adds `amount` to what all routes use and to what one uses, if the former stays within `total`
/// and the latter within its share. The first of a route is bound by `total_for_first` only, and
/// one that is alone by nothing.
fn reserve(
    used: &AtomicUsize,
    route: &AtomicUsize,
    amount: usize,
    total: usize,
    total_for_first: usize,
) -> bool {
    let used_before = used.fetch_add(amount, Ordering::Relaxed);
    let route_before = route.fetch_add(amount, Ordering::Relaxed);
    let used_after = used_before + amount;
    let fits_share = used_after <= total
        && route_before + amount <= SHARE_OF_FREE.saturating_mul(total - used_after);
    let is_first = route_before == 0 && used_after <= total_for_first;
    if fits_share || is_first || used_before == 0 {
        return true;
    }
    release(used, route, amount);
    false
}

fn release(used: &AtomicUsize, route: &AtomicUsize, amount: usize) {
    route.fetch_sub(amount, Ordering::Relaxed);
    used.fetch_sub(amount, Ordering::Relaxed);
}

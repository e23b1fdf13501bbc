//! The limit on the body bytes of all requests in flight.

use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;

/// The body bytes in memory, and the heads of HTTP/2 requests. Counts the bytes received, not the
/// bytes announced.
pub(in crate::gateway) struct BodyMemory {
    in_use: AtomicUsize,
    limit: usize,
    gauge: IntGauge,
}

/// The part of [`BodyMemory`] that one request uses, released on drop.
pub(super) struct BodyReservation<'a> {
    memory: &'a BodyMemory,
    bytes: usize,
}

/// The error of a reservation that exceeds the limit.
#[derive(Debug)]
pub(in crate::gateway) struct BodyMemoryExhausted;

impl BodyMemory {
    pub(in crate::gateway) fn new(limit: usize, gauge: IntGauge) -> Self {
        Self {
            in_use: AtomicUsize::new(0),
            limit,
            gauge,
        }
    }

    /// Returns an empty reservation.
    pub(super) fn reservation(&self) -> BodyReservation<'_> {
        BodyReservation {
            memory: self,
            bytes: 0,
        }
    }
}

impl BodyReservation<'_> {
    /// Adds `bytes` to the reservation.
    ///
    /// # Errors
    /// When the limit is exceeded. The bytes count as reserved until the reservation is dropped.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), BodyMemoryExhausted> {
        let before = self.memory.in_use.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        self.memory.gauge.add(to_gauge(bytes));
        if before + bytes > self.memory.limit {
            return Err(BodyMemoryExhausted);
        }
        Ok(())
    }
}

impl Drop for BodyReservation<'_> {
    fn drop(&mut self) {
        self.memory.in_use.fetch_sub(self.bytes, Ordering::Relaxed);
        self.memory.gauge.sub(to_gauge(self.bytes));
    }
}

fn to_gauge(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_share_the_limit_and_are_released() {
        let memory = BodyMemory::new(10, IntGauge::new("test", "test").unwrap());
        let mut first = memory.reservation();
        assert!(first.grow(6).is_ok());
        let mut second = memory.reservation();
        assert!(second.grow(6).is_err());
        drop(second);
        assert_eq!(memory.gauge.get(), 6);
        assert!(first.grow(4).is_ok());
        drop(first);
        assert_eq!(memory.gauge.get(), 0);
    }
}

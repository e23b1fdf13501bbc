//! The totals that the pools share, and the two sizes of requests.

/// The most unverified or answering HTTP/2 requests. Each takes 16 to 20 KiB, and up to 16 KiB more
/// for the frame that its first byte arrived in. Over HTTP/1.1 connections are the bound.
pub(super) const UNVERIFIED_STREAMS_MAX: usize = 1024;

/// The most verified HTTP/2 requests in flight: four routes of the default concurrency.
pub(super) const VERIFIED_STREAMS_MAX: usize = 4096;

/// The largest small request, in bytes. Nearly all events are smaller.
const SMALL_MAX: usize = 64 * 1024;

/// The totals that `limits.body_bytes_in_flight` is split into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes {
    pub(super) total: usize,
    /// The largest request that counts as small.
    pub(super) small_max: usize,
}

/// The two sizes of requests, which have totals of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

/// The error of a request that was displaced, or does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Bytes {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            small_max: SMALL_MAX.min(total / 16),
        }
    }

    pub(super) fn size_of(self, bytes: usize) -> Size {
        if bytes <= self.small_max {
            Size::Small
        } else {
            Size::Large
        }
    }

    /// Returns the total of small requests of one pool.
    pub(super) fn small(self) -> usize {
        self.total / 8
    }

    /// Returns the total of large requests of both pools.
    pub(super) fn large(self) -> usize {
        self.total - 2 * self.small()
    }
}

pub(super) fn to_gauge(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

//! The last rejected requests of a route, whole, for an operator who wants to know why they were
//! rejected, or would have been without `enforce: false`.
//!
//! A capture holds the signature and the body, so it is kept only on routes with `capture:`, in
//! memory, and for a time. The number, the bytes and the age are bounded for each route, and the
//! bytes for all routes together.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::rejections::RejectionKind;
use crate::client_network::ClientNetwork;

/// The most bytes that the captures of all routes hold together: 64 MiB.
pub(crate) const CAPTURED_BYTES_MAX: usize = 64 << 20;

/// The bytes that a capture and each of its headers take beside their text.
const CAPTURE_OVERHEAD: usize = 256;
const HEADER_OVERHEAD: usize = 64;

/// The bounds of one route's captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureLimits {
    pub requests: usize,
    /// The bytes of all captured requests: heads and bodies, with what it takes to keep them.
    pub bytes: usize,
    pub keep: Duration,
}

/// A rejected request, whole. It must not be logged or listed, because its signature may be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedRequest {
    pub id: Arc<str>,
    /// The time at which the head was complete. Signed times are compared with it.
    pub received_at: Timestamp,
    pub kind: RejectionKind,
    pub status: u16,
    pub method: Box<str>,
    /// The path with its query, as it was sent.
    pub target: Box<str>,
    /// The headers in the order and the case in which they were sent.
    pub headers: Vec<SentHeader>,
    /// The whole body, byte for byte.
    pub body: Bytes,
    pub peer: Option<IpAddr>,
    pub trace_id: Option<Box<str>>,
}

/// A header as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentHeader {
    pub name: Box<[u8]>,
    pub value: Box<[u8]>,
}

/// A route's captured requests.
pub struct CaptureHistory {
    state: Mutex<State>,
    /// The bytes that the captures of all routes hold.
    total: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    /// `None` if the route captures nothing.
    limits: Option<CaptureLimits>,
    /// The oldest first.
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The number of requests that were too large to be kept.
    too_large: u64,
}

struct Kept {
    request: Arc<CapturedRequest>,
    at: Instant,
    bytes: usize,
}

impl CapturedRequest {
    /// Generates the ID of a capture. IDs of another process are unknown to this one.
    pub fn new_id() -> Arc<str> {
        format!("cap_{:016x}", fastrand::u64(..)).into()
    }

    /// Returns the bytes that it takes to keep the request.
    fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|header| header.name.len() + header.value.len() + HEADER_OVERHEAD)
            .sum();
        CAPTURE_OVERHEAD + self.target.len() + headers + self.body.len()
    }

    fn client(&self) -> Option<ClientNetwork> {
        self.peer.map(ClientNetwork::of_address)
    }
}

impl CaptureHistory {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        Self {
            state: Mutex::default(),
            total,
        }
    }

    /// Applies these limits from now on; with `None`, forgets everything.
    pub(super) fn set_limits(&self, limits: Option<CaptureLimits>, now: Instant) {
        let mut state = self.state();
        state.limits = limits;
        self.expire(&mut state, now);
        while !state.fits(0) {
            self.remove(&mut state, 0);
        }
    }

    /// Forgets the requests that are older than the limit.
    pub(super) fn sample(&self, now: Instant) {
        self.expire(&mut self.state(), now);
    }

    /// Returns the limits, if the route captures requests.
    pub fn limits(&self) -> Option<CaptureLimits> {
        self.state().limits
    }

    /// Keeps a request, and returns whether there was room. While there is none, the oldest request
    /// of the client with the most is removed, so that one client does not displace all others.
    pub fn keep(&self, request: CapturedRequest, now: Instant) -> bool {
        let mut state = self.state();
        let Some(limits) = state.limits else {
            return false;
        };
        self.expire(&mut state, now);
        let bytes = request.size();
        if bytes > limits.bytes {
            state.too_large += 1;
            return false;
        }
        while !(state.fits(bytes) && state.kept.len() < limits.requests && self.reserve(bytes)) {
            let Some(displaced) = state.displaced() else {
                // The other routes hold everything.
                return false;
            };
            self.remove(&mut state, displaced);
        }
        state.bytes += bytes;
        state.kept.push_back(Kept {
            request: Arc::new(request),
            at: now,
            bytes,
        });
        true
    }

    /// Returns the captured requests, the newest first.
    pub fn recent(&self, now: Instant) -> Vec<Arc<CapturedRequest>> {
        let mut state = self.state();
        self.expire(&mut state, now);
        state
            .kept
            .iter()
            .rev()
            .map(|kept| Arc::clone(&kept.request))
            .collect()
    }

    /// Returns the number of requests that were larger than the limit, and so were not captured.
    pub fn too_large(&self) -> u64 {
        self.state().too_large
    }

    fn expire(&self, state: &mut State, now: Instant) {
        let keep = state.limits.map_or(Duration::ZERO, |limits| limits.keep);
        while let Some(oldest) = state.kept.front() {
            if now.saturating_duration_since(oldest.at) < keep {
                return;
            }
            self.remove(state, 0);
        }
    }

    fn remove(&self, state: &mut State, index: usize) {
        if let Some(removed) = state.kept.remove(index) {
            state.bytes -= removed.bytes;
            self.total.fetch_sub(removed.bytes, Ordering::Relaxed);
        }
    }

    /// Counts `bytes` in the total of all routes, if there is room.
    fn reserve(&self, bytes: usize) -> bool {
        let reserved = self
            .total
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |total| {
                Some(total + bytes).filter(|total| *total <= CAPTURED_BYTES_MAX)
            });
        reserved.is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CaptureHistory {
    /// Returns what a removed route held to the total of all routes.
    fn drop(&mut self) {
        let held = self.state().bytes;
        self.total.fetch_sub(held, Ordering::Relaxed);
    }
}

impl State {
    /// Returns whether `more` bytes fit beside what is kept.
    fn fits(&self, more: usize) -> bool {
        self.limits.is_none_or(|limits| {
            self.bytes + more <= limits.bytes && self.kept.len() <= limits.requests
        }) || self.kept.is_empty()
    }

    /// Returns the index of the request that makes room: the oldest of the client with the most.
    fn displaced(&self) -> Option<usize> {
        let count = |client: Option<ClientNetwork>| {
            self.kept
                .iter()
                .filter(|kept| kept.request.client() == client)
                .count()
        };
        // The first of several maxima is the oldest.
        let clients = self.kept.iter().map(|kept| kept.request.client());
        clients
            .enumerate()
            .rev()
            .max_by_key(|(_, client)| count(*client))
            .map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Code;

    const LIMITS: CaptureLimits = CaptureLimits {
        requests: 3,
        bytes: 10_000,
        keep: Duration::from_secs(60),
    };

    fn request(number: usize, peer: u8, bytes: usize) -> CapturedRequest {
        CapturedRequest {
            id: number.to_string().into(),
            received_at: Timestamp::UNIX_EPOCH,
            kind: RejectionKind {
                code: Code::InvalidSignature,
                reason: Some("mismatch"),
                let_pass: false,
            },
            status: 401,
            method: "POST".into(),
            target: "/".into(),
            headers: Vec::new(),
            body: vec![0; bytes].into(),
            peer: Some([192, 0, 2, peer].into()),
            trace_id: None,
        }
    }

    fn history(total: &Arc<AtomicUsize>, now: Instant) -> CaptureHistory {
        let history = CaptureHistory::new(Arc::clone(total));
        history.set_limits(Some(LIMITS), now);
        history
    }

    fn ids(history: &CaptureHistory, now: Instant) -> Vec<String> {
        let recent = history.recent(now);
        recent.iter().map(|kept| kept.id.to_string()).collect()
    }

    #[test]
    fn captures_are_bounded_in_number_and_bytes() {
        let (total, now) = (Arc::default(), Instant::now());
        let history = history(&total, now);
        for number in 0..5 {
            assert!(history.keep(request(number, 1, 10), now));
        }
        assert_eq!(ids(&history, now), ["4", "3", "2"]);
        assert!(history.keep(request(5, 1, 9000), now));
        assert_eq!(ids(&history, now), ["5", "4", "3"]);
        assert!(history.keep(request(6, 1, 9000), now));
        assert_eq!(ids(&history, now), ["6"]);
        assert!(!history.keep(request(7, 1, 10_000), now));
        assert_eq!((ids(&history, now).len(), history.too_large()), (1, 1));
        assert!(total.load(Ordering::Relaxed) <= LIMITS.bytes);
    }

    #[test]
    fn captures_expire_and_free_their_bytes() {
        let (total, now) = (Arc::default(), Instant::now());
        let history = history(&total, now);
        history.keep(request(0, 1, 10), now);
        let later = now + Duration::from_secs(59);
        history.keep(request(1, 1, 10), later);
        assert_eq!(ids(&history, later), ["1", "0"]);
        history.sample(now + Duration::from_secs(60));
        assert_eq!(ids(&history, later), ["1"]);
        history.set_limits(None, later);
        assert_eq!(ids(&history, later), <[&str; 0]>::default());
        assert_eq!(total.load(Ordering::Relaxed), 0);
        assert!(!history.keep(request(2, 1, 10), later));
    }

    #[test]
    fn busiest_client_is_displaced_first() {
        let (total, now) = (Arc::default(), Instant::now());
        let history = history(&total, now);
        history.keep(request(0, 7, 10), now);
        for number in 1..100 {
            history.keep(request(number, 1, 10), now);
        }
        assert_eq!(ids(&history, now), ["99", "98", "0"]);
    }

    #[test]
    fn all_routes_share_one_bound() {
        let (total, now) = (
            Arc::new(AtomicUsize::new(CAPTURED_BYTES_MAX - 1000)),
            Instant::now(),
        );
        let [one, other] = [(); 2].map(|()| history(&total, now));
        assert!(one.keep(request(0, 1, 500), now));
        assert!(!other.keep(request(1, 1, 500), now));
        drop(one);
        assert!(other.keep(request(2, 1, 500), now));
        assert!(other.keep(request(3, 1, 600), now));
        assert_eq!(ids(&other, now), ["3"]);
    }
}

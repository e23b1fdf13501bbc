//! The idle connections to upstreams, which wait for the next request.
//!
//! Each core has its own, because only its runtime watches them. A core that has none to an upstream
//! borrows one of another core, and gives it back to that. Pingora's pool would watch each with a task,
//! and loses a connection that one core takes while that task runs on another. Here nothing watches a
//! connection: it is looked at when it is needed, and those that nothing needs are closed together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::AsyncReadExt as _;
use tokio::task::unconstrained;
use tokio::time::sleep_until;

use super::{Address, Connection, Target};
use crate::cores;

/// The time for which an idle connection is kept. It is below the shortest time-out in common use
/// (Node.js closes after 5 s), so that a connection is seldom one that the upstream has just closed.
const KEPT: Duration = Duration::from_secs(4);

/// The most idle connections of all cores, which have equal shares. One more than its share closes a
/// core's oldest. They are taken from the descriptors that senders do not get.
const KEPT_MAX: usize = 128;
/// The least share of a core, however many there are.
const SHARE_MIN: usize = 4;

/// The idle connections of all cores.
pub(super) struct IdleConnections {
    /// By the number of the core that opened them.
    by_core: Box<[Mutex<Kept>]>,
    /// The most of one core.
    share: usize,
}

/// The idle connections of one core, in the order in which they became idle.
#[derive(Default)]
struct Kept {
    idle: VecDeque<Idle>,
    /// Whether a task waits to close the oldest.
    is_watched: bool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl IdleConnections {
    pub(super) fn new() -> Arc<Self> {
        let by_core: Box<[_]> = (0..=cores::count()).map(|_| Mutex::default()).collect();
        let share = (KEPT_MAX / cores::count()).max(SHARE_MIN);
        Arc::new(Self { by_core, share })
    }

    /// Keeps a connection that has answered a request, unless its upstream has closed it.
    pub(super) fn keep(self: &Arc<Self>, mut connection: Connection) {
        if !is_open(&mut connection) {
            return;
        }
        let core = connection.core;
        let (_closed, is_watched) = self.with(core, |kept| {
            let is_full = kept.idle.len() >= self.share;
            let oldest = if is_full { kept.idle.pop_front() } else { None };
            let since = Instant::now();
            kept.idle.push_back(Idle { connection, since });
            (oldest, std::mem::replace(&mut kept.is_watched, true))
        });
        if !is_watched {
            tokio::spawn(close_expired(Arc::clone(self), core));
        }
    }

    /// Takes the connection to one of the addresses that became idle last: of this core if it has one,
    /// and to the first of the addresses that have one.
    pub(super) fn take_open(&self, target: &Target, addresses: &[Address]) -> Option<Connection> {
        let own = cores::number();
        let others = (0..self.by_core.len()).filter(|other| *other != own);
        for core in std::iter::once(own).chain(others) {
            for address in addresses {
                while let Some(mut connection) = self.take_newest(core, target, address) {
                    if is_open(&mut connection) && connection.is_trusted_by(target) {
                        return Some(connection);
                    }
                }
            }
        }
        None
    }

    fn take_newest(&self, core: usize, target: &Target, address: &Address) -> Option<Connection> {
        self.with(core, |kept| {
            let is_to =
                |idle: &Idle| idle.connection.is_to(target, address) && idle.since.elapsed() < KEPT;
            let newest = kept.idle.iter().rposition(is_to)?;
            kept.idle.remove(newest).map(|idle| idle.connection)
        })
    }

    /// Takes those that nothing needed in time, and returns with them when the next are to be closed.
    fn take_expired(&self, core: usize) -> (Vec<Idle>, Option<Instant>) {
        self.with(core, |kept| {
            let is_kept = |idle: &Idle| idle.since.elapsed() < KEPT;
            let expired = kept.idle.iter().position(is_kept);
            let expired = kept.idle.drain(..expired.unwrap_or(kept.idle.len()));
            let expired = expired.collect();
            let next = kept.idle.front().map(|oldest| oldest.since + KEPT);
            kept.is_watched = next.is_some();
            (expired, next)
        })
    }

    fn with<T>(&self, core: usize, change: impl FnOnce(&mut Kept) -> T) -> T {
        let kept = &self.by_core[core % self.by_core.len()];
        change(&mut kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Closes connections of a core that nothing needs any more, until it has none.
async fn close_expired(idle: Arc<IdleConnections>, core: usize) {
    let mut next = Instant::now() + KEPT;
    loop {
        sleep_until(next.into()).await;
        match idle.take_expired(core) {
            (_closed, Some(later)) => next = later,
            (_closed, None) => return,
        }
    }
}

/// Returns whether a connection is open and silent. An upstream that says something unasked has broken
/// the order of requests and responses.
///
/// The system is asked, because the core that opened the connection may be too busy to have heard. What
/// was read of TLS before is asked of the stream.
fn is_open(connection: &mut Connection) -> bool {
    let mut byte = [0];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let unread = recv(connection.stream.id(), &mut byte, flags);
    if unread != Err(Errno::EAGAIN) {
        tracing::debug!(address = %connection.address, ?unread, "idle connection is not usable");
        return false;
    }
    let read = unconstrained(connection.stream.read(&mut byte)).now_or_never();
    read.is_none()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use pingora_core::protocols::l4::stream::Stream;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    fn address(port: u16) -> Address {
        SocketAddr::from(([127, 0, 0, 1], port)).into()
    }

    fn target(host: &str) -> Target {
        Target::parse(&format!("http://{host}/"), None).unwrap()
    }

    /// Returns a connection of a core to a port of `app`, and the upstream's end.
    fn open(core: usize, port: u16) -> (Connection, UnixStream) {
        let (stream, upstream) = UnixStream::pair().unwrap();
        let address = address(port);
        let connection = Connection {
            peer: super::super::peer(&target("app"), &address),
            stream: Box::new(Stream::from(stream)),
            address,
            core,
            reused: true,
        };
        (connection, upstream)
    }

    /// Takes a connection, and returns the address that it leads to and its core.
    fn take(idle: &IdleConnections, host: &str, ports: &[u16]) -> Option<(Address, usize)> {
        let addresses: Vec<_> = ports.iter().copied().map(address).collect();
        let taken = idle.take_open(&target(host), &addresses)?;
        Some((taken.address, taken.core))
    }

    #[tokio::test]
    async fn own_connection_is_preferred() {
        let idle = IdleConnections::new();
        let mut upstreams = Vec::new();
        for (core, port) in [(1, 1), (0, 2), (0, 1)] {
            let (connection, upstream) = open(core, port);
            idle.keep(connection);
            upstreams.push(upstream);
        }
        assert_eq!(take(&idle, "other", &[1, 2]), None);
        assert_eq!(take(&idle, "app", &[1, 2]), Some((address(1), 0)));
        assert_eq!(take(&idle, "app", &[1, 2]), Some((address(2), 0)));
        assert_eq!(take(&idle, "app", &[1, 2]), Some((address(1), 1)));
        assert_eq!(take(&idle, "app", &[1, 2]), None);
    }

    #[tokio::test]
    async fn closed_connection_is_not_taken() {
        let idle = IdleConnections::new();
        let (alive, _upstream) = open(0, 1);
        let (closed, upstream) = open(0, 1);
        idle.keep(alive);
        idle.keep(closed);
        drop(upstream);
        assert!(take(&idle, "app", &[1]).is_some());
        assert_eq!(take(&idle, "app", &[1]), None);
    }

    #[tokio::test]
    async fn unasked_response_is_never_read_as_an_answer() {
        let idle = IdleConnections::new();
        let (early, mut upstream) = open(0, 1);
        upstream.write_all(b"HTTP/1.1 200 OK").await.unwrap();
        idle.keep(early);
        let (late, mut other) = open(0, 1);
        idle.keep(late);
        other.write_all(b"HTTP/1.1 200 OK").await.unwrap();
        assert_eq!(take(&idle, "app", &[1]), None);
    }

    #[tokio::test]
    async fn oldest_connection_gives_way() {
        let idle = IdleConnections::new();
        let (oldest, mut first) = open(0, 1);
        idle.keep(oldest);
        let mut upstreams = Vec::new();
        for _ in 0..idle.share {
            let (connection, upstream) = open(0, 2);
            idle.keep(connection);
            upstreams.push(upstream);
        }
        assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(take(&idle, "app", &[1]), None);
    }

    #[tokio::test]
    async fn unneeded_connections_are_closed() {
        let idle = IdleConnections::new();
        let (connection, mut upstream) = open(0, 1);
        idle.keep(connection);
        assert_eq!(upstream.read(&mut [0]).await.unwrap(), 0);
        let (connection, _upstream) = open(0, 1);
        idle.keep(connection);
        assert!(take(&idle, "app", &[1]).is_some());
    }
}

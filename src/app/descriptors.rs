//! The file descriptors of the process: how many there may be, and how many of them senders get.
//!
//! Each connection from a sender, to an upstream or to the admin listener uses a descriptor, and so
//! does each file of the store. Connections from senders are limited first, because anyone can open
//! them.

use std::fmt;
use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The least number of descriptors that senders do not get: room for some 200 requests in flight to
/// upstreams, the store's files and the admin listener's usual connections.
const RESERVED_MIN: u64 = 256;

/// The share of all descriptors that senders do not get: an eighth. Most connections from senders
/// are idle most of the time, so fewer connections to upstreams are needed.
const RESERVED_SHARE: u64 = 8;

/// The descriptors that are the last to be used, and never by a connection from a sender: enough
/// for the store's files and for health checks.
const LAST: u64 = 64;

/// The number of files that the process may have open (`RLIMIT_NOFILE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles(u64);

/// A configured connection limit that needs more open files than the process may have. The
/// displayed text shows the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    configured: usize,
    files: OpenFiles,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one and returns the limit that is then in force. Programs
    /// that use `select(2)` need a low soft limit; this one does not.
    pub(super) fn raise_limit() -> Self {
        let limit = getrlimit(Resource::Nofile);
        if limit.current == limit.maximum {
            return Self::from_limit(limit.current);
        }
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => Self::from_limit(limit.maximum),
            // The system may allow fewer than the hard limit says (`fs.nr_open`).
            Err(error) => {
                tracing::warn!(%error, "the limit of open files cannot be raised");
                Self::from_limit(limit.current)
            }
        }
    }

    /// Returns the limit that a gateway would have if this process started it: the hard limit.
    pub fn attainable() -> Self {
        Self::from_limit(getrlimit(Resource::Nofile).maximum)
    }

    /// Returns why `connections` cannot be held, if that is so.
    pub fn shortage(self, connections: usize) -> Option<Shortage> {
        (connections > self.connections_max()).then_some(Shortage {
            configured: connections,
            files: self,
        })
    }

    /// Returns whether `descriptor` is one of the last. The system gives out the lowest free
    /// number, so hardly any descriptor is left then.
    pub(super) fn is_last(self, descriptor: RawFd) -> bool {
        u64::try_from(descriptor).is_ok_and(|number| number >= self.0 - LAST.min(self.0 / 4))
    }

    /// `None` is no limit.
    fn from_limit(limit: Option<u64>) -> Self {
        Self(limit.unwrap_or(u64::MAX))
    }

    /// Returns the number of descriptors that are kept for everything but senders. A tiny limit is
    /// halved.
    fn reserved(self) -> u64 {
        RESERVED_MIN.max(self.0 / RESERVED_SHARE).min(self.0 / 2)
    }

    /// Returns the number of connections from senders that leaves the reserve, at least 1.
    fn connections_max(self) -> usize {
        usize::try_from(self.0 - self.reserved())
            .unwrap_or(usize::MAX)
            .max(1)
    }
}

impl Shortage {
    /// Returns the number of connections that can be held.
    pub(super) fn connections(self) -> usize {
        self.files.connections_max()
    }

    /// Returns the advice on how to get enough descriptors.
    pub fn help(self) -> String {
        let configured = u64::try_from(self.configured).unwrap_or(u64::MAX);
        let needed = configured
            .saturating_add(RESERVED_MIN)
            .max(configured.saturating_mul(RESERVED_SHARE) / (RESERVED_SHARE - 1) + 1);
        format!(
            "allow {needed} open files or more (`LimitNOFILE=` of systemd, `--ulimit nofile=` of \
             Docker, `ulimit -Hn`), or lower `limits.connections`"
        )
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`limits.connections` is {}, but the process may have {} open files and keeps {} of \
             them for upstreams, the store and the admin listener: {} connections are the limit",
            self.configured,
            self.files.0,
            self.files.reserved(),
            self.connections(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_is_kept_at_every_limit() {
        for (files, connections) in [
            (0, 1),
            (64, 32),
            (300, 150),
            (1024, 768),
            (4096, 3584),
            (20_000, 17_500),
        ] {
            assert_eq!(
                OpenFiles(files).connections_max(),
                connections,
                "{files} files"
            );
        }
        assert!(OpenFiles(u64::MAX).shortage(1_000_000).is_none());
    }

    #[test]
    fn shortage_shows_its_arithmetic() {
        let files = OpenFiles(1024);
        assert_eq!(files.shortage(768), None);
        let shortage = files.shortage(10_000).unwrap();
        assert_eq!(shortage.connections(), 768);
        let text = shortage.to_string();
        for number in ["10000", "1024", "256", "768"] {
            assert!(text.contains(number), "{text}");
        }
    }

    #[test]
    fn advised_limit_is_enough() {
        for connections in [1, 100, 768, 1792, 1793, 10_000, 1_000_000] {
            let shortage = Shortage {
                configured: connections,
                files: OpenFiles(0),
            };
            let help = shortage.help();
            let advised = help.split(' ').find_map(|word| word.parse().ok()).unwrap();
            let enough = OpenFiles(advised).shortage(connections).is_none();
            assert!(enough || connections < 256, "{connections}: {help}");
        }
    }

    #[test]
    fn last_descriptors_are_known_by_their_number() {
        let files = OpenFiles(1024);
        assert!(!files.is_last(3) && !files.is_last(959));
        assert!(files.is_last(960) && files.is_last(1023));
        assert!(!OpenFiles(u64::MAX).is_last(RawFd::MAX));
    }
}

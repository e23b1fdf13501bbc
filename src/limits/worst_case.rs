//! The most memory that the limits allow, compared with the memory that the process may use.

use std::fmt;

use super::totals::{UNVERIFIED_STREAMS_MAX, VERIFIED_STREAMS_MAX};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The memory of the process without requests, connections and event IDs.
const BASE: u64 = 128 * MIB;

/// The memory of a connection without its two buffers of `header_bytes`.
const CONNECTION: u64 = 160 * KIB;

/// The memory of an HTTP/2 request without its body: its state, and the frame that it arrived in.
const STREAM: u64 = 36 * KIB;

/// The memory of an event ID in the index.
const EVENT_ID: u64 = 25;

/// A body buffer is doubled when it is full.
const BUFFER_FACTOR: u64 = 2;

/// Fewer connections than this are not worth starting for.
const CONNECTIONS_MIN: u64 = 64;

/// The limits that the memory depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    pub connections: usize,
    pub header_bytes: usize,
    pub body_bytes: usize,
    /// The largest body that a route accepts.
    pub largest_body: usize,
    /// The most event IDs in memory.
    pub event_ids: usize,
    /// The bytes of captured requests.
    pub captured_bytes: usize,
}

/// The limits that fit, and what was reduced for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    pub connections: usize,
    pub body_bytes: usize,
    /// The most memory that the given limits allow, in words.
    pub arithmetic: Option<String>,
    /// Set if the limits fit but the event IDs do not fit beside them, once there are that many.
    pub ids_exceed: bool,
}

/// The error of limits that cannot be reduced far enough.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLittleMemory(String);

impl Demand {
    /// Returns the most memory that the limits allow.
    pub(crate) fn worst_case(&self) -> u64 {
        self.without_ids() + self.ids()
    }

    /// Reduces the limits to `available` bytes. Bodies may take half of what the fixed parts leave,
    /// or one largest body; connections get the rest. Event IDs are not reduced, since none may be
    /// forgotten early; they grow slowly, and are only reported.
    ///
    /// # Errors
    /// When they cannot be reduced that far.
    pub(crate) fn fit(&self, available: u64) -> Result<Fit, TooLittleMemory> {
        let ids_exceed = self.worst_case() > available;
        if self.without_ids() <= available {
            return Ok(Fit {
                connections: self.connections,
                body_bytes: self.body_bytes,
                arithmetic: ids_exceed.then(|| self.arithmetic(available)),
                ids_exceed,
            });
        }
        let too_little = || TooLittleMemory(self.arithmetic(available));
        let fixed = BASE + streams() + self.captured_bytes as u64;
        let rest = available.checked_sub(fixed).ok_or_else(too_little)?;
        // Bodies take at most half of the rest, connections what is left.
        let bodies = (rest / 2 / BUFFER_FACTOR)
            .max(self.largest_body as u64)
            .min(self.body_bytes as u64);
        let for_connections = rest
            .checked_sub(BUFFER_FACTOR * bodies)
            .ok_or_else(too_little)?;
        let connections = (for_connections / self.per_connection()).min(self.connections as u64);
        if connections < CONNECTIONS_MIN.min(self.connections as u64) {
            return Err(too_little());
        }
        Ok(Fit {
            connections: usize::try_from(connections).unwrap_or(self.connections),
            body_bytes: usize::try_from(bodies).unwrap_or(self.body_bytes),
            arithmetic: Some(self.arithmetic(available)),
            ids_exceed: false,
        })
    }

    fn per_connection(&self) -> u64 {
        CONNECTION + 2 * self.header_bytes as u64
    }

    fn without_ids(&self) -> u64 {
        BASE + streams()
            + self.captured_bytes as u64
            + self.connections as u64 * self.per_connection()
            + BUFFER_FACTOR * self.body_bytes as u64
    }

    fn ids(&self) -> u64 {
        self.event_ids as u64 * EVENT_ID
    }

    fn arithmetic(&self, available: u64) -> String {
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        let captured = match self.captured_bytes {
            0 => String::new(),
            bytes => format!(" + {} MiB captured requests", mib(bytes as u64)),
        };
        format!(
            "{} MiB base + {} MiB HTTP/2 requests + {} connections x {} KiB = {} MiB \
             + {} x {} MiB bodies{captured} + {} MiB event IDs = {} MiB; available: {} MiB",
            mib(BASE),
            mib(streams()),
            self.connections,
            self.per_connection() / KIB,
            mib(self.connections as u64 * self.per_connection()),
            BUFFER_FACTOR,
            mib(self.body_bytes as u64),
            mib(self.ids()),
            mib(self.worst_case()),
            mib(available),
        )
    }
}

impl fmt::Display for TooLittleMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limits do not fit into the memory: {}", self.0)
    }
}

impl std::error::Error for TooLittleMemory {}

fn streams() -> u64 {
    (UNVERIFIED_STREAMS_MAX + VERIFIED_STREAMS_MAX) as u64 * STREAM
}

/// Returns the files that may hold a memory limit of the process, given its `/proc/self/cgroup`:
/// those of its own group and of every group above, in the layouts of both cgroup versions.
pub(crate) fn limit_files(cgroups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        // hierarchy:controllers:path
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            names if names.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut group = path.trim_end_matches('/');
        // A path outside of the process's own namespace cannot be looked up.
        if group.split('/').any(|part| part == "..") {
            group = "";
        }
        loop {
            files.push(format!("{root}{group}/{file}"));
            match group.rsplit_once('/') {
                Some((above, _)) => group = above,
                None => break,
            }
        }
    }
    files
}

/// Parses the content of a limit file. Returns `None` where there is no limit: `max` in version 2,
/// a number close to the largest in version 1.
pub(crate) fn parse_limit(content: &str) -> Option<u64> {
    let limit = content.trim().parse().ok()?;
    (limit < 1 << 60).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        connections: 10_000,
        header_bytes: 32 << 10,
        body_bytes: 256 << 20,
        largest_body: 1 << 20,
        event_ids: 10_000_000,
        captured_bytes: 0,
    };

    #[test]
    fn limits_that_fit_are_kept() {
        let fit = DEMAND.fit(DEMAND.worst_case()).unwrap();
        assert_eq!((fit.connections, fit.body_bytes), (10_000, 256 << 20));
        assert_eq!((fit.arithmetic, fit.ids_exceed), (None, false));
    }

    #[test]
    fn limits_are_reduced_to_the_memory() {
        for gib in 1..3 {
            let fit = DEMAND.fit(gib << 30).unwrap();
            let reduced = Demand {
                connections: fit.connections,
                body_bytes: fit.body_bytes,
                ..DEMAND
            };
            assert!(reduced.without_ids() <= gib << 30);
            assert!(fit.connections >= 1000, "{fit:?}");
            assert!(
                fit.arithmetic
                    .unwrap()
                    .contains("10000 connections x 224 KiB")
            );
        }
    }

    #[test]
    fn largest_body_is_kept_or_the_start_refused() {
        let demand = Demand {
            largest_body: 200 << 20,
            ..DEMAND
        };
        assert_eq!(demand.fit(1 << 30).unwrap().body_bytes, 200 << 20);
        let error = demand.fit(512 << 20).unwrap_err().to_string();
        assert!(error.contains("available: 512 MiB"), "{error}");
        assert!(DEMAND.fit(64 << 20).is_err());
    }

    #[test]
    fn event_ids_that_do_not_fit_are_reported() {
        let demand = Demand {
            event_ids: 1_000_000_000,
            ..DEMAND
        };
        let fit = demand.fit(8 << 30).unwrap();
        assert!(fit.ids_exceed && fit.arithmetic.is_some());
        assert_eq!(fit.connections, 10_000);
    }

    #[test]
    fn captured_requests_count() {
        let demand = Demand {
            captured_bytes: 64 << 20,
            ..DEMAND
        };
        assert_eq!(demand.worst_case(), DEMAND.worst_case() + (64 << 20));
        let fit = demand.fit(DEMAND.worst_case()).unwrap();
        let arithmetic = fit.arithmetic.unwrap();
        assert!(
            arithmetic.contains("+ 64 MiB captured requests +"),
            "{arithmetic}"
        );
    }

    #[test]
    fn limit_files_follow_both_cgroup_versions() {
        assert_eq!(
            limit_files("0::/a/b\n"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(limit_files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(limit_files("0::/../x"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            limit_files("5:cpu:/x\n4:memory:/adv\nnonsense"),
            [
                "/sys/fs/cgroup/memory/adv/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
    }

    #[test]
    fn missing_limit_is_none() {
        assert_eq!(parse_limit("1073741824\n"), Some(1 << 30));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit(""), None);
    }
}

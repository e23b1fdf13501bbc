//! The addresses of names, for all upstreams: each name is looked up once for all who need it, and
//! what was found is kept, also over a reload. A look-up runs in a task of its own. A request that
//! waits for one may leave at any time, and a name that hangs holds up its own requests only.

mod dns;
mod known;
mod system;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::failing::FailingAddresses;
use dns::NameServers;
use known::{Decision, Known, LookupEnd};

pub(super) use known::ResolveError;

/// The time from the start of a look-up for which requests wait for it while older addresses are
/// known.
const WAIT_FOR_FRESH: Duration = Duration::from_millis(500);

/// The number of names from which on names that no route has any more are forgotten.
const NAMES_KEPT: usize = 256;

/// All names that were ever looked up.
pub(super) struct Resolver {
    name_servers: Arc<NameServers>,
    names: DashMap<Box<str>, Arc<Name>>,
}

/// A name and its addresses.
pub(super) struct Name {
    host: Box<str>,
    name_servers: Arc<NameServers>,
    /// The addresses that need no further decision until a time: all that most requests read.
    fresh: ArcSwapOption<Fresh>,
    state: Mutex<State>,
    failing: FailingAddresses,
}

struct Fresh {
    addresses: Arc<[IpAddr]>,
    until: Instant,
}

#[derive(Default)]
struct State {
    known: Known,
    lookup: Option<Lookup>,
}

/// A look-up that is running.
#[derive(Clone)]
struct Lookup {
    started: Instant,
    /// Closed when the look-up ends; nothing is sent.
    ended: watch::Receiver<()>,
}

impl Resolver {
    /// Creates a resolver that asks the system's name servers, or only `name_server`.
    pub(super) fn new(name_server: Option<SocketAddr>) -> Self {
        Self {
            name_servers: Arc::new(NameServers::new(name_server)),
            names: DashMap::new(),
        }
    }

    /// Returns the entry of a name, which all upstreams of that name share.
    pub(super) fn name(&self, host: &str) -> Arc<Name> {
        let host = host.to_ascii_lowercase().into_boxed_str();
        if let Some(name) = self.names.get(&host) {
            return Arc::clone(&name);
        }
        if self.names.len() >= NAMES_KEPT {
            let now = Instant::now();
            self.names.retain(|_, name| {
                Arc::strong_count(name) > 1 || name.state().known.is_worth_keeping(now)
            });
        }
        let new = || {
            Arc::new(Name {
                host: host.clone(),
                name_servers: Arc::clone(&self.name_servers),
                fresh: ArcSwapOption::empty(),
                state: Mutex::default(),
                failing: FailingAddresses::default(),
            })
        };
        Arc::clone(&self.names.entry(host.clone()).or_insert_with(new))
    }
}

impl Name {
    /// Returns the addresses if they are fresh.
    pub(super) fn fresh(&self) -> Option<Arc<[IpAddr]>> {
        let fresh = self.fresh.load();
        let fresh = fresh
            .as_ref()
            .filter(|fresh| Instant::now() < fresh.until)?;
        Some(Arc::clone(&fresh.addresses))
    }

    /// Returns at least one address: fresh ones, or the last known ones while no name server
    /// answers.
    pub(super) async fn addresses(self: &Arc<Self>) -> Result<Arc<[IpAddr]>, ResolveError> {
        loop {
            let (mut lookup, last_known) = {
                let mut state = self.state();
                match state.known.decide(Instant::now()) {
                    Decision::Use { addresses, refresh } => {
                        if refresh {
                            self.join_lookup(&mut state);
                        }
                        return Ok(addresses);
                    }
                    Decision::Fail(error) => return Err(error),
                    Decision::Wait { last_known } => (self.join_lookup(&mut state), last_known),
                }
            };
            let Some(last_known) = last_known else {
                let _ = lookup.ended.changed().await;
                continue;
            };
            let limit = lookup.started + WAIT_FOR_FRESH;
            if timeout_at(limit.into(), lookup.ended.changed())
                .await
                .is_err()
            {
                return Ok(last_known);
            }
        }
    }

    /// Makes the next request look the name up again, because no address could be connected to.
    pub(super) fn expire(&self) {
        let mut state = self.state();
        state.known.expire(Instant::now());
        self.publish(&state.known);
    }

    /// Returns the addresses that could not be connected to lately.
    pub(super) fn failing(&self) -> &FailingAddresses {
        &self.failing
    }

    /// Returns the look-up that is running, or starts one.
    fn join_lookup(self: &Arc<Self>, state: &mut State) -> Lookup {
        if let Some(lookup) = &state.lookup {
            return lookup.clone();
        }
        let (running, ended) = watch::channel(());
        let started = Instant::now();
        let lookup = Lookup { started, ended };
        state.lookup = Some(lookup.clone());
        let running = RunningLookup {
            name: Arc::clone(self),
            end: LookupEnd::NoAnswer,
            _running: running,
        };
        tokio::spawn(running.run());
        lookup
    }

    fn record(&self, end: LookupEnd) {
        let mut state = self.state();
        let failed_before = state.known.is_failing();
        match &end {
            LookupEnd::Found { .. } if failed_before => {
                tracing::info!(host = %self.host, "upstream name is resolved again");
            }
            LookupEnd::Found { .. } => {}
            // Once for each outage: a look-up every 2 s would fill the log.
            LookupEnd::NoSuchHost { .. } if !failed_before => {
                tracing::warn!(host = %self.host, "upstream name has no address");
            }
            LookupEnd::NoAnswer if !failed_before => {
                tracing::warn!(
                    host = %self.host,
                    "upstream name could not be resolved: no name server answered"
                );
            }
            LookupEnd::NoSuchHost { .. } | LookupEnd::NoAnswer => {}
        }
        state.known.record(end, Instant::now());
        state.lookup = None;
        self.publish(&state.known);
    }

    fn publish(&self, known: &Known) {
        let fresh = known.fresh();
        self.fresh
            .store(fresh.map(|(addresses, until)| Arc::new(Fresh { addresses, until })));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look-up in progress. Its end is recorded when it is dropped, so even a panic ends it.
struct RunningLookup {
    name: Arc<Name>,
    end: LookupEnd,
    /// Dropped after the end is recorded, which wakes the requests that wait for it.
    _running: watch::Sender<()>,
}

impl RunningLookup {
    async fn run(mut self) {
        self.end = self.name.name_servers.look_up(&self.name.host).await;
    }
}

impl Drop for RunningLookup {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, LookupEnd::NoAnswer);
        self.name.record(end);
    }
}

#[cfg(test)]
mod tests;

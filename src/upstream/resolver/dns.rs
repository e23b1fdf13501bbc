//! One look-up of a name: in the hosts file, then at the name servers, in the order and with the
//! search list of `resolv.conf`.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::known::LookupEnd;
use super::system::{ResolvConf, local_addresses};

/// The longest time of a look-up, search domains and second attempts included.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// The time that a name server has in the first round. `resolv.conf` says how long it has in the
/// others. A name server that is down shall not hold up every look-up for as long as that.
const FIRST_ROUND: Duration = Duration::from_secs(1);

/// The time for which the addresses of one family wait for the other family's. Some name servers
/// never answer a question for IPv6.
const OTHER_FAMILY: Duration = Duration::from_millis(500);

/// The lifetime of addresses that no record gives one: those of the hosts file, and those of one
/// family while the other one's are not known.
const SHORT_LIFETIME: Duration = Duration::from_secs(5);

/// The number of look-ups that run at once. Each has two sockets.
const LOOKUPS_MAX: usize = 128;

/// The number of addresses of one family that are kept.
const ADDRESSES_MAX: usize = 16;

/// The name servers of the system, or those that replace them.
pub(super) struct NameServers {
    /// The name servers instead of the system's; empty without any.
    replaced_by: Vec<SocketAddr>,
    /// The clients, with the settings that they were made from.
    clients: Mutex<Option<(ResolvConf, Clients)>>,
    slots: Semaphore,
}

/// One client for each name server. Within one client for several, a name server that is down
/// would use up the time of those behind it.
#[derive(Clone)]
struct Clients {
    clients: Vec<TokioResolver>,
    attempts: usize,
    timeout: Duration,
}

/// The reason why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueryError {
    /// The name, or the type of record, does not exist.
    Absent {
        lifetime: Duration,
    },
    /// The name server reports a failure.
    Failure,
    TimedOut,
}

/// Addresses of one family and their lifetime.
type Records = Result<(Vec<IpAddr>, Duration), QueryError>;

impl NameServers {
    /// Creates the system's name servers, unless `replaced_by` names others.
    pub(super) fn new(replaced_by: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            replaced_by: replaced_by.into_iter().collect(),
            clients: Mutex::new(None),
            slots: Semaphore::new(LOOKUPS_MAX),
        }
    }

    pub(super) async fn look_up(&self, host: &str) -> LookupEnd {
        let local = local_addresses(host);
        if !local.is_empty() {
            return found(local, SHORT_LIFETIME);
        }
        let conf = ResolvConf::read();
        timeout(LOOKUP_MAX, self.ask_for(host, &conf))
            .await
            .unwrap_or(LookupEnd::NoAnswer)
    }

    /// Asks for each name that `host` may stand for, until one has addresses.
    async fn ask_for(&self, host: &str, conf: &ResolvConf) -> LookupEnd {
        let Ok(_slot) = self.slots.acquire().await else {
            return LookupEnd::NoAnswer;
        };
        let Some(clients) = self.clients(conf) else {
            return LookupEnd::NoAnswer;
        };
        let mut end = LookupEnd::NoSuchHost {
            lifetime: LOOKUP_MAX,
        };
        for name in conf.candidates(host) {
            // A label or a name that is too long exists nowhere.
            let Ok(mut name) = Name::from_ascii(&name) else {
                continue;
            };
            name.set_fqdn(true);
            match clients.ask(&name).await {
                Ok((addresses, lifetime)) => return found(addresses, lifetime),
                Err(QueryError::Absent { lifetime }) => {
                    if let LookupEnd::NoSuchHost { lifetime: shortest } = &mut end {
                        *shortest = lifetime.min(*shortest);
                    }
                }
                // As `getaddrinfo` does: the next search domain is tried, but the name does not
                // count as absent.
                Err(QueryError::Failure) => end = LookupEnd::NoAnswer,
                // The next name could be another host's.
                Err(QueryError::TimedOut) => return LookupEnd::NoAnswer,
            }
        }
        end
    }

    /// Returns the clients for these settings, new ones only if the settings have changed.
    fn clients(&self, conf: &ResolvConf) -> Option<Clients> {
        let mut current = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_from, clients)) = &*current
            && made_from == conf
        {
            return Some(clients.clone());
        }
        let mut servers = self.replaced_by.clone();
        if servers.is_empty() {
            let system = conf.name_servers.iter();
            servers.extend(system.map(|&server| SocketAddr::new(server, 53)));
        }
        let clients = servers
            .into_iter()
            .map(|server| client(server, conf))
            .collect::<Result<_, _>>()
            .inspect_err(|error| tracing::error!(%error, "name servers cannot be used"))
            .ok()?;
        let clients = Clients {
            clients,
            attempts: conf.attempts,
            timeout: conf.timeout,
        };
        *current = Some((conf.clone(), clients.clone()));
        Some(clients)
    }
}

impl Clients {
    /// Asks for the addresses of both families.
    async fn ask(&self, name: &Name) -> Records {
        let (mut ipv6, mut ipv4) = (None, None);
        let mut ask_ipv6 = std::pin::pin!(self.query(name, RecordType::AAAA));
        let mut ask_ipv4 = std::pin::pin!(self.query(name, RecordType::A));
        let mut cut = None;
        while ipv6.is_none() || ipv4.is_none() {
            tokio::select! {
                records = &mut ask_ipv6, if ipv6.is_none() => ipv6 = Some(records),
                records = &mut ask_ipv4, if ipv4.is_none() => ipv4 = Some(records),
                () = sleep_until(cut.unwrap_or_else(Instant::now)), if cut.is_some() => break,
            }
            if cut.is_none()
                && [&ipv6, &ipv4]
                    .iter()
                    .any(|family| matches!(family, Some(Ok(_))))
            {
                cut = Some(Instant::now() + OTHER_FAMILY);
            }
        }
        let unanswered = Err(QueryError::TimedOut);
        merge(
            ipv6.unwrap_or_else(|| unanswered.clone()),
            ipv4.unwrap_or(unanswered),
        )
    }

    /// Asks the name servers one after the other until one answers, and all of them again if one
    /// did not.
    async fn query(&self, name: &Name, kind: RecordType) -> Records {
        let mut error = QueryError::TimedOut;
        for round in 0..self.attempts {
            let limit = if round == 0 {
                FIRST_ROUND
            } else {
                self.timeout
            };
            let mut any_silent = false;
            for client in &self.clients {
                match timeout(limit, client.lookup(name.clone(), kind)).await {
                    Ok(Ok(lookup)) => return records(&lookup),
                    Ok(Err(NetError::Dns(DnsError::NoRecordsFound(absent)))) => {
                        let seconds = absent.negative_ttl.map(u64::from);
                        let lifetime = seconds.map_or(SHORT_LIFETIME, Duration::from_secs);
                        return Err(QueryError::Absent { lifetime });
                    }
                    Ok(Err(NetError::Dns(_))) => error = QueryError::Failure,
                    Ok(Err(_)) | Err(_) => any_silent = true,
                }
            }
            if !any_silent {
                break;
            }
        }
        Err(error)
    }
}

/// Creates a client that asks one name server, over TCP where an answer does not fit in a datagram.
/// It keeps nothing: that is `known`'s task.
fn client(server: SocketAddr, conf: &ResolvConf) -> Result<TokioResolver, NetError> {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![config]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.cache_size = 0;
    options.attempts = 0;
    options.timeout = LOOKUP_MAX;
    options.edns0 = conf.edns;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

fn records(lookup: &Lookup) -> Records {
    let answers = lookup.answers();
    let addresses: Vec<_> = answers
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .take(ADDRESSES_MAX)
        .collect();
    let seconds = answers.iter().map(|record| record.ttl).min();
    let lifetime = seconds.map_or(SHORT_LIFETIME, |seconds| {
        Duration::from_secs(u64::from(seconds))
    });
    if addresses.is_empty() {
        return Err(QueryError::Absent {
            lifetime: SHORT_LIFETIME,
        });
    }
    Ok((addresses, lifetime))
}

/// Returns the addresses of both families; an error only if neither has any.
fn merge(ipv6: Records, ipv4: Records) -> Records {
    match (ipv6, ipv4) {
        (Ok((mut addresses, lifetime)), Ok((others, other_lifetime))) => {
            addresses.extend(others);
            Ok((addresses, lifetime.min(other_lifetime)))
        }
        (Ok(records), Err(QueryError::Absent { .. }))
        | (Err(QueryError::Absent { .. }), Ok(records)) => Ok(records),
        (Ok((addresses, lifetime)), Err(_)) | (Err(_), Ok((addresses, lifetime))) => {
            Ok((addresses, lifetime.min(SHORT_LIFETIME)))
        }
        (Err(QueryError::Absent { lifetime }), Err(QueryError::Absent { lifetime: other })) => {
            Err(QueryError::Absent {
                lifetime: lifetime.min(other),
            })
        }
        (Err(QueryError::Absent { .. }), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

fn found(addresses: Vec<IpAddr>, lifetime: Duration) -> LookupEnd {
    LookupEnd::Found {
        addresses: addresses.into(),
        lifetime,
    }
}

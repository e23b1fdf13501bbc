//! From what was written (`raw`) to what the program works with, with every problem found on the way.
//!
//! Owns the process-wide settings and the checks between routes; a route's own keys are in `compile/`. Stops at
//! nothing: what is wrong is reported and the rest is checked all the same.

mod admin;
mod handover;
mod listen;
mod route;
mod secrets;
mod sender;
mod signature;
mod upstream;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tracing::level_filters::LevelFilter;

use super::de::{Field, Located};
use super::diagnostics::{Diagnostic, Problems};
use super::raw;
use super::tree::Span;
use super::{AdminEndpoint, Authentication, Config, Listen, Shutdown, values};
use crate::gateway::Limits;
use crate::log;
use crate::store;
use route::Identity;
use secrets::Fingerprint;

/// What a configuration depends on besides its own text.
pub(super) struct Sources<'a> {
    /// Relative paths start here.
    pub folder: &'a Path,
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub now: Timestamp,
}

/// Files that the configuration names are read up to here; a device or a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 1 << 20;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DEFAULT_MAX_IDS: usize = 50_000_000;
/// The write-ahead log alone may take some MiB; a number that lacks its unit ends here too.
const STORE_BYTES_MIN: usize = 16 << 20;

/// `None` when there is no configuration without the parts that are wrong; `problems` may hold errors in any case.
pub(super) fn compile(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
) -> Option<Config> {
    let compiler = Compiler {
        sources,
        problems,
        fingerprints: RefCell::default(),
    };
    let listen = compiler.listen(&file.listen, &file.trusted_proxies);
    let admin = compiler.admin(&file.admin, &listen);
    let store = compiler.store(&file.store);
    let mut limits = compiler.limits(&file.limits, &file.trusted_proxies);
    let mut shutdown = compiler.shutdown(&file.shutdown);
    let log = log_settings(&file.log);
    let routes = compiler.routes(file, &listen, &limits, shutdown);
    let budgets = || routes.iter().flatten().map(|route| route.budget);
    if file
        .limits
        .value()
        .is_none_or(|limits| limits.header_timeout.is_absent())
    {
        let shortest = budgets().map(|budget| budget.usable()).min();
        limits.header_timeout = limits
            .header_timeout
            .min(shortest.unwrap_or(limits.header_timeout));
    }
    if file
        .shutdown
        .value()
        .is_none_or(|shutdown| shutdown.grace.is_absent())
    {
        shutdown.grace = budgets()
            .map(|budget| budget.total)
            .max()
            .unwrap_or_default()
            .max(shutdown.grace);
    }
    Some(Config {
        listen,
        admin: admin?,
        store: store?,
        limits,
        shutdown,
        log,
        routes: routes?,
    })
}

/// As [`compile`], for where the gateway is found and nothing else.
pub(super) fn admin_endpoint(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
    with_token: bool,
) -> Option<AdminEndpoint> {
    let compiler = Compiler {
        sources,
        problems,
        fingerprints: RefCell::default(),
    };
    let (no_admin, no_store) = (raw::Admin::default(), raw::Store::default());
    let (admin, store) = (
        file.admin.value().unwrap_or(&no_admin),
        file.store.value().unwrap_or(&no_store),
    );
    let token = if with_token {
        compiler.admin_token(&admin.token)?
    } else {
        None
    };
    Some(AdminEndpoint {
        admin: admin
            .address
            .value()
            .map_or(admin::DEFAULT_ADDRESS, |address| address.0),
        token,
        store: store
            .postgres
            .is_absent()
            .then(|| compiler.store_folder(&store.path)),
    })
}

/// As [`compile`], for where events are kept and nothing else.
pub(super) fn store(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
) -> Option<store::Settings> {
    Compiler {
        sources,
        problems,
        fingerprints: RefCell::default(),
    }
    .store(&file.store)
}

/// As [`compile`], for how the route of this name tells genuine requests and nothing else.
pub(super) fn authentication(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
    route: &str,
) -> Option<Authentication> {
    let compiler = Compiler {
        sources,
        problems,
        fingerprints: RefCell::default(),
    };
    let absent = raw::Route::default();
    let layered = layered(file, &absent);
    let identities = compiler.identities(&layered);
    let names: Vec<_> = identities
        .iter()
        .map(|identity| identity.name.as_ref().map(|name| &*name.value))
        .collect();
    let Some(index) = names.iter().position(|name| *name == Some(route)) else {
        let known: Vec<_> = names.into_iter().flatten().collect();
        let error = Diagnostic::error(None, format!("no route has the name `{route}`"));
        compiler.report(error.help(format!("those that there are: {}", known.join(", "))));
        return None;
    };
    compiler.authentication(&layered[index])
}

/// The routes as written, over `defaults`; over `absent` where there are none.
fn layered<'f>(file: &'f raw::File, absent: &'f raw::Route) -> Vec<route::Layered<'f>> {
    let defaults = file.defaults.value().unwrap_or(absent);
    let routes = file
        .routes
        .value()
        .into_iter()
        .flatten()
        .filter_map(Field::given);
    routes
        .map(|own| route::Layered {
            own: &own.value,
            defaults,
            place: own.span,
        })
        .collect()
}

struct Compiler<'a> {
    sources: &'a Sources<'a>,
    problems: &'a Problems,
    /// Where each secret was first seen.
    fingerprints: RefCell<HashMap<Fingerprint, (usize, Span)>>,
}

impl Compiler<'_> {
    fn store(&self, field: &Field<raw::Store>) -> Option<store::Settings> {
        let absent = raw::Store::default();
        let store = field.value().unwrap_or(&absent);
        let durability = match store.durability.given() {
            Some(given) if given.value == raw::Durability::Relaxed => {
                let warning = Diagnostic::warning(
                    given.span,
                    "a loss of power may undo the last moment's answers",
                );
                self.report(warning.help(
                    "events and completed IDs of that moment may be forgotten: lost, or forwarded twice; `strict` \
                     waits for the disk",
                ));
                store::Durability::Relaxed
            }
            _ => store::Durability::Strict,
        };
        let max_ids = self.within(&store.max_ids, 1000..=1_000_000_000, "1000 to 1000000000");
        let max_bytes = self.size(
            &store.max_size,
            STORE_BYTES_MIN..=usize::MAX,
            "at least 16MiB",
        );
        let (max_ids, max_bytes) = (
            max_ids.unwrap_or(DEFAULT_MAX_IDS),
            max_bytes.map(|bytes| bytes as u64),
        );
        let Some(postgres) = store.postgres.given() else {
            let folder = self.store_folder(&store.path);
            let settings = store::EmbeddedSettings {
                folder,
                durability,
                max_ids,
                max_bytes,
            };
            return Some(store::Settings::Embedded(settings));
        };
        if let Some(path) = store.path.given() {
            let error = Diagnostic::error(
                path.span,
                "a store is in a folder or in PostgreSQL, not in both",
            );
            self.report(
                error
                    .also(postgres.span, "the other one")
                    .help("leave one of them out"),
            );
        }
        let url = self.required(&postgres.value.url, postgres.span, "shared store", "url")?;
        let secret = self.token(url)?;
        let text =
            std::str::from_utf8(secret.secret.expose()).map_err(|_| "it is not UTF-8".to_owned());
        match text.and_then(store::Database::parse) {
            Ok(database) => Some(store::Settings::Shared(Box::new(store::SharedSettings {
                database,
                durability,
                max_ids,
                max_bytes,
            }))),
            Err(problem) => {
                let error = Diagnostic::error(
                    url.span,
                    format!("this URL of a database cannot be used: {problem}"),
                );
                self.report(error.help("as in `postgres://user:password@host:5432/database`"));
                None
            }
        }
    }

    fn store_folder(&self, field: &Field<String>) -> PathBuf {
        let path = field.value().map_or("hookstile-data", String::as_str);
        let span = field.given().map(|path| path.span);
        let folder = self.sources.folder.join(path);
        if path.is_empty() {
            let error = Diagnostic::error(span, "an empty path is no folder");
            self.report(error.help("leave `path` out for `hookstile-data`, beside this file"));
        } else if folder.metadata().is_ok_and(|found| !found.is_dir()) {
            let error = Diagnostic::error(span, format!("`{}` is not a folder", folder.display()));
            self.report(
                error.help("the store is a folder of its own; it is made when it is missing"),
            );
        }
        folder
    }

    fn limits(
        &self,
        field: &Field<raw::Limits>,
        proxies: &Field<Vec<Field<values::Network>>>,
    ) -> Limits {
        let absent = raw::Limits::default();
        let limits = field.value().unwrap_or(&absent);
        Limits {
            connections: self
                .within(&limits.connections, 1..=1_000_000, "1 to 1000000")
                .unwrap_or(10_000),
            connections_per_address: self
                .within(
                    &limits.connections_per_address,
                    1..=1_000_000,
                    "1 to 1000000",
                )
                .unwrap_or(1_000),
            header_bytes: self
                .size(&limits.header_bytes, 1 << 10..=1 << 20, "1KiB to 1MiB")
                .unwrap_or(32 << 10),
            body_bytes_in_flight: self
                .size(
                    &limits.body_bytes_in_flight,
                    1..=usize::MAX,
                    "at least 1 byte",
                )
                .unwrap_or(256 << 20),
            header_timeout: self.duration(&limits.header_timeout).unwrap_or(SECOND * 5),
            idle_timeout: self.duration(&limits.idle_timeout).unwrap_or(SECOND * 60),
            trusted_proxies: networks(proxies),
        }
    }

    fn shutdown(&self, field: &Field<raw::Shutdown>) -> Shutdown {
        let absent = raw::Shutdown::default();
        let shutdown = field.value().unwrap_or(&absent);
        let upto_an_hour = |field| {
            self.within(
                field,
                values::Duration(Duration::ZERO)..=values::Duration(HOUR),
                "at most 1h",
            )
        };
        Shutdown {
            drain: upto_an_hour(&shutdown.drain).map_or(SECOND * 5, |drain| drain.0),
            grace: upto_an_hour(&shutdown.grace).map_or(SECOND * 15, |grace| grace.0),
        }
    }

    fn routes(
        &self,
        file: &raw::File,
        listen: &[Listen],
        limits: &Limits,
        shutdown: Shutdown,
    ) -> Option<Vec<crate::route::Route>> {
        match &file.routes {
            Field::Given(list) if !list.value.is_empty() => {}
            Field::Wrong => return None,
            empty => {
                let span = empty.given().map(|list| list.span);
                self.report(
                    Diagnostic::error(span, "there is no route").help(
                        "four lines make one: `routes: [{path, provider, secrets, upstream}]`",
                    ),
                );
                return None;
            }
        }
        let absent = raw::Route::default();
        let layered = layered(file, &absent);
        let identities = self.identities(&layered);
        let mut routes = Vec::with_capacity(layered.len());
        for (index, (raw, identity)) in layered.iter().zip(identities).enumerate() {
            routes.extend(self.route(index, raw, identity, listen, limits));
        }
        self.compare_with_budgets(file, limits, shutdown, &routes);
        Some(routes)
    }

    /// Names, hosts and paths of all routes. No two routes share a name, or a host and a path.
    fn identities(&self, routes: &[route::Layered<'_>]) -> Vec<Identity> {
        let mut identities: Vec<_> = routes.iter().map(|raw| self.identity(raw)).collect();
        let mut by_address: HashMap<(Option<String>, String), Span> = HashMap::new();
        let mut by_name: HashMap<String, Span> = HashMap::new();
        for identity in &identities {
            if let Some(path) = &identity.path {
                let address = (identity.host.clone(), path.value.clone());
                match by_address.get(&address) {
                    Some(&first) => {
                        self.report(
                            Diagnostic::error(
                                path.span,
                                "another route has the same path and host",
                            )
                            .also(first, "the first one"),
                        );
                    }
                    None => drop(by_address.insert(address, path.span)),
                }
            }
            if let Some(name) = &identity.name {
                match by_name.get(&name.value) {
                    Some(&first) => {
                        self.report(
                            Diagnostic::error(name.span, "another route has the same name")
                                .also(first, "the first one"),
                        );
                    }
                    None => drop(by_name.insert(name.value.clone(), name.span)),
                }
            }
        }
        for identity in &mut identities {
            self.name_by_path(identity, &mut by_name);
        }
        identities
    }

    /// Process-wide times that are at odds with what routes promise to their senders.
    fn compare_with_budgets(
        &self,
        file: &raw::File,
        limits: &Limits,
        shutdown: Shutdown,
        routes: &[crate::route::Route],
    ) {
        let budgets = || routes.iter().map(|route| route.budget);
        let Some(shortest) = budgets().map(|budget| budget.usable()).min() else {
            return;
        };
        let header_timeout = file
            .limits
            .value()
            .and_then(|limits| limits.header_timeout.given());
        if let Some(given) = header_timeout.filter(|_| limits.header_timeout > shortest) {
            self.report(
                Diagnostic::warning(
                    given.span,
                    format!("`header_timeout` is longer than the shortest time a route has, {shortest:?}"),
                )
                .help(
                    "it applies before the route is known: a head that takes longer than its route's budget is \
                     still waited for, and its sender answered too late",
                ),
            );
        }
        if let Some(longest) = budgets().map(|budget| budget.total).max()
            && shutdown.grace < longest
            && let Some(given) = file
                .shutdown
                .value()
                .and_then(|shutdown| shutdown.grace.given())
        {
            self.report(
                Diagnostic::warning(
                    given.span,
                    format!("`shutdown.grace` is shorter than the longest budget of a route, {longest:?}"),
                )
                .help("a stop may cut off requests that had time left"),
            );
        }
    }

    /// `field`'s value. Reports that `thing` at `place` lacks `key` when it is not there.
    fn required<'f, T>(
        &self,
        field: &'f Field<T>,
        place: Span,
        thing: &str,
        key: &str,
    ) -> Option<&'f Located<T>> {
        if field.is_absent() {
            self.report(Diagnostic::error(
                place,
                format!("this {thing} has no `{key}`"),
            ));
        }
        field.given()
    }

    fn within<T: PartialOrd + Copy>(
        &self,
        field: &Field<T>,
        range: RangeInclusive<T>,
        wanted: &str,
    ) -> Option<T> {
        let given = field.given()?;
        if range.contains(&given.value) {
            return Some(given.value);
        }
        self.report(
            Diagnostic::error(given.span, "this value is out of range")
                .label(format!("expected {wanted}")),
        );
        None
    }

    /// More than nothing, and at most an hour.
    fn duration(&self, field: &Field<values::Duration>) -> Option<Duration> {
        let range = values::Duration(Duration::from_nanos(1))..=values::Duration(HOUR);
        self.within(field, range, "more than 0s and at most 1h")
            .map(|duration| duration.0)
    }

    fn size(
        &self,
        field: &Field<values::ByteSize>,
        range: RangeInclusive<usize>,
        wanted: &str,
    ) -> Option<usize> {
        let (least, most) = range.into_inner();
        self.within(
            field,
            values::ByteSize(least)..=values::ByteSize(most),
            wanted,
        )
        .map(|size| size.0)
    }

    /// The content of a file that the configuration names.
    fn read(&self, path: &Located<String>) -> Option<Vec<u8>> {
        let at: PathBuf = self.sources.folder.join(&path.value);
        let mut content = Vec::new();
        let read = File::open(&at)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content));
        match read {
            Err(error) => {
                self.report(Diagnostic::error(
                    path.span,
                    format!("cannot read `{}`: {error}", at.display()),
                ));
                None
            }
            Ok(_) if content.len() as u64 > FILE_BYTES_MAX => {
                self.report(Diagnostic::error(
                    path.span,
                    format!("`{}` is bigger than 1MiB", at.display()),
                ));
                None
            }
            Ok(_) => Some(content),
        }
    }

    fn report(&self, diagnostic: Diagnostic) {
        self.problems.push(diagnostic);
    }
}

fn networks(field: &Field<Vec<Field<values::Network>>>) -> Vec<ipnet::IpNet> {
    field
        .value()
        .into_iter()
        .flatten()
        .filter_map(Field::value)
        .map(|network| network.0)
        .collect()
}

fn log_settings(field: &Field<raw::Log>) -> log::Settings {
    let log = field.value();
    let format = match log.and_then(|log| log.format.value()) {
        None | Some(raw::LogFormat::Json) => log::Format::Json,
        Some(raw::LogFormat::Pretty) => log::Format::Pretty,
    };
    let level = match log.and_then(|log| log.level.value()) {
        Some(raw::LogLevel::Error) => LevelFilter::ERROR,
        Some(raw::LogLevel::Warn) => LevelFilter::WARN,
        None | Some(raw::LogLevel::Info) => LevelFilter::INFO,
        Some(raw::LogLevel::Debug) => LevelFilter::DEBUG,
        Some(raw::LogLevel::Trace) => LevelFilter::TRACE,
    };
    log::Settings { format, level }
}

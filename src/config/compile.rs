//! Turns the configuration as written (`raw`) into the values that the program works with, and
//! reports every problem on the way.
//!
//! Owns the process-wide settings and the checks between routes; a route's own keys are in
//! `compile/`. A problem never stops the check: it is reported and the rest is checked as well.

mod admin;
mod capacity;
mod delivery;
mod listen;
mod notify;
mod probes;
mod restart;
mod route;
mod secrets;
mod sender;
mod signature;
mod upstream;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tracing::level_filters::LevelFilter;
use zeroize::Zeroizing;

use super::de::{Field, Located};
use super::diagnostics::{Diagnostic, Problems};
use super::facts::{self, Amount, Quantity, Range};
use super::files::{self, FileDigest, ReadFiles, RouteFiles, UnreadableSecret};
use super::raw;
use super::tree::Span;
use super::{
    AdminEndpoint, Authentication, Config, Endpoint, Listen, ListenAddress, RouteAddress, Shutdown,
    StoreFolder, values,
};
use crate::client_network::NO_ADDRESS;
use crate::gateway::Limits;
use crate::log;
use crate::store;
use capacity::RouteDemand;
use route::Identity;
use secrets::Fingerprint;

/// The inputs of a configuration besides its own text.
pub(super) struct Sources<'a> {
    /// The folder that relative paths start from.
    pub folder: &'a Path,
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub now: Timestamp,
    pub unreadable: UnreadableSecret<'a>,
    /// Set if a start and a reload refuse a secret that cannot be read.
    pub strict_start: bool,
    /// The files with routes, for each pattern of `routes_from`.
    pub route_files: &'a [RouteFiles],
    /// The offset at which each file of the configuration begins, with its path, in order.
    pub files: &'a [(usize, PathBuf)],
}

impl Sources<'_> {
    /// Returns the path that a value names: a relative one starts from the folder of its file.
    fn path(&self, path: &Located<String>) -> PathBuf {
        let included = self.files.iter().skip(1);
        let file = included.take_while(|(start, _)| *start <= path.span.start);
        let folder = file.last().and_then(|(_, file)| file.parent());
        folder.unwrap_or(self.folder).join(&path.value)
    }
}

/// The largest file that the configuration may name, in bytes. A device or a wrong path must not
/// fill the memory.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The database URL in a check without secrets. No connection is made.
const UNCHECKED_DATABASE: &str = "postgres://localhost/unchecked";

/// Compiles the whole configuration. `None` if a part without which there is none is wrong;
/// `problems` may hold errors in any case.
pub(super) fn compile(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
) -> Option<Config> {
    let strict_start = facts::STRICT_START.value_of(&file.strict_start);
    let sources = &Sources {
        unreadable: match sources.unreadable {
            UnreadableSecret::Tolerate(_) if strict_start => UnreadableSecret::Refuse,
            unreadable => unreadable,
        },
        strict_start,
        ..*sources
    };
    let compiler = Compiler::new(sources, problems);
    let listen = compiler.listen(&file.listen, &file.trusted_proxies);
    let admin = compiler.admin(&file.admin, &listen);
    let store = compiler.store(&file.store);
    let notify = compiler.notify(&file.notify);
    let mut limits = compiler.limits(&file.limits, &file.trusted_proxies);
    let mut shutdown = compiler.shutdown(&file.shutdown);
    let log = log_settings(&file.log);
    let routes = compiler.routes(file, &listen, store.as_ref(), &limits, shutdown);
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
    let (admin, store, notify) = (admin?, store?, notify?);
    Some(Config {
        restart_keys: restart::restart_keys(file, &admin, &store, notify.as_ref()),
        listen,
        admin,
        store,
        notify,
        redeliver_dead_letters: redelivers_dead_letters(&file.dead_letters),
        limits,
        shutdown,
        log,
        routes: routes?,
        files: ReadFiles {
            route_files: sources.route_files.to_vec(),
            ..compiler.files.take()
        },
    })
}

/// Returns whether dead letters are redelivered without an operator.
fn redelivers_dead_letters(field: &Field<raw::DeadLetters>) -> bool {
    let given = field.value().map(|dead_letters| &dead_letters.redeliver);
    given.is_some_and(|redeliver| {
        facts::REDELIVER_DEAD_LETTERS.value_of(redeliver) == raw::AutomaticRedelivery::WhenHealthy
    })
}

/// Compiles the admin endpoint alone. `None` if its address is wrong. Nothing else is refused: a
/// token that cannot be read is a property of the result.
pub(super) fn admin_endpoint(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
    with_token: bool,
) -> Option<AdminEndpoint> {
    let compiler = Compiler::new(sources, problems);
    let absent = raw::Admin::default();
    let admin = match &file.admin {
        Field::Absent => &absent,
        Field::Wrong => return None,
        Field::Given(admin) => &admin.value,
    };
    let address = match &admin.address {
        Field::Absent => facts::ADMIN_ADDRESS.default,
        Field::Wrong => return None,
        Field::Given(address) => address.value.0,
    };
    let token = with_token.then(|| compiler.admin_token(&admin.token));
    let token_problem = match token {
        Some(None) => problems.last_error(),
        _ => None,
    };
    Some(AdminEndpoint {
        admin: address,
        token: token.flatten().flatten(),
        token_problem,
    })
}

/// Compiles the location of the embedded store alone.
pub(super) fn store_folder(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
) -> Option<StoreFolder> {
    let compiler = Compiler::new(sources, problems);
    let absent = raw::Store::default();
    let store = match &file.store {
        Field::Absent => &absent,
        Field::Wrong => return None,
        Field::Given(store) => &store.value,
    };
    if !store.postgres.is_absent() {
        return Some(StoreFolder::Shared);
    }
    match store.path {
        Field::Wrong => None,
        _ => Some(StoreFolder::Embedded(compiler.store_folder(&store.path))),
    }
}

/// Compiles the store's settings alone, as [`compile`] does.
pub(super) fn store(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
) -> Option<store::Settings> {
    Compiler::new(sources, problems).store(&file.store)
}

/// Compiles the authentication of one route alone, as [`compile`] does: of the one whose name
/// `choose` returns.
pub(super) fn authentication<E>(
    file: &raw::File,
    sources: &Sources<'_>,
    problems: &Problems,
    choose: impl FnOnce(&[RouteAddress]) -> Result<String, E>,
) -> Option<Result<Authentication, E>> {
    let compiler = Compiler::new(sources, problems);
    let absent = raw::Route::default();
    let layered = layered(file, &absent);
    let identities = compiler.identities(&layered);
    let addresses: Vec<_> = identities.iter().filter_map(Identity::address).collect();
    let route = match choose(&addresses) {
        Ok(route) => route,
        Err(error) => return Some(Err(error)),
    };
    let names: Vec<_> = identities
        .iter()
        .map(|identity| identity.name.as_ref().map(|name| &*name.value))
        .collect();
    let Some(index) = names.iter().position(|name| *name == Some(&*route)) else {
        let known: Vec<_> = names.into_iter().flatten().collect();
        let error = Diagnostic::error(None, format!("no route has the name `{route}`"));
        compiler.report(error.help(format!("the routes are: {}", known.join(", "))));
        return None;
    };
    let endpoint = endpoint(&file.listen, &identities[index]);
    compiler.authentication(&layered[index], endpoint).map(Ok)
}

/// Returns the place at which a route's requests are received on this machine: a listener without
/// TLS, if there is one.
fn endpoint(
    field: &Field<Vec<Field<raw::Listen>>>,
    identity: &Identity,
) -> Result<Endpoint, String> {
    let list = field.value().into_iter().flatten().filter_map(Field::value);
    let direct = list.filter(|listen| !facts::PROXY_PROTOCOL.value_of(&listen.proxy_protocol));
    let mut listeners: Vec<_> = direct
        .filter_map(|listen| Some((listen.address.value()?.0.clone(), !listen.tls.is_absent())))
        .collect();
    if field.is_absent() {
        listeners.push((ListenAddress::Inet(facts::LISTEN_ADDRESS), false));
    }
    let any_unix = listeners
        .iter()
        .any(|(address, _)| address.port().is_none());
    listeners.retain(|(address, _)| address.port().is_some());
    if listeners.is_empty() && any_unix {
        return Err(
            "the configuration has listeners on Unix sockets only; give the URL of the proxy in \
             front"
                .into(),
        );
    }
    let (address, tls) = listeners
        .into_iter()
        .min_by_key(|(_, tls)| *tls)
        .ok_or("the configuration has no listener that senders reach directly; give the URL")?;
    if address.port() == Some(0) {
        return Err("the configuration lets the system choose the port; give the URL".into());
    }
    let path = identity.path.as_ref().ok_or("the route has no path")?;
    Ok(Endpoint {
        address,
        tls,
        host: identity.host.as_deref().map(Into::into),
        path: path.value.as_str().into(),
    })
}

/// Returns the routes as written, over `defaults`, or over `absent` where there are none.
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
            span: own.span,
        })
        .collect()
}

struct Compiler<'a> {
    sources: &'a Sources<'a>,
    problems: &'a Problems,
    /// The route and the location in which each secret occurs first.
    fingerprints: RefCell<HashMap<Fingerprint, (usize, Span)>>,
    /// The files that were read.
    files: RefCell<ReadFiles>,
}

impl<'a> Compiler<'a> {
    fn new(sources: &'a Sources<'a>, problems: &'a Problems) -> Self {
        Self {
            sources,
            problems,
            fingerprints: RefCell::default(),
            files: RefCell::default(),
        }
    }
}

impl Compiler<'_> {
    fn store(&self, field: &Field<raw::Store>) -> Option<store::Settings> {
        let absent = raw::Store::default();
        let store = field.value().unwrap_or(&absent);
        let durability = self.durability(&store.durability);
        let must_exist = facts::MUST_EXIST.value_of(&store.must_exist);
        let max_ids = self.amount(&store.max_ids, facts::MAX_IDS);
        let max_bytes = self
            .in_range(&store.max_size, facts::STORE_SIZE)
            .map(|size| size.0 as u64);
        let Some(postgres) = store.postgres.given() else {
            let folder = self.store_folder(&store.path);
            let settings = store::EmbeddedSettings {
                folder,
                durability,
                must_exist,
                max_ids,
                max_bytes,
            };
            return Some(store::Settings::Embedded(settings));
        };
        if let Some(path) = store.path.given() {
            let error = Diagnostic::error(
                path.span,
                "a store is a folder or a PostgreSQL database, not both",
            );
            self.report(
                error
                    .also(postgres.span, "the database is set here")
                    .help("remove one of the two"),
            );
        }
        let url = self.required(&postgres.value.url, postgres.span, "database", "url")?;
        let secret = self.sole_secret(url).ok()?;
        let text = match &secret {
            Some(secret) => std::str::from_utf8(secret.secret.expose()),
            None => Ok(UNCHECKED_DATABASE),
        };
        let text = text.map_err(|_| "it is not UTF-8".to_owned());
        match text.and_then(store::Database::parse) {
            Ok(database) => Some(store::Settings::Shared(Box::new(store::SharedSettings {
                database,
                durability,
                must_exist,
                max_ids,
                max_bytes,
            }))),
            Err(problem) => {
                let error = Diagnostic::error(
                    url.span,
                    format!("this database URL cannot be used: {problem}"),
                );
                self.report(
                    error.help("for example `postgres://user:password@host:5432/database`"),
                );
                None
            }
        }
    }

    /// Returns the durability. Warns that `relaxed` may lose events.
    fn durability(&self, field: &Field<store::Durability>) -> store::Durability {
        let Some(given) = field.given() else {
            return facts::DURABILITY.default;
        };
        if given.value == store::Durability::Relaxed {
            let warning = Diagnostic::warning(
                given.span,
                "a power loss may undo the last moment's responses",
            );
            self.report(warning.help(
                "events and completed IDs of that moment may be forgotten: lost, or delivered \
                 twice; `strict` waits for the disk",
            ));
        }
        given.value
    }

    fn store_folder(&self, field: &Field<String>) -> PathBuf {
        let default = facts::STORE_PATH.default.trim_start_matches("./");
        let path = field.value().map_or(default, String::as_str);
        let span = field.given().map(|path| path.span);
        let folder = self.sources.folder.join(path);
        if path.is_empty() {
            let error = Diagnostic::error(span, "the store's path is empty");
            self.report(error.help(format!("remove `path` to use `{default}` beside this file")));
        } else if folder.metadata().is_ok_and(|found| !found.is_dir()) {
            let error = Diagnostic::error(span, format!("`{}` is not a folder", folder.display()));
            self.report(
                error.help("name a folder for the store alone; it is created if it does not exist"),
            );
        }
        folder
    }

    fn limits(
        &self,
        field: &Field<raw::Limits>,
        proxies: &Field<Vec<Field<values::Proxy>>>,
    ) -> Limits {
        let absent = raw::Limits::default();
        let limits = field.value().unwrap_or(&absent);
        let in_flight = self.amount(&limits.body_bytes_in_flight, facts::BODY_BYTES_IN_FLIGHT);
        Limits {
            connections: self.amount(&limits.connections, facts::CONNECTIONS),
            connections_per_address: self.amount(
                &limits.connections_per_address,
                facts::CONNECTIONS_PER_ADDRESS,
            ),
            header_bytes: self.amount(&limits.header_bytes, facts::HEADER_BYTES).0,
            body_bytes_in_flight: in_flight.0,
            header_timeout: self.amount(&limits.header_timeout, facts::HEADER_TIMEOUT).0,
            idle_timeout: self.amount(&limits.idle_timeout, facts::IDLE_TIMEOUT).0,
            trusted_proxies: trusted_proxies(proxies),
        }
    }

    fn shutdown(&self, field: &Field<raw::Shutdown>) -> Shutdown {
        let absent = raw::Shutdown::default();
        let shutdown = field.value().unwrap_or(&absent);
        Shutdown {
            drain: self.amount(&shutdown.drain, facts::DRAIN).0,
            grace: self.amount(&shutdown.grace, facts::GRACE).0,
        }
    }

    fn routes(
        &self,
        file: &raw::File,
        listen: &[Listen],
        store: Option<&store::Settings>,
        limits: &Limits,
        shutdown: Shutdown,
    ) -> Option<Vec<crate::route::Route>> {
        match &file.routes {
            Field::Given(list) if !list.value.is_empty() => {}
            Field::Wrong => return None,
            empty => {
                let span = empty.given().map(|list| list.span);
                self.report(
                    Diagnostic::error(span, "the configuration has no routes").help(
                        "a route needs four keys: `routes: [{path, provider, secrets, upstream}]`",
                    ),
                );
                return None;
            }
        }
        let absent = raw::Route::default();
        let layered = layered(file, &absent);
        let identities = self.identities(&layered);
        let mut routes = Vec::with_capacity(layered.len());
        let mut demands = Vec::new();
        for (index, (raw, identity)) in layered.iter().zip(identities).enumerate() {
            let Some(route) = self.route(index, raw, identity, listen, limits) else {
                continue;
            };
            demands.extend(RouteDemand::new(raw, &route));
            routes.push(route);
        }
        if let Some(store) = store {
            self.compare_with_store(store, &demands, layered.len());
        }
        self.compare_with_budgets(file, limits, shutdown, &routes);
        Some(routes)
    }

    /// Returns the names, hosts and paths of all routes. Reports routes that share a name, or a
    /// host and a path.
    fn identities(&self, routes: &[route::Layered<'_>]) -> Vec<Identity> {
        let mut identities: Vec<_> = routes.iter().map(|raw| self.identity(raw)).collect();
        let mut by_address: HashMap<(Option<String>, String), (usize, Span)> = HashMap::new();
        let mut by_name: HashMap<String, (usize, Span)> = HashMap::new();
        for (index, identity) in identities.iter_mut().enumerate() {
            // The route that this one is a copy of.
            let mut original = None;
            if let Some(path) = &identity.path {
                let address = (identity.host.clone(), path.value.clone());
                let &mut (first, span) = by_address.entry(address).or_insert((index, path.span));
                if first != index {
                    let problem = "another route has the same path and host";
                    let error = Diagnostic::error(path.span, problem).also(span, "the first route");
                    self.report(
                        error.help("remove one of the two, or give each its own `path` or `host`"),
                    );
                    original = Some(first);
                }
            }
            identity.is_copy = original.is_some();
            if let Some(name) = &identity.name {
                let named = by_name.entry(name.value.clone());
                let &mut (first, span) = named.or_insert((index, name.span));
                // A copy is one mistake, not two.
                if first != index && original != Some(first) {
                    let problem = "another route has the same name";
                    self.report(
                        Diagnostic::error(name.span, problem).also(span, "the first route"),
                    );
                }
            }
        }
        let mut by_name: HashMap<_, _> = by_name
            .into_iter()
            .map(|(name, (_, span))| (name, span))
            .collect();
        for identity in &mut identities {
            self.derive_name(identity, &mut by_name);
        }
        identities
    }

    /// Warns about process-wide times that conflict with the budget of a route.
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
                    format!(
                        "`header_timeout` is longer than the shortest budget less its margin, \
                         {shortest:?}"
                    ),
                )
                .help(
                    "it applies before the route is known: a request whose head takes longer than \
                     its route's budget is answered too late",
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
                    format!("`shutdown.grace` is shorter than the longest budget, {longest:?}"),
                )
                .help("a shutdown may cut off requests that still have time left"),
            );
        }
    }

    /// Returns the value of `field`. If it is absent, reports that `thing` at `span` has no `key`.
    fn required<'f, T>(
        &self,
        field: &'f Field<T>,
        span: Span,
        thing: &str,
        key: &str,
    ) -> Option<&'f Located<T>> {
        if field.is_absent() && !self.problems.is_meant(span, key) {
            self.report(Diagnostic::error(
                span,
                format!("this {thing} has no `{key}`"),
            ));
        }
        field.given()
    }

    /// Returns the value of `field`, or else the default. Reports a value that is out of range.
    fn amount<T: Quantity>(&self, field: &Field<T>, amount: Amount<T>) -> T {
        self.in_range(field, amount.range).unwrap_or(amount.default)
    }

    /// Returns the value of `field`. Reports one that is out of range.
    fn in_range<T: Quantity>(&self, field: &Field<T>, range: Range<T>) -> Option<T> {
        let given = field.given()?;
        if range.contains(given.value) {
            return Some(given.value);
        }
        self.report(
            Diagnostic::error(given.span, "this value is out of range")
                .label(format!("expected {range}")),
        );
        None
    }

    /// Returns the duration in `field`, as [`Compiler::in_range`] does.
    fn duration(
        &self,
        field: &Field<values::Duration>,
        range: Range<values::Duration>,
    ) -> Option<Duration> {
        self.in_range(field, range).map(|duration| duration.0)
    }

    /// Returns the content of a file that the configuration names.
    fn read(&self, path: &Located<String>) -> Option<Zeroizing<Vec<u8>>> {
        self.read_file(path)
            .map_err(|problem| self.report(Diagnostic::error(path.span, problem)))
            .ok()
    }

    /// Reads a file that the configuration names, and records it as read.
    ///
    /// # Errors
    /// The problem, for people.
    fn read_file(&self, path: &Located<String>) -> Result<Zeroizing<Vec<u8>>, String> {
        let at = self.sources.path(path);
        let read = File::open(&at).and_then(|file| {
            let is_readable_again = file.metadata()?.is_file();
            let content = files::read_up_to(file, FILE_BYTES_MAX + 1)?;
            Ok((content, is_readable_again))
        });
        let (content, digest) = match read {
            Err(error) => (
                Err(format!("cannot read `{}`: {error}", at.display())),
                Some(None),
            ),
            Ok((content, is_readable_again)) if content.len() > FILE_BYTES_MAX => {
                let max = values::ByteSize(FILE_BYTES_MAX);
                let digest = is_readable_again.then(|| FileDigest::of_file(&at));
                (
                    Err(format!("`{}` is larger than {max}", at.display())),
                    digest,
                )
            }
            Ok((content, is_readable_again)) => {
                let digest = is_readable_again.then(|| Some(FileDigest::of_content(&content)));
                (Ok(content), digest)
            }
        };
        if let Some(digest) = digest {
            self.files.borrow_mut().named.insert(at, digest);
        }
        content
    }

    fn report(&self, diagnostic: Diagnostic) {
        self.problems.push(diagnostic);
    }
}

fn trusted_proxies(field: &Field<Vec<Field<values::Proxy>>>) -> Vec<ipnet::IpNet> {
    let list = field.value().into_iter().flatten();
    list.filter_map(Field::value).map(|proxy| proxy.0).collect()
}

/// Returns whether the peers of Unix sockets are trusted proxies.
fn trusts_unix_peers(trusted: &[ipnet::IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&NO_ADDRESS))
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
    let absent = raw::Log::default();
    let log = field.value().unwrap_or(&absent);
    let level = match log.level.value().unwrap_or(&facts::LOG_LEVEL.default) {
        raw::LogLevel::Error => LevelFilter::ERROR,
        raw::LogLevel::Warn => LevelFilter::WARN,
        raw::LogLevel::Info => LevelFilter::INFO,
        raw::LogLevel::Debug => LevelFilter::DEBUG,
        raw::LogLevel::Trace => LevelFilter::TRACE,
    };
    log::Settings {
        format: log.format.value().copied(),
        level,
    }
}

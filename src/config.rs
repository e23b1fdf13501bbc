//! The configuration: turns a YAML file into everything the gateway needs, or into a report of
//! every problem in it.
//!
//! Owns the format. `tree` parses YAML, `placement` corrects indentation, `variables` inserts
//! environment variables, `de` deserialises the tree into `raw`'s types, `compile` checks them and
//! compiles the result; all add their problems to one [`Report`]. `facts` has the default and the range of each key, `mistakes` the advice for common
//! ones. Nothing outside of this module sees a configuration key.

mod compile;
mod de;
mod diagnostics;
mod facts;
mod files;
mod include;
mod mistakes;
mod placement;
mod raw;
mod redact;
pub mod schema;
mod tree;
mod values;
mod variables;

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

pub use diagnostics::{Place, Report};
pub use facts::DEFAULT_PROVIDER;
pub use files::{FileDigest, ReadFiles, RouteFiles, SecretFiles};
pub(crate) use redact::is_shown_variable;

use crate::event::EnvelopeSpec;
use crate::gateway::Limits;
use crate::handshake::Challenge;
use crate::log;
use crate::notifications;
use crate::route::Route;
use crate::signature::{NamedSecret, Scheme};
use crate::store;
use crate::tls;
use crate::upstream::AllowedUpstream;
use compile::Sources;
use diagnostics::{Diagnostic, Problems};
use files::UnreadableSecret;
use include::Texts;
use variables::Scope;

/// A compiled configuration file.
pub struct Config {
    /// The listeners for webhooks. At least one.
    pub listen: Vec<Listen>,
    pub admin: Admin,
    pub store: store::Settings,
    /// The endpoint that is notified of problems.
    pub notify: Option<notifications::Settings>,
    /// Redelivers dead letters once their upstream accepts events again.
    pub redeliver_dead_letters: bool,
    pub limits: Limits,
    pub shutdown: Shutdown,
    pub log: log::Settings,
    /// The routes. At least one; no two have the same name, or the same path and host.
    pub routes: Vec<Route>,
    /// The files that all of this was read from.
    pub files: ReadFiles,
    /// The keys whose change takes effect after a restart.
    pub restart_keys: Vec<RestartKey>,
}

/// A key whose change takes effect after a restart.
pub struct RestartKey {
    /// The key's path, such as `admin.address`, or that of its section.
    pub name: &'static str,
    /// The digest of its value, which may be a secret.
    value: [u8; 32],
    pub place: Place,
}

impl RestartKey {
    /// Returns whether the other one is the same key with another value.
    pub fn is_changed(&self, other: &Self) -> bool {
        self.name == other.name && self.value != other.value
    }
}

/// A listener for webhooks.
pub struct Listen {
    /// The place of its address.
    pub place: Place,
    pub address: ListenAddress,
    /// The permissions of the socket file, where it listens on a Unix socket.
    pub mode: u32,
    pub tls: Option<ListenTls>,
    /// True if only trusted proxies connect, with a PROXY protocol header that names the client.
    pub proxy_protocol: bool,
}

/// What a listener for webhooks listens on. Displayed as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Inet(SocketAddr),
    /// A host's name and a port. All addresses of the name are listened on.
    Name(Box<str>, u16),
    /// The path of a Unix socket: absolute, and short enough for the system.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Returns the port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Inet(address) => Some(address.port()),
            Self::Name(_, port) => Some(*port),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The TLS settings of a listener.
pub struct ListenTls {
    pub settings: tls::Settings,
    /// The paths of the certificates in `settings`, in the same order, as the configuration has
    /// them.
    pub certificates: Vec<Box<str>>,
}

/// The admin listener.
#[derive(Debug)]
pub struct Admin {
    /// The address: a loopback address unless there is a token.
    pub address: SocketAddr,
    /// The place of the address.
    pub place: Place,
    /// The token for everything. Once it has expired, no request is authorised by it.
    pub token: Option<NamedSecret>,
    /// The token for reading. Present only with a `token`.
    pub read_token: Option<NamedSecret>,
    /// The additional host names that requests may use, in lower case.
    pub hosts: Vec<Box<str>>,
    /// The upstreams that webhooks made over the API may use; `None` allows any.
    pub allowed_upstreams: Option<Vec<AllowedUpstream>>,
    /// The most webhooks that may be made over the API.
    pub max_webhooks: usize,
}

/// The delays of a graceful shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// The time in which `/readyz` says 503 while requests are still accepted.
    pub drain: Duration,
    /// The time that requests in flight then have to finish.
    pub grace: Duration,
}

/// The address of a gateway's admin listener, and the token that it requires: enough to send it
/// requests.
#[derive(Debug)]
pub struct AdminEndpoint {
    pub admin: SocketAddr,
    pub token: Option<NamedSecret>,
    /// The reason why the token could not be read.
    pub token_problem: Option<String>,
}

/// The location of a gateway's store: enough to read it while the gateway does not run.
#[derive(Debug, PartialEq, Eq)]
pub enum StoreFolder {
    Embedded(PathBuf),
    /// The store is in PostgreSQL.
    Shared,
}

/// The part of a route that verifies requests: enough to verify one that was captured.
#[derive(Debug)]
pub struct Authentication {
    pub scheme: Scheme,
    /// All secrets, also expired ones.
    pub secrets: Vec<NamedSecret>,
    pub envelope: EnvelopeSpec,
    /// The sender's handshake, if it sends one with a signed body.
    pub challenge: Option<Challenge>,
    /// The preset; `None` for a custom scheme.
    pub provider: Option<&'static str>,
    /// The patterns of the event types that the route delivers; none for all types.
    pub events: Vec<Box<str>>,
    /// Where requests to the route are sent on this machine, or the reason why that is not known.
    pub endpoint: Result<Endpoint, String>,
}

/// The place at which a route's requests are received.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's address: no Unix socket.
    pub address: ListenAddress,
    pub tls: bool,
    /// The host that requests must name.
    pub host: Option<Box<str>>,
    pub path: Box<str>,
}

/// The name of a route, and the requests that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAddress {
    pub name: String,
    /// The host in lower case, without a port. `None` matches any host.
    pub host: Option<String>,
    pub path: String,
}

/// A configuration without errors.
pub struct Loaded {
    pub config: Config,
    /// The warnings. The report has no errors and may be empty.
    pub warnings: Report,
}

/// The largest configuration file, in bytes: room for some ten thousand routes.
const FILE_BYTES_MAX: usize = 16 << 20;

/// Reads and checks a configuration file. `env` returns an environment variable; relative paths
/// start from the file's folder.
///
/// # Errors
/// Returns a [`Report`] with all errors and warnings.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    let source = read(path)?;
    parse(shown(path), source, &sources(path, env))
}

/// Loads a configuration that is to be served. As [`load`] does, but a secret whose file cannot be
/// read refuses nothing: its content in `kept` stays in effect, or else its route is off line.
///
/// # Errors
/// Returns a [`Report`] with all errors and warnings.
pub fn load_to_serve(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    kept: &SecretFiles,
) -> Result<Loaded, Report> {
    let source = read(path)?;
    let sources = Sources {
        unreadable: UnreadableSecret::Tolerate(kept),
        ..sources(path, env)
    };
    parse(shown(path), source, &sources)
}

/// Checks a configuration as [`load`] does, but reads no secret and no key, neither from files nor
/// from variables: they are listed in [`ReadFiles::unchecked`]. `${NAME}` is read, since it holds no
/// secret. The result must not be served.
///
/// # Errors
/// Returns a [`Report`] with all errors and warnings.
pub fn load_without_secrets(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Report> {
    let source = read(path)?;
    let sources = Sources {
        unreadable: UnreadableSecret::Unchecked,
        ..sources(path, env)
    };
    parse(shown(path), source, &sources)
}

/// Loads only the keys by which a gateway is reached, whatever is wrong elsewhere in the file: a
/// gateway may run while its file is refused. The token is read only if `with_token` is set.
///
/// # Errors
/// Returns a [`Report`] of why the address cannot be known.
pub fn admin_endpoint(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    with_token: bool,
) -> Result<AdminEndpoint, Report> {
    parse_section(path, env, "admin", |raw, sources, problems| {
        compile::admin_endpoint(raw, sources, problems, with_token)
    })
}

/// Loads only the store's location, whatever is wrong elsewhere in the file.
///
/// # Errors
/// Returns a [`Report`] of why the location cannot be known.
pub fn store_folder(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<StoreFolder, Report> {
    parse_section(path, env, "store", compile::store_folder)
}

/// Loads only the store's settings, as [`load`] does.
///
/// # Errors
/// Returns a [`Report`] of the problems in those keys, or in the file as a whole.
pub fn store(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<store::Settings, Report> {
    let source = read(path)?;
    parse_for(
        shown(path),
        source,
        &sources(path, env),
        Scope::Keys(&["store"]),
        compile::store,
    )
    .map(|(compiled, _)| compiled)
}

/// Loads only what verifies the requests of the route with this name, as [`load`] does.
///
/// # Errors
/// Returns a [`Report`] of the problems in those keys or in the file as a whole, or that there is
/// no such route.
pub fn authentication(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    route: &str,
) -> Result<Authentication, Report> {
    let named = chosen_authentication(path, env, |_| Ok::<_, Infallible>(route.to_owned()))?;
    let Ok(named) = named;
    Ok(named)
}

/// Loads only what verifies the requests of one route, as [`load`] does: of the one whose name
/// `choose` returns. The inner error is that of `choose`.
///
/// # Errors
/// Returns a [`Report`], as [`authentication`] does.
pub fn chosen_authentication<E>(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    choose: impl FnOnce(&[RouteAddress]) -> Result<String, E>,
) -> Result<Result<Authentication, E>, Report> {
    let source = read(path)?;
    let compile = |raw: &raw::File, sources: &Sources<'_>, problems: &Problems| {
        compile::authentication(raw, sources, problems, choose)
    };
    parse_for(
        shown(path),
        source,
        &sources(path, env),
        Scope::Keys(&["defaults", "routes", "routes_from"]),
        compile,
    )
    .map(|(compiled, _)| compiled)
}

fn sources<'a>(path: &'a Path, env: &'a dyn Fn(&str) -> Option<String>) -> Sources<'a> {
    Sources {
        folder: path.parent().unwrap_or(Path::new("")),
        env,
        now: Timestamp::now(),
        unreadable: UnreadableSecret::Refuse,
        strict_start: facts::STRICT_START.default,
        route_files: &[],
        files: &[],
    }
}

/// The path that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// Returns the name of a configuration file for people.
fn shown(path: &Path) -> String {
    if path == Path::new(STANDARD_INPUT) {
        "standard input".into()
    } else {
        path.display().to_string()
    }
}

fn read(path: &Path) -> Result<String, Report> {
    read_configuration(path).map_err(|error| {
        let problems = Problems::default();
        problems.push(*error);
        problems.into_report(Texts::new(shown(path).into(), String::new()))
    })
}

fn read_configuration(path: &Path) -> Result<String, Box<Diagnostic>> {
    let bytes = if path == Path::new(STANDARD_INPUT) {
        read_bytes(io::stdin().lock(), FILE_BYTES_MAX)
    } else {
        File::open(path).and_then(|file| read_bytes(file, FILE_BYTES_MAX))
    };
    let bytes = bytes.map_err(|error| {
        let problem = Diagnostic::error(None, format!("cannot read the configuration: {error}"));
        match error.kind() {
            ErrorKind::NotFound => problem.help(
                "`hookstile init` writes a configuration to start from; `-c FILE` or \
                 HOOKSTILE_CONFIG names another file; without them it is hookstile.yaml in this \
                 folder, or else /etc/hookstile/hookstile.yaml",
            ),
            ErrorKind::PermissionDenied => {
                problem.help("run this as the gateway's user, or as root")
            }
            _ => problem,
        }
    })?;
    let text = into_text(bytes, "the configuration", FILE_BYTES_MAX);
    text.map_err(|problem| Diagnostic::error(None, problem).into())
}

/// Reads a file of at most `bytes_max` bytes; `name` is what messages call it.
fn read_text(path: &Path, name: &str, bytes_max: usize) -> Result<String, String> {
    let bytes = File::open(path).and_then(|file| read_bytes(file, bytes_max));
    let bytes = bytes.map_err(|error| format!("cannot read {name}: {error}"))?;
    into_text(bytes, name, bytes_max)
}

/// Reads at most one byte more than `bytes_max`.
fn read_bytes(input: impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn into_text(bytes: Vec<u8>, name: &str, bytes_max: usize) -> Result<String, String> {
    if bytes.len() > bytes_max {
        let max = values::ByteSize(bytes_max);
        return Err(format!("{name} is larger than {max}"));
    }
    String::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8 text"))
}

/// Parses one section of a configuration and runs `compile` on it. Ignores what is wrong in the
/// others: if the text as a whole is not YAML, only the section's own lines are parsed.
fn parse_section<T>(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    section: &str,
    compile: impl FnOnce(&raw::File, &Sources<'_>, &Problems) -> Option<T>,
) -> Result<T, Report> {
    let source = read(path)?;
    let elsewhere = Problems::default();
    let documents = tree::parse(&source, 0, &elsewhere)
        .or_else(|| tree::parse(&tree::blank_other_sections(&source, section), 0, &elsewhere));
    let mut texts = Texts::new(shown(path).into(), source);
    texts.masks = redact::mask_text(&texts.text);
    let problems = Problems::default();
    let root = documents.as_deref().and_then(<[_]>::first);
    let raw = match root {
        // The section is absent, or has no value.
        None => Some(raw::File::default()),
        Some(root) => {
            let root = tree::section(root, section);
            let root = variables::insert(&root, env, Scope::Whole, &problems);
            de::from_tree(&root, &problems)
        }
    };
    raw.and_then(|raw: raw::File| compile(&raw, &sources(path, env), &problems))
        .ok_or_else(|| problems.into_report(texts))
}

/// Checks a configuration's text. The report names it `file`.
fn parse(file: String, source: String, sources: &Sources<'_>) -> Result<Loaded, Report> {
    parse_for(file, source, sources, Scope::Whole, compile::compile)
        .map(|(config, warnings)| Loaded { config, warnings })
}

/// Parses a configuration's text and runs `compile` on it. Returns its result and the warnings.
fn parse_for<T>(
    file: String,
    source: String,
    sources: &Sources<'_>,
    scope: Scope,
    compile: impl FnOnce(&raw::File, &Sources<'_>, &Problems) -> Option<T>,
) -> Result<(T, Report), Report> {
    let problems = Problems::default();
    let documents = tree::parse(&source, 0, &problems);
    let mut texts = Texts::new(file.into(), source);
    texts.masks = match &documents {
        Some(documents) => redact::mask_trees(documents),
        None => redact::mask_text(&texts.text),
    };
    let mut route_files = Vec::new();
    let root = documents.as_deref().and_then(<[_]>::first);
    let raw: Option<raw::File> = root.and_then(|root| {
        let root = placement::correct(root, &problems);
        let mut root = variables::insert(&root, sources.env, scope, &problems);
        if scope.has("routes") {
            (root, route_files) =
                include::add_routes(root, sources.folder, sources.env, &mut texts, &problems);
        }
        de::from_tree(&root, &problems)
    });
    let sources = Sources {
        route_files: &route_files,
        files: &texts.files,
        ..*sources
    };
    let compiled = raw.and_then(|raw| compile(&raw, &sources, &problems));
    if let Some(root) = root {
        mistakes::warn_of_placeholders(root, &problems);
    }
    match compiled {
        Some(compiled) if !problems.any_error() => Ok((compiled, problems.into_report(texts))),
        _ => Err(problems.into_report(texts)),
    }
}

/// Checks a configuration that is not in a file, as [`load`] does. The report calls it `name`;
/// relative paths start from the current folder.
///
/// # Errors
/// Returns a [`Report`] with all errors and warnings.
pub fn load_text(
    name: &str,
    text: String,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Report> {
    parse(
        name.into(),
        text,
        &Sources {
            folder: Path::new(""),
            env,
            now: Timestamp::now(),
            unreadable: UnreadableSecret::Refuse,
            strict_start: facts::STRICT_START.default,
            route_files: &[],
            files: &[],
        },
    )
}

/// Checks `source` for fuzzing and benches: as if it were a file, in an environment that has every
/// variable and no files.
#[doc(hidden)]
pub fn check_text(source: &str) -> Result<Loaded, Report> {
    // The value is valid hex, base64 and an Ed25519 public key (RFC 8032 §7.1, test 1), so that it
    // fits every scheme.
    let env = |_: &str| {
        Some("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a".to_owned())
    };
    let sources = Sources {
        folder: Path::new("/nonexistent"),
        env: &env,
        now: Timestamp::UNIX_EPOCH,
        unreadable: UnreadableSecret::Refuse,
        strict_start: facts::STRICT_START.default,
        route_files: &[],
        files: &[],
    };
    parse("hookstile.yaml".into(), source.into(), &sources)
}

#[cfg(test)]
mod tests;

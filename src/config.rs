//! The configuration: from a YAML file to everything the gateway needs, or to a report of all that is wrong.
//!
//! Owns the format. `tree` reads YAML, `de` brings it into `raw`'s types, `compile` makes sense of them; all three put
//! what they find wrong into one [`Report`]. Nothing outside of this module sees a configuration key.

mod compile;
mod de;
mod diagnostics;
mod raw;
mod redact;
pub mod schema;
mod tree;
mod values;

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

pub use diagnostics::{Report, Severity};

use crate::event::EnvelopeSpec;
use crate::gateway::Limits;
use crate::handshake::Challenge;
use crate::log;
use crate::route::Route;
use crate::signature::{NamedSecret, Scheme};
use crate::store;
use crate::tls;
use crate::upstream::AllowedUpstream;
use compile::Sources;
use diagnostics::{Diagnostic, Problems};

/// Everything that a configuration file says.
pub struct Config {
    /// Where webhooks come in. At least one.
    pub listen: Vec<Listen>,
    pub admin: Admin,
    pub store: store::Settings,
    pub limits: Limits,
    pub shutdown: Shutdown,
    pub log: log::Settings,
    /// At least one; no two with the same name, or the same path and host.
    pub routes: Vec<Route>,
}

/// A listener for webhooks.
pub struct Listen {
    pub address: SocketAddr,
    pub tls: Option<ListenTls>,
    /// Whether trusted proxies, and nobody else, connect here and say whose connection they pass on.
    pub proxy_protocol: bool,
}

/// The TLS of a listener.
pub struct ListenTls {
    pub settings: tls::Settings,
    /// The files of the certificates in `settings`, in their order and as the configuration names them.
    pub certificates: Vec<Box<str>>,
    /// All files that it was read from.
    pub files: Vec<PathBuf>,
}

/// The admin listener.
#[derive(Debug)]
pub struct Admin {
    /// A loopback address unless there is a token.
    pub address: SocketAddr,
    /// May expire: then nobody gets in any more.
    pub token: Option<NamedSecret>,
    /// For those who may only look. Not without a `token`.
    pub read_token: Option<NamedSecret>,
    /// Names that the listener is asked by, besides its own. In lower case.
    pub hosts: Vec<Box<str>>,
    /// What webhooks made over the API may name as their upstream; `None` is anything.
    pub allowed_upstreams: Option<Vec<AllowedUpstream>>,
}

/// How the process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long `/readyz` says 503 while requests are still taken.
    pub drain: Duration,
    /// How long requests in flight may then go on.
    pub grace: Duration,
}

/// Where a gateway is found: all that is needed to talk to it, or to look at what it left.
#[derive(Debug)]
pub struct AdminEndpoint {
    pub admin: SocketAddr,
    pub token: Option<NamedSecret>,
    /// The store's folder; `None` for a shared store.
    pub store: Option<PathBuf>,
}

/// How a route tells genuine requests from others: all that is needed to judge one that was captured.
#[derive(Debug)]
pub struct Authentication {
    pub scheme: Scheme,
    /// Those that have expired, too.
    pub secrets: Vec<NamedSecret>,
    pub envelope: EnvelopeSpec,
    /// How the sender asks whether the endpoint is there, with a signed body.
    pub asks: Option<Challenge>,
}

/// A configuration that can be used.
pub struct Loaded {
    pub config: Config,
    /// What the operator should know. Holds no errors, and may be empty.
    pub warnings: Report,
}

/// The biggest configuration file, in bytes. Room for some ten thousand routes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads and checks a configuration file. `env` looks an environment variable up; relative paths in the file start at
/// its folder.
///
/// # Errors
/// The [`Report`] holds everything that is wrong, and the warnings.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    let source = read(path)?;
    parse(path.display().to_string(), source, &sources(path, env))
}

/// As [`load`], but looks only at where the gateway is found: whoever asks that need not have the routes' secrets, nor,
/// without `with_token`, the token.
///
/// # Errors
/// The [`Report`] holds what is wrong with that, or with the file as a whole.
pub fn admin_endpoint(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    with_token: bool,
) -> Result<AdminEndpoint, Report> {
    let source = read(path)?;
    let compile = |raw: &raw::File, sources: &Sources<'_>, problems: &Problems| {
        compile::admin_endpoint(raw, sources, problems, with_token)
    };
    parse_for(
        path.display().to_string(),
        source,
        &sources(path, env),
        compile,
    )
    .map(|(found, _)| found)
}

/// As [`load`], but looks only at where events are kept.
///
/// # Errors
/// The [`Report`] holds what is wrong with that, or with the file as a whole.
pub fn store(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<store::Settings, Report> {
    let source = read(path)?;
    parse_for(
        path.display().to_string(),
        source,
        &sources(path, env),
        compile::store,
    )
    .map(|(found, _)| found)
}

/// As [`load`], but looks only at how the route of this name tells genuine requests.
///
/// # Errors
/// The [`Report`] holds what is wrong with that, or with the file as a whole; or that there is no such route.
pub fn authentication(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    route: &str,
) -> Result<Authentication, Report> {
    let source = read(path)?;
    let compile = |raw: &raw::File, sources: &Sources<'_>, problems: &Problems| {
        compile::authentication(raw, sources, problems, route)
    };
    parse_for(
        path.display().to_string(),
        source,
        &sources(path, env),
        compile,
    )
    .map(|(found, _)| found)
}

fn sources<'a>(path: &'a Path, env: &'a dyn Fn(&str) -> Option<String>) -> Sources<'a> {
    Sources {
        folder: path.parent().unwrap_or(Path::new("")),
        env,
        now: Timestamp::now(),
    }
}

fn read(path: &Path) -> Result<String, Report> {
    read_text(path).map_err(|problem| {
        let problems = Problems::default();
        problems.push(Diagnostic::error(None, problem));
        problems.into_report(path.display().to_string(), String::new(), Vec::new())
    })
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read the configuration: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("the configuration is bigger than 16MiB".into());
    }
    String::from_utf8(bytes).map_err(|_| "the configuration is not UTF-8 text".into())
}

/// Checks a configuration whose text is known already. `file` is what the report calls it.
fn parse(file: String, source: String, sources: &Sources<'_>) -> Result<Loaded, Report> {
    parse_for(file, source, sources, compile::compile)
        .map(|(config, warnings)| Loaded { config, warnings })
}

/// Checks a configuration for what `compile` wants of it. Beside that there is the report of all warnings.
fn parse_for<T>(
    file: String,
    source: String,
    sources: &Sources<'_>,
    compile: impl FnOnce(&raw::File, &Sources<'_>, &Problems) -> Option<T>,
) -> Result<(T, Report), Report> {
    let problems = Problems::default();
    let documents = tree::parse(&source, &problems);
    let masks = match &documents {
        Some(documents) => redact::of_trees(documents),
        None => redact::of_text(&source),
    };
    let root = documents.as_deref().and_then(<[_]>::first);
    let raw: Option<raw::File> = root.and_then(|root| de::from_tree(root, &problems));
    let wanted = raw.and_then(|raw| compile(&raw, sources, &problems));
    match wanted {
        Some(wanted) if !problems.any_error() => {
            Ok((wanted, problems.into_report(file, source, masks)))
        }
        _ => Err(problems.into_report(file, source, masks)),
    }
}

/// As [`load`], for a text that is no file's. `name` is what the report calls it; relative paths in it start at the
/// current folder.
///
/// # Errors
/// As [`load`].
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
        },
    )
}

/// For fuzzing and benches: checks `source` as if it were a file, in an environment that has every variable and
/// with no files around.
#[doc(hidden)]
pub fn check_text(source: &str) -> Result<Loaded, Report> {
    // Hex, base64, and an Ed25519 public key (RFC 8032 §7.1, test 1): right for every scheme.
    let env = |_: &str| {
        Some("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a".to_owned())
    };
    let sources = Sources {
        folder: Path::new("/nonexistent"),
        env: &env,
        now: Timestamp::UNIX_EPOCH,
    };
    parse("hookstile.yaml".into(), source.into(), &sources)
}

#[cfg(test)]
mod tests;

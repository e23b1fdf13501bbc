//! The admin listener from outside: where it is, with what token, and what its answers mean for this process.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::{HeaderValue, Response, StatusCode, Uri};

use super::check::{self, BAD_CONFIGURATION};
use super::{FAILED, NOT_AUTHORISED, UNREACHABLE, USAGE, terminal};
use crate::admin::reachable;
use crate::admin::shape::Problem;
use crate::config::{self, AdminEndpoint, Report};
use crate::secret::Secret;

/// Which gateway.
#[derive(Debug, Clone, clap::Args)]
pub struct Gateway {
    /// The admin listener [default: what the configuration says, else 127.0.0.1:9180]
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    admin: Option<String>,
    /// The gateway's configuration, for the admin listener's address and token [default: hookstile.yaml if it is there
    /// and --admin is not given]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The admin listener.
pub(super) struct Admin {
    agent: Agent,
    url: String,
    token: Option<HeaderValue>,
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("the configuration is not valid")]
    Configuration(Box<Report>),
    #[error("the admin listener at {url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error(
        "{url} lets nobody in without the right token: set {TOKEN_VARIABLE}, or give the configuration that has it"
    )]
    NotAuthorised { url: String },
    /// The token is not one for this.
    #[error("{0}")]
    Forbidden(Box<Problem>),
    /// What was asked for can't be had, and the admin listener says why.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The gateway is in trouble, or what answers is no gateway.
    #[error("{0}")]
    Failed(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Goes before the configuration's token.
const TOKEN_VARIABLE: &str = "HOOKSTILE_ADMIN_TOKEN";
const CONFIG: &str = "hookstile.yaml";
const DEFAULT_URL: &str = "http://127.0.0.1:9180";

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A list reads the disk, and a single event may be a long one.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of an answer: the biggest body that is kept, and what JSON adds to it.
const ANSWER_MAX: u64 = 300 << 20;

impl Gateway {
    /// The configuration that was named, or that lies here; not if the admin listener was named alone.
    pub(super) fn configuration(&self) -> Option<PathBuf> {
        let here =
            || Some(PathBuf::from(CONFIG)).filter(|path| self.admin.is_none() && path.is_file());
        self.config.clone().or_else(here)
    }

    pub(super) fn admin(&self) -> Result<Admin, Failure> {
        let env = |name: &str| std::env::var(name).ok();
        let given = env(TOKEN_VARIABLE)
            .filter(|token| !token.is_empty())
            .map(String::into_bytes);
        let found = self
            .configuration()
            .map(|path| whereabouts(&path, given.is_none()))
            .transpose()?;
        let url = match (&self.admin, &found) {
            (Some(url), _) => url.clone(),
            (None, Some(found)) => url_of(found.admin)?,
            (None, None) => DEFAULT_URL.into(),
        };
        let of_configuration = || {
            found
                .as_ref()?
                .token
                .as_ref()
                .map(|token| Secret::expose(&token.secret).to_vec())
        };
        let token = given
            .or_else(of_configuration)
            .map(|token| bearer(&token))
            .transpose()?;
        Ok(Admin::new(url, token))
    }
}

pub(super) fn whereabouts(config: &Path, with_token: bool) -> Result<AdminEndpoint, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    config::admin_endpoint(config, &env, with_token)
        .map_err(|report| Failure::Configuration(Box::new(report)))
}

fn bearer(token: &[u8]) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).map_err(|_| {
        Failure::Failed("the admin token holds characters that no header can".into())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where an address that is listened on is reached from here.
fn url_of(address: SocketAddr) -> Result<String, Failure> {
    if address.port() == 0 {
        let problem =
            "the configuration leaves the admin listener's port to the system; give --admin URL";
        return Err(Failure::Usage(problem.into()));
    }
    Ok(format!("http://{}", reachable(address)))
}

/// Takes `host:port` for a URL, too.
fn parse_url(text: &str) -> Result<String, String> {
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri: Uri = url
        .parse()
        .map_err(|_| "not a URL; write http://host:port")?;
    if uri.scheme_str() != Some("http") {
        return Err("the admin listener speaks http".into());
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') && uri.query().is_none() => Ok(
            format!("http://{authority}{}", uri.path().trim_end_matches('/')),
        ),
        _ => Err("not a URL; write http://host:port".into()),
    }
}

impl Admin {
    fn new(url: String, token: Option<HeaderValue>) -> Self {
        let config = Agent::config_builder()
            // The token and the events are for the gateway alone, which is near: no proxy has to see them.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_global(Some(ANSWER_WITHIN))
            .build();
        Self {
            agent: config.into(),
            url,
            token,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in query {
            request = request.query(name, value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        self.answer(request.call())
    }

    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, Failure> {
        self.post_within(path, document, ANSWER_WITHIN)
    }

    /// For what may take long.
    pub(super) fn post_within<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
        within: Duration,
    ) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(document).map_err(|error| Failure::Failed(error.to_string()))?;
        let mut request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        self.answer(
            request
                .config()
                .timeout_global(Some(within))
                .build()
                .send(body),
        )
    }

    fn answer<T: DeserializeOwned>(
        &self,
        answered: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let unreachable = |error: ureq::Error| Failure::Unreachable {
            url: self.url.clone(),
            reason: error.to_string(),
        };
        let mut response = answered.map_err(unreachable)?;
        let status = response.status();
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_MAX)
            .read_to_vec()
            .map_err(unreachable)?;
        if status == StatusCode::UNAUTHORIZED {
            return Err(Failure::NotAuthorised {
                url: self.url.clone(),
            });
        }
        if !status.is_success() {
            return Err(match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) if status == StatusCode::FORBIDDEN => {
                    Failure::Forbidden(problem.into())
                }
                Ok(problem) if status.is_client_error() => Failure::Refused(problem.into()),
                Ok(problem) => Failure::Failed(problem.to_string()),
                Err(_) => Failure::Failed(format!(
                    "{} answered with {status}; is it a gateway's admin listener?",
                    self.url
                )),
            });
        }
        serde_json::from_slice(&body).map_err(|error| {
            Failure::Failed(format!(
                "{} answered with something else than was asked for ({error}); is it a gateway's admin listener, of \
                 this version?",
                self.url
            ))
        })
    }
}

impl Failure {
    /// Says what happened, and how the process ends.
    pub(super) fn exit(self) -> ExitCode {
        let code = match &self {
            Self::Configuration(report) => {
                check::print(report, false);
                return ExitCode::from(BAD_CONFIGURATION);
            }
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Usage(_) => USAGE,
            Self::Unreachable { .. } => UNREACHABLE,
            Self::NotAuthorised { .. } | Self::Forbidden(_) => NOT_AUTHORISED,
            Self::Refused(_) | Self::Failed(_) | Self::Output(_) => FAILED,
        };
        terminal::tell(&self.to_string());
        ExitCode::from(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_listened_on_becomes_one_to_connect_to() {
        let url = |address: &str| url_of(address.parse().unwrap()).ok();
        assert_eq!(
            url("127.0.0.1:9180").as_deref(),
            Some("http://127.0.0.1:9180")
        );
        assert_eq!(
            url("0.0.0.0:9180").as_deref(),
            Some("http://127.0.0.1:9180")
        );
        assert_eq!(url("[::]:9180").as_deref(), Some("http://[::1]:9180"));
        assert_eq!(url("192.0.2.7:80").as_deref(), Some("http://192.0.2.7:80"));
        assert_eq!(url("127.0.0.1:0"), None);
    }

    #[test]
    fn urls_are_taken_with_or_without_scheme_and_slash() {
        for text in [
            "http://localhost:9180",
            "http://localhost:9180/",
            "localhost:9180",
        ] {
            assert_eq!(
                parse_url(text).as_deref(),
                Ok("http://localhost:9180"),
                "{text}"
            );
        }
        for text in [
            "https://localhost:9180",
            "http://",
            "ftp://x",
            "http://user:password@localhost",
            "http://x/?y",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }
}

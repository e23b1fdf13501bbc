//! The client of the admin listener: finds its URL and token, sends requests, and turns errors into
//! exit codes.

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

/// The arguments that select a gateway.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct GatewayArgs {
    /// URL of the admin listener [default: from the configuration, else port 9180 of this machine]
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    admin: Option<String>,
    /// Configuration file to read the admin listener's address and token from [default:
    /// hookstile.yaml, if it exists and --admin is not given]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A client of the admin listener.
pub(super) struct AdminClient {
    agent: Agent,
    url: String,
    token: Option<HeaderValue>,
}

/// The error of a command. Each variant has an exit code.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("{0}")]
    Usage(String),
    #[error("the configuration is invalid")]
    Configuration(Box<Report>),
    #[error("the admin listener at {url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error(
        "{url} requires an admin token: set {TOKEN_VARIABLE}, or give the configuration that has \
         it with --config"
    )]
    NotAuthorised { url: String },
    /// The token is valid, but does not permit this.
    #[error("{0}")]
    Forbidden(Box<Problem>),
    /// The admin listener rejected the request, and says why.
    #[error("{0}")]
    Rejected(Box<Problem>),
    /// The gateway failed, the response is not a gateway's, or something failed on this machine.
    #[error("{0}")]
    Failed(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// The variable with the admin token. Takes precedence over the configuration's token.
const TOKEN_VARIABLE: &str = "HOOKSTILE_ADMIN_TOKEN";
const CONFIG: &str = "hookstile.yaml";
const DEFAULT_URL: &str = "http://127.0.0.1:9180";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A list reads the disk, and a single event may be large.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a response: the largest kept body, with the overhead of JSON.
const RESPONSE_BYTES_MAX: u64 = 300 << 20;

impl GatewayArgs {
    /// Returns the configuration to read: the one given, else the one in the current folder unless
    /// `--admin` is given.
    pub(super) fn configuration(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| {
            Some(PathBuf::from(CONFIG)).filter(|path| self.admin.is_none() && path.is_file())
        })
    }

    /// Creates the client for this gateway.
    pub(super) fn admin(&self) -> Result<AdminClient, CommandError> {
        let env = |name: &str| std::env::var(name).ok();
        let from_env = env(TOKEN_VARIABLE)
            .filter(|token| !token.is_empty())
            .map(String::into_bytes);
        let endpoint = self
            .configuration()
            .map(|path| admin_endpoint(&path, from_env.is_none()))
            .transpose()?;
        let url = match (&self.admin, &endpoint) {
            (Some(url), _) => url.clone(),
            (None, Some(endpoint)) => local_url(endpoint.admin)?,
            (None, None) => DEFAULT_URL.into(),
        };
        let from_config = || {
            endpoint
                .as_ref()?
                .token
                .as_ref()
                .map(|token| Secret::expose(&token.secret).to_vec())
        };
        let token = from_env
            .or_else(from_config)
            .map(|token| bearer_header(&token))
            .transpose()?;
        Ok(AdminClient::new(url, token))
    }
}

/// Reads the admin listener's address, and its token if `with_token`, from a configuration.
pub(super) fn admin_endpoint(
    config: &Path,
    with_token: bool,
) -> Result<AdminEndpoint, CommandError> {
    let env = |name: &str| std::env::var(name).ok();
    config::admin_endpoint(config, &env, with_token)
        .map_err(|report| CommandError::Configuration(Box::new(report)))
}

fn bearer_header(token: &[u8]) -> Result<HeaderValue, CommandError> {
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).map_err(|_| {
        CommandError::Failed("the admin token contains characters that a header cannot hold".into())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the URL at which this machine reaches a listener's address.
fn local_url(address: SocketAddr) -> Result<String, CommandError> {
    if address.port() == 0 {
        let problem =
            "the configuration lets the system choose the admin listener's port; give --admin URL";
        return Err(CommandError::Usage(problem.into()));
    }
    Ok(format!("http://{}", reachable(address)))
}

/// Parses a URL; also accepts `host:port`.
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
        return Err("the admin listener uses http".into());
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') && uri.query().is_none() => Ok(
            format!("http://{authority}{}", uri.path().trim_end_matches('/')),
        ),
        _ => Err("not a URL; write http://host:port".into()),
    }
}

impl AdminClient {
    fn new(url: String, token: Option<HeaderValue>) -> Self {
        let config = Agent::config_builder()
            // No proxy may see the token and the events; the gateway is usually on this machine.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(RESPONSE_TIMEOUT))
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
    ) -> Result<T, CommandError> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in query {
            request = request.query(name, value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        self.read_response(request.call())
    }

    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, CommandError> {
        self.post_within(path, document, RESPONSE_TIMEOUT)
    }

    /// Posts with a longer timeout, for slow operations.
    pub(super) fn post_within<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, CommandError> {
        let body = serde_json::to_vec(document)
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        let mut request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        self.read_response(
            request
                .config()
                .timeout_global(Some(timeout))
                .build()
                .send(body),
        )
    }

    fn read_response<T: DeserializeOwned>(
        &self,
        result: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, CommandError> {
        let unreachable = |error: ureq::Error| CommandError::Unreachable {
            url: self.url.clone(),
            reason: error.to_string(),
        };
        let mut response = result.map_err(unreachable)?;
        let status = response.status();
        let body = response
            .body_mut()
            .with_config()
            .limit(RESPONSE_BYTES_MAX)
            .read_to_vec()
            .map_err(unreachable)?;
        if status == StatusCode::UNAUTHORIZED {
            return Err(CommandError::NotAuthorised {
                url: self.url.clone(),
            });
        }
        if !status.is_success() {
            return Err(match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) if status == StatusCode::FORBIDDEN => {
                    CommandError::Forbidden(problem.into())
                }
                Ok(problem) if status.is_client_error() => CommandError::Rejected(problem.into()),
                Ok(problem) => CommandError::Failed(problem.to_string()),
                Err(_) => CommandError::Failed(format!(
                    "{} responded with {status}; is it a gateway's admin listener?",
                    self.url
                )),
            });
        }
        serde_json::from_slice(&body).map_err(|error| {
            CommandError::Failed(format!(
                "{} sent an unexpected response ({error}); is it the admin listener of a gateway \
                 of this version?",
                self.url
            ))
        })
    }
}

impl CommandError {
    /// Prints the error and returns the exit code.
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
            Self::Rejected(_) | Self::Failed(_) | Self::Output(_) => FAILED,
        };
        terminal::print_message(&self.to_string());
        ExitCode::from(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_url_is_reachable_from_this_machine() {
        let url = |address: &str| local_url(address.parse().unwrap()).ok();
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
    fn url_parses_with_or_without_scheme_and_slash() {
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

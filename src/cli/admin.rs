//! The client of the admin listener: finds its URL and token, sends requests, and turns errors into
//! exit codes.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::http::{HeaderValue, Response, StatusCode, Uri};
use ureq::{Agent, RequestBuilder};

use super::check::{self, BAD_CONFIGURATION};
use super::config_file::ConfigArgs;
use super::{FAILED, NOT_AUTHORISED, UNREACHABLE, USAGE, terminal};
use crate::admin::reachable;
use crate::admin::shape::{Problem, Webhooks};
use crate::config::{self, Report};
use crate::secret::Secret;

/// The arguments that select a gateway.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct GatewayArgs {
    /// URL or address of the admin listener [default: `HOOKSTILE_ADMIN`, else from the
    /// configuration, else port 9180 of this machine]
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    admin: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A client of the admin listener.
#[derive(Clone)]
pub(super) struct AdminClient {
    agent: Agent,
    url: String,
    token: Option<HeaderValue>,
    /// The advice for the case that the gateway requires another token.
    token_advice: String,
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
    #[error("{url} requires an admin token: {advice}")]
    NotAuthorised { url: String, advice: String },
    /// The token is valid, but does not permit this.
    #[error("{0}")]
    Forbidden(Box<Problem>),
    /// The admin listener rejected the request, and says why.
    #[error("{0}")]
    Rejected(Box<Problem>),
    /// The admin listener could not do it, and says why.
    #[error("{0}")]
    Unable(Box<Problem>),
    /// The response is not a gateway's, or something failed on this machine.
    #[error("{0}")]
    Failed(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// The variable with the admin token. Takes precedence over the configuration's token.
const TOKEN_VARIABLE: &str = "HOOKSTILE_ADMIN_TOKEN";
/// The variable with the admin listener's URL or address. Takes precedence over the configuration's
/// address.
const URL_VARIABLE: &str = "HOOKSTILE_ADMIN";
const DEFAULT_URL: &str = "http://127.0.0.1:9180";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A list reads the disk, and a single event may be large.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a response: the largest kept body, with the overhead of JSON.
const RESPONSE_BYTES_MAX: u64 = 300 << 20;

impl GatewayArgs {
    /// Returns the configuration to read the store's location from.
    pub(super) fn configuration(&self) -> Option<PathBuf> {
        self.config.found()
    }

    /// Creates the client for this gateway.
    pub(super) fn admin(&self) -> Result<AdminClient, CommandError> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let from_env = env(URL_VARIABLE)
            .map(|url| parse_url(&url))
            .transpose()
            .map_err(|problem| CommandError::Usage(format!("{URL_VARIABLE}: {problem}")))?;
        let token = env(TOKEN_VARIABLE);
        // A token must reach no other gateway than the one it is for. So a file that is merely
        // there is not read where the URL is given.
        let config = match (&self.admin, &from_env) {
            (Some(_), _) => self.config.config.clone(),
            (None, Some(_)) => self.config.named(),
            (None, None) => self.config.found(),
        };
        let endpoint = config
            .as_deref()
            .map(|path| {
                let env = |name: &str| std::env::var(name).ok();
                config::admin_endpoint(path, &env, token.is_none())
            })
            .transpose()
            .map_err(|report| CommandError::Configuration(Box::new(report)))?;
        let url = match (self.admin.clone().or(from_env), &endpoint) {
            (Some(url), _) => url,
            (None, Some(endpoint)) => local_url(endpoint.admin)?,
            (None, None) => DEFAULT_URL.into(),
        };
        let (from_config, problem) =
            endpoint.map_or((None, None), |found| (found.token, found.token_problem));
        let token_advice = match (&token, &from_config, problem) {
            (Some(_), _, _) => format!("the one in {TOKEN_VARIABLE} is not valid"),
            (None, Some(_), _) => format!(
                "the one in the configuration is not valid; set {TOKEN_VARIABLE} for this command"
            ),
            (None, None, Some(problem)) => {
                format!("{problem}; set {TOKEN_VARIABLE} for this command")
            }
            (None, None, None) => format!(
                "set {TOKEN_VARIABLE} for this command, or give the configuration that has it \
                 with --config"
            ),
        };
        let from_config = from_config.map(|token| Secret::expose(&token.secret).to_vec());
        let token = token.map(String::into_bytes).or(from_config);
        let token = token.map(|token| bearer_header(&token)).transpose()?;
        Ok(AdminClient::new(url, token, token_advice))
    }
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

/// Parses a URL; also accepts an address, such as a configuration has, and `host:port`.
fn parse_url(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse() {
        return Ok(format!("http://{}", reachable(address)));
    }
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
    fn new(url: String, token: Option<HeaderValue>, token_advice: String) -> Self {
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
            token_advice,
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
        self.read_response(self.authorized(request).call())
    }

    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, CommandError> {
        self.post_within(path, document, RESPONSE_TIMEOUT)
    }

    pub(super) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        let request = self.agent.delete(format!("{}{path}", self.url));
        self.read_response(self.authorized(request).call())
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
        let request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        self.read_response(
            self.authorized(request)
                .config()
                .timeout_global(Some(timeout))
                .build()
                .send(body),
        )
    }

    /// Adds the token, if there is one.
    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    fn read_response<T: DeserializeOwned>(
        &self,
        result: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, CommandError> {
        let unreachable = |error: ureq::Error| CommandError::Unreachable {
            url: self.url.clone(),
            reason: unreachable_reason(&error),
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
                advice: self.token_advice.clone(),
            });
        }
        if !status.is_success() {
            return Err(match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) if status == StatusCode::FORBIDDEN => {
                    CommandError::Forbidden(problem.into())
                }
                Ok(problem) if status.is_client_error() => {
                    CommandError::Rejected(self.with_routes(problem).into())
                }
                Ok(problem) => CommandError::Unable(problem.into()),
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

impl AdminClient {
    /// Adds the names of all routes to the problem that there is no route of a name.
    fn with_routes(&self, mut problem: Problem) -> Problem {
        if problem.code != "unknown_webhook" {
            return problem;
        }
        if let Ok(all) = self.get::<Webhooks>("/webhooks", &[]) {
            let names: Vec<_> = all
                .webhooks
                .iter()
                .map(|webhook| webhook.name.as_str())
                .collect();
            problem.detail = match &names[..] {
                [] => "There is no such route; the gateway has none.".into(),
                names => format!(
                    "There is no such route; the routes are: {}.",
                    names.join(", ")
                ),
            };
        }
        problem
    }
}

/// Describes why the admin listener did not respond.
fn unreachable_reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => format!(
            "connection refused. Is the gateway running? --admin or {URL_VARIABLE} names another \
             address"
        ),
        error => error.to_string(),
    }
}

impl CommandError {
    /// Prints the error and returns the exit code. With `json`, also prints it as a JSON document
    /// to standard output.
    pub(super) fn exit_with(self, json: bool) -> ExitCode {
        if json && !matches!(self, Self::Output(_)) {
            let _ = terminal::print(&terminal::json_line(&self.to_json()));
        }
        self.exit()
    }

    /// Describes the error as a JSON document.
    pub(super) fn to_json(&self) -> Value {
        let (code, detail) = match self {
            Self::Usage(_) => ("usage", self.to_string()),
            Self::Configuration(_) => ("invalid_configuration", self.to_string()),
            Self::Unreachable { .. } => ("unreachable", self.to_string()),
            Self::NotAuthorised { .. } => ("unauthorized", self.to_string()),
            Self::Forbidden(problem) | Self::Rejected(problem) | Self::Unable(problem) => {
                (problem.code.as_str(), problem.detail.clone())
            }
            Self::Failed(_) | Self::Output(_) => ("failed", self.to_string()),
        };
        let problems = match self {
            Self::Configuration(report) => report.located().collect(),
            Self::Rejected(problem) => problem.problems.clone(),
            _ => Vec::new(),
        };
        let mut document = json!({"success": false, "code": code, "detail": detail});
        if !problems.is_empty() {
            document["problems"] = json!(problems);
        }
        document
    }

    /// Prints the error and returns the exit code.
    pub(super) fn exit(self) -> ExitCode {
        let code = match &self {
            Self::Configuration(report) => {
                check::print(report);
                return ExitCode::from(BAD_CONFIGURATION);
            }
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Usage(_) => USAGE,
            Self::Unreachable { .. } => UNREACHABLE,
            Self::NotAuthorised { .. } | Self::Forbidden(_) => NOT_AUTHORISED,
            Self::Rejected(_) | Self::Unable(_) | Self::Failed(_) | Self::Output(_) => FAILED,
        };
        terminal::print_message(&self.to_string());
        ExitCode::from(code)
    }
}

/// Writes a document on one line. JSON has line feeds only between its tokens, where a space means
/// the same.
pub(super) fn one_line(document: &impl Serialize) -> Result<String, CommandError> {
    let text =
        serde_json::to_string(document).map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(terminal::escape_json(&text))
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
        for (address, url) in [
            ("0.0.0.0:9180", "http://127.0.0.1:9180"),
            ("[::]:9180", "http://[::1]:9180"),
        ] {
            assert_eq!(parse_url(address).as_deref(), Ok(url));
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

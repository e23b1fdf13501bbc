//! `hookstile verify`: explains why a captured request fails verification, and what to change.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::FAILED;
use super::admin::CommandError;
use super::config_file::ConfigArgs;
use super::input::{self, SecretsArgs};
use super::terminal::{self, visible};
use crate::config::{self, Authentication, RouteAddress};
use crate::event::EnvelopeSpec;
use crate::explain::{
    Candidate, Captured, Case, Diagnosis, GenuineContent, Limits, Request, Verdict,
};
use crate::providers::{self, PRESETS};
use crate::signature::{NamedSecret, Scheme, SignatureError};

/// The largest capture, in bytes. The gateway accepts no larger body.
const CAPTURE_BYTES_MAX: u64 = 1 << 30;

/// Explain why a captured request fails verification, and what to change
///
/// Verifies the request as the gateway would. If that fails, tries the usual mistakes with secrets,
/// signatures, bodies and clocks, and prints the changes that make the request genuine. Works
/// offline and prints no secret. Exit status: 0 if the request is genuine and holds an event or a
/// handshake; 1 if not; 2 if it cannot be verified; 78 if the configuration is invalid.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile capture --route billing | hookstile verify
  hookstile verify --request captured.http --config hookstile.yaml
  hookstile verify --request browser.har --config hookstile.yaml --route billing --entry 2
  hookstile verify --headers head.txt --body body.bin --provider github \\
    --secret-env WEBHOOK_SECRET --secret-file old.key --at 2026-01-31T12:00:00Z")]
pub struct Args {
    /// File with the request, `-` for standard input: what `hookstile capture` or `catch` prints, raw
    /// HTTP, a curl command, what `curl -v` or `curl --trace` prints, or a HAR [default: -]
    #[arg(long, value_name = "FILE", conflicts_with = "headers")]
    request: Option<PathBuf>,
    /// Number of the request to verify, if the file holds several
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "headers",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    entry: Option<u64>,
    /// File with the headers, one `Name: value` per line
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// File with the body, byte for byte: for --headers, or for a --request without one [default:
    /// -, standard input, with --headers]
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Provider whose scheme should have signed the request
    #[arg(long, value_name = "NAME", conflicts_with = "config",
        value_parser = PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name)))]
    provider: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Name of the route; all its secrets are tried, including expired ones [default: the only
    /// route, or the one with the host and path of the request]
    #[arg(long, value_name = "NAME", conflicts_with = "provider")]
    route: Option<String>,
    #[command(flatten)]
    secrets: SecretsArgs,
    /// Time at which the request was received: RFC 3339 or Unix seconds [default: as captured, else
    /// now]
    #[arg(long, value_name = "TIME", value_parser = input::timestamp)]
    at: Option<Timestamp>,
    /// URL that the sender sent the request to, if the scheme signs it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// The error of a request that could not be verified.
enum VerifyError {
    Usage(String),
    Config(config::Report),
}

impl From<String> for VerifyError {
    fn from(problem: String) -> Self {
        Self::Usage(problem)
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    match verify(args) {
        Ok(verdict) => {
            let genuine = matches!(
                &verdict,
                Verdict::Genuine {
                    content: GenuineContent::Event { .. } | GenuineContent::Handshake,
                    ..
                }
            );
            let shown = if args.json {
                format!("{}\n", terminal::json_line(&to_json(&verdict)))
            } else {
                to_text(&verdict)
            };
            let printed = terminal::finish(Ok(shown));
            if genuine {
                printed
            } else {
                ExitCode::from(FAILED)
            }
        }
        Err(VerifyError::Usage(problem)) => CommandError::Usage(problem).exit_with(args.json),
        Err(VerifyError::Config(report)) => {
            CommandError::Configuration(report.into()).exit_with(args.json)
        }
    }
}

fn verify(args: &Args) -> Result<Verdict, VerifyError> {
    let captured = args.captured()?;
    let with_config = args.provider.is_none();
    let (captured, mut authentication) = if with_config {
        args.choose(captured)?
    } else {
        (args.choose_request(captured, &[])?, args.preset()?)
    };
    let request = args.with_body(&captured)?;
    if let Some(note) = captured.note {
        terminal::print_message(note);
    }
    let extra = args.secrets.read()?;
    let configured = authentication.secrets.drain(..).map(|named| Candidate {
        named,
        configured: true,
    });
    let extra = extra.into_iter().map(|(name, secret)| Candidate {
        named: NamedSecret {
            name: name.into(),
            secret,
            expires: None,
        },
        configured: !with_config,
    });
    let candidates: Vec<_> = configured.chain(extra).collect();
    if candidates.is_empty() {
        return Err("give a secret to try: --secret-env or --secret-file"
            .to_owned()
            .into());
    }
    let others: Vec<_> = providers::schemes()
        .iter()
        .map(|(name, scheme)| (*name, args.with_url(scheme.clone())))
        .collect();
    let case = Case {
        request: &request,
        scheme: &args.with_url(authentication.scheme),
        candidates: &candidates,
        envelope: &authentication.envelope,
        handshake: authentication.challenge.as_ref(),
        others: &others,
        url: args.url.as_deref(),
        now: args.at.or(captured.at).unwrap_or_else(Timestamp::now),
        limits: Limits::default(),
    };
    Ok(case.verify())
}

impl Args {
    fn with_url(&self, mut scheme: Scheme) -> Scheme {
        if let Some(url) = &self.url {
            scheme.signed = scheme.signed.with_url(url);
        }
        scheme
    }

    /// Reads the requests of the capture; one, unless its form can hold several.
    fn captured(&self) -> Result<Vec<Captured>, String> {
        let named = |path: &Path, problem: &dyn std::fmt::Display| {
            let name = if path == Path::new("-") {
                "standard input".into()
            } else {
                path.display().to_string()
            };
            format!("{name}: {problem}")
        };
        if let Some(path) = &self.headers {
            let head = Request::parse_head(&read(path)?).map_err(|error| named(path, &error))?;
            return Ok(vec![Captured {
                request: head,
                no_body: Some("give the body with --body"),
                ..Captured::default()
            }]);
        }
        let path = self.request.as_deref().unwrap_or(Path::new("-"));
        let text = read(path)?;
        if text.is_empty() && self.request.is_none() {
            return Err("standard input is empty: give --request, or --headers".into());
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut files = |name: &str| match name {
            "-" => read(Path::new(name)),
            // Relative paths refer to the folder of the saved command.
            name => read(&folder.join(name)),
        };
        Captured::parse(&text, &mut files).or_else(|error| {
            // With --body, the head may be all that was saved.
            let head = self.body.as_ref().and(Request::parse_head(&text).ok());
            let head = head.ok_or_else(|| named(path, &error))?;
            Ok(vec![Captured {
                request: head,
                ..Captured::default()
            }])
        })
    }

    /// Returns the request with its body.
    fn with_body(&self, captured: &Captured) -> Result<Request, String> {
        let body = match (&self.body, captured.no_body) {
            (Some(path), _) => read(path)?.into(),
            (None, Some(_)) if self.headers.is_some() => read(Path::new("-"))?.into(),
            (None, Some(reason)) => return Err(reason.into()),
            (None, None) => captured.request.body.clone(),
        };
        Ok(Request {
            body,
            ..captured.request.clone()
        })
    }

    /// Chooses one request of a capture and its route, and loads what verifies it.
    fn choose(&self, captured: Vec<Captured>) -> Result<(Captured, Authentication), VerifyError> {
        let mut chosen = None;
        let choose = |routes: &[RouteAddress]| {
            let is_named = |route: &&RouteAddress| {
                let name = self.route.as_ref();
                name.is_none_or(|name| *name == route.name)
            };
            let routes: Vec<_> = routes.iter().filter(is_named).cloned().collect();
            let captured = self.choose_request(captured, &routes)?;
            let route = match &self.route {
                Some(name) => name.clone(),
                None => choose_route(&captured, &routes)?.name.clone(),
            };
            chosen = Some(captured);
            Ok::<_, String>(route)
        };
        let env = |name: &str| std::env::var(name).ok();
        let authentication = config::chosen_authentication(&self.config.path(), &env, choose)
            .map_err(VerifyError::Config)??;
        let captured = chosen.ok_or_else(|| "no request was chosen".to_owned())?;
        Ok((captured, authentication))
    }

    /// Chooses one request out of those of a capture.
    fn choose_request(
        &self,
        mut captured: Vec<Captured>,
        routes: &[RouteAddress],
    ) -> Result<Captured, String> {
        let count = captured.len();
        if let Some(number) = self.entry {
            let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
            if index >= count {
                return Err(format!(
                    "there is no request {number}; the capture holds {count}"
                ));
            }
            return Ok(captured.swap_remove(index));
        }
        let fitting: Vec<_> = (0..count)
            .filter(|&index| routes.iter().any(|route| is_for(&captured[index], route)))
            .collect();
        match (count, &fitting[..]) {
            (1, _) => Ok(captured.swap_remove(0)),
            (_, [index]) => Ok(captured.swap_remove(*index)),
            (_, fitting) => {
                let listed = if fitting.is_empty() {
                    (0..count).collect()
                } else {
                    fitting.to_vec()
                };
                Err(describe_requests(&captured, &listed))
            }
        }
    }

    fn preset(&self) -> Result<Authentication, String> {
        let preset = self.provider.as_deref().and_then(providers::find);
        let preset = preset.ok_or("give --provider, or --config")?;
        Ok(Authentication {
            scheme: (preset.scheme)(),
            secrets: Vec::new(),
            // Without a route, no freshness rule applies.
            envelope: EnvelopeSpec {
                timestamp: None,
                ..(preset.defaults.envelope)()
            },
            challenge: preset.handshake.challenge(),
            provider: Some(preset.name),
            events: Vec::new(),
            endpoint: Err("no route is given".into()),
        })
    }
}

/// Chooses the route that the request is for: the only one, or the one with its host and path.
fn choose_route<'r>(
    captured: &Captured,
    routes: &'r [RouteAddress],
) -> Result<&'r RouteAddress, String> {
    if let [only] = routes {
        return Ok(only);
    }
    let fitting = routes.iter().filter(|route| is_for(captured, route));
    // A route that names the host takes precedence.
    let fitting = fitting.max_by_key(|route| route.host.is_some());
    fitting.ok_or_else(|| {
        let known: Vec<_> = routes
            .iter()
            .map(|route| format!("{} ({})", route.name, route.path))
            .collect();
        let path = match path_of(captured) {
            "" => "the capture does not say the path of the request".into(),
            path => format!("no route has the path `{path}`"),
        };
        format!("{path}: give --route with one of {}", known.join(", "))
    })
}

/// Returns whether the gateway would take the request for this route.
fn is_for(captured: &Captured, route: &RouteAddress) -> bool {
    let host = captured.request.headers.get(http::header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, _)| name)
        .to_ascii_lowercase();
    path_of(captured) == route.path && route.host.as_ref().is_none_or(|host| *host == name)
}

fn path_of(captured: &Captured) -> &str {
    let target = captured.request.target.as_deref().unwrap_or_default();
    target.split('?').next().unwrap_or_default()
}

/// The most requests of a capture that are listed.
const LISTED_MAX: usize = 20;

/// Lists the requests of a capture, so that one can be chosen.
fn describe_requests(captured: &[Captured], listed: &[usize]) -> String {
    let mut text = format!(
        "the capture holds {} requests; choose one with --entry:",
        captured.len()
    );
    for &index in listed.iter().take(LISTED_MAX) {
        let one = &captured[index];
        let _ = write!(
            text,
            "\n  {}: {} {} ({} bytes)",
            index + 1,
            one.method,
            path_of(one),
            one.request.body.len()
        );
    }
    if listed.len() > LISTED_MAX {
        let _ = write!(text, "\n  and {} more", listed.len() - LISTED_MAX);
    }
    text
}

/// Reads a capture from a file, or from standard input for `-`.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let path = Some(path).filter(|path| *path != Path::new("-"));
    let read = match path {
        Some(path) => File::open(path)
            .and_then(|file| file.take(CAPTURE_BYTES_MAX + 1).read_to_end(&mut bytes)),
        None => io::stdin()
            .lock()
            .take(CAPTURE_BYTES_MAX + 1)
            .read_to_end(&mut bytes),
    };
    let name = path.map_or_else(
        || "standard input".into(),
        |path| path.display().to_string(),
    );
    match read {
        Err(error) => Err(format!("cannot read {name}: {error}")),
        Ok(_) if bytes.len() as u64 > CAPTURE_BYTES_MAX => {
            Err(format!("{name} is larger than 1 GiB"))
        }
        Ok(_) => Ok(bytes),
    }
}

fn to_text(verdict: &Verdict) -> String {
    let mut lines = Vec::new();
    match verdict {
        Verdict::Genuine { secret, content } => {
            lines.push(format!("genuine: signed with the secret `{secret}`"));
            lines.push(match content {
                GenuineContent::Event {
                    id: Some(id),
                    event_type,
                } => {
                    format!("event: `{id}`, of type `{event_type}`")
                }
                GenuineContent::Event {
                    id: None,
                    event_type,
                } => {
                    format!("event: of type `{event_type}`, identified by its body")
                }
                GenuineContent::Handshake => {
                    "event: none; the request is the provider's handshake".into()
                }
                GenuineContent::Invalid(error) => {
                    format!("but the gateway rejects it (invalid_event): {error}")
                }
            });
        }
        Verdict::NotGenuine(diagnosis) => push_diagnosis(diagnosis, &mut lines),
    }
    let mut text = String::new();
    for line in lines {
        let _ = writeln!(text, "{}", visible(&line, false));
    }
    text
}

fn push_diagnosis(diagnosis: &Diagnosis, lines: &mut Vec<String>) {
    lines.push(format!(
        "not genuine: {} ({})",
        diagnosis.found,
        diagnosis.failure.label()
    ));
    lines.extend(diagnosis.notes.iter().map(|note| format!("note: {note}")));
    for explanation in &diagnosis.explanations {
        let changes: Vec<_> = explanation
            .changes
            .iter()
            .map(|change| change.how.as_str())
            .collect();
        lines.push(String::new());
        // A change to another secret already names that secret.
        let secret = match format!("`{}`", explanation.secret) {
            name if changes.iter().any(|how| how.contains(&name)) => String::new(),
            name => format!(" (secret {name})"),
        };
        lines.push(format!(
            "it would match: {}{secret}",
            changes.join(", and ")
        ));
        lines.extend(
            explanation
                .changes
                .iter()
                .map(|change| format!("what to do: {}", change.advice)),
        );
    }
    if diagnosis.explanations.is_empty() {
        // Without a signature that can be read, no secret can be at fault.
        if diagnosis.failure == SignatureError::Mismatch {
            let stopped = if diagnosis.cut_short {
                "; the search was stopped at its limit"
            } else {
                ""
            };
            lines.push(format!(
                "nothing that was tried matches ({} signatures computed{stopped})",
                diagnosis.tried
            ));
            lines.push(
                "remaining causes: a different secret, or a change to the body that was not tried"
                    .into(),
            );
        }
        let steps = diagnosis.advice.iter();
        lines.extend(steps.map(|step| format!("what to do: {step}")));
    }
}

fn to_json(verdict: &Verdict) -> Value {
    let shown = |text: &str| visible(text, false).into_owned();
    match verdict {
        Verdict::Genuine { secret, content } => {
            let event = match content {
                GenuineContent::Event { id, event_type } => {
                    json!({"id": id.as_deref().map(shown), "type": shown(event_type)})
                }
                GenuineContent::Handshake => json!({"handshake": true}),
                GenuineContent::Invalid(error) => {
                    json!({"invalid": error.reason(), "detail": error.to_string()})
                }
            };
            json!({
                "verified": true,
                "failure": null,
                "secret": shown(secret),
                "event": event,
                "explanations": [],
                "tried": 0,
            })
        }
        Verdict::NotGenuine(diagnosis) => {
            let explanations = diagnosis.explanations.iter().map(|explanation| {
                let changes = explanation.changes.iter().map(|change| {
                    json!({
                        "what": change.kind.label(),
                        "how": shown(&change.how),
                        "advice": shown(&change.advice),
                    })
                });
                json!({
                    "secret": shown(&explanation.secret),
                    "changes": changes.collect::<Vec<_>>(),
                })
            });
            let advice = diagnosis.advice.iter().map(|step| shown(step));
            json!({
                "verified": false,
                "failure": diagnosis.failure.label(),
                "found": shown(&diagnosis.found),
                "notes": diagnosis.notes.iter().map(|note| shown(note)).collect::<Vec<_>>(),
                "advice": advice.collect::<Vec<_>>(),
                "secret": null,
                "event": null,
                "explanations": explanations.collect::<Vec<_>>(),
                "tried": diagnosis.tried,
            })
        }
    }
}

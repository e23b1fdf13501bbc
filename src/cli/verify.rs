//! `hookstile verify`: explains why a captured request fails verification, and what to change.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::check::{self, BAD_CONFIGURATION};
use super::input::{self, SecretsArgs};
use super::terminal::{self, visible};
use super::{FAILED, USAGE};
use crate::config::{self, Authentication};
use crate::event::EnvelopeSpec;
use crate::explain::{Candidate, Case, Diagnosis, GenuineContent, Limits, Request, Verdict};
use crate::providers::{self, PRESETS};
use crate::signature::{NamedSecret, Scheme};

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
  hookstile verify --request captured.http --config hookstile.yaml --route billing
  hookstile verify --headers head.txt --body body.bin --provider github \\
    --secret-env WEBHOOK_SECRET --secret-file old.key --at 2026-01-31T12:00:00Z")]
pub struct Args {
    /// File with the request: raw HTTP (request line, headers, blank line, body), or a curl command
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["headers", "body"],
        required_unless_present = "headers"
    )]
    request: Option<PathBuf>,
    /// File with the headers, one `Name: value` per line
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// File with the body for --headers, byte for byte [default: -, standard input]
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Provider whose scheme should have signed the request
    #[arg(long, value_name = "NAME", required_unless_present = "config", conflicts_with = "config",
        value_parser = PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name)))]
    provider: Option<String>,
    /// Configuration file with the route that the request was sent to
    #[arg(long, short, value_name = "FILE", requires = "route")]
    config: Option<PathBuf>,
    /// Name of the route; all its secrets are tried, including expired ones
    #[arg(long, value_name = "NAME", requires = "config")]
    route: Option<String>,
    #[command(flatten)]
    secrets: SecretsArgs,
    /// Time at which the request was received: RFC 3339 or Unix seconds [default: now]
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
        Err(VerifyError::Usage(problem)) => {
            terminal::print_message(&visible(&problem, false));
            ExitCode::from(USAGE)
        }
        Err(VerifyError::Config(report)) => {
            check::print(&report);
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

fn verify(args: &Args) -> Result<Verdict, VerifyError> {
    let request = args.request()?;
    let extra = args.secrets.read()?;
    let mut authentication = args.authentication()?;
    let with_config = args.config.is_some();
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
    let mut others: Vec<(&'static str, Scheme)> = Vec::new();
    for preset in PRESETS {
        let scheme = args.with_url((preset.scheme)());
        if !others.iter().any(|(_, other)| *other == scheme) {
            others.push((preset.name, scheme));
        }
    }
    let case = Case {
        request: &request,
        scheme: &args.with_url(authentication.scheme),
        candidates: &candidates,
        envelope: &authentication.envelope,
        handshake: authentication.challenge.as_ref(),
        others: &others,
        url: args.url.as_deref(),
        now: args.at.unwrap_or_else(Timestamp::now),
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

    fn request(&self) -> Result<Request, String> {
        let with_path =
            |path: &Path, problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
        if let Some(path) = &self.request {
            let text = read(Some(path))?;
            let folder = path.parent().unwrap_or(Path::new(""));
            let mut files = |name: &str| match name {
                "-" => read(None),
                // Relative paths refer to the folder of the saved command.
                name => read(Some(&folder.join(name))),
            };
            return Request::parse(&text, &mut files).map_err(|error| with_path(path, &error));
        }
        let path = self
            .headers
            .as_deref()
            .ok_or("give --request, or --headers")?;
        let head =
            Request::parse_head(&read(Some(path))?).map_err(|error| with_path(path, &error))?;
        let body = self.body.as_deref().filter(|path| *path != Path::new("-"));
        Ok(Request {
            body: read(body)?.into(),
            ..head
        })
    }

    fn authentication(&self) -> Result<Authentication, VerifyError> {
        if let (Some(path), Some(route)) = (&self.config, &self.route) {
            let env = |name: &str| std::env::var(name).ok();
            return config::authentication(path, &env, route).map_err(VerifyError::Config);
        }
        let preset = self.provider.as_deref().and_then(providers::find);
        let preset = preset.ok_or_else(|| "give --provider, or --config and --route".to_owned())?;
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

/// Reads a capture from a file, or from standard input.
fn read(path: Option<&Path>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
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
        lines.push(
            "what to do: Copy the secret again from the provider's settings into a file, and \
             try it with --secret-file."
                .into(),
        );
        lines.push(
            "what to do: Capture the raw bytes of the request before any proxy or framework \
             changes them, and verify those."
                .into(),
        );
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
            json!({
                "verified": false,
                "failure": diagnosis.failure.label(),
                "found": shown(&diagnosis.found),
                "notes": diagnosis.notes.iter().map(|note| shown(note)).collect::<Vec<_>>(),
                "secret": null,
                "event": null,
                "explanations": explanations.collect::<Vec<_>>(),
                "tried": diagnosis.tried,
            })
        }
    }
}

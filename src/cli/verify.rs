//! `hookstile verify`: why a captured request is not genuine, and what to change. Sends nothing.

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

/// The biggest capture, in bytes. The gateway takes no bigger body.
const CAPTURE_BYTES_MAX: u64 = 1 << 30;

/// Explain why a captured request fails verification, and what to change
///
/// Judges it as the gateway would. If it is not genuine, tries what usually goes wrong with secrets, signatures, bodies and
/// clocks, and says with which change it would be. Sends nothing, and prints no secret. Exit status: 0 when it is genuine and
/// an event, 1 when not, 2 when it can't be judged, 78 for a bad configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile verify --request captured.http --config hookstile.yaml --route billing
  hookstile verify --headers head.txt --body body.bin --provider github \\
    --secret-env WEBHOOK_SECRET --secret-file old.key --at 2026-01-31T12:00:00Z")]
pub struct Args {
    /// A saved message: raw HTTP (request line, headers, blank line, body), or a curl command line.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["headers", "body"], required_unless_present = "headers")]
    request: Option<PathBuf>,
    /// The headers, `Name: value` a line.
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// The body that goes with --headers, byte for byte; standard input without it, or with `-`.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Whose scheme it should be signed with.
    #[arg(long, value_name = "NAME", required_unless_present = "config", conflicts_with = "config",
        value_parser = PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name)))]
    provider: Option<String>,
    /// The configuration with the route that it was sent to.
    #[arg(long, short, value_name = "FILE", requires = "route")]
    config: Option<PathBuf>,
    /// The route's name. Its secrets are tried, those that have expired too.
    #[arg(long, value_name = "NAME", requires = "config")]
    route: Option<String>,
    #[command(flatten)]
    secrets: SecretsArgs,
    /// When it was received: RFC 3339, or Unix seconds. Default: now.
    #[arg(long, value_name = "TIME", value_parser = input::moment)]
    at: Option<Timestamp>,
    /// The URL that the sender sent it to, where the scheme signs it.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

/// Why there is no verdict.
enum Unjudged {
    Usage(String),
    Config(config::Report),
}

impl From<String> for Unjudged {
    fn from(problem: String) -> Self {
        Self::Usage(problem)
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    match judge(args) {
        Ok(verdict) => {
            let genuine = matches!(
                &verdict,
                Verdict::Genuine {
                    content: GenuineContent::Event { .. } | GenuineContent::Handshake,
                    ..
                }
            );
            let shown = if args.json {
                format!("{}\n", to_json(&verdict))
            } else {
                in_words(&verdict)
            };
            let printed = terminal::finish(Ok(shown));
            if genuine {
                printed
            } else {
                ExitCode::from(FAILED)
            }
        }
        Err(Unjudged::Usage(problem)) => {
            terminal::tell(&visible(&problem, false));
            ExitCode::from(USAGE)
        }
        Err(Unjudged::Config(report)) => {
            check::print(&report, false);
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

fn judge(args: &Args) -> Result<Verdict, Unjudged> {
    let request = args.request()?;
    let given = args.secrets.read()?;
    let mut authentication = args.authentication()?;
    let with_config = args.config.is_some();
    let configured = authentication.secrets.drain(..).map(|named| Candidate {
        named,
        configured: true,
    });
    let given = given.into_iter().map(|(name, secret)| Candidate {
        named: NamedSecret {
            name: name.into(),
            secret,
            expires: None,
        },
        configured: !with_config,
    });
    let candidates: Vec<_> = configured.chain(given).collect();
    if candidates.is_empty() {
        return Err("give a secret to try: --secret-env or --secret-file"
            .to_owned()
            .into());
    }
    let at_url = |mut scheme: Scheme| {
        if let Some(url) = &args.url {
            scheme.signed = scheme.signed.with_url(url);
        }
        scheme
    };
    let mut others: Vec<(&'static str, Scheme)> = Vec::new();
    for preset in PRESETS {
        let scheme = at_url((preset.scheme)());
        if !others.iter().any(|(_, other)| *other == scheme) {
            others.push((preset.name, scheme));
        }
    }
    let case = Case {
        request: &request,
        scheme: &at_url(authentication.scheme),
        candidates: &candidates,
        envelope: &authentication.envelope,
        asks: authentication.challenge.as_ref(),
        others: &others,
        url: args.url.as_deref(),
        now: args.at.unwrap_or_else(Timestamp::now),
        limits: Limits::default(),
    };
    Ok(case.judge())
}

impl Args {
    fn request(&self) -> Result<Request, String> {
        let said =
            |path: &Path, problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
        if let Some(path) = &self.request {
            let text = read(Some(path))?;
            let folder = path.parent().unwrap_or(Path::new(""));
            let mut files = |name: &str| match name {
                "-" => read(None),
                // As in the folder where the command was saved.
                name => read(Some(&folder.join(name))),
            };
            return Request::parse(&text, &mut files).map_err(|error| said(path, &error));
        }
        let path = self
            .headers
            .as_deref()
            .ok_or("give --request, or --headers")?;
        let head = Request::parse_head(&read(Some(path))?).map_err(|error| said(path, &error))?;
        let body = self.body.as_deref().filter(|path| *path != Path::new("-"));
        Ok(Request {
            body: read(body)?.into(),
            ..head
        })
    }

    fn authentication(&self) -> Result<Authentication, Unjudged> {
        if let (Some(path), Some(route)) = (&self.config, &self.route) {
            let env = |name: &str| std::env::var(name).ok();
            return config::authentication(path, &env, route).map_err(Unjudged::Config);
        }
        let preset = self.provider.as_deref().and_then(providers::find);
        let preset = preset.ok_or_else(|| "give --provider, or --config and --route".to_owned())?;
        Ok(Authentication {
            scheme: (preset.scheme)(),
            secrets: Vec::new(),
            // A time that no route asks for is no reason to refuse an event.
            envelope: EnvelopeSpec {
                timestamp: None,
                ..(preset.defaults.envelope)()
            },
            challenge: preset.handshake.challenge(),
        })
    }
}

/// A capture's file, or standard input.
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
    let place = path.map_or_else(
        || "standard input".into(),
        |path| path.display().to_string(),
    );
    match read {
        Err(error) => Err(format!("cannot read {place}: {error}")),
        Ok(_) if bytes.len() as u64 > CAPTURE_BYTES_MAX => {
            Err(format!("{place} is bigger than 1 GiB"))
        }
        Ok(_) => Ok(bytes),
    }
}

fn in_words(verdict: &Verdict) -> String {
    let mut lines = Vec::new();
    match verdict {
        Verdict::Genuine { secret, content } => {
            lines.push(format!("genuine: signed with the secret `{secret}`"));
            lines.push(match content {
                GenuineContent::Event { id: Some(id), kind } => {
                    format!("event: `{id}`, of type `{kind}`")
                }
                GenuineContent::Event { id: None, kind } => {
                    format!("event: of type `{kind}`; its body is its ID")
                }
                GenuineContent::Handshake => "event: none; it is the sender's handshake".into(),
                GenuineContent::Invalid(error) => {
                    format!("but the gateway refuses it (invalid_event): {error}")
                }
            });
        }
        Verdict::NotGenuine(diagnosis) => diagnosis_in_words(diagnosis, &mut lines),
    }
    let mut text = String::new();
    for line in lines {
        let _ = writeln!(text, "{}", visible(&line, false));
    }
    text
}

fn diagnosis_in_words(diagnosis: &Diagnosis, lines: &mut Vec<String>) {
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
        // A change to another secret names it already.
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
            ", where the search was cut short"
        } else {
            ""
        };
        lines.push(format!(
            "nothing that was tried matches ({} signatures computed{stopped})",
            diagnosis.tried
        ));
        lines.push(
            "left: the secret is another one, or the body was changed in a way that was not tried"
                .into(),
        );
        lines.push(
            "what to do: Copy the secret anew from the sender's settings into a file, and try it with --secret-file."
                .into(),
        );
        lines.push(
            "what to do: Capture the request's raw bytes in front of every proxy and framework, and verify those."
                .into(),
        );
    }
}

fn to_json(verdict: &Verdict) -> Value {
    let shown = |text: &str| visible(text, false).into_owned();
    match verdict {
        Verdict::Genuine { secret, content } => {
            let event = match content {
                GenuineContent::Event { id, kind } => {
                    json!({"id": id.as_deref().map(shown), "type": shown(kind)})
                }
                GenuineContent::Handshake => json!({"handshake": true}),
                GenuineContent::Invalid(error) => {
                    json!({"invalid": error.reason(), "detail": error.to_string()})
                }
            };
            json!({
                "verified": true, "failure": null, "secret": shown(secret), "event": event, "explanations": [], "tried": 0,
            })
        }
        Verdict::NotGenuine(diagnosis) => {
            let explanations = diagnosis.explanations.iter().map(|explanation| {
                let changes = explanation.changes.iter().map(|change| {
                    json!({"what": change.what.label(), "how": shown(&change.how), "advice": shown(&change.advice)})
                });
                json!({"secret": shown(&explanation.secret), "changes": changes.collect::<Vec<_>>()})
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

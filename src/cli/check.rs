//! `hookstile check`: reports every problem of a configuration, without starting the gateway.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal;
use crate::app::OpenFiles;
use crate::config::{self, Report, Severity};
use crate::ledger::KnownBy;
use crate::route::{OnDuplicate, Route};

/// `EX_CONFIG` of sysexits.h: the configuration is invalid.
pub const BAD_CONFIGURATION: u8 = 78;

/// Check a configuration file
///
/// Prints every problem with its line in the file. Exit status: 0 if the configuration is valid,
/// with or without warnings; 78 if it is invalid.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile check --config /etc/hookstile/hookstile.yaml
  hookstile check --json | jq -r .message")]
pub struct Args {
    /// File to check
    #[arg(long, value_name = "FILE", default_value = "hookstile.yaml")]
    pub config: PathBuf,
    /// Print the problems as JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Checks `args.config` with the environment variables of this process.
pub fn run(args: &Args) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    match config::load(&args.config, &env) {
        Ok(mut loaded) => {
            // The service may run with another limit than this shell, so this is a warning.
            let connections = loaded.config.limits.connections;
            if let Some(shortage) = OpenFiles::attainable().shortage(connections) {
                loaded
                    .warnings
                    .add_warning(shortage.to_string(), shortage.help());
            }
            print(&loaded.warnings, args.json);
            if !args.json {
                let routes = loaded.config.routes.len();
                let warnings = loaded.warnings.count(Severity::Warning);
                let _ = writeln!(
                    std::io::stderr(),
                    "{}: valid, {}, {}",
                    args.config.display(),
                    plural(routes, "route"),
                    plural(warnings, "warning")
                );
                for route in &loaded.config.routes {
                    if let Some(text) = acknowledged_unseen(route) {
                        let _ = writeln!(std::io::stderr(), "route `{}`: {text}", route.name);
                    }
                }
            }
            ExitCode::SUCCESS
        }
        Err(report) => {
            print(&report, args.json);
            if !args.json {
                let (errors, warnings) = (
                    report.count(Severity::Error),
                    report.count(Severity::Warning),
                );
                let _ = writeln!(
                    std::io::stderr(),
                    "{}: {}, {}",
                    args.config.display(),
                    plural(errors, "error"),
                    plural(warnings, "warning")
                );
            }
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

/// Prints a report: JSON to standard output, or text to standard error, in colour on a terminal
/// unless `NO_COLOR` is set.
pub(super) fn print(report: &Report, json: bool) {
    // A closed pipe is not an error.
    let _ = if json {
        std::io::stdout().write_all(report.to_json_lines().as_bytes())
    } else {
        let mut stderr = std::io::stderr();
        let text = report.to_text(terminal::supports_colour(&stderr));
        stderr.write_all(text.as_bytes())
    };
}

/// Returns a sentence about the verified events that a route answers with 200 and does not deliver.
/// Returns `None` if there are none.
fn acknowledged_unseen(route: &Route) -> Option<String> {
    let mut kinds = Vec::new();
    if route.replay.on_duplicate == OnDuplicate::Acknowledge {
        match route.identity.events_are_known_by() {
            KnownBy::Id => kinds.push("copies of a delivered event, and its ID with another body"),
            KnownBy::Parts => {
                kinds.push("copies of a delivered event: ID, type and body are equal");
            }
            KnownBy::Body => kinds.push("copies of a delivered event: the body is equal"),
            KnownBy::Nothing => {}
        }
    }
    if route.events.patterns().next().is_some() {
        kinds.push("events of other types than `events` has");
    }
    (!kinds.is_empty()).then(|| {
        format!(
            "answers 200 and does not deliver {} (listed by `hookstile rejections list`)",
            kinds.join("; ")
        )
    })
}

/// Formats a count with its noun, with an `s` unless the count is 1.
pub(super) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

//! `hookstile check`: reports every problem of a configuration, without starting the gateway.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::config_file::ConfigFileArgs;
use super::terminal;
use crate::app::OpenFiles;
use crate::config::{self, Config, Loaded, Report};
use crate::diagnostic::Severity;
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
  hookstile check
  hookstile check -c /etc/hookstile/hookstile.yaml
  hookstile check --without-secrets --json - < hookstile.yaml | jq -r '.problems[].message'")]
pub struct Args {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Read no secrets, tokens and TLS keys, and list them instead: for CI, or before systemd's
    /// credentials exist
    #[arg(long)]
    without_secrets: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Checks a configuration with the environment variables of this process.
pub(super) fn run(args: &Args) -> ExitCode {
    let path = args.config.path();
    let env = |name: &str| std::env::var(name).ok();
    let loaded = if args.without_secrets {
        config::load_without_secrets(&path, &env)
    } else {
        config::load(&path, &env)
    };
    let result = loaded.map(|Loaded { config, warnings }| {
        let warnings = with_open_files(warnings, &config);
        (config, warnings)
    });
    let (config, report) = match &result {
        Ok((config, warnings)) => (Some(config), warnings),
        Err(report) => (None, report),
    };
    if args.json {
        let document = terminal::json_line(&to_json(config, report));
        // A closed pipe is not an error.
        let _ = terminal::print(&document);
    } else {
        print(report);
        print_summary(config, report);
    }
    ExitCode::from(if config.is_some() {
        0
    } else {
        BAD_CONFIGURATION
    })
}

/// Adds a warning if too few files may be open. It is not an error, because the service may run
/// with another limit than this shell.
fn with_open_files(mut warnings: Report, config: &Config) -> Report {
    let connections = config.limits.connections;
    if let Some(shortage) = OpenFiles::attainable().shortage(connections) {
        warnings.add_warning(shortage.to_string(), shortage.help());
    }
    warnings
}

fn to_json(config: Option<&Config>, report: &Report) -> serde_json::Value {
    json!({
        "success": config.is_some(),
        "file": report.main_file(),
        "routes": config.map(|config| config.routes.len()),
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
        "problems": report.located().collect::<Vec<_>>(),
        "unchecked": config.map(|config| &config.files.unchecked),
        "acknowledged": config.map(acknowledged),
    })
}

fn print_summary(config: Option<&Config>, report: &Report) {
    let counted = match config {
        Some(config) => format!("valid, {}", plural(config.routes.len(), "route")),
        None => plural(report.count(Severity::Error), "error"),
    };
    let warnings = plural(report.count(Severity::Warning), "warning");
    terminal::print_line(&format!("{}: {counted}, {warnings}", report.main_file()));
    let Some(config) = config else { return };
    if !config.files.unchecked.is_empty() {
        let unchecked = config.files.unchecked.join(", ");
        terminal::print_line(&format!("not checked: {unchecked}"));
    }
    for Acknowledged { route, events } in acknowledged(config) {
        terminal::print_line(&format!(
            "route `{route}`: answers 200 and does not deliver {} (listed by `hookstile rejections \
             list`)",
            events.join("; ")
        ));
    }
}

/// Prints a report to standard error, in colour on a terminal unless `NO_COLOR` is set.
pub(super) fn print(report: &Report) {
    let text = report.to_text(terminal::supports_colour(&std::io::stderr()));
    terminal::print_raw(&text);
}

/// The verified events that a route answers with 200 and does not deliver.
#[derive(Serialize)]
struct Acknowledged<'a> {
    route: &'a str,
    /// The kinds of the events. At least one.
    events: Vec<&'static str>,
}

/// Returns the routes that answer some verified events with 200 and do not deliver them.
fn acknowledged(config: &Config) -> Vec<Acknowledged<'_>> {
    let routes = config.routes.iter().map(|route| Acknowledged {
        route: &route.name,
        events: acknowledged_unseen(route),
    });
    routes.filter(|route| !route.events.is_empty()).collect()
}

fn acknowledged_unseen(route: &Route) -> Vec<&'static str> {
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
    kinds
}

/// Formats a count with its noun, with an `s` unless the count is 1.
pub(super) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

//! `hookstile check`: says everything that is wrong with a configuration, without serving anything.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal;
use crate::config::{self, Report, Severity};

/// sysexits.h, `EX_CONFIG`.
pub const BAD_CONFIGURATION: u8 = 78;

/// Check a configuration file
///
/// Prints every problem with its place in the file. Exit status: 0 when the file can be used, with or without warnings;
/// 78 when it can't.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile check --config /etc/hookstile/hookstile.yaml
  hookstile check --json | jq -r .message")]
pub struct Args {
    /// The file to check
    #[arg(long, value_name = "FILE", default_value = "hookstile.yaml")]
    pub config: PathBuf,
    /// Print the problems as JSON on standard output, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Checks `args.config` in the environment of this process.
pub fn run(args: &Args) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    match config::load(&args.config, &env) {
        Ok(loaded) => {
            print(&loaded.warnings, args.json);
            if !args.json {
                let routes = loaded.config.routes.len();
                let warnings = loaded.warnings.count(Severity::Warning);
                let _ = writeln!(
                    std::io::stderr(),
                    "{}: valid, {}, {}",
                    args.config.display(),
                    counted(routes, "route"),
                    counted(warnings, "warning")
                );
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
                    counted(errors, "error"),
                    counted(warnings, "warning")
                );
            }
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

/// Text goes to standard error, coloured on a terminal unless `NO_COLOR` is set.
pub(super) fn print(report: &Report, json: bool) {
    // A reader that has gone away is no reason to fail.
    let _ = if json {
        std::io::stdout().write_all(report.to_json_lines().as_bytes())
    } else {
        let mut stderr = std::io::stderr();
        let text = report.to_text(terminal::takes_colour(&stderr));
        stderr.write_all(text.as_bytes())
    };
}

pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

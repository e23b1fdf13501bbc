//! `hookstile reload`: makes a running gateway reload its configuration.

use std::process::ExitCode;

use serde_json::json;

use super::admin::{CommandError, GatewayArgs, one_line};
use super::{FAILED, check, terminal};
use crate::admin::shape::Reloaded;
use crate::diagnostic::LocatedDiagnostic;

/// Make a running gateway reload its configuration
///
/// All routes change at once, or none. Exit status: 0 if the configuration was applied; 1 if it is
/// invalid, with its errors and warnings printed; 69 if the gateway cannot be reached; 77 if it requires
/// another token; 78 if the admin listener's address cannot be read from FILE.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile reload
  hookstile reload -c /etc/hookstile/hookstile.yaml")]
pub struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    reload(args).unwrap_or_else(|error| error.exit_with(args.json))
}

fn reload(args: &Args) -> Result<ExitCode, CommandError> {
    match args
        .gateway
        .admin()?
        .post::<Reloaded>("/reload", &json!({}))
    {
        Ok(reloaded) if args.json => {
            terminal::print(&one_line(&reloaded)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(reloaded) => {
            print_diagnostics(&reloaded.warnings);
            terminal::print(&format!(
                "reloaded: {}",
                check::plural(reloaded.routes, "route")
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(CommandError::Rejected(problem)) if problem.code == "invalid_configuration" => {
            if args.json {
                let document = CommandError::Rejected(problem).to_json();
                terminal::print(&terminal::json_line(&document))?;
            } else {
                print_diagnostics(&problem.problems);
                terminal::print_message(
                    "not reloaded: the configuration is invalid; the gateway keeps the current one",
                );
            }
            Ok(ExitCode::from(FAILED))
        }
        Err(failure) => Err(failure),
    }
}

fn print_diagnostics(diagnostics: &[LocatedDiagnostic]) {
    for diagnostic in diagnostics {
        let line = format!("{}: {diagnostic}", diagnostic.severity.as_str());
        terminal::print_line(&terminal::visible(&line, false));
    }
}

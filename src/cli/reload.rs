//! `hookstile reload`: makes a running gateway reload its configuration.

use std::process::ExitCode;

use serde_json::json;

use super::admin::{CommandError, GatewayArgs};
use super::{FAILED, check, terminal};
use crate::admin::shape::{Problem, Reloaded};

/// Make a running gateway reload its configuration
///
/// All routes change at once, or none. Exit status: 0 if the configuration was applied; 1 if it is
/// invalid, with its problems printed; 69 if the gateway cannot be reached; 77 if it requires
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
            terminal::print(&terminal::json_line(&json!(reloaded)))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(reloaded) => {
            print_messages(&reloaded.warnings);
            terminal::print(&format!(
                "reloaded: {}",
                check::plural(reloaded.routes, "route")
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(CommandError::Rejected(problem)) if problem.code == "invalid_configuration" => {
            let Problem {
                code,
                detail,
                problems,
                ..
            } = *problem;
            if args.json {
                let document =
                    json!({"success": false, "code": code, "detail": detail, "problems": problems});
                terminal::print(&terminal::json_line(&document))?;
            } else {
                print_messages(&problems);
                terminal::print_message(
                    "not reloaded: the configuration is invalid; the gateway keeps the current one",
                );
            }
            Ok(ExitCode::from(FAILED))
        }
        Err(failure) => Err(failure),
    }
}

fn print_messages(lines: &[String]) {
    for line in lines {
        terminal::print_message(&terminal::visible(line, false));
    }
}

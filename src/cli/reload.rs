//! `hookstile reload`: has a running gateway read its configuration again.

use std::process::ExitCode;

use serde_json::json;

use super::admin::{Failure, Gateway};
use super::{FAILED, check, terminal};
use crate::admin::shape::{Problem, Reloaded};

/// Have the gateway read its configuration again
///
/// All routes change at once, or nothing does. Exit status: 0 when it was taken, 1 when it is not valid (the problems are printed), 69 when the gateway can't be reached, 77 when it wants another token, 78 when FILE does not even say where the gateway is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile reload
  hookstile check --config /etc/hookstile/hookstile.yaml && hookstile reload --config /etc/hookstile/hookstile.yaml")]
pub struct Args {
    #[command(flatten)]
    gateway: Gateway,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    reload(args).unwrap_or_else(Failure::exit)
}

fn reload(args: &Args) -> Result<ExitCode, Failure> {
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
            tell(&reloaded.warnings);
            terminal::print(&format!(
                "reloaded: {}",
                check::counted(reloaded.routes, "route")
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(Failure::Refused(problem)) if problem.code == "invalid_configuration" => {
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
                tell(&problems);
                terminal::tell(
                    "not reloaded: the configuration is not valid, and the old one stays",
                );
            }
            Ok(ExitCode::from(FAILED))
        }
        Err(failure) => Err(failure),
    }
}

fn tell(lines: &[String]) {
    for line in lines {
        terminal::tell(&terminal::visible(line, false));
    }
}

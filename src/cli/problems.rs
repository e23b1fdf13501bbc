//! `hookstile problems`: shows what is wrong with a gateway and its routes, worst first.

use std::process::ExitCode;

use super::admin::{CommandError, GatewayArgs, one_line};
use super::{FAILED, terminal};
use crate::admin::shape::problems::{GatewayProblem, Problems};

/// Show what is wrong with the gateway and its routes, worst first
///
/// Each problem is one incident: its cause, since when, what is at risk and what to do.
///
/// Exit status: 0 if there is no critical problem; 1 if there is one; 69 if the gateway cannot be
/// reached; 77 if it requires another token.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile problems
  hookstile problems --json | jq -r '.problems[0].summary'")]
pub struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The severity that makes the exit status 1.
const CRITICAL: &str = "critical";

pub(super) fn run(args: &Args) -> ExitCode {
    show(args).unwrap_or_else(|error| error.exit_with(args.json))
}

fn show(args: &Args) -> Result<ExitCode, CommandError> {
    let admin = args.gateway.admin()?;
    let document = admin.get::<Problems>("/problems", &[])?;
    if args.json {
        terminal::print(&one_line(&document)?)?;
    } else if document.problems.is_empty() {
        terminal::print("no problems")?;
    } else {
        print(&document.problems)?;
    }
    let is_critical = |problem: &GatewayProblem| problem.severity == CRITICAL;
    Ok(if document.problems.iter().any(is_critical) {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Prints each problem on two lines: what is wrong, and what to do.
pub(super) fn print(problems: &[GatewayProblem]) -> Result<(), CommandError> {
    for problem in problems {
        let subject = match &problem.route {
            Some(route) => format!("{route}: "),
            None => String::new(),
        };
        let severity = problem.severity.to_uppercase();
        let line = format!("{severity:<8} {subject}{}", problem.summary);
        terminal::print(&terminal::visible(&line, false))?;
        let advice = format!("         {}", problem.advice);
        terminal::print(&terminal::visible(&advice, false))?;
    }
    Ok(())
}

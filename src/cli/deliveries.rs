//! `hookstile deliveries`: follows deliveries as they arrive.

mod tail;
mod tracker;

use std::process::ExitCode;

use super::admin::CommandError;

/// Watch deliveries as they arrive
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Tail(tail::Args),
}

pub(super) fn run(command: &Command) -> ExitCode {
    let result = match command {
        Command::Tail(args) => tail::run(args),
    };
    result.unwrap_or_else(CommandError::exit)
}

//! `hookstile deliveries`: deliveries as they come.

mod follow;
mod tail;

use std::process::ExitCode;

use super::admin::Failure;

/// Watch deliveries as they come.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Tail(tail::Args),
}

pub(super) fn run(command: &Command) -> ExitCode {
    let ended = match command {
        Command::Tail(args) => tail::run(args),
    };
    ended.unwrap_or_else(Failure::exit)
}

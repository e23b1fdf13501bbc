//! The command line: parses arguments, calls the library and turns results into exit codes.
//!
//! Data goes to standard output, everything else to standard error.

pub mod capture;
pub mod catch;
pub mod check;
pub mod completions;
pub mod deliveries;
pub mod demo;
pub mod events;
pub mod init;
pub mod man;
pub mod move_store;
pub mod problems;
pub mod rejections;
pub mod reload;
pub mod schema;
pub mod send;
pub mod sign;
pub mod status;
pub mod verify;

mod admin;
mod input;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::app;

/// The exit code of a command that failed. Codes above 2 are those of sysexits.h.
pub const FAILED: u8 = 1;
/// The exit code of wrong usage, as clap's own errors have it.
pub const USAGE: u8 = 2;
/// `EX_UNAVAILABLE`: the admin listener cannot be reached.
pub const UNREACHABLE: u8 = 69;
/// `EX_NOPERM`: the admin listener requires another token.
pub const NOT_AUTHORISED: u8 = 77;

/// A reverse proxy that forwards only verified webhooks
#[derive(Debug, Parser)]
#[command(name = "hookstile", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM. SIGHUP reloads the configuration, SIGUSR2 starts a new binary
    #[command(after_help = "Examples:
  hookstile run
  hookstile run --config /etc/hookstile/hookstile.yaml")]
    Run {
        /// The configuration file
        #[arg(long, short, value_name = "FILE", default_value = "hookstile.yaml")]
        config: PathBuf,
    },
    Check(check::Args),
    Init(init::Args),
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Examples:
  hookstile schema > hookstile.schema.json
  hookstile schema | jq '.properties | keys'")]
    Schema,
    Sign(sign::Args),
    Send(send::Args),
    Catch(catch::Args),
    Capture(capture::Args),
    Verify(verify::Args),
    Demo(demo::Args),
    #[command(subcommand)]
    Events(events::Command),
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    #[command(subcommand)]
    Rejections(rejections::Command),
    Status(status::Args),
    Problems(problems::Args),
    Reload(reload::Args),
    MoveStore(move_store::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Parses the command line, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config } => run(&config),
        Command::Check(args) => check::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Schema => schema::run(),
        Command::Sign(args) => sign::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Catch(args) => catch::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Events(command) => events::run(&command),
        Command::Deliveries(command) => deliveries::run(&command),
        Command::Rejections(command) => rejections::run(&command),
        Command::Status(args) => status::run(&args),
        Command::Problems(args) => problems::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::MoveStore(args) => move_store::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    }
}

fn run(config: &std::path::Path) -> ExitCode {
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(app::Error::Config(report)) => {
            check::print(&report, false);
            ExitCode::from(check::BAD_CONFIGURATION)
        }
        Err(error) => {
            eprintln!("hookstile: {error}");
            ExitCode::from(FAILED)
        }
    }
}

//! The command line: parses arguments, calls the library and turns results into exit codes.
//!
//! Data goes to standard output, everything else to standard error. A closed pipe ends a command
//! without an error: `terminal` writes all output, because the macros of the standard library panic.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod capture;
pub mod catch;
pub mod check;
pub mod completions;
pub mod demo;
pub mod events;
pub mod init;
pub mod man;
pub mod move_store;
pub mod problems;
pub mod rejections;
pub mod reload;
pub mod routes;
pub mod schema;
pub mod send;
pub mod sign;
pub mod status;
pub mod store;
pub mod verify;

mod admin;
mod config_file;
mod follow;
mod hints;
mod input;
mod signer;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::json;

use crate::app;
use crate::config;
use admin::CommandError;
use config_file::ConfigFileArgs;

/// The exit code of a command that failed. Codes above 2 are those of sysexits.h.
pub const FAILED: u8 = 1;
/// The exit code of wrong usage, as clap's own errors have it.
pub const USAGE: u8 = 2;
/// `EX_UNAVAILABLE`: the admin listener cannot be reached.
pub const UNREACHABLE: u8 = 69;
/// `EX_NOPERM`: the admin listener requires another token.
pub const NOT_AUTHORISED: u8 = 77;

/// The version, and the commit and the target of the build, which `build.rs` sets. `-V` prints the
/// version alone.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("HOOKSTILE_BUILD_COMMIT"),
    ", ",
    env!("HOOKSTILE_BUILD_TARGET"),
    ")"
);

/// A reverse proxy that forwards only verified webhooks
#[derive(Debug, Parser)]
#[command(
    name = "hookstile",
    version,
    long_version = LONG_VERSION,
    about,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM. SIGHUP reloads the configuration, SIGUSR2 starts a new binary
    #[command(after_help = "Examples:
  hookstile run
  hookstile run -c /etc/hookstile/hookstile.yaml", aliases = ["serve", "start"])]
    Run {
        #[command(flatten)]
        config: ConfigFileArgs,
    },
    #[command(alias = "validate")]
    Check(check::Args),
    Init(init::Args),
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Examples:
  hookstile schema > hookstile.schema.json
  hookstile schema | jq '.properties | keys'")]
    Schema,
    Sign(sign::Args),
    #[command(alias = "trigger")]
    Send(send::Args),
    #[command(alias = "listen")]
    Catch(catch::Args),
    Capture(capture::Args),
    Verify(verify::Args),
    Demo(demo::Args),
    #[command(subcommand, alias = "event")]
    Events(events::Command),
    #[command(subcommand, alias = "rejection")]
    Rejections(rejections::Command),
    #[command(subcommand, alias = "route")]
    Routes(routes::Command),
    Status(status::Args),
    Problems(problems::Args),
    Reload(reload::Args),
    #[command(subcommand)]
    Store(store::Command),
    MoveStore(move_store::Args),
    Completions(completions::Args),
    Man(man::Args),
    // As `events redeliver`. It has that command's help.
    #[command(hide = true, alias = "retry")]
    Replay(events::aliases::Redeliver),
    // As `events tail`.
    #[command(hide = true)]
    Logs(events::aliases::Tail),
    /// As `--version`
    #[command(hide = true)]
    Version {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Parses the command line, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(Cli { command }) => command,
        Err(mut error) => {
            let words = std::env::args_os().skip(1);
            let words: Vec<_> = words
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            hints::improve(&mut error, &Cli::command(), &words);
            if error.use_stderr() && is_json_wanted(&words) {
                let document = CommandError::Usage(hints::summary(&error)).to_json();
                let _ = terminal::print(&terminal::json_line(&document));
            }
            // A closed pipe is not an error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match command {
        Command::Run { config } => run(&config.path()),
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
        Command::Replay(args) => events::run(&events::Command::Redeliver(args)),
        Command::Logs(args) => events::run(&events::Command::Tail(args)),
        Command::Rejections(command) => rejections::run(&command),
        Command::Routes(command) => routes::run(&command),
        Command::Status(args) => status::run(&args),
        Command::Problems(args) => problems::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Store(command) => store::run(&command),
        Command::MoveStore(args) => move_store::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
        Command::Version { json } => print_version(json),
    }
}

/// Returns whether the output of a command that was not understood was to be JSON.
fn is_json_wanted(words: &[String]) -> bool {
    let mut options = words.iter().take_while(|word| *word != "--");
    options.any(|word| word == "--json")
}

fn print_version(json: bool) -> ExitCode {
    let text = if json {
        let document = json!({
            "success": true,
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("HOOKSTILE_BUILD_COMMIT"),
            "target": env!("HOOKSTILE_BUILD_TARGET"),
        });
        terminal::json_line(&document) + "\n"
    } else {
        Cli::command().render_long_version()
    };
    terminal::finish(Ok(text))
}

fn run(config: &Path) -> ExitCode {
    if config == Path::new(config::STANDARD_INPUT) {
        terminal::print_message(
            "the gateway cannot run from standard input: a reload and an upgrade read the \
             configuration again",
        );
        return ExitCode::from(USAGE);
    }
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(app::Error::Config(report)) => {
            check::print(&report);
            ExitCode::from(check::BAD_CONFIGURATION)
        }
        Err(error) => {
            terminal::print_message(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

//! `hookstile completions`: prints a shell's completion script.

use std::process::ExitCode;

use clap_complete::Shell;

use super::terminal;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile completions bash > ~/.local/share/bash-completion/completions/hookstile
  hookstile completions fish > ~/.config/fish/completions/hookstile.fish")]
pub struct Args {
    /// Shell to complete for
    shell: Shell,
}

pub(super) fn run(args: &Args, mut command: clap::Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "hookstile", &mut script);
    terminal::finish(String::from_utf8(script).map_err(|error| error.to_string()))
}

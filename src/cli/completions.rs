//! `hookstile completions`: what a shell needs to complete this program's command line.

use std::process::ExitCode;

use clap_complete::Shell;

use super::terminal;

/// Print a shell's completions for this program
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile completions bash > ~/.local/share/bash-completion/completions/hookstile
  hookstile completions fish > ~/.config/fish/completions/hookstile.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args, mut command: clap::Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "hookstile", &mut script);
    terminal::finish(String::from_utf8(script).map_err(|error| error.to_string()))
}

//! `hookstile man`: generates the manual pages from the `--help` texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_mangen::Man;

use super::terminal;

/// Print the manual page, or write the pages of all commands
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile man | man -l -
  hookstile man --dir ~/.local/share/man/man1")]
pub struct Args {
    /// Write a page for the program and for each command into this folder; creates the folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, command: clap::Command) -> ExitCode {
    terminal::finish(match &args.dir {
        None => page(command),
        Some(dir) => write_all(command, dir).map(|()| String::new()),
    })
}

fn page(command: clap::Command) -> Result<String, String> {
    let mut page = Vec::new();
    Man::new(command.disable_help_subcommand(true))
        .render(&mut page)
        .map_err(|error| error.to_string())?;
    String::from_utf8(page).map_err(|error| error.to_string())
}

fn write_all(command: clap::Command, dir: &Path) -> Result<(), String> {
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
    written.map_err(|error| format!("cannot write the pages to {}: {error}", dir.display()))
}

//! Follows a list of the admin API: polls it and prints what is new, until a signal.

use std::convert::Infallible;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::admin::CommandError;
use super::terminal;

const POLL_EVERY: Duration = Duration::from_secs(1);

/// A list that is followed.
pub(super) struct Followed<Poll> {
    /// Returns a line for each new entry, the oldest first.
    pub poll: Poll,
    /// The option to print the entries that the first poll finds.
    pub print_first: bool,
    /// The message once the first poll has succeeded.
    pub started: String,
}

impl<Poll: FnMut() -> Result<Vec<String>, CommandError> + Send + 'static> Followed<Poll> {
    /// Follows the list until SIGINT or SIGTERM.
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let failed = |error: std::io::Error| CommandError::Failed(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        runtime.block_on(async {
            let (mut interrupted, mut terminated) = (
                signal(SignalKind::interrupt()).map_err(failed)?,
                signal(SignalKind::terminate()).map_err(failed)?,
            );
            let (end, follower) = oneshot::channel();
            // The thread may block on the gateway or on the output. A signal must not wait for it:
            // it ends the process, and the thread with it.
            thread::spawn(move || end.send(self.follow()));
            tokio::select! {
                result = follower => match result {
                    Ok(Err(failure)) => Err(failure),
                    Err(_) => Err(CommandError::Failed("following stopped unexpectedly".into())),
                },
                _ = interrupted.recv() => Ok(ExitCode::SUCCESS),
                _ = terminated.recv() => Ok(ExitCode::SUCCESS),
            }
        })
    }

    /// Polls until standard output is closed, or the gateway rejects the request.
    fn follow(mut self) -> Result<Infallible, CommandError> {
        let first = (self.poll)()?;
        terminal::print_message(&self.started);
        if self.print_first {
            print(&first)?;
        }
        let mut waiting = false;
        loop {
            thread::sleep(POLL_EVERY);
            match (self.poll)() {
                Ok(new) => {
                    waiting = false;
                    print(&new)?;
                }
                Err(
                    failure @ (CommandError::Unreachable { .. }
                    | CommandError::Unable(_)
                    | CommandError::Failed(_)),
                ) => {
                    if !waiting {
                        terminal::print_message(&format!("{failure}; waiting for it"));
                    }
                    waiting = true;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

fn print(lines: &[String]) -> Result<(), CommandError> {
    lines
        .iter()
        .try_for_each(|line| terminal::print(line))
        .map_err(CommandError::from)
}

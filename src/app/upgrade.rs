//! The next program in this one's place: the same process, other code.
//!
//! The program's file is replaced first. What is run is what this process was started as, so a changed symbolic link counts.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::timeout;

use super::sockets::Sockets;

/// For the next program to look at the configuration.
const CHECKED_WITHIN: Duration = Duration::from_secs(30);

/// Asks the next program whether it would start with the configuration at `path`: as long as it would not, this one serves on.
pub(super) async fn check(path: PathBuf) -> Result<(), String> {
    let program = program()?;
    let mut check = tokio::process::Command::new(&program);
    check
        .arg("check")
        .arg("--config")
        .arg(&path)
        .kill_on_drop(true);
    let name = program.to_string_lossy();
    match timeout(CHECKED_WITHIN, check.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(format!(
            "`{name} check --config {}`: {}: {}",
            path.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        )),
        Ok(Err(error)) => Err(format!("cannot run {name}: {error}")),
        Err(_) => Err(format!(
            "`{name} check` takes longer than {} s",
            CHECKED_WITHIN.as_secs()
        )),
    }
}

/// Becomes the next program, which is given our arguments and `sockets`. Comes back with the error when that fails.
pub(super) fn become_next(sockets: Sockets) -> io::Error {
    let program = match program() {
        Ok(program) => program,
        Err(error) => return io::Error::other(error),
    };
    let mut next = Command::new(program);
    next.args(std::env::args_os().skip(1));
    match sockets.pass_on(&mut next) {
        Ok(()) => next.exec(),
        Err(error) => error,
    }
}

fn program() -> Result<OsString, String> {
    std::env::args_os()
        .next()
        .ok_or_else(|| "this process was started without the name of its program".to_owned())
}

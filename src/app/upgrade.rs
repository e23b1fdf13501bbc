//! The upgrade in place: the process is replaced by the new binary and keeps its ID and sockets.
//!
//! The binary's file is replaced first. The new binary is started by the name that this process was
//! started by, so a changed symbolic link takes effect.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::timeout;

use super::sockets::Sockets;

/// The longest that the new binary may take to check the configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Lets the new binary check the configuration at `path`.
///
/// # Errors
/// When it would not start with that configuration. This process must go on then.
pub(super) async fn check(path: PathBuf) -> Result<(), String> {
    let program = program()?;
    let mut check = tokio::process::Command::new(&program);
    check
        .arg("check")
        .arg("--config")
        .arg(&path)
        .kill_on_drop(true);
    let name = program.to_string_lossy();
    match timeout(CHECK_TIMEOUT, check.output()).await {
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
            CHECK_TIMEOUT.as_secs()
        )),
    }
}

/// Replaces the process by the new binary, which gets the same arguments and inherits `sockets`.
/// Returns only on failure, with the error.
pub(super) fn exec(sockets: Sockets) -> io::Error {
    let program = match program() {
        Ok(program) => program,
        Err(error) => return io::Error::other(error),
    };
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    match sockets.pass_to(&mut command) {
        // The files of Unix sockets are removed only if this fails.
        Ok(_files) => command.exec(),
        Err(error) => error,
    }
}

fn program() -> Result<OsString, String> {
    std::env::args_os()
        .next()
        .ok_or_else(|| "this process was started without the name of its program".to_owned())
}

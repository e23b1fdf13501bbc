//! Runs of the command line: the arguments, and the complete output.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::gateway::Gateway;
use super::wait::within;

/// A finished run.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[track_caller]
    pub fn assert(&self, code: i32) -> &Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Parses standard output as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Parses standard output as JSON documents, one on a line.
    pub fn json_lines(&self) -> Vec<Value> {
        documents(&self.stdout)
    }
}

/// Parses JSON documents, one on a line.
pub fn documents(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Returns the command for the binary, without standard input, and without a gateway from the
/// environment.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookstile"));
    command
        .env_remove("HOOKSTILE_ADMIN_TOKEN")
        .env_remove("HOOKSTILE_ADMIN")
        .env_remove("HOOKSTILE_CONFIG")
        .stdin(Stdio::null());
    command
}

pub async fn finish(mut command: Command) -> Run {
    let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
    let output = within("the command", run).await.expect("no panic");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Runs `hookstile` with the address of the gateway's admin listener.
pub async fn run_cli(gateway: &Gateway, line: &str) -> Run {
    let mut command = command();
    command
        .current_dir(gateway.directory())
        .args(line.split(' '));
    command.arg(format!("--admin=http://{}", gateway.admin_address()));
    finish(command).await
}

//! The gateway under strace: what it asks the system for, in order, and what the system refuses it.
//!
//! The tracer is the gateway's grandchild (`-D`), so that the process a test starts and kills is the gateway itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::gateway::{Gateway, Under};
use super::patience::eventually;
use super::programs::{program, tool};

/// Calls that put data on stable storage.
pub const SYNCS: &str = "fsync,fdatasync";
/// Calls that put bytes into files.
pub const WRITES: &str = "write,pwrite64,writev,pwritev,ftruncate";

/// Which calls to follow, and what to do to them.
pub struct Strace {
    program: PathBuf,
    log: TempDir,
    arguments: Vec<OsString>,
}

impl Strace {
    /// Follows these calls; `None` where there is no strace.
    pub fn following(calls: &str) -> Option<Self> {
        let program = tool(
            "strace",
            program("HOOKSTILE_STRACE", "strace"),
            "faults and the order of system calls",
        )?;
        let log = tempfile::tempdir().expect("a folder");
        // -I 2: it may be ended by a signal, and then lets go of the gateway.
        let fixed = ["-D", "-I", "2", "-f", "-q", "-ttt", "-y", "-s", "48"].map(OsString::from);
        let strace = Self {
            program,
            log,
            arguments: fixed.into(),
        };
        Some(strace.with(["-e", &format!("trace={calls}")]))
    }

    /// Does this to those calls: `error=EIO:when=3`, `signal=KILL:when=3+`. Calls are counted by thread.
    pub fn injecting(self, calls: &str, what: &str) -> Self {
        self.with(["-e", &format!("inject={calls}:{what}")])
    }

    /// Follows and injects on these files only.
    pub fn on(mut self, files: &[PathBuf]) -> Self {
        for file in files {
            self.arguments.extend([OsString::from("-P"), file.into()]);
        }
        self
    }

    /// Stops the gateway at the followed calls only, which is much faster; but then the tracer can't let go of it, and
    /// injects no signals.
    pub fn for_good(self) -> Self {
        self.with(["--seccomp-bpf"])
    }

    pub fn under(&self) -> Under {
        let mut command = vec![self.program.clone().into_os_string()];
        command.extend(self.arguments.iter().cloned());
        command.extend([OsString::from("-o"), self.log.path().join("trace").into()]);
        Under::command(command)
    }

    /// Starts to follow a gateway that runs. `false` where the system does not allow that.
    pub async fn attach(&self, gateway: &Gateway) -> bool {
        let mut command = Command::new(&self.program);
        // `-D` is for a command that strace starts itself. The log goes on where it ended.
        command.args(self.arguments.iter().filter(|argument| *argument != "-D"));
        command
            .arg("-A")
            .arg("-o")
            .arg(self.log.path().join("trace"))
            .arg("-p")
            .arg(gateway.pid().to_string());
        let mut tracer = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace starts");
        let mut allowed = true;
        eventually("strace has all threads", async || {
            allowed = tracer.try_wait().expect("a child to wait for").is_none();
            !allowed || tracers(gateway.pid()).iter().all(|tracer| *tracer != 0)
        })
        .await;
        // It ends when it has let go of the gateway, or with it.
        std::thread::spawn(move || tracer.wait());
        tool(
            "ptrace of another process",
            allowed.then(PathBuf::new),
            "a disk that fails for a while",
        )
        .is_some()
    }

    /// What was seen so far.
    pub fn trace(&self) -> Trace {
        let text = std::fs::read(self.log.path().join("trace")).unwrap_or_default();
        Trace::parse(&String::from_utf8_lossy(&text))
    }

    /// Lets go of the gateway, which runs on undisturbed.
    pub async fn detach(&self, gateway: &Gateway) {
        if let Some(tracer) = tracers(gateway.pid())
            .into_iter()
            .find(|tracer| *tracer != 0)
        {
            let _ = Command::new("sh")
                .args(["-c", &format!("kill -TERM {tracer}")])
                .status()
                .expect("sh");
        }
        eventually("strace lets go", async || {
            tracers(gateway.pid()).iter().all(|tracer| *tracer == 0)
        })
        .await;
    }

    fn with<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(OsString::from));
        self
    }
}

/// The process that traces each thread of this one, or 0.
fn tracers(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let status =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    status
        .filter_map(|status| {
            status
                .lines()
                .find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok())
        })
        .collect()
}

/// One moment of the trace: a call's begin or end, or both.
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    pub at: Instant,
}

/// What strace saw, in order.
pub struct Trace {
    pub lines: Vec<Line>,
}

impl Trace {
    fn parse(text: &str) -> Self {
        let (now, wall) = (
            Instant::now(),
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970"),
        );
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line: &str| {
            // `1234 1700000000.123456 fsync(7</tmp/…>) = 0`
            let (_, rest) = line.trim_start().split_once(' ')?;
            let (time, text) = rest.trim_start().split_once(' ')?;
            let ago = wall.saturating_sub(Duration::from_secs_f64(time.parse().ok()?));
            Some(Line {
                text: text.to_owned(),
                at: now.checked_sub(ago)?,
            })
        };
        Self {
            lines: complete.lines().filter_map(line).collect(),
        }
    }

    /// Syncs that have come back, whether done or refused, since the trace had so many lines.
    pub fn syncs_since(&self, lines: usize) -> usize {
        self.lines[lines..]
            .iter()
            .filter(|line| line.ends_a_sync())
            .count()
    }

    /// When the gateway was killed.
    pub fn killed(&self) -> Option<Instant> {
        self.lines
            .iter()
            .find(|line| line.text.starts_with("+++ killed by"))
            .map(|line| line.at)
    }

    /// When calls were interfered with.
    pub fn injected(&self) -> Vec<Instant> {
        self.lines
            .iter()
            .filter(|line| line.text.contains("(INJECTED)"))
            .map(|line| line.at)
            .collect()
    }
}

impl Line {
    /// The end of a sync, which may stand apart from its begin.
    pub fn ends_a_sync(&self) -> bool {
        let whole = self.text.starts_with("fsync(") || self.text.starts_with("fdatasync(");
        let resumed = self.text.starts_with("<... fsync resumed>")
            || self.text.starts_with("<... fdatasync resumed>");
        resumed || (whole && !self.text.ends_with("<unfinished ...>"))
    }

    /// The begin of an answer to a sender with this status.
    pub fn answers(&self, status: u16) -> bool {
        let sends = ["write(", "writev(", "sendto(", "sendmsg("]
            .iter()
            .any(|call| self.text.starts_with(call));
        sends && self.text.contains(&format!("HTTP/1.1 {status} "))
    }

    /// Opens a file below this folder.
    pub fn opens_below(&self, folder: &Path) -> bool {
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a folder with a name");
        self.text.starts_with("openat(") && self.text.contains(&format!("{name}/"))
    }
}

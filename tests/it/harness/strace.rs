//! The gateway under strace: its system calls in order, and injected failures.
//!
//! The tracer is the gateway's grandchild (`-D`), so that the process a test starts and kills is
//! the gateway itself.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::gateway::{Gateway, Launcher};
use super::programs::{program, tool};
use super::wait::eventually;

/// The calls that flush data to stable storage.
pub const SYNCS: &str = "fsync,fdatasync";
/// The calls that end with bytes on the disk: a sync, or the write of the commit log.
pub const COMMITS: &str = "fsync,fdatasync,pwrite64";
/// The calls that write bytes to files.
pub const WRITES: &str = "write,pwrite64,writev,pwritev,ftruncate";

/// The calls to trace, and the faults to inject into them.
pub struct Strace {
    program: PathBuf,
    log: TempDir,
    arguments: Vec<OsString>,
}

impl Strace {
    /// Traces these calls; returns `None` without strace.
    pub fn new(calls: &str) -> Option<Self> {
        let program = tool(
            "strace",
            program("HOOKSTILE_STRACE", "strace"),
            "faults and the order of system calls",
        )?;
        let log = tempfile::tempdir().expect("a folder");
        // -I 2: a signal may end strace, which then detaches from the gateway.
        let fixed = ["-D", "-I", "2", "-f", "-q", "-ttt", "-y", "-s", "48"].map(OsString::from);
        let strace = Self {
            program,
            log,
            arguments: fixed.into(),
        };
        Some(strace.with(["-e", &format!("trace={calls}")]))
    }

    /// Injects this fault into those calls: `error=EIO:when=3`, `signal=KILL:when=3+`. Calls are
    /// counted per thread.
    pub fn injecting(self, calls: &str, what: &str) -> Self {
        self.with(["-e", &format!("inject={calls}:{what}")])
    }

    /// Traces and injects on these files only.
    pub fn on_files(mut self, files: &[PathBuf]) -> Self {
        for file in files {
            self.arguments.extend([OsString::from("-P"), file.into()]);
        }
        self
    }

    /// Stops the gateway at the traced calls only, which is much faster. The tracer then can't
    /// detach, and injects no signals.
    pub fn without_detach(self) -> Self {
        self.with(["--seccomp-bpf"])
    }

    /// Writes strings whole, and each byte of them in hexadecimal.
    pub fn with_whole_strings(self) -> Self {
        self.with(["-xx", "-s", "8388608"])
    }

    pub fn launcher(&self) -> Launcher {
        let mut command = vec![self.program.clone().into_os_string()];
        command.extend(self.arguments.iter().cloned());
        command.extend([OsString::from("-o"), self.log.path().join("trace").into()]);
        Launcher::command(command)
    }

    /// Attaches to a running gateway. Returns `false` if the system does not allow that.
    pub async fn attach(&self, gateway: &Gateway) -> bool {
        let mut command = Command::new(&self.program);
        // `-D` is only for a command that strace starts itself. The log is appended to.
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
        eventually("strace traces all threads", async || {
            allowed = tracer.try_wait().expect("a child to wait for").is_none();
            !allowed || tracers(gateway.pid()).iter().all(|tracer| *tracer != 0)
        })
        .await;
        // strace ends when it detaches from the gateway, or with it.
        std::thread::spawn(move || tracer.wait());
        tool(
            "ptrace of another process",
            allowed.then(PathBuf::new),
            "a disk that fails for a while",
        )
        .is_some()
    }

    /// Returns the trace so far.
    pub fn trace(&self) -> Trace {
        Trace::parse(&self.text())
    }

    /// Returns the text of the trace so far.
    pub fn text(&self) -> String {
        let text = std::fs::read(self.log.path().join("trace")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Detaches from the gateway, which keeps running.
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
        eventually("strace detaches", async || {
            tracers(gateway.pid()).iter().all(|tracer| *tracer == 0)
        })
        .await;
    }

    fn with<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(OsString::from));
        self
    }
}

/// Returns the tracer's process ID for each thread of this process, or 0.
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

/// One line of the trace: the begin or the end of a call, or both.
#[derive(Clone, Debug)]
pub struct Line {
    /// The call. At an end that is apart from its begin, both of them joined.
    pub text: String,
    is_end_only: bool,
    pub at: Instant,
}

/// The end of a line that has only the begin of a call.
const UNFINISHED: &str = " <unfinished ...>";

/// The trace so far, in order.
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
        let mut unfinished: HashMap<&str, &str> = HashMap::new();
        let lines = complete.lines().filter_map(|line: &str| {
            // `1234 1700000000.123456 fsync(7</tmp/…>) = 0`
            let (thread, rest) = line.trim_start().split_once(' ')?;
            let (time, text) = rest.trim_start().split_once(' ')?;
            let ago = wall.saturating_sub(Duration::from_secs_f64(time.parse().ok()?));
            if let Some(begin) = text.strip_suffix(UNFINISHED) {
                unfinished.insert(thread, begin);
            }
            // `<... fsync resumed>) = 0`
            let end = text
                .strip_prefix("<... ")
                .and_then(|end| end.split_once(" resumed>"));
            let begin = end.and_then(|_| unfinished.remove(thread));
            Some(Line {
                text: match (begin, end) {
                    (Some(begin), Some((_, end))) => format!("{begin}{end}"),
                    _ => text.to_owned(),
                },
                is_end_only: end.is_some(),
                at: now.checked_sub(ago)?,
            })
        });
        Self {
            lines: lines.collect(),
        }
    }

    /// Counts the commits that have returned, done or failed, after this many lines.
    pub fn commits_since(&self, lines: usize) -> usize {
        self.lines[lines..]
            .iter()
            .filter(|line| line.ends_a_commit())
            .count()
    }

    /// Returns the time at which the gateway was killed.
    pub fn killed(&self) -> Option<Instant> {
        self.lines
            .iter()
            .find(|line| line.text.starts_with("+++ killed by"))
            .map(|line| line.at)
    }

    /// Returns the times at which faults were injected.
    pub fn injected(&self) -> Vec<Instant> {
        self.lines
            .iter()
            .filter(|line| line.text.contains("(INJECTED)"))
            .map(|line| line.at)
            .collect()
    }
}

impl Line {
    /// Returns whether the line is the end of a commit, which may be apart from its begin: of a sync,
    /// or of a write to the commit log, which is synchronous.
    pub fn ends_a_commit(&self) -> bool {
        let is_sync = self.text.starts_with("fsync(") || self.text.starts_with("fdatasync(");
        let is_log = self.text.starts_with("pwrite64(") && self.text.contains("hookstile.commits>");
        (is_sync || is_log) && !self.text.ends_with(UNFINISHED)
    }

    /// Returns whether the line is the begin of a response with this status to a sender.
    pub fn is_response(&self, status: u16) -> bool {
        let sends = ["write(", "writev(", "sendto(", "sendmsg("]
            .iter()
            .any(|call| self.text.starts_with(call));
        sends && !self.is_end_only && self.text.contains(&format!("HTTP/1.1 {status} "))
    }
}

//! Child processes: killed by their own handle, never by name, and never outliving their test for
//! long.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait::eventually;

/// The longest life of a child. A test that still waits for it then fails.
const LIFETIME: Duration = Duration::from_secs(100);

type Collected = Arc<Mutex<Vec<u8>>>;

/// A running child and everything it has written.
pub struct Process {
    child: Arc<Mutex<Child>>,
    stdout: Collected,
    stderr: Collected,
    readers: [JoinHandle<()>; 2],
}

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (stdout, reader) = collect(child.stdout.take().expect("piped"));
        let (stderr, another) = collect(child.stderr.take().expect("piped"));
        let child = Arc::new(Mutex::new(child));
        let watched = Arc::downgrade(&child);
        std::thread::spawn(move || {
            std::thread::sleep(LIFETIME);
            if let Some(child) = watched.upgrade() {
                let _ = child.lock().expect("not poisoned").kill();
            }
        });
        Self {
            child,
            stdout,
            stderr,
            readers: [reader, another],
        }
    }

    /// Returns everything written so far, standard output first.
    pub fn output(&self) -> String {
        let stdout = self.stdout.lock().expect("not poisoned");
        let stderr = self.stderr.lock().expect("not poisoned");
        String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr)
    }

    /// Returns the complete lines of standard error.
    pub fn lines(&self) -> Vec<String> {
        let stderr = self.stderr.lock().expect("not poisoned");
        let complete = stderr.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        String::from_utf8_lossy(&stderr[..complete])
            .split('\n')
            .map(str::to_owned)
            .collect()
    }

    /// Waits for a line that contains the text, on either stream, and returns it.
    pub async fn wait_for_output(&self, text: &str) -> String {
        let find = || {
            self.output()
                .lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        };
        eventually(format!("the child says {text:?}"), async || {
            assert!(
                self.exit().is_none() || find().is_some(),
                "the child is gone:\n{}",
                self.output()
            );
            find().is_some()
        })
        .await;
        find().expect("just seen")
    }

    /// Returns everything written to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().expect("not poisoned")).into_owned()
    }

    pub fn id(&self) -> u32 {
        self.child.lock().expect("not poisoned").id()
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        let _ = self.child.lock().expect("not poisoned").kill();
    }

    /// Sends a signal by name (`TERM`, `HUP`) to the child, if it still runs.
    pub fn signal(&self, name: &str) {
        let mut child = self.child.lock().expect("not poisoned");
        if child.try_wait().expect("a child to wait for").is_none() {
            let kill = format!("kill -{name} {}", child.id());
            assert!(
                Command::new("sh")
                    .args(["-c", &kill])
                    .status()
                    .expect("sh")
                    .success(),
                "{kill}"
            );
        }
    }

    pub fn exit(&self) -> Option<ExitStatus> {
        self.child
            .lock()
            .expect("not poisoned")
            .try_wait()
            .expect("a child to wait for")
    }

    /// Waits for the child's exit and for the rest of its output.
    pub async fn wait_for_exit(&self) -> ExitStatus {
        eventually("the child exits", async || self.exit().is_some()).await;
        eventually("all is read", async || {
            self.readers.iter().all(JoinHandle::is_finished)
        })
        .await;
        self.exit().expect("just seen")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().expect("not poisoned");
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> (Collected, JoinHandle<()>) {
    let collected = Collected::default();
    let into = collected.clone();
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            into.lock().expect("not poisoned").extend(&chunk[..count]);
        }
    });
    (collected, reader)
}

/// Stops the processes where they are.
pub async fn freeze(processes: &[u32]) {
    signal("STOP", processes);
    for process in processes {
        eventually(format!("process {process} is stopped"), async || {
            let status =
                std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            // Stopped, or already exited.
            status.is_empty() || status.contains("State:\tT") || status.contains("State:\tZ")
        })
        .await;
    }
}

/// Sends a signal to each process that still runs.
pub fn signal(name: &str, processes: &[u32]) {
    for process in processes {
        let _ = Command::new("sh")
            .args(["-c", &format!("kill -{name} {process} 2>/dev/null")])
            .status()
            .expect("sh");
    }
}

//! Losses of power at any moment, with any of what was not flushed: the writes of a gateway are taken
//! from a trace of it, and the store is made as a disk may have it then.

use std::io::Write as _;
use std::path::Path;

use super::disk::write_boot_id;
use super::rounds;
use super::writes::{Files, Kept, Seen, Writes};
use crate::harness::load_test::assert_store_is_intact;
use crate::harness::programs::{is_root, program, tool};
use crate::harness::strace::Strace;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;
use fastrand::Rng;
use tempfile::TempDir;

/// Every call that changes the store's files, and those that send.
const CALLS: &str = "openat,write,pwrite64,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,\
                     unlink,unlinkat,sendto,writev";
/// The number of events, in turn to the three routes.
const EVENTS: usize = 240;
const SENDERS: usize = 4;
/// Every so many rounds, the power is lost again during the recovery.
const TWICE_EVERY: usize = 3;

/// Starts the gateway with the boot ID of a file, as after a start of the machine.
const REBOOTED: &str = r#"mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@""#;

/// One loss of power. Its numbers are shown if the test fails.
struct Loss {
    round: usize,
    moment: usize,
    of: usize,
    kept: Kept,
}

impl Drop for Loss {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self {
                round,
                moment,
                of,
                kept,
            } = self;
            let _ = writeln!(
                std::io::stderr(),
                "round {round}: power lost after step {moment} of {of}, {kept:?}"
            );
        }
    }
}

/// The receivers of a gateway, and its configuration.
struct Receivers {
    proxied: Upstream,
    queued: Upstream,
}

impl Receivers {
    fn new() -> Self {
        let (proxied, queued) = (Upstream::ok(), Upstream::ok());
        Self { proxied, queued }
    }

    /// Returns a gateway's setup whose `held` events go to this address.
    fn setup(&self, held: &str) -> Setup {
        let queue = |route: Route| route.with("delivery", "queue");
        Setup::new([
            Route::to(&self.proxied).named("proxied"),
            queue(Route::to(&self.queued)).named("queued"),
            queue(Route::to_url(held)).named("held"),
        ])
    }
}

/// Returns event number `number`: mostly small, some so large that the commit log is soon full.
fn event(number: usize) -> (String, Request) {
    let route = ["proxied", "queued", "held"][number % 3];
    let id = format!("evt_{route}_{number}");
    let bytes = if number % 20 == 2 { 150_000 } else { 1_000 };
    let request = Event::sized(&id, bytes)
        .post()
        .at(&format!("/webhooks/{route}"));
    (id, request)
}

async fn send_all(gateway: &Gateway) {
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let to = gateway.public_address();
            tokio::spawn(async move {
                let mut client = Client::connect(to).await;
                for number in (sender..EVENTS).step_by(SENDERS) {
                    let response = client.send(event(number).1).await;
                    assert!(response.status < 300, "{}", response.text());
                }
            })
        })
        .collect();
    for sender in senders {
        within("all events", sender)
            .await
            .expect("no panic in a sender");
    }
}

/// Kills the gateway; returns what it has written to its store, which had these files.
async fn writes_of(gateway: &mut Gateway, strace: &Strace, before: Files) -> Writes {
    gateway.kill().await;
    eventually("the trace is complete", async || {
        strace
            .text()
            .trim_end()
            .ends_with("+++ killed by SIGKILL +++")
    })
    .await;
    let folder = gateway.store().canonicalize().expect("the store's folder");
    Writes::parse(&strace.text(), &folder, before)
}

fn traced() -> Option<Strace> {
    Strace::new(CALLS).map(|strace| strace.with_whole_strings().without_detach())
}

fn replace(folder: &Path, files: &Files) {
    std::fs::remove_dir_all(folder).expect("the store's folder");
    std::fs::create_dir(folder).expect("a writable folder");
    for (name, content) in files {
        std::fs::write(folder.join(name), content).expect("room for the store");
    }
}

/// Sends and waits for everything that was acknowledged.
async fn assert_nothing_is_lost(gateway: &Gateway, receivers: &Receivers, seen: &Seen) {
    let mut client = gateway.connect().await;
    for (id, request) in (0..EVENTS).map(event) {
        if id.contains("proxied") && seen.acknowledged.contains(&id) {
            client.send(request).await.assert_problem(409, "duplicate");
        }
    }
    eventually("every stored event is delivered", async || {
        let delivered = receivers.queued.event_ids();
        let waits = |id: &&String| !id.contains("proxied") && !seen.forwarded.contains(*id);
        seen.acknowledged
            .iter()
            .filter(waits)
            .all(|id| delivered.contains(id))
    })
    .await;
    for request in receivers.queued.requests() {
        let id = request.header("Hookstile-Event-Id").expect("an event");
        if seen.forwarded.contains(id) {
            request.assert_header("Hookstile-Possible-Duplicate", "true");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_lost_writes_break_no_promise() {
    let purpose = "losses of any writes";
    let unshare = program("HOOKSTILE_UNSHARE", "unshare").filter(|_| is_root());
    let Some(unshare) = tool("root, with unshare,", unshare, purpose) else {
        return;
    };
    let Some(strace) = traced() else {
        return;
    };
    let boot = TempDir::new().expect("a folder");
    let rebooted = |boots: usize| {
        let file = boot.path().join("boot_id");
        write_boot_id(&file, boots);
        let command = [
            unshare.as_os_str(),
            "--mount".as_ref(),
            "sh".as_ref(),
            "-c".as_ref(),
        ];
        let script = [REBOOTED.as_ref(), "sh".as_ref(), file.as_os_str()];
        Launcher::command(
            command
                .iter()
                .chain(&script)
                .map(|part| part.into())
                .collect(),
        )
    };
    let receivers = Receivers::new();
    let closed = ClosedPort::new();
    let setup = receivers
        .setup(&closed.url())
        .launched_by(strace.launcher());
    let mut gateway = Gateway::start(setup).await;
    send_all(&gateway).await;
    let writes = writes_of(&mut gateway, &strace, Files::new()).await;
    for round in 0..rounds() {
        let mut random = Rng::with_seed(round as u64);
        let kept = [Kept::Sectors, Kept::Nothing, Kept::Files, Kept::Everything][round % 4];
        let moment = random.usize(..=writes.len());
        let _shown = Loss {
            round,
            moment,
            of: writes.len(),
            kept,
        };
        let mut files = writes.left(moment, kept, &mut random);
        let mut seen = writes.seen(moment);
        let mut boots = 2 * round;
        if round % TWICE_EVERY == 1 {
            replace(&gateway.store(), &files);
            let strace = traced().expect("seen above");
            let receivers = Receivers::new();
            let launcher = rebooted(boots).running(strace.launcher());
            let setup = receivers.setup(&closed.url()).launched_by(launcher);
            gateway.restart_with(setup).await;
            let recovery = writes_of(&mut gateway, &strace, files).await;
            let moment = random.usize(..=recovery.len());
            files = recovery.left(moment, kept, &mut random);
            seen.add(recovery.seen(moment));
            boots += 1;
        }
        replace(&gateway.store(), &files);
        let receivers = Receivers::new();
        let setup = receivers.setup(&receivers.queued.url());
        gateway
            .restart_with(setup.launched_by(rebooted(boots)))
            .await;
        assert_nothing_is_lost(&gateway, &receivers, &seen).await;
        gateway.kill().await;
        assert_store_is_intact(&gateway);
    }
}

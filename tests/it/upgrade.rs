//! SIGUSR2: the new binary takes over the process and its sockets, and no sender notices.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use crate::harness::tls::{Authority, Trust};
use crate::harness::*;

/// A gateway whose binary can be replaced.
struct Installed {
    gateway: Gateway,
    program: PathBuf,
    _folder: TempDir,
}

impl Installed {
    async fn start(setup: impl Into<Setup>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("hookstile");
        install(Path::new(env!("CARGO_BIN_EXE_hookstile")), &program);
        // The binary's own path is the first argument, which the shell drops.
        let exec_binary = format!("shift; exec {} \"$@\"", program.display());
        let launcher = Launcher::command(["sh", "-c", &exec_binary, "sh"].map(Into::into).into());
        Self {
            gateway: Gateway::start(setup.into().launched_by(launcher)).await,
            program,
            _folder: folder,
        }
    }

    /// Triggers the upgrade and waits until the new process serves.
    async fn upgrade(&self) {
        let starts = starts(&self.gateway);
        self.gateway.signal("USR2");
        self.wait_until_serving(starts).await;
    }

    async fn wait_until_serving(&self, starts: usize) {
        eventually("the new process serves", async || {
            assert!(
                !self.gateway.is_gone(),
                "it ended:\n{}",
                self.gateway.output()
            );
            self::starts(&self.gateway) > starts
        })
        .await;
        self.gateway.wait_until_ready().await;
    }

    fn running(&self) -> u64 {
        let running = std::fs::metadata(format!("/proc/{}/exe", self.gateway.pid()));
        running.expect("a running process").ino()
    }
}

/// Installs a copy of `program` at `place` as a package manager does: the running process keeps its
/// file.
fn install(program: &Path, target: &Path) {
    let fresh = target.with_extension("new");
    // By another process: a file that this one has open for writing, and so any process that a test
    // is starting meanwhile, cannot be run.
    let copied = std::process::Command::new("cp")
        .args([program, &fresh])
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "a copy");
    std::fs::rename(fresh, target).expect("a rename");
}

/// Counts the starts of a listener in the log.
fn starts(gateway: &Gateway) -> usize {
    gateway
        .lines()
        .iter()
        .filter(|line| line["message"] == "listening" && line["listener"] == "admin")
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_under_load_lose_nothing() {
    let (now, later) = (Upstream::ok(), Upstream::ok());
    let routes = [
        Route::to(&now).named("now"),
        Route::to(&later).named("later").with("delivery", "queue"),
    ];
    let installed = Installed::start(Setup::new(routes).stopping_at_once()).await;
    let (stopping, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let began = Instant::now();
    let senders: Vec<_> = (0..12)
        .map(|sender| {
            let (address, stopping, answered) = (
                installed.gateway.public_address(),
                stopping.clone(),
                answered.clone(),
            );
            tokio::spawn(async move {
                // Some senders keep their connection as long as possible; some never do.
                let keeps = sender % 3 > 0;
                let (path, status, outcome) = [
                    ("/webhooks/now", 200, "delivered"),
                    ("/webhooks/later", 202, "queued"),
                ][sender % 2];
                let mut client = Client::connect(address).await;
                let mut sent = 0;
                while !stopping.load(Ordering::SeqCst) {
                    let event = Event::new(&format!("evt_{sender}_{sent}"));
                    let response = client.send(event.post().at(path)).await;
                    response.assert(status, outcome);
                    sent += 1;
                    answered.fetch_add(1, Ordering::SeqCst);
                    if !keeps
                        || response
                            .header("Connection")
                            .is_some_and(|value| value == "close")
                    {
                        client = Client::connect(address).await;
                    }
                }
                sent
            })
        })
        .collect();
    for _ in 0..10 {
        let before = installed.running();
        install(
            Path::new(env!("CARGO_BIN_EXE_hookstile")),
            &installed.program,
        );
        let before_it = answered.load(Ordering::SeqCst);
        eventually("the load goes on", async || {
            answered.load(Ordering::SeqCst) > before_it + 100
        })
        .await;
        installed.upgrade().await;
        assert_ne!(
            installed.running(),
            before,
            "the installed file is the one that runs"
        );
    }
    stopping.store(true, Ordering::SeqCst);
    let took = began.elapsed();
    let mut sent = [0, 0];
    for (sender, task) in senders.into_iter().enumerate() {
        sent[sender % 2] += task.await.expect("no request failed");
    }
    assert!(sent[0] > 100 && sent[1] > 100, "{sent:?} requests");
    assert_eq!(now.count(), sent[0], "each event is forwarded once");
    later.wait_for_requests(sent[1]).await;
    installed
        .gateway
        .wait_for_metric("queue_events", &[], 0.0)
        .await;
    assert_eq!(later.count(), sent[1], "each event is delivered once");
    eprintln!("{sent:?} events in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_process_answers_while_old_finishes() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let installed = Installed::start(Route::to(&upstream)).await;
    let gateway = &installed.gateway;
    let (mut early, starts) = (gateway.connect().await, starts(gateway));
    early.write(&Event::new("evt_early").post().bytes()).await;
    upstream.wait_for_requests(1).await;
    gateway.signal("USR2");
    eventually("the old process stops accepting", async || {
        gateway.output().contains("upgrading: waiting")
    })
    .await;
    let mut meanwhile = gateway.connect().await;
    meanwhile
        .write(&Event::new("evt_meanwhile").post().bytes())
        .await;
    gate.open();
    early
        .read_response()
        .await
        .assert(200, "delivered")
        .assert_header("Connection", "close");
    installed.wait_until_serving(starts).await;
    meanwhile.read_response().await.assert(200, "delivered");
    gateway
        .send(Event::new("evt_early"))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.event_ids(), ["evt_early", "evt_meanwhile"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_process_answers_http2_and_tls() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let (authority, listen) = (
        Authority::new(),
        r#"[{address: "127.0.0.1:0", tls: {certificate: tls.crt, key: tls.key}}]"#,
    );
    let shown = authority.issue("hooks.test");
    let setup = Setup::from(Route::to(&upstream)).with("listen", listen);
    let setup = setup
        .file("tls.crt", &shown.certificate)
        .file("tls.key", &shown.key);
    let installed = Installed::start(setup).await;
    let (gateway, starts) = (&installed.gateway, starts(&installed.gateway));
    let (address, trust) = (gateway.public_address(), Trust::new(&authority));
    let mut early = Client::connect_tls(address, &trust, "hooks.test", &["h2"])
        .await
        .expect("a handshake")
        .h2()
        .await;
    let in_flight = tokio::spawn(async move { early.send(Event::new("evt_early")).await });
    upstream.wait_for_requests(1).await;
    gateway.signal("USR2");
    eventually("the old process stops accepting", async || {
        gateway.output().contains("upgrading: waiting")
    })
    .await;
    let meanwhile = tokio::spawn(async move {
        let mut client = Client::connect_tls(address, &trust, "hooks.test", &[])
            .await
            .expect("a handshake");
        client.send(Event::new("evt_meanwhile")).await
    });
    gate.open();
    in_flight.await.expect("an answer").assert(200, "delivered");
    installed.wait_until_serving(starts).await;
    meanwhile.await.expect("an answer").assert(200, "delivered");
    assert_eq!(upstream.event_ids(), ["evt_early", "evt_meanwhile"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_idle_or_unverified_sender_holds_upgrade() {
    let upstream = Upstream::replying([Reply::full(200, "", b"ok")]);
    let setup = Setup::from(Route::to(&upstream).with("budget", "1h"));
    let setup = setup
        .with("limits", "{header_timeout: 1h, idle_timeout: 1h}")
        .with("shutdown", "{grace: 1h}");
    let installed = Installed::start(setup).await;
    let (gateway, starts) = (&installed.gateway, starts(&installed.gateway));
    let _lingering = Lingering::connect(gateway).await;
    gateway
        .wait_for_metric("connections", &[], Lingering::CONNECTIONS)
        .await;
    upstream.wait_for_requests(1).await;
    gateway.signal("USR2");
    eventually("the old process stops accepting", async || {
        gateway.output().contains("upgrading: waiting")
    })
    .await;
    let began = Instant::now();
    installed.wait_until_serving(starts).await;
    eprintln!("the new process serves after {:?}", began.elapsed());
    assert!(
        !gateway.output().contains("still in flight"),
        "the store is closed cleanly: {}",
        gateway.output()
    );
    gateway
        .send(Event::new("evt_deaf"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_finish_before_upgrade_completes() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let installed = Installed::start(Route::to(&upstream).with("delivery", "queue")).await;
    let (gateway, starts) = (&installed.gateway, starts(&installed.gateway));
    gateway
        .send(Event::new("evt_slow"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(1).await;
    gateway.signal("USR2");
    eventually("the old process stops accepting", async || {
        gateway.output().contains("upgrading: waiting")
    })
    .await;
    gateway
        .send(Event::new("evt_next"))
        .await
        .assert(202, "queued");
    gate.open();
    installed.wait_until_serving(starts).await;
    upstream.wait_for_requests(2).await;
    gateway.wait_for_metric("queue_events", &[], 0.0).await;
    assert_eq!(upstream.event_ids(), ["evt_slow", "evt_next"]);
    for request in upstream.requests() {
        request.assert_no_header("Hookstile-Possible-Duplicate");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_applies_restart_only_settings() {
    let upstream = Upstream::ok();
    let installed = Installed::start(Route::to(&upstream)).await;
    let gateway = &installed.gateway;
    let event = Event::new("evt_1");
    gateway.send(event.clone()).await.assert(200, "delivered");
    gateway.rewrite(Setup::from(Route::to(&upstream)).with("store", "{path: another}"));
    gateway.send(event.clone()).await.assert(409, "duplicate");
    installed.upgrade().await;
    gateway.send(event).await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_keeps_added_listener() {
    let upstream = Upstream::ok();
    let installed = Installed::start(Route::to(&upstream)).await;
    let gateway = &installed.gateway;
    let two = r#"[{address: "127.0.0.1:0"}, {address: "127.0.0.1:0"}]"#;
    let with_two = Setup::from(Route::to(&upstream)).with("listen", two);
    gateway.reload(with_two).await;
    let mut added = None;
    eventually("the new listener is logged", async || {
        let lines = gateway.lines().into_iter();
        let mut data = lines
            .filter(|line| line["message"] == "listening" && line["listener"] == "data")
            .skip(1);
        added = data.next().map(|line| line["address"].clone());
        added.is_some()
    })
    .await;
    let added = added.as_ref().and_then(serde_json::Value::as_str);
    let added = added.and_then(|text| text.parse().ok());
    let added: std::net::SocketAddr = added.expect("an address");
    installed.upgrade().await;
    for (id, address) in [("evt_1", gateway.public_address()), ("evt_2", added)] {
        let mut client = Client::connect(address).await;
        client.send(Event::new(id)).await.assert(200, "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_new_binary_is_not_used() {
    let upstream = Upstream::ok();
    let installed = Installed::start(Route::to(&upstream)).await;
    let gateway = &installed.gateway;
    let refusals = || {
        gateway
            .lines()
            .iter()
            .filter(|line| line["message"].to_string().contains("not upgraded"))
            .count()
    };
    // A broken binary, or one for another configuration.
    install(Path::new("/bin/false"), &installed.program);
    gateway.signal("USR2");
    eventually("the refusal is logged", async || refusals() == 1).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    // No binary at all.
    std::fs::remove_file(&installed.program).expect("the binary can be removed");
    gateway.signal("USR2");
    eventually("the refusal is logged", async || refusals() == 2).await;
    // A binary that rejects the configuration.
    install(
        Path::new(env!("CARGO_BIN_EXE_hookstile")),
        &installed.program,
    );
    gateway.rewrite_text("routes: [{}]\n");
    gateway.signal("USR2");
    eventually("the refusal is logged", async || refusals() == 3).await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    assert_eq!(starts(gateway), 1);
    gateway.rewrite(Route::to(&upstream));
    installed.upgrade().await;
    gateway
        .send(Event::new("evt_3"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_during_upgrade_is_a_stop() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let installed = Installed::start(Route::to(&upstream)).await;
    let gateway = &installed.gateway;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.wait_for_requests(1).await;
    gateway.signal("USR2");
    eventually("the old process stops accepting", async || {
        gateway.output().contains("upgrading: waiting")
    })
    .await;
    gateway.signal("TERM");
    gate.open();
    sender.read_response().await.assert(200, "delivered");
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
    assert_eq!(starts(gateway), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn supervisor_socket_holds_senders_while_down() {
    let upstream = Upstream::ok();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let setup =
        Setup::from(Route::to(&upstream)).with("listen", &format!(r#"[{{address: "{address}"}}]"#));
    let mut gateway = Gateway::start(setup.with_socket(socket)).await;
    assert_eq!(gateway.public_address(), address);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.kill().await;
    let mut patient = Client::connect(address).await;
    patient.write(&Event::new("evt_2").post().bytes()).await;
    gateway.restart().await;
    patient.read_response().await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_inherited_socket_is_closed_and_logged() {
    let upstream = Upstream::ok();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    let other = TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a port");
    let setup =
        Setup::from(Route::to(&upstream)).with("listen", &format!(r#"[{{address: "{other}"}}]"#));
    let setup = setup.with("admin", r#"{address: "[::1]:0"}"#);
    let gateway = Gateway::start(setup.with_socket(socket)).await;
    let line = gateway
        .lines()
        .into_iter()
        .find(|line| line["address"] == *address)
        .expect("a log line about the socket");
    assert!(
        line["message"]
            .to_string()
            .contains("matches no listener of the configuration"),
        "{line}"
    );
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

/// The file stays, too: a sender that connects meanwhile waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_socket_outlives_an_upgrade() {
    let (upstream, folder) = (Upstream::ok(), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("http.sock");
    let listen = format!(
        r#"[{{address: "127.0.0.1:0"}}, {{address: "unix:{}"}}]"#,
        path.display()
    );
    let setup = Setup::from(Route::to(&upstream)).with("listen", &listen);
    let mut installed = Installed::start(setup.stopping_at_once()).await;
    let inode = || std::fs::metadata(&path).expect("the file").ino();
    let before = inode();
    for event in ["evt_1", "evt_2"] {
        installed.upgrade().await;
        assert_eq!(inode(), before, "the same socket");
        let mut client = Client::connect_unix(&path).await.expect("it listens");
        let response = client.send(Event::new(event).post()).await;
        response.assert(200, "delivered");
    }
    assert!(installed.gateway.stop().await.success());
    assert!(!path.exists(), "the last process removes the file");
}

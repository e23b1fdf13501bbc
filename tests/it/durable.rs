//! Durability: a completed event stays completed whatever happens to the process, because the
//! response waits for one sync.

use std::path::PathBuf;

use crate::harness::programs::{program, tool};
use crate::harness::strace::COMMITS;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

/// The way a gateway ends before it is started again.
#[derive(Clone, Copy, Debug)]
enum End {
    Stopped,
    Killed,
}

const ENDS: [End; 2] = [End::Stopped, End::Killed];

async fn restart_after(gateway: &mut Gateway, after: End) {
    match after {
        End::Stopped => assert_eq!(gateway.stop().await.code(), Some(0)),
        End::Killed => drop(gateway.kill().await),
    }
    gateway.restart().await;
}

fn setup(route: Route) -> Setup {
    Setup::from(route).stopping_at_once()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completed_event_survives_stop_and_kill() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    for (number, end) in ENDS.into_iter().enumerate() {
        let id = format!("evt_{number}");
        gateway.send(Event::new(&id)).await.assert(200, "delivered");
        restart_after(&mut gateway, end).await;
        for earlier in 0..=number {
            let copy = Event::new(&format!("evt_{earlier}"));
            gateway.send(copy).await.assert_problem(409, "duplicate");
        }
        gateway
            .metrics()
            .await
            .assert_value("ledger_entries", &[], [1.0, 2.0][number]);
    }
    assert_eq!(upstream.event_ids(), ["evt_0", "evt_1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_mismatch_is_detected_after_restart() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    gateway
        .send(Event::typed("evt_1", "user.created"))
        .await
        .assert(200, "delivered");
    for end in ENDS {
        restart_after(&mut gateway, end).await;
        gateway
            .send(Event::typed("evt_1", "user.deleted"))
            .await
            .assert_problem(409, "payload_mismatch");
        gateway
            .send(Event::typed("evt_1", "user.created"))
            .await
            .assert_problem(409, "duplicate");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempt_count_survives_restart() {
    let upstream = Upstream::deciding(|request, attempt| {
        let refused = request.header("Hookstile-Event-Id") == Some("evt_1") && attempt < 3;
        if refused {
            Reply::status(500)
        } else {
            Reply::ok()
        }
    });
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    for (attempt, end) in ["1", "2"].into_iter().zip(ENDS) {
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(500, "upstream_rejected");
        upstream.last().assert_header("Hookstile-Attempt", attempt);
        // No response waits until the count is written; a response that does wait for a write comes
        // after it.
        gateway
            .send(Event::new(&format!("evt_other_{attempt}")))
            .await
            .assert(200, "delivered");
        restart_after(&mut gateway, end).await;
    }
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let last = upstream.last();
    last.assert_header("Hookstile-Attempt", "3");
    last.assert_no_header("Hookstile-Possible-Duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_attempt_is_marked_after_restart() {
    for end in ENDS {
        let upstream = Upstream::deciding(|request, attempt| {
            let first = request.header("Hookstile-Event-Id") == Some("evt_1") && attempt == 1;
            if first { Reply::hang() } else { Reply::ok() }
        });
        let route = Route::to(&upstream)
            .with("budget", "1s")
            .with("budget_margin", "500ms");
        let mut gateway = Gateway::start(setup(route)).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(504, "budget_exceeded");
        gateway
            .send(Event::new("evt_2"))
            .await
            .assert(200, "delivered");
        restart_after(&mut gateway, end).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(200, "delivered");
        let last = upstream.last();
        last.assert_header("Hookstile-Attempt", "2");
        last.assert_header("Hookstile-Possible-Duplicate", "true");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_route_has_its_own_ledger() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.stop().await;
    gateway
        .restart_with(setup(Route::to(&upstream).with("name", "other")))
        .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.stop().await;
    gateway.restart_with(setup(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_store_is_rejected_naming_the_holder() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    let refusal = gateway.refuses_second_process().await;
    assert_eq!(refusal.code, Some(1), "{}", refusal.output);
    let pid = gateway.pid().to_string();
    assert!(
        refusal.output.contains(&pid),
        "process {pid} is named: {}",
        refusal.output
    );
    assert!(
        refusal.output.contains("hookstile-data"),
        "the message names the store: {}",
        refusal.output
    );
    // The first gateway is not affected, and leaves nothing that would block the next one.
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    restart_after(&mut gateway, End::Killed).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncreatable_store_fails_the_start() {
    let upstream = Upstream::ok();
    // Even root can't create a folder there.
    let setup = setup(Route::to(&upstream)).with("store", "{path: /proc/hookstile-data}");
    let (code, output) = Gateway::refuses(setup).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("/proc/hookstile-data"),
        "the message names the folder: {output}"
    );
    assert!(
        !output.contains("\"listening\"") && !output.contains("panicked"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_store_fails_the_start_if_it_must_exist() {
    let upstream = Upstream::ok();
    let must_exist = setup(Route::to(&upstream)).with("store", "{must_exist: true}");
    let (code, output) = Gateway::refuses(must_exist.clone()).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("store.must_exist"), "{output}");
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    gateway.stop().await;
    gateway.restart_with(must_exist).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_deleted_while_running_is_saved() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    let event = Event::new("evt_1");
    gateway.send(event.post()).await.assert(200, "delivered");
    std::fs::remove_dir_all(gateway.store()).expect("the store's folder");
    eventually("the store is written again", async || {
        gateway.store().join("hookstile.db").exists()
    })
    .await;
    eventually("the store is open again", async || {
        let response = gateway.send(event.post()).await;
        if response.status == 503 {
            return false;
        }
        response.assert_problem(409, "duplicate");
        true
    })
    .await;
    gateway.kill().await;
    gateway.restart().await;
    gateway.send(event.post()).await.assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_file_fails_the_start_unchanged() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.stop().await;
    let databases = gateway.databases();
    assert!(!databases.is_empty(), "the store has files");
    let garbage: Vec<u8> = (0..16384_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for database in &databases {
        std::fs::write(database, &garbage).expect("a writable file");
    }
    let refusal = gateway
        .try_restart_with(setup(Route::to(&upstream)))
        .await
        .expect_err("garbage is rejected");
    assert_eq!(refusal.code, Some(1), "{}", refusal.output);
    assert!(
        refusal.output.contains("hookstile-data"),
        "the message names the store: {}",
        refusal.output
    );
    assert!(!refusal.output.contains("panicked"), "{}", refusal.output);
    for database in &databases {
        assert_eq!(
            std::fs::read(database).expect("the file is still there"),
            garbage,
            "{} was changed",
            database.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_show_the_store() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    let before = gateway.metrics().await;
    before.assert_value("ledger_entries", &[], 0.0);
    before.assert_value("store_errors_total", &[], 0.0);
    let commits = before.value("store_commit_duration_seconds_count", &[]);
    for number in 0..10 {
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    let after = gateway.metrics().await;
    after.assert_at_least("store_commit_duration_seconds_count", &[], commits + 10.0);
    after.assert_at_least("store_bytes", &[], 1.0);
    after.assert_value("ledger_entries", &[], 10.0);
    restart_after(&mut gateway, End::Killed).await;
    let again = gateway.metrics().await;
    again.assert_value("ledger_entries", &[], 10.0);
    again.assert_at_least("store_bytes", &[], 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_is_readable_by_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream).with("delivery", "queue"))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    for path in gateway.store_files().into_iter().chain([gateway.store()]) {
        let mode = std::fs::metadata(&path)
            .expect("the file exists")
            .permissions()
            .mode();
        assert_eq!(
            mode & 0o077,
            0,
            "others have rights to {}: {mode:o}",
            path.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_store_answers_503_and_forgets_nothing() {
    let upstream = Upstream::ok();
    let mut gateway =
        Gateway::start(setup(Route::to(&upstream)).with("store", "{max_ids: 1000}")).await;
    let mut client = gateway.connect().await;
    for number in 0..1000 {
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    for end in ENDS {
        let mut client = gateway.connect().await;
        client
            .send(Event::new("evt_more"))
            .await
            .assert_problem(503, "store_unavailable")
            .assert_retry_after();
        for number in (0..1000).step_by(100) {
            client
                .send(Event::new(&format!("evt_{number}")))
                .await
                .assert(409, "duplicate");
        }
        restart_after(&mut gateway, end).await;
    }
    assert_eq!(upstream.count(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_route_leaves_room_for_the_others() {
    let (upstream, broken) = (Upstream::ok(), Upstream::replying([Reply::status(500)]));
    let failing = Route::to(&broken).named("failing");
    for (store, route, size) in [
        // Whether the events fail, are delivered or wait: they take room.
        ("{max_ids: 1000}", failing.clone(), 500),
        (
            "{max_ids: 1000}",
            Route::to(&upstream).named("failing"),
            500,
        ),
        (
            "{max_size: 16MiB}",
            failing.clone().with("delivery", "queue"),
            900_000,
        ),
        (
            "{max_size: 16MiB}",
            failing.clone().with("delivery", "spill"),
            900_000,
        ),
        // The payloads of failed events are kept as far as there is room.
        ("{max_size: 16MiB}", failing, 900_000),
    ] {
        let routes = [route, Route::to(&upstream).named("other")];
        let mut gateway =
            Gateway::start(Setup::new(routes).with("store", store).stopping_at_once()).await;
        let event = |id: &str| Event::sized(id, size).post().at("/webhooks/failing");
        let mut client = gateway.connect().await;
        let mut sent = 0;
        loop {
            let id = format!("evt_{sent}");
            let answer = client.send(event(&id)).await;
            if answer.outcome() == "store_unavailable" {
                break;
            }
            sent += 1;
            assert!(sent < 1000, "{store}: one route has filled the store");
        }
        for end in ENDS {
            gateway
                .send(
                    Event::new(&format!("evt_{end:?}"))
                        .post()
                        .at("/webhooks/other"),
                )
                .await
                .assert(200, "delivered");
            restart_after(&mut gateway, end).await;
        }
        let more = gateway.send(event("evt_more")).await;
        more.assert_problem(503, "store_unavailable")
            .assert_retry_after();
        gateway
            .wait_for_request_log(serde_json::json!({"reason": "store_share_full"}))
            .await;
    }
}

/// Starts the gateway under strace and warms it up; returns it with the length of the trace so far.
async fn start_traced(strace: &Strace, setup: Setup, good: (u16, &str)) -> (Gateway, usize) {
    let gateway = Gateway::start(setup.launched_by(strace.launcher())).await;
    let mut client = gateway.connect().await;
    for number in 0..5 {
        client
            .send(Event::new(&format!("evt_warm_{number}")))
            .await
            .assert(good.0, good.1);
    }
    // A response of another kind: when the trace has it, the trace has all earlier ones.
    client
        .send(Request::new("POST", "/elsewhere"))
        .await
        .assert(404, "unknown_route");
    eventually("the trace has the last response", async || {
        strace
            .trace()
            .lines
            .iter()
            .any(|line| line.is_response(404))
    })
    .await;
    (gateway, strace.trace().lines.len())
}

fn trace_commits_and_responses() -> Option<Strace> {
    Strace::new(&format!("{COMMITS},write,writev,sendto,sendmsg")).map(Strace::without_detach)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_request_responds_after_one_commit() {
    for (delivery, good) in [("proxy", (200, "delivered")), ("queue", (202, "queued"))] {
        let Some(strace) = trace_commits_and_responses() else {
            return;
        };
        // A receiver that never responds, so that the queue's own writes are not counted.
        let upstream = if delivery == "queue" {
            Upstream::replying([Reply::hang()])
        } else {
            Upstream::ok()
        };
        let route = Route::to(&upstream).with("delivery", delivery);
        let (gateway, warm) = start_traced(&strace, setup(route), good).await;
        let mut client = gateway.connect().await;
        for number in 0..20 {
            client
                .send(Event::new(&format!("evt_{number}")))
                .await
                .assert(good.0, good.1);
        }
        eventually("the trace has all responses", async || {
            strace.trace().lines[warm..]
                .iter()
                .filter(|line| line.is_response(good.0))
                .count()
                == 20
        })
        .await;
        let (mut commits, mut responses) = (0, 0);
        let lines = &strace.trace().lines[warm..];
        for line in lines {
            commits += usize::from(line.ends_a_commit());
            responses += usize::from(line.is_response(good.0));
            assert!(
                responses <= commits,
                "response {responses} was sent before its commit: {lines:#?}"
            );
        }
        assert_eq!(
            commits, 20,
            "commits for 20 consecutive requests ({delivery}): {lines:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_share_commits() {
    let Some(strace) = trace_commits_and_responses() else {
        return;
    };
    let upstream = Upstream::ok();
    let (gateway, warm) =
        start_traced(&strace, setup(Route::to(&upstream)), (200, "delivered")).await;
    let senders: Vec<_> = (0..64)
        .map(|number| {
            let to = gateway.public_address();
            tokio::spawn(async move {
                Client::connect(to)
                    .await
                    .send(Event::new(&format!("evt_{number}")))
                    .await
            })
        })
        .collect();
    for sender in senders {
        within("an answer", sender)
            .await
            .expect("no panic in a sender")
            .assert(200, "delivered");
    }
    let commits = strace.trace().commits_since(warm);
    assert!(
        (1..60).contains(&commits),
        "{commits} commits for 64 concurrent requests"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_durability_survives_kill_without_sync() {
    let Some(strace) = trace_commits_and_responses() else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = setup(Route::to(&upstream)).with("store", "{durability: relaxed}");
    let (mut gateway, warm) = start_traced(&strace, setup.clone(), (200, "delivered")).await;
    let mut client = gateway.connect().await;
    for number in 0..50 {
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    let commits = strace.trace().commits_since(warm);
    assert!(
        commits < 10,
        "{commits} commits for 50 requests that need none"
    );
    gateway.kill().await;
    gateway
        .restart_with(setup.launched_by(Launcher::default()))
        .await;
    for number in 0..50 {
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(409, "duplicate");
    }
    assert_eq!(upstream.count(), 55);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_folder_can_be_moved() {
    let upstream = Upstream::ok();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let at = |folder: PathBuf| {
        setup(Route::to(&upstream)).with("store", &format!("{{path: {}}}", folder.display()))
    };
    let mut gateway = Gateway::start(at(elsewhere.path().join("one"))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.stop().await;
    assert!(
        !gateway.store().exists(),
        "nothing is stored in the default folder"
    );
    // The folder of a stopped gateway is complete: a copy of it is a backup.
    let copy = elsewhere.path().join("two");
    std::fs::create_dir(&copy).expect("a folder");
    for entry in std::fs::read_dir(elsewhere.path().join("one")).expect("the store") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
    }
    gateway.restart_with(at(copy)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undelivered_event_is_not_completed() {
    let closed = ClosedPort::new();
    let mut gateway = Gateway::start(setup(Route::to_url(&closed.url()))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(502, "upstream_unreachable");
    for end in ENDS {
        restart_after(&mut gateway, end).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(502, "upstream_unreachable");
    }
    let upstream = closed.open([Reply::ok()]);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_reader_takes_nothing_from_store() {
    let found = program("HOOKSTILE_SQLITE3", "sqlite3");
    let Some(sqlite3) = tool("sqlite3", found, "another program beside the gateway") else {
        return;
    };
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_before"))
        .await
        .assert(200, "delivered");
    // The writer, a reader and the connection that checkpoints the log: the gateway never opens
    // more.
    let database = gateway
        .store()
        .join("hookstile.db")
        .canonicalize()
        .expect("the database");
    let descriptors = format!("/proc/{}/fd", gateway.pid());
    let opened = || {
        let links = std::fs::read_dir(&descriptors)
            .expect("a running gateway")
            .flatten();
        links
            .filter(|link| std::fs::read_link(link.path()).is_ok_and(|path| path == database))
            .count()
    };
    eventually("the gateway has opened all its connections", async || {
        opened() >= 3
    })
    .await;
    for _ in 0..2 {
        // The last connection to close deletes the log. This one is not the last, and must know it.
        let check = std::process::Command::new(&sqlite3)
            .arg(&database)
            .arg("SELECT count(*) FROM ledger")
            .output();
        assert!(check.expect("sqlite3 runs").status.success());
    }
    gateway
        .send(Event::new("evt_after"))
        .await
        .assert(200, "delivered");
    gateway.kill().await;
    gateway.restart().await;
    for id in ["evt_before", "evt_after"] {
        gateway.send(Event::new(id)).await.assert(409, "duplicate");
    }
}

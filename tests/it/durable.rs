//! What is completed stays completed, whatever becomes of the process: one sync, and only then the answer.

use std::path::PathBuf;

use crate::harness::programs::{program, tool};
use crate::harness::strace::SYNCS;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

/// How a gateway ends that is to be started again.
#[derive(Clone, Copy, Debug)]
enum End {
    Stopped,
    Killed,
}

const ENDS: [End; 2] = [End::Stopped, End::Killed];

async fn started_again(gateway: &mut Gateway, after: End) {
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
async fn a_completed_event_is_known_after_a_stop_and_after_a_kill() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    for (number, end) in ENDS.into_iter().enumerate() {
        let id = format!("evt_{number}");
        gateway.send(Event::new(&id)).await.assert(200, "delivered");
        started_again(&mut gateway, end).await;
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
async fn another_body_for_a_completed_id_is_known_after_a_restart() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    gateway
        .send(Event::typed("evt_1", "user.created"))
        .await
        .assert(200, "delivered");
    for end in ENDS {
        started_again(&mut gateway, end).await;
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
async fn the_attempts_at_an_event_are_counted_on_after_a_restart() {
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
        // No answer waits for the count to be written; one that does wait comes after it.
        gateway
            .send(Event::new(&format!("evt_other_{attempt}")))
            .await
            .assert(200, "delivered");
        started_again(&mut gateway, end).await;
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
async fn an_attempt_of_unknown_outcome_is_told_to_the_upstream_after_a_restart() {
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
        started_again(&mut gateway, end).await;
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
async fn a_renamed_route_has_a_ledger_of_its_own_after_a_restart() {
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
async fn a_second_process_on_the_same_store_is_refused_naming_the_first() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    let refusal = gateway.refuses_a_second().await;
    assert_eq!(refusal.code, Some(1), "{}", refusal.output);
    let pid = gateway.pid().to_string();
    assert!(
        refusal.output.contains(&pid),
        "process {pid} is named: {}",
        refusal.output
    );
    assert!(
        refusal.output.contains("hookstile-data"),
        "the store is named: {}",
        refusal.output
    );
    // The first one has not noticed, and leaves nothing behind that would refuse the next.
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    started_again(&mut gateway, End::Killed).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_made_is_told_at_the_start() {
    let upstream = Upstream::ok();
    // Nobody can make a folder there, not even root.
    let setup = setup(Route::to(&upstream)).with("store", "{path: /proc/hookstile-data}");
    let (code, output) = Gateway::refuses(setup).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("/proc/hookstile-data"),
        "the folder is named: {output}"
    );
    assert!(
        !output.contains("\"listening\"") && !output.contains("panicked"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_no_store_is_told_at_the_start_and_left_as_it_is() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(setup(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.stop().await;
    let databases = gateway.databases();
    assert!(!databases.is_empty(), "the store is somewhere");
    let garbage: Vec<u8> = (0..16384_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for database in &databases {
        std::fs::write(database, &garbage).expect("a writable file");
    }
    let refusal = gateway
        .try_restart_with(setup(Route::to(&upstream)))
        .await
        .expect_err("garbage is refused");
    assert_eq!(refusal.code, Some(1), "{}", refusal.output);
    assert!(
        refusal.output.contains("hookstile-data"),
        "the store is named: {}",
        refusal.output
    );
    assert!(!refusal.output.contains("panicked"), "{}", refusal.output);
    for database in &databases {
        assert_eq!(
            std::fs::read(database).expect("it is there"),
            garbage,
            "{} was changed",
            database.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_seen_in_the_metrics() {
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
    started_again(&mut gateway, End::Killed).await;
    let again = gateway.metrics().await;
    again.assert_value("ledger_entries", &[], 10.0);
    again.assert_at_least("store_bytes", &[], 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_can_read_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream).with("delivery", "queue"))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    for path in gateway.store_files().into_iter().chain([gateway.store()]) {
        let mode = std::fs::metadata(&path)
            .expect("it is there")
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
async fn a_store_with_as_many_ids_as_may_be_answers_503_and_forgets_none() {
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
        started_again(&mut gateway, end).await;
    }
    assert_eq!(upstream.count(), 1000);
}

/// The gateway under strace, warmed up, with the number of syncs so far.
async fn followed(strace: &Strace, setup: Setup, good: (u16, &str)) -> (Gateway, usize) {
    let gateway = Gateway::start(setup.under(strace.under())).await;
    let mut client = gateway.connect().await;
    for number in 0..5 {
        client
            .send(Event::new(&format!("evt_warm_{number}")))
            .await
            .assert(good.0, good.1);
    }
    // An answer of another kind, so that those before it are in the trace when it is.
    client
        .send(Request::new("POST", "/elsewhere"))
        .await
        .assert(404, "unknown_route");
    let marked = || strace.trace().lines.iter().any(|line| line.answers(404));
    eventually("the last answer is in the trace", async || marked()).await;
    (gateway, strace.trace().lines.len())
}

fn following_syncs_and_answers() -> Option<Strace> {
    Strace::following(&format!("{SYNCS},write,writev,sendto,sendmsg")).map(Strace::for_good)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_request_pays_one_sync_and_its_answer_comes_after_it() {
    for (delivery, good) in [("proxy", (200, "delivered")), ("queue", (202, "queued"))] {
        let Some(strace) = following_syncs_and_answers() else {
            return;
        };
        // A receiver that never answers: the queue's own work does not mix with what is counted.
        let upstream = if delivery == "queue" {
            Upstream::replying([Reply::hang()])
        } else {
            Upstream::ok()
        };
        let route = Route::to(&upstream).with("delivery", delivery);
        let (gateway, warm) = followed(&strace, setup(route), good).await;
        let mut client = gateway.connect().await;
        for number in 0..20 {
            client
                .send(Event::new(&format!("evt_{number}")))
                .await
                .assert(good.0, good.1);
        }
        eventually("all answers are in the trace", async || {
            strace.trace().lines[warm..]
                .iter()
                .filter(|line| line.answers(good.0))
                .count()
                == 20
        })
        .await;
        let (mut syncs, mut answers) = (0, 0);
        let lines = &strace.trace().lines[warm..];
        for line in lines {
            syncs += usize::from(line.ends_a_sync());
            answers += usize::from(line.answers(good.0));
            assert!(
                answers <= syncs,
                "answer {answers} left before its sync: {lines:#?}"
            );
        }
        assert_eq!(
            syncs, 20,
            "syncs for 20 requests, one after the other ({delivery}): {lines:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_one_time_share_their_syncs() {
    let Some(strace) = following_syncs_and_answers() else {
        return;
    };
    let upstream = Upstream::ok();
    let (gateway, warm) = followed(&strace, setup(Route::to(&upstream)), (200, "delivered")).await;
    let senders: Vec<_> = (0..64)
        .map(|number| {
            let to = gateway.data();
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
    let syncs = strace.trace().syncs_since(warm);
    assert!(
        (1..60).contains(&syncs),
        "{syncs} syncs for 64 requests at one time"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_durability_waits_for_no_sync_and_survives_a_kill() {
    let Some(strace) = following_syncs_and_answers() else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = setup(Route::to(&upstream)).with("store", "{durability: relaxed}");
    let (mut gateway, warm) = followed(&strace, setup.clone(), (200, "delivered")).await;
    let mut client = gateway.connect().await;
    for number in 0..50 {
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    let syncs = strace.trace().syncs_since(warm);
    assert!(syncs < 10, "{syncs} syncs for 50 requests that need none");
    gateway.kill().await;
    gateway.restart_with(setup.under(Under::default())).await;
    for number in 0..50 {
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(409, "duplicate");
    }
    assert_eq!(upstream.count(), 55);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_may_stand_elsewhere_and_moves_with_its_folder() {
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
        "nothing is kept where it is not wanted"
    );
    // A stopped gateway's folder is all there is: copied, it is a backup.
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
async fn an_event_that_never_reached_the_upstream_is_not_remembered_as_completed() {
    let closed = ClosedPort::new();
    let mut gateway = Gateway::start(setup(Route::to_url(&closed.url()))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(502, "upstream_unreachable");
    for end in ENDS {
        started_again(&mut gateway, end).await;
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
async fn another_program_that_looks_at_the_store_takes_nothing_from_it() {
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
    // The writer, a reader and the one that moves the log: all that the gateway ever opens.
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
    eventually("the store is in full use", async || opened() >= 3).await;
    for _ in 0..2 {
        // The last connection to go removes the log; this one is not the last, and has to know that.
        let look = std::process::Command::new(&sqlite3)
            .arg(&database)
            .arg("SELECT count(*) FROM ledger")
            .output();
        assert!(look.expect("sqlite3 runs").status.success());
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

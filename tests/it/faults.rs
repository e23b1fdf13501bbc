//! A disk that fails at any write or sync, or is full: acknowledged events are kept, and no others
//! are acknowledged.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::history::Disturbance;
use crate::harness::programs::{program, tool};
use crate::harness::strace::{COMMITS, SYNCS, WRITES};
use crate::harness::*;

/// The call of a thread to fail, one in each round. The first ones open the store; the later ones
/// use it.
const SYNC_NUMBERS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const WRITE_NUMBERS: [usize; 12] = [1, 2, 3, 4, 5, 7, 10, 14, 19, 25, 32, 40];

/// A round ends after this many events without an injected fault.
const EVENTS_PER_ROUND: usize = 150;

/// The files on which calls fail.
#[derive(Clone, Copy)]
enum Files {
    All,
    CommitLog,
}

impl Files {
    fn of(self, gateway: &Gateway) -> Vec<PathBuf> {
        match self {
            Self::All => gateway.store_files(),
            Self::CommitLog => vec![gateway.commit_log()],
        }
    }
}

/// Kills the gateway at the Nth of these calls on the store's files, for each N.
async fn kill_at_each(calls: &str, on: Files, numbers: [usize; 12]) {
    if Strace::new(calls).is_none() {
        return;
    }
    let mut load_test = LoadTest::start().await;
    let files = on.of(&load_test.gateway);
    for number in numbers {
        load_test.kill().await;
        let inject = format!("signal=KILL:when={number}");
        let strace = Strace::new(calls)
            .expect("seen above")
            .on_files(&files)
            .injecting(calls, &inject);
        let started = load_test.setup_with_launcher(strace.launcher());
        let accepted = load_test.accepted();
        if load_test.gateway.try_restart_with(started).await.is_ok() {
            eventually("the gateway is killed or the round is over", async || {
                load_test.gateway.is_gone() || load_test.accepted() > accepted + EVENTS_PER_ROUND
            })
            .await;
        }
        let killed = strace.trace().killed().unwrap_or_else(Instant::now);
        load_test.kill().await;
        load_test.record_disturbance(Disturbance::since(killed));
        load_test.restart().await;
        load_test.wait_for_progress(2).await;
    }
    load_test.finish().await;
}

/// Fails the Nth of these calls on the store's files, for each N.
async fn fail_at_each(calls: &str, on: Files, error: &str, numbers: [usize; 12]) {
    if Strace::new(calls).is_none() {
        return;
    }
    let mut load_test = LoadTest::start().await;
    let files = on.of(&load_test.gateway);
    for number in numbers {
        load_test.kill().await;
        let inject = format!("error={error}:when={number}");
        let strace = Strace::new(calls)
            .expect("seen above")
            .on_files(&files)
            .injecting(calls, &inject);
        let (started, accepted) = (Instant::now(), load_test.accepted());
        let setup = load_test.setup_with_launcher(strace.launcher());
        if let Err(refusal) = load_test.gateway.try_restart_with(setup).await {
            assert_eq!(
                refusal.code,
                Some(1),
                "the log reports the store that can't be opened: {}",
                refusal.output
            );
            assert!(
                refusal.output.contains("hookstile-data"),
                "and which: {}",
                refusal.output
            );
            load_test.record_disturbance(Disturbance::since(started));
            load_test.restart().await;
        } else {
            eventually("a call fails or the round is over", async || {
                assert!(
                    !load_test.gateway.is_gone(),
                    "a disk error must not end the gateway"
                );
                !strace.trace().injected().is_empty()
                    || load_test.accepted() > accepted + EVENTS_PER_ROUND
            })
            .await;
            strace.detach(&load_test.gateway).await;
            load_test.gateway.wait_until_ready().await;
            if let Some(first) = strace.trace().injected().first() {
                load_test.record_disturbance(Disturbance::since(*first));
            }
        }
        load_test.wait_for_progress(2).await;
    }
    load_test.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_at_any_sync_keeps_every_promise() {
    kill_at_each(SYNCS, Files::All, SYNC_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_at_any_write_keeps_every_promise() {
    kill_at_each(WRITES, Files::All, WRITE_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_sync_breaks_no_promise() {
    fail_at_each(SYNCS, Files::All, "EIO", SYNC_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_write_breaks_no_promise() {
    fail_at_each(WRITES, Files::All, "EIO", WRITE_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_log_write_breaks_no_promise() {
    fail_at_each("pwrite64", Files::CommitLog, "EIO", WRITE_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_at_any_log_write_keeps_every_promise() {
    kill_at_each("pwrite64", Files::CommitLog, WRITE_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_write_breaks_no_promise() {
    fail_at_each(WRITES, Files::All, "ENOSPC", WRITE_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_during_store_creation_allows_next_start() {
    for number in [1, 2, 3, 5, 8] {
        let Some(strace) = Strace::new(SYNCS) else {
            return;
        };
        let strace = strace.injecting(SYNCS, &format!("signal=KILL:when={number}"));
        let upstream = Upstream::ok();
        let setup = Setup::from(Route::to(&upstream));
        let mut gateway = Gateway::launch(setup.clone().launched_by(strace.launcher()));
        let _ = gateway.wait_until_up().await;
        gateway.kill().await;
        gateway.restart_with(setup).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(200, "delivered");
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(409, "duplicate");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_commit_blocks_success_until_reopen() {
    for delivery in ["proxy", "queue"] {
        let Some(strace) = Strace::new("openat,pwrite64") else {
            return;
        };
        let (folder, log) = (tempfile::tempdir().expect("a folder"), "hookstile.commits");
        // The failing write is well after the start, whichever request causes it.
        let strace = strace
            .on_files(&[folder.path().join("store").join(log)])
            .injecting("pwrite64", "error=EIO:when=30");
        // Stored events get no response here: the end of an attempt would be a commit of its own,
        // and its failure would fail no request.
        let upstream = Upstream::replying([if delivery == "queue" {
            Reply::hang()
        } else {
            Reply::ok()
        }]);
        let route = Route::to(&upstream).with("delivery", delivery);
        let store = format!("{{path: {}/store}}", folder.path().display());
        let setup = Setup::from(route).with("store", &store);
        let gateway = Gateway::start(setup.launched_by(strace.launcher())).await;
        let mut client = gateway.connect().await;
        let (good, outcome) = if delivery == "proxy" {
            (200, "delivered")
        } else {
            (202, "queued")
        };
        let mut number = 0;
        let failed = loop {
            number += 1;
            assert!(number < 200, "no request reaches the failing write");
            let response = client.send(Event::new(&format!("evt_{number}"))).await;
            if response.status != good {
                break response;
            }
            response.assert(good, outcome);
        };
        failed
            .assert_problem(503, "store_unavailable")
            .assert_retry_after();
        eventually("the sender's retry is accepted", async || {
            let response = gateway.send(Event::new(&format!("evt_{number}"))).await;
            match response.outcome() {
                "store_unavailable" => response
                    .assert_problem(503, "store_unavailable")
                    .assert_retry_after(),
                "duplicate" => response.assert(409, "duplicate"),
                _ => response.assert(good, outcome),
            };
            response.status != 503
        })
        .await;
        client
            .send(Event::new("evt_after"))
            .await
            .assert(good, outcome);
        let trace = strace.trace().lines;
        let refused = trace
            .iter()
            .position(|line| line.text.contains("(INJECTED)"))
            .expect("the trace has the failed write");
        let after = &trace[refused + 1..];
        let next = after.iter().find(|line| !line.text.contains("unfinished"));
        let next = next.expect("the log was written again");
        assert!(
            next.text.starts_with("openat("),
            "not before it was opened: {next:?}"
        );
        gateway
            .metrics()
            .await
            .assert_at_least("store_errors_total", &[], 1.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_disk_acknowledges_nothing() {
    let upstreams = [Upstream::ok(), Upstream::ok()];
    let routes = [
        Route::to(&upstreams[0]).named("proxy"),
        Route::to(&upstreams[1])
            .named("queue")
            .with("delivery", "queue"),
    ];
    let mut gateway = Gateway::start(Setup::new(routes).stopping_at_once()).await;
    let Some(strace) = Strace::new(COMMITS) else {
        return;
    };
    let strace = strace
        .on_files(&gateway.store_files())
        .injecting(COMMITS, "error=EIO");
    let event = |route: &str, number: usize| {
        Event::new(&format!("evt_{route}_{number}"))
            .post()
            .at(&format!("/webhooks/{route}"))
    };
    gateway
        .send(event("proxy", 0))
        .await
        .assert(200, "delivered");
    gateway.send(event("queue", 0)).await.assert(202, "queued");
    if !strace.attach(&gateway).await {
        return;
    }
    for number in 1..=5 {
        for route in ["proxy", "queue"] {
            let response = gateway.send(event(route, number)).await;
            response
                .assert_problem(503, "store_unavailable")
                .assert_retry_after();
        }
        // The gateway forwards no copy, whether it trusts its memory or not.
        let copy = gateway.send(event("proxy", 0)).await;
        assert!(
            ["duplicate", "store_unavailable"].contains(&copy.outcome()),
            "{copy:?}"
        );
    }
    assert!(!strace.trace().injected().is_empty(), "the disk has failed");
    eventually("the gateway reports that it is not ready", async || {
        gateway.admin_get("/readyz").await.status == 503
    })
    .await;
    assert_eq!(
        gateway.admin_get("/healthz").await.status,
        200,
        "the gateway is still alive"
    );
    strace.detach(&gateway).await;
    gateway.wait_until_ready().await;
    for route in ["proxy", "queue"] {
        for number in 1..=5 {
            eventually("a retry is accepted", async || {
                gateway.send(event(route, number)).await.status != 503
            })
            .await;
        }
    }
    for upstream in &upstreams {
        eventually("all events are delivered", async || {
            let ids: std::collections::BTreeSet<_> = upstream.event_ids().into_iter().collect();
            ids.len() == 6
        })
        .await;
    }
    gateway.kill().await;
    gateway.restart().await;
    for route in ["proxy", "queue"] {
        for number in 0..=5 {
            gateway
                .send(event(route, number))
                .await
                .assert(409, "duplicate");
        }
    }
}

/// Gives the gateway's store a small file system of its own, if the system allows the test to make
/// one.
fn on_a_small_disk() -> Option<Launcher> {
    let unshare = program("HOOKSTILE_UNSHARE", "unshare")?;
    let mount = "mount -t tmpfs -o size=16m hookstile hookstile-data";
    let line = format!("mkdir -p hookstile-data && {mount} && exec \"$@\"");
    let tries: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--map-root-user"]];
    let flags = tries.iter().find(|flags: &&&[&str]| {
        let probe = "mount -t tmpfs probe /mnt";
        let mut command = std::process::Command::new(&unshare);
        command
            .args(**flags)
            .args(["sh", "-c", probe])
            .output()
            .is_ok_and(|output| output.status.success())
    })?;
    let mut command = vec![unshare.clone().into_os_string()];
    command.extend(flags.iter().map(Into::into));
    command.extend(["sh", "-c", &line, "sh"].map(Into::into));
    Some(Launcher::command(command))
}

/// Returns the launcher of [`on_a_small_disk`], or reports that the test is skipped.
fn small_disk(purpose: &str) -> Option<Launcher> {
    let launcher = on_a_small_disk();
    let found = launcher.is_some().then(PathBuf::new);
    tool("a mount namespace", found, purpose).and(launcher)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_route_cannot_fill_the_disk_for_others() {
    let Some(launcher) = small_disk("a small disk that routes share") else {
        return;
    };
    let upstream = Upstream::ok();
    let routes = [
        Route::to_url("http://127.0.0.1:1/")
            .named("down")
            .with("delivery", "queue"),
        Route::to(&upstream),
    ];
    let gateway = Gateway::start(Setup::new(routes).launched_by(launcher)).await;
    let mut refused = 0;
    for number in 0..200 {
        let event = Event::sized(&format!("evt_{number}"), 100_000);
        let response = gateway.send(event.post().at("/webhooks/down")).await;
        if response.status != 202 {
            response.assert_problem(503, "store_unavailable");
            refused += 1;
        }
    }
    assert!(refused > 0, "the route's share of 16 MiB is used up");
    for number in 0..20 {
        let event = Event::new(&format!("evt_other_{number}"));
        gateway.send(event).await.assert(200, "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_answers_503_then_recovers() {
    let Some(launcher) = small_disk("a disk that is really full") else {
        return;
    };
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("delivery", "queue");
    let gateway = Gateway::start(Setup::from(route).launched_by(launcher)).await;
    let inside = PathBuf::from(format!(
        "/proc/{}/root{}",
        gateway.pid(),
        gateway.store().display()
    ));
    assert!(inside.is_dir(), "the store is on the gateway's own mount");
    let filler = inside.join("filler");
    let mut client = gateway.connect().await;
    let mut acknowledged = Vec::new();
    let mut number = 0;
    let mut next = || {
        number += 1;
        format!("evt_{number}")
    };
    for _ in 0..20 {
        let id = next();
        client
            .send(Event::sized(&id, 1024))
            .await
            .assert(202, "queued");
        acknowledged.push(id);
    }
    let fill = std::process::Command::new("dd")
        .arg("if=/dev/zero")
        .arg(format!("of={}", filler.display()))
        .output();
    assert!(!fill.expect("dd").status.success(), "dd fills the disk");
    // The files of the store may still have free space.
    let mut refused = 0;
    for _ in 0..4000 {
        let id = next();
        let response = client.send(Event::sized(&id, 4096)).await;
        if response.status == 202 {
            acknowledged.push(id);
            continue;
        }
        response
            .assert_problem(503, "store_unavailable")
            .assert_retry_after();
        refused += 1;
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "the sender learns that the disk is full");
    let copy = gateway.send(Event::sized(&acknowledged[0], 1024)).await;
    assert!(
        ["duplicate", "store_unavailable"].contains(&copy.outcome()),
        "{copy:?}"
    );
    std::fs::remove_file(&filler).expect("the filler can be removed");
    let after = next();
    eventually("it recovers", async || {
        gateway.send(Event::sized(&after, 1024)).await.status != 503
    })
    .await;
    acknowledged.push(after);
    let mut ids = std::collections::BTreeSet::new();
    eventually("all acknowledged events are delivered", async || {
        ids = upstream.event_ids().into_iter().collect();
        acknowledged.iter().all(|id| ids.contains(id))
    })
    .await;
    gateway.wait_until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_loses_no_acknowledged_event() {
    let Some(strace) = Strace::new(WRITES) else {
        return;
    };
    let mut load_test = LoadTest::start().await;
    let strace = strace
        .on_files(&load_test.gateway.store_files())
        .injecting(WRITES, "error=ENOSPC");
    for _ in 0..3 {
        if !strace.attach(&load_test.gateway).await {
            return;
        }
        let earlier = strace.trace().injected().len();
        eventually("the store fails a write", async || {
            strace.trace().injected().len() > earlier
        })
        .await;
        let accepted = load_test.accepted();
        // Copies of completed events are still answered as such; at most six new events are in
        // flight.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(
            load_test.accepted() <= accepted + 6,
            "no new event is accepted"
        );
        strace.detach(&load_test.gateway).await;
        load_test.gateway.wait_until_ready().await;
        let from = strace.trace().injected()[earlier];
        load_test.record_disturbance(Disturbance::since(from));
        load_test.wait_for_progress(3).await;
    }
    load_test.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempt_result_is_kept_until_disk_recovers() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let route = Route::to(&upstream).with("delivery", "queue");
    let gateway = Gateway::start(Setup::from(route).stopping_at_once()).await;
    // Faults the writes, not a flush: the reopened store finds everything written before a failed
    // flush.
    let Some(strace) = Strace::new("pwrite64") else {
        return;
    };
    let strace = strace.injecting("pwrite64", "error=EIO");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(1).await;
    if !strace.attach(&gateway).await {
        return;
    }
    gate.open();
    eventually("the write fails", async || {
        !strace.trace().injected().is_empty()
    })
    .await;
    strace.detach(&gateway).await;
    gateway.wait_until_ready().await;
    gateway
        .wait_for_metric("queue_events", &[("route", "hooks")], 0.0)
        .await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(2).await;
    assert_eq!(
        upstream.event_ids(),
        ["evt_1", "evt_2"],
        "delivered once: the result was known all along"
    );
}

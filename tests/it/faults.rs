//! A disk that fails at any write or sync, and one that is full: what was acknowledged stays, nothing else is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::history::Disturbance;
use crate::harness::programs::{program, tool};
use crate::harness::strace::{SYNCS, WRITES};
use crate::harness::*;

/// Which calls of a thread are hit, one in each round: around the first ones the store is opened, then it works.
const SYNC_NUMBERS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const WRITE_NUMBERS: [usize; 12] = [1, 2, 3, 4, 5, 7, 10, 14, 19, 25, 32, 40];

/// So many events more without a hit, and the round is over.
const ENOUGH: usize = 150;

/// Kills the gateway at the Nth of these calls on the store's files, for each N.
async fn killed_at(calls: &str, numbers: [usize; 12]) {
    if Strace::following(calls).is_none() {
        return;
    }
    let mut trial = Trial::start().await;
    let files = trial.gateway.store_files();
    for number in numbers {
        trial.kill().await;
        let inject = format!("signal=KILL:when={number}");
        let strace = Strace::following(calls)
            .expect("seen above")
            .on(&files)
            .injecting(calls, &inject);
        let started = trial.setup_under(strace.under());
        let accepted = trial.accepted();
        if trial.gateway.try_restart_with(started).await.is_ok() {
            eventually("the gateway is killed, or has done enough", async || {
                trial.gateway.is_gone() || trial.accepted() > accepted + ENOUGH
            })
            .await;
        }
        let killed = strace.trace().killed().unwrap_or_else(Instant::now);
        trial.kill().await;
        trial.disturbed(Disturbance::since(killed));
        trial.restart().await;
        trial.progresses(2).await;
    }
    trial.judge().await;
}

/// Fails the Nth of these calls on the store's files, for each N.
async fn failing_at(calls: &str, error: &str, numbers: [usize; 12]) {
    if Strace::following(calls).is_none() {
        return;
    }
    let mut trial = Trial::start().await;
    let files = trial.gateway.store_files();
    for number in numbers {
        trial.kill().await;
        let inject = format!("error={error}:when={number}");
        let strace = Strace::following(calls)
            .expect("seen above")
            .on(&files)
            .injecting(calls, &inject);
        let (started, accepted) = (Instant::now(), trial.accepted());
        let setup = trial.setup_under(strace.under());
        if let Err(refusal) = trial.gateway.try_restart_with(setup).await {
            assert_eq!(
                refusal.code,
                Some(1),
                "a store that can't be opened is told: {}",
                refusal.output
            );
            assert!(
                refusal.output.contains("hookstile-data"),
                "and which: {}",
                refusal.output
            );
            trial.disturbed(Disturbance::since(started));
            trial.restart().await;
        } else {
            eventually("a call fails, or enough is done", async || {
                assert!(
                    !trial.gateway.is_gone(),
                    "an error of the disk ends no gateway"
                );
                !strace.trace().injected().is_empty() || trial.accepted() > accepted + ENOUGH
            })
            .await;
            strace.detach(&trial.gateway).await;
            trial.gateway.is_ready().await;
            if let Some(first) = strace.trace().injected().first() {
                trial.disturbed(Disturbance::since(*first));
            }
        }
        trial.progresses(2).await;
    }
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_sync_it_keeps_every_promise() {
    killed_at(SYNCS, SYNC_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_write_it_keeps_every_promise() {
    killed_at(WRITES, WRITE_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_breaks_no_promise() {
    failing_at(SYNCS, "EIO", SYNC_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_breaks_no_promise() {
    failing_at(WRITES, "EIO", WRITE_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_room_breaks_no_promise() {
    failing_at(WRITES, "ENOSPC", WRITE_NUMBERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_sync_while_the_store_is_made_it_starts_the_next_time() {
    for number in [1, 2, 3, 5, 8] {
        let Some(strace) = Strace::following(SYNCS) else {
            return;
        };
        let strace = strace.injecting(SYNCS, &format!("signal=KILL:when={number}"));
        let upstream = Upstream::ok();
        let setup = Setup::from(Route::to(&upstream));
        let mut gateway = Gateway::launch(setup.clone().under(strace.under()));
        let _ = gateway.comes_up().await;
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
async fn after_a_failed_sync_nothing_is_acknowledged_until_the_store_was_opened_again() {
    for delivery in ["proxy", "queue"] {
        let Some(strace) =
            Strace::following(&format!("openat,{SYNCS},write,writev,sendto,sendmsg"))
        else {
            return;
        };
        // Well after the start; whichever request that is.
        let strace = strace.injecting(SYNCS, "error=EIO:when=30");
        // A stored event is never answered here: the end of its attempt would be a commit of its own, and no request fail
        // with it.
        let upstream = Upstream::replying([if delivery == "queue" {
            Reply::hang()
        } else {
            Reply::ok()
        }]);
        let route = Route::to(&upstream).with("delivery", delivery);
        let gateway = Gateway::start(Setup::from(route).under(strace.under())).await;
        let mut client = gateway.connect().await;
        let (good, outcome) = if delivery == "proxy" {
            (200, "delivered")
        } else {
            (202, "queued")
        };
        let mut number = 0;
        let failed = loop {
            number += 1;
            assert!(number < 200, "the sync that fails is never reached");
            let answer = client.send(Event::new(&format!("evt_{number}"))).await;
            if answer.status != good {
                break answer;
            }
            answer.assert(good, outcome);
        };
        failed
            .assert_problem(503, "store_unavailable")
            .assert_retry_after();
        eventually("the sender's retry is accepted", async || {
            let answer = gateway.send(Event::new(&format!("evt_{number}"))).await;
            match answer.outcome() {
                "store_unavailable" => answer
                    .assert_problem(503, "store_unavailable")
                    .assert_retry_after(),
                "duplicate" => answer.assert(409, "duplicate"),
                _ => answer.assert(good, outcome),
            };
            answer.status != 503
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
            .expect("a sync was refused");
        let after = &trace[refused..];
        let opened = after
            .iter()
            .position(|line| line.opens_below(&gateway.store()));
        let acknowledged = after
            .iter()
            .position(|line| line.answers(good))
            .expect("the last answer");
        let opened = opened.expect("the store was opened again");
        assert!(
            opened < acknowledged,
            "opened at {opened}, acknowledged at {acknowledged} after the failure"
        );
        gateway
            .metrics()
            .await
            .assert_at_least("store_errors_total", &[], 1.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_fails_nothing_is_acknowledged_and_afterwards_it_recovers_by_itself() {
    let upstreams = [Upstream::ok(), Upstream::ok()];
    let routes = [
        Route::to(&upstreams[0]).named("proxy"),
        Route::to(&upstreams[1])
            .named("queue")
            .with("delivery", "queue"),
    ];
    let mut gateway = Gateway::start(Setup::new(routes).stopping_at_once()).await;
    let Some(strace) = Strace::following(SYNCS) else {
        return;
    };
    let strace = strace.injecting(SYNCS, "error=EIO");
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
            let answer = gateway.send(event(route, number)).await;
            answer
                .assert_problem(503, "store_unavailable")
                .assert_retry_after();
        }
        // Whether it trusts its memory now or not, it forwards no copy.
        let copy = gateway.send(event("proxy", 0)).await;
        assert!(
            ["duplicate", "store_unavailable"].contains(&copy.outcome()),
            "{copy:?}"
        );
    }
    assert!(!strace.trace().injected().is_empty(), "the disk has failed");
    eventually("it says that it is not ready", async || {
        gateway.admin_get("/readyz").await.status == 503
    })
    .await;
    assert_eq!(
        gateway.admin_get("/healthz").await.status,
        200,
        "alive all the same"
    );
    strace.detach(&gateway).await;
    gateway.is_ready().await;
    for route in ["proxy", "queue"] {
        for number in 1..=5 {
            eventually("a retry is accepted", async || {
                gateway.send(event(route, number)).await.status != 503
            })
            .await;
        }
    }
    for upstream in &upstreams {
        eventually("all are delivered", async || {
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

/// The gateway with a small file system of its own for its store, where the system lets us make one.
fn on_a_small_disk() -> Option<Under> {
    let unshare = program("HOOKSTILE_UNSHARE", "unshare")?;
    let mount = "mount -t tmpfs -o size=12m hookstile hookstile-data";
    let line = format!("mkdir -p hookstile-data && {mount} && exec \"$@\"");
    let tries: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--map-root-user"]];
    let works = |flags: &&&[&str]| {
        let probe = "mount -t tmpfs probe /mnt";
        let mut command = std::process::Command::new(&unshare);
        command
            .args(**flags)
            .args(["sh", "-c", probe])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let flags = tries.iter().find(works)?;
    let mut command = vec![unshare.clone().into_os_string()];
    command.extend(flags.iter().map(Into::into));
    command.extend(["sh", "-c", &line, "sh"].map(Into::into));
    Some(Under::command(command))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_answers_503_and_recovers_when_there_is_room() {
    let disk = on_a_small_disk().map(|under| (PathBuf::new(), under));
    let found = tool(
        "a mount namespace",
        disk.as_ref().map(|(path, _)| path.clone()),
        "a disk that is really full",
    );
    let (Some(_), Some((_, under))) = (found, disk) else {
        return;
    };
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("delivery", "queue");
    let gateway = Gateway::start(Setup::from(route).under(under)).await;
    let inside = PathBuf::from(format!(
        "/proc/{}/root{}",
        gateway.pid(),
        gateway.store().display()
    ));
    assert!(inside.is_dir(), "the gateway's own view of its store");
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
    assert!(
        !fill.expect("dd").status.success(),
        "dd ends for want of room"
    );
    // There may be room yet in what the store has of the disk.
    let mut refused = 0;
    for _ in 0..4000 {
        let id = next();
        let answer = client.send(Event::sized(&id, 4096)).await;
        if answer.status == 202 {
            acknowledged.push(id);
            continue;
        }
        answer
            .assert_problem(503, "store_unavailable")
            .assert_retry_after();
        refused += 1;
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "a full disk is told to the sender");
    let copy = gateway.send(Event::sized(&acknowledged[0], 1024)).await;
    assert!(
        ["duplicate", "store_unavailable"].contains(&copy.outcome()),
        "{copy:?}"
    );
    std::fs::remove_file(&filler).expect("room is made");
    let after = next();
    eventually("it recovers", async || {
        gateway.send(Event::sized(&after, 1024)).await.status != 503
    })
    .await;
    acknowledged.push(after);
    let mut ids = std::collections::BTreeSet::new();
    eventually("all that was acknowledged is delivered", async || {
        ids = upstream.event_ids().into_iter().collect();
        acknowledged.iter().all(|id| ids.contains(id))
    })
    .await;
    gateway.is_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_for_a_while_nothing_is_acknowledged_that_is_lost() {
    let Some(strace) = Strace::following(WRITES) else {
        return;
    };
    let mut trial = Trial::start().await;
    let strace = strace
        .on(&trial.gateway.store_files())
        .injecting(WRITES, "error=ENOSPC");
    for _ in 0..3 {
        if !strace.attach(&trial.gateway).await {
            return;
        }
        let seen = strace.trace().injected().len();
        eventually("the store runs into it", async || {
            strace.trace().injected().len() > seen
        })
        .await;
        let accepted = trial.accepted();
        // Copies of completed events are still told so; of the new ones there are six at the most under way.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(trial.accepted() <= accepted + 6, "nothing new is accepted");
        strace.detach(&trial.gateway).await;
        trial.gateway.is_ready().await;
        let from = strace.trace().injected()[seen];
        trial.disturbed(Disturbance::since(from));
        trial.progresses(3).await;
    }
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_of_an_attempt_is_kept_until_the_disk_takes_it() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let route = Route::to(&upstream).with("delivery", "queue");
    let gateway = Gateway::start(Setup::from(route).stopping_at_once()).await;
    // Not a flush: what was written before one fails is found again.
    let Some(strace) = Strace::following("pwrite64") else {
        return;
    };
    let strace = strace.injecting("pwrite64", "error=EIO");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.received(1).await;
    if !strace.attach(&gateway).await {
        return;
    }
    gate.open();
    eventually("it could not be written", async || {
        !strace.trace().injected().is_empty()
    })
    .await;
    strace.detach(&gateway).await;
    gateway.is_ready().await;
    gateway
        .metric_reaches("queue_events", &[("route", "hooks")], 0.0)
        .await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(202, "queued");
    upstream.received(2).await;
    assert_eq!(
        upstream.event_ids(),
        ["evt_1", "evt_2"],
        "delivered once: what came of it was known all the time"
    );
}

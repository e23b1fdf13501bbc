//! A jump of the wall clock between two starts changes nothing: replay windows and retry horizons
//! count the store's uptime.

use std::process::Command;

use crate::harness::programs::{program, tool};
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

/// Returns a launcher whose wall clock `faketime` shifts as described (`+10d`), or `None` without
/// faketime. Stop such a gateway instead of killing it: otherwise the library leaves files in
/// `/dev/shm`.
pub fn launcher_with_clock(description: &str) -> Option<Launcher> {
    let found = program("HOOKSTILE_FAKETIME", "faketime");
    let faketime = tool("faketime", found, "clocks that jump")?;
    // The faketime command stays as the parent process, so the test preloads its library instead;
    // only the command knows where the library is.
    let library = Command::new(faketime)
        .args(["-m", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"])
        .output();
    let library = String::from_utf8(library.expect("faketime runs").stdout).expect("a path");
    let environment = [
        ("LD_PRELOAD", library.trim()),
        ("FAKETIME", description),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    Some(Launcher::environment(
        environment
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_jump_expires_no_completed_event() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).stopping_at_once();
    let mut gateway = Gateway::start(setup.clone()).await;
    gateway
        .send(Event::new("evt_0"))
        .await
        .assert(200, "delivered");
    let offsets = ["+10d", "-10d", "+10d", "+0d"];
    for (number, offset) in offsets.into_iter().enumerate() {
        let Some(launcher) = launcher_with_clock(offset) else {
            return;
        };
        gateway.stop().await;
        gateway
            .restart_with(setup.clone().launched_by(launcher))
            .await;
        for earlier in 0..=number {
            gateway
                .send(Event::new(&format!("evt_{earlier}")))
                .await
                .assert(409, "duplicate");
        }
        gateway
            .send(Event::new(&format!("evt_{}", number + 1)))
            .await
            .assert(200, "delivered");
    }
    gateway.stop().await;
    assert_eq!(upstream.count(), offsets.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_jump_keeps_retry_schedule() {
    for offset in ["+10d", "-10d"] {
        let closed = ClosedPort::new();
        let route = Route::to_url(&closed.url()).with("delivery", "queue");
        let route = route.with(
            "retry",
            "{initial: 50ms, factor: 2, max_interval: 500ms, horizon: 72h}",
        );
        let setup = Setup::from(route).stopping_at_once();
        let mut gateway = Gateway::start(setup.clone()).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(202, "queued");
        let failed = [("route", "hooks"), ("result", "connect_error")];
        gateway
            .wait_for_metric_at_least("queue_attempts_total", &failed, 1.0)
            .await;
        gateway.stop().await;
        let Some(launcher) = launcher_with_clock(offset) else {
            return;
        };
        gateway.restart_with(setup.launched_by(launcher)).await;
        gateway
            .wait_for_metric_at_least("queue_attempts_total", &failed, 2.0)
            .await;
        let metrics = gateway.metrics().await;
        metrics.assert_value("queue_events", &[("state", "dead")], 0.0);
        metrics.assert_value("queue_dead_lettered_total", &[("route", "hooks")], 0.0);
        let upstream = closed.open([Reply::ok()]);
        upstream.wait_for_requests(1).await;
        gateway
            .wait_for_metric("queue_events", &[("route", "hooks")], 0.0)
            .await;
        gateway.stop().await;
        assert_eq!(upstream.event_ids(), ["evt_1"], "{offset}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_jump_keeps_arrival_time() {
    let closed = ClosedPort::new();
    let route = Route::to_url(&closed.url())
        .with("delivery", "queue")
        .with("retry", "{initial: 50ms, max_interval: 500ms}");
    let setup = Setup::from(route).stopping_at_once();
    let mut gateway = Gateway::start(setup.clone()).await;
    let before = jiff::Timestamp::now();
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    let after = jiff::Timestamp::now();
    gateway.stop().await;
    let Some(launcher) = launcher_with_clock("+10d") else {
        return;
    };
    gateway.restart_with(setup.launched_by(launcher)).await;
    let upstream = closed.open([Reply::ok()]);
    upstream.wait_for_requests(1).await;
    gateway.stop().await;
    let request = upstream.last();
    let arrival = request
        .header("Hookstile-Received-At")
        .expect("an arrival time");
    let arrival: jiff::Timestamp = arrival.parse().expect("RFC 3339");
    let second = jiff::SignedDuration::from_secs(1);
    assert!(
        (before - second..=after).contains(&arrival),
        "{arrival} is between {before} and {after}"
    );
}

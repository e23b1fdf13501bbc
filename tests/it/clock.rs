//! A wall clock that jumps between two starts changes nothing: windows and horizons count the gateway's own time.

use std::process::Command;

use crate::harness::programs::{program, tool};
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

/// The gateway with a wall clock as `faketime` describes it (`+10d`); `None` where there is no faketime. It is to be stopped, not killed:
/// the library leaves things in `/dev/shm` otherwise.
pub fn clock_like(description: &str) -> Option<Under> {
    let found = program("HOOKSTILE_FAKETIME", "faketime");
    let faketime = tool("faketime", found, "clocks that jump")?;
    // The command itself stays beside what it starts; its library alone will do, and only it knows where that is.
    let library = Command::new(faketime)
        .args(["-m", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"])
        .output();
    let library = String::from_utf8(library.expect("faketime runs").stdout).expect("a path");
    let environment = [
        ("LD_PRELOAD", library.trim()),
        ("FAKETIME", description),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    Some(Under::environment(
        environment
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_expires_no_completed_event() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).stopping_at_once();
    let mut gateway = Gateway::start(setup.clone()).await;
    gateway
        .send(Event::new("evt_0"))
        .await
        .assert(200, "delivered");
    let offsets = ["+10d", "-10d", "+10d", "+0d"];
    for (number, offset) in offsets.into_iter().enumerate() {
        let Some(under) = clock_like(offset) else {
            return;
        };
        gateway.stop().await;
        gateway.restart_with(setup.clone().under(under)).await;
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
async fn a_clock_that_jumps_neither_gives_a_queued_event_up_nor_holds_it_back() {
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
            .metrics_past("queue_attempts_total", &failed, 1.0)
            .await;
        gateway.stop().await;
        let Some(under) = clock_like(offset) else {
            return;
        };
        gateway.restart_with(setup.under(under)).await;
        gateway
            .metrics_past("queue_attempts_total", &failed, 2.0)
            .await;
        let metrics = gateway.metrics().await;
        metrics.assert_value("queue_events", &[("state", "dead")], 0.0);
        metrics.assert_value("queue_dead_lettered_total", &[("route", "hooks")], 0.0);
        let upstream = closed.open([Reply::ok()]);
        upstream.received(1).await;
        gateway
            .metric_reaches("queue_events", &[("route", "hooks")], 0.0)
            .await;
        gateway.stop().await;
        assert_eq!(upstream.event_ids(), ["evt_1"], "{offset}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_event_is_shown_to_have_arrived_when_it_did_after_the_clock_has_jumped() {
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
    let Some(under) = clock_like("+10d") else {
        return;
    };
    gateway.restart_with(setup.under(under)).await;
    let upstream = closed.open([Reply::ok()]);
    upstream.received(1).await;
    gateway.stop().await;
    let request = upstream.last();
    let told = request
        .header("Hookstile-Received-At")
        .expect("a time of arrival");
    let told: jiff::Timestamp = told.parse().expect("RFC 3339");
    let second = jiff::SignedDuration::from_secs(1);
    assert!(
        (before - second..=after).contains(&told),
        "{told} is between {before} and {after}"
    );
}

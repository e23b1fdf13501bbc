//! SIGTERM: no longer ready, still serving, then finishing, then gone with exit code 0.

use std::time::{Duration, Instant};

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_the_drain_it_is_not_ready_and_still_serves() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(
        Setup::from(Route::to(&upstream)).with("shutdown", "{drain: 3s, grace: 5s}"),
    )
    .await;
    let mut kept = gateway.connect().await;
    kept.send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.signal("TERM");
    eventually("readyz says 503", async || {
        gateway.admin_get("/readyz").await.status == 503
    })
    .await;
    assert_eq!(
        gateway.admin_get("/healthz").await.status,
        200,
        "alive while draining"
    );
    gateway.metrics().await.assert_value("draining", &[], 1.0);
    kept.send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_3"))
        .await
        .assert(200, "delivered");
    assert_eq!(gateway.exited().await.code(), Some(0));
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_is_finished_before_the_end() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(
        Setup::from(Route::to(&upstream)).with("shutdown", "{drain: 200ms, grace: 15s}"),
    )
    .await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.received(1).await;
    gateway.signal("TERM");
    eventually("the listener is closed", async || {
        tokio::net::TcpStream::connect(gateway.data())
            .await
            .is_err()
    })
    .await;
    gate.open();
    sender.answer().await.assert(200, "delivered");
    assert_eq!(gateway.exited().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_whose_sender_hung_up_is_finished_before_the_end() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(
        Setup::from(Route::to(&upstream)).with("shutdown", "{drain: 200ms, grace: 15s}"),
    )
    .await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.received(1).await;
    sender.reset();
    gateway.signal("TERM");
    eventually("the listener is closed", async || {
        tokio::net::TcpStream::connect(gateway.data())
            .await
            .is_err()
    })
    .await;
    assert_eq!(upstream.open(), 1, "the hand-over is not cut");
    gate.open();
    assert_eq!(gateway.exited().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_gateway_is_gone_soon_after_its_drain() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(
        Setup::from(Route::to(&upstream)).with("shutdown", "{drain: 200ms, grace: 2s}"),
    )
    .await;
    let mut kept = gateway.connect().await;
    kept.send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let start = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.exited().await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    kept.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_outlives_the_grace_does_not_hold_the_end_up() {
    let upstream = Upstream::replying([Reply::hang()]);
    let route = Route::to(&upstream).with("budget", "60s");
    let gateway =
        Gateway::start(Setup::from(route).with("shutdown", "{drain: 200ms, grace: 1s}")).await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.received(1).await;
    gateway.signal("TERM");
    gateway.exited().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_stops_it_too() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(
        Setup::from(Route::to(&upstream)).with("shutdown", "{drain: 200ms, grace: 1s}"),
    )
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.signal("INT");
    assert_eq!(gateway.exited().await.code(), Some(0));
}

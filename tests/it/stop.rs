//! SIGTERM: the gateway becomes unready, keeps serving, finishes its requests and exits with code
//! 0.

use std::time::{Duration, Instant};

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_gateway_is_unready_but_serves() {
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
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_finishes_request_in_flight() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(
        Setup::from(Route::to(&upstream)).with("shutdown", "{drain: 200ms, grace: 15s}"),
    )
    .await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.wait_for_requests(1).await;
    gateway.signal("TERM");
    eventually("the listener is closed", async || {
        tokio::net::TcpStream::connect(gateway.public_address())
            .await
            .is_err()
    })
    .await;
    gate.open();
    sender.read_response().await.assert(200, "delivered");
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_finishes_delivery_of_gone_sender() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(
        Setup::from(Route::to(&upstream)).with("shutdown", "{drain: 200ms, grace: 15s}"),
    )
    .await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.wait_for_requests(1).await;
    sender.reset();
    gateway.signal("TERM");
    eventually("the listener is closed", async || {
        tokio::net::TcpStream::connect(gateway.public_address())
            .await
            .is_err()
    })
    .await;
    assert_eq!(upstream.open(), 1, "the delivery is not interrupted");
    gate.open();
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_gateway_stops_soon_after_drain() {
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
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    kept.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_request_does_not_delay_stop() {
    let upstream = Upstream::replying([Reply::hang()]);
    let route = Route::to(&upstream).with("budget", "60s");
    let gateway =
        Gateway::start(Setup::from(route).with("shutdown", "{drain: 200ms, grace: 1s}")).await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.wait_for_requests(1).await;
    gateway.signal("TERM");
    gateway.wait_for_exit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_stops_gateway() {
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
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
}

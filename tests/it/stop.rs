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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_waits_for_verified_requests_only() {
    let gate = Gate::shut();
    let upstream = Upstream::deciding({
        let gate = gate.clone();
        move |request, _| {
            let is_deaf = request.body == Event::new("evt_deaf").body;
            if is_deaf {
                Reply::full(200, "", b"ok")
            } else {
                Reply::ok().after(&gate)
            }
        }
    });
    let setup = Setup::from(Route::to(&upstream).with("budget", "1h"));
    let setup = setup
        .with("limits", "{header_timeout: 1h, idle_timeout: 1h}")
        .with("shutdown", "{drain: 0s, grace: 1h}");
    let mut gateway = Gateway::start(setup).await;
    let _lingering = Lingering::connect(&gateway).await;
    upstream.wait_for_requests(1).await;
    let mut verified = gateway.connect().await;
    verified
        .write(&Event::new("evt_verified").post().bytes())
        .await;
    upstream.wait_for_requests(2).await;
    let mut over_http2 = gateway.connect_h2().await;
    let over_http2 = tokio::spawn(async move { over_http2.send(Event::new("evt_http2")).await });
    upstream.wait_for_requests(3).await;
    gateway.signal("TERM");
    // The silent connection and the three over HTTP/2 are closed meanwhile; the two verified
    // requests keep theirs.
    gateway
        .wait_for_metric("connections", &[], Lingering::CONNECTIONS + 2.0 - 4.0)
        .await;
    assert!(!gateway.is_gone(), "verified requests are in flight");
    gate.open();
    verified.read_response().await.assert(200, "delivered");
    let response = over_http2.await.expect("a response");
    response.assert(200, "delivered");
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
    assert!(
        !gateway.output().contains("still in flight"),
        "{}",
        gateway.output()
    );
    gateway.restart().await;
    let opened = gateway
        .lines()
        .into_iter()
        .find(|line| line.get("clean").is_some())
        .expect("a line about the store");
    assert_eq!(opened["clean"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_verified_too_late_gets_503_from_stop() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let setup = Setup::from(Route::to(&upstream).with("budget", "1h"));
    let gateway = Gateway::start(setup.with("shutdown", "{drain: 0s, grace: 1h}")).await;
    let mut verified = gateway.connect().await;
    verified
        .write(&Event::new("evt_verified").post().bytes())
        .await;
    upstream.wait_for_requests(1).await;
    let late = Event::new("evt_late").post().bytes();
    let mut slow = gateway.connect().await;
    slow.write(&late[..late.len() - 1]).await;
    gateway
        .wait_for_metric("requests_in_flight", &[], 2.0)
        .await;
    let mut idle = gateway.connect().await;
    idle.send(Request::new("GET", "/"))
        .await
        .assert(404, "unknown_route");
    gateway.signal("TERM");
    // Idle connections are closed half a second after the stop has begun; so is the admission.
    idle.wait_for_close().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    slow.write(&late[late.len() - 1..]).await;
    slow.read_response()
        .await
        .assert_problem(503, "overloaded")
        .assert_retry_after();
    gate.open();
    verified.read_response().await.assert(200, "delivered");
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
    assert_eq!(upstream.event_ids(), ["evt_verified"]);
}

//! Spill: an event is delivered at once if possible; otherwise it is queued and delivered later.

use std::time::Duration;

use crate::harness::upstream::{ClosedPort, NeverAccepts};
use crate::harness::*;

fn with_spill(route: Route) -> Route {
    route.with("delivery", "spill").with(
        "retry",
        "{initial: 50ms, factor: 2, max_interval: 500ms, horizon: 1h}",
    )
}

async fn wait_for_empty_queue(gateway: &Gateway) {
    gateway
        .wait_for_metric("queue_events", &[("route", "hooks")], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepting_upstream_answers_as_in_proxy_mode() {
    let reply = Reply::full(201, "X-App: 7\r\nContent-Type: text/plain\r\n", b"made");
    let upstream = Upstream::replying([reply]);
    let gateway = Gateway::start(with_spill(Route::to(&upstream))).await;
    let response = gateway.send(Event::new("evt_1")).await;
    response
        .assert(201, "delivered")
        .assert_event_id("evt_1")
        .assert_header("X-App", "7");
    assert_eq!(response.text(), "made");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    let metrics = gateway.metrics().await;
    metrics.assert_value("queue_events", &[("route", "hooks")], 0.0);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_upstream_gets_event_later() {
    for status in [500, 502, 503, 504, 429] {
        let upstream = Upstream::replying([Reply::status(status), Reply::ok()]);
        let gateway = Gateway::start(with_spill(Route::to(&upstream))).await;
        let event = Event::new("evt_1");
        gateway
            .send(event.clone())
            .await
            .assert(202, "queued")
            .assert_event_id("evt_1");
        gateway
            .send(event.clone())
            .await
            .assert_problem(409, "duplicate");
        upstream.wait_for_requests(2).await;
        wait_for_empty_queue(&gateway).await;
        let second = upstream.requests_for("evt_1").pop().expect("two attempts");
        second.assert_header("Hookstile-Attempt", "2");
        second.assert_no_header("Hookstile-Possible-Duplicate");
        assert_eq!(second.body, event.body, "upstream {status}");
        assert_eq!(upstream.count(), 2, "upstream {status}");
        gateway.send(event).await.assert_problem(409, "duplicate");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_upstream_gets_event_later() {
    let closed = ClosedPort::new();
    let gateway = Gateway::start(with_spill(Route::to_url(&closed.url()))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .wait_for_metric(
            "requests_total",
            &[("route", "hooks"), ("outcome", "queued")],
            1.0,
        )
        .await;
    let upstream = closed.open([Reply::ok()]);
    upstream.wait_for_requests(1).await;
    wait_for_empty_queue(&gateway).await;
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Duplicate");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connection_is_retried_and_marked() {
    let upstream = Upstream::replying([Reply::disconnect(), Reply::ok()]);
    let gateway = Gateway::start(with_spill(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(2).await;
    wait_for_empty_queue(&gateway).await;
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_event_goes_back_to_sender() {
    for (status, passed) in [(400, 400), (404, 404), (422, 422), (410, 502)] {
        let upstream = Upstream::replying([Reply::status(status), Reply::ok()]);
        let gateway = Gateway::start(with_spill(Route::to(&upstream))).await;
        let response = gateway.send(Event::new("evt_1")).await;
        response.assert(passed, "upstream_rejected");
        gateway
            .metrics()
            .await
            .assert_value("queue_events", &[("route", "hooks")], 0.0);
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(200, "delivered");
        upstream.last().assert_header("Hookstile-Attempt", "2");
        assert_eq!(upstream.count(), 2, "upstream {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_upstream_costs_sender_the_budget() {
    let upstream = Upstream::replying([Reply::hang(), Reply::ok()]);
    let route = with_spill(Route::to(&upstream))
        .with("budget", "2s")
        .with("budget_margin", "700ms");
    let gateway = Gateway::start(route).await;
    let (response, took) = gateway.send_timed(Event::new("evt_1")).await;
    response.assert(202, "queued");
    assert!(took < Duration::from_secs(2), "answered after {took:?}");
    upstream.wait_for_requests(2).await;
    wait_for_empty_queue(&gateway).await;
    let second = upstream.last();
    second.assert_header("Hookstile-Possible-Duplicate", "true");
    second.assert_header("Hookstile-Attempt", "2");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unaccepting_upstream_costs_sender_the_budget() {
    let full = NeverAccepts::new().await;
    let route = with_spill(Route::to_url(&full.url()))
        .with("budget", "2s")
        .with("budget_margin", "700ms");
    let gateway = Gateway::start(route).await;
    let (response, took) = gateway.send_timed(Event::new("evt_1")).await;
    response.assert(202, "queued");
    assert!(took < Duration::from_secs(2), "answered after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spilled_event_survives_kill() {
    let closed = ClosedPort::new();
    let mut gateway = Gateway::start(with_spill(Route::to_url(&closed.url()))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway.kill().await;
    gateway.restart().await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    let upstream = closed.open([Reply::ok()]);
    upstream.wait_for_requests(1).await;
    wait_for_empty_queue(&gateway).await;
    assert_eq!(upstream.event_ids(), ["evt_1"]);
}

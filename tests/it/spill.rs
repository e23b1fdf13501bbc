//! Passed on at once where that works; kept, and delivered later, where it does not.

use std::time::Duration;

use crate::harness::upstream::{ClosedPort, NeverAccepts};
use crate::harness::*;

fn spilling(route: Route) -> Route {
    route.with("delivery", "spill").with(
        "retry",
        "{initial: 50ms, factor: 2, max_interval: 500ms, horizon: 1h}",
    )
}

async fn queue_is_empty(gateway: &Gateway) {
    gateway
        .metric_reaches("queue_events", &[("route", "hooks")], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_takes_the_event_answers_as_in_proxy_mode() {
    let reply = Reply::full(201, "X-App: 7\r\nContent-Type: text/plain\r\n", b"made");
    let upstream = Upstream::replying([reply]);
    let gateway = Gateway::start(spilling(Route::to(&upstream))).await;
    let answer = gateway.send(Event::new("evt_1")).await;
    answer
        .assert(201, "delivered")
        .assert_event_id("evt_1")
        .assert_header("X-App", "7");
    assert_eq!(answer.text(), "made");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    let metrics = gateway.metrics().await;
    metrics.assert_value("queue_events", &[("route", "hooks")], 0.0);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_in_trouble_gets_the_event_later_and_the_sender_a_202() {
    for status in [500, 502, 503, 504, 429] {
        let upstream = Upstream::replying([Reply::status(status), Reply::ok()]);
        let gateway = Gateway::start(spilling(Route::to(&upstream))).await;
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
        upstream.received(2).await;
        queue_is_empty(&gateway).await;
        let second = upstream.requests_for("evt_1").pop().expect("two attempts");
        second.assert_header("Hookstile-Attempt", "2");
        second.assert_no_header("Hookstile-Possible-Duplicate");
        assert_eq!(second.body, event.body, "upstream {status}");
        assert_eq!(upstream.count(), 2, "upstream {status}");
        gateway.send(event).await.assert_problem(409, "duplicate");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_cannot_be_reached_gets_the_event_later() {
    let closed = ClosedPort::new();
    let gateway = Gateway::start(spilling(Route::to_url(&closed.url()))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .metric_reaches(
            "requests_total",
            &[("route", "hooks"), ("outcome", "queued")],
            1.0,
        )
        .await;
    let upstream = closed.open([Reply::ok()]);
    upstream.received(1).await;
    queue_is_empty(&gateway).await;
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
async fn a_connection_that_breaks_after_the_request_was_sent_is_repeated_and_told() {
    let upstream = Upstream::replying([Reply::cut(), Reply::ok()]);
    let gateway = Gateway::start(spilling(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.received(2).await;
    queue_is_empty(&gateway).await;
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_the_upstream_refuses_is_the_senders_again() {
    for (status, passed) in [(400, 400), (404, 404), (422, 422), (410, 502)] {
        let upstream = Upstream::replying([Reply::status(status), Reply::ok()]);
        let gateway = Gateway::start(spilling(Route::to(&upstream))).await;
        let answer = gateway.send(Event::new("evt_1")).await;
        answer.assert(passed, "upstream_rejected");
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
async fn an_upstream_that_hangs_costs_the_sender_no_more_than_the_budget() {
    let upstream = Upstream::replying([Reply::hang(), Reply::ok()]);
    let route = spilling(Route::to(&upstream))
        .with("budget", "2s")
        .with("budget_margin", "700ms");
    let gateway = Gateway::start(route).await;
    let (answer, took) = gateway.timed(Event::new("evt_1")).await;
    answer.assert(202, "queued");
    assert!(took < Duration::from_secs(2), "answered after {took:?}");
    upstream.received(2).await;
    queue_is_empty(&gateway).await;
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
async fn an_upstream_that_accepts_no_connection_costs_the_sender_no_more_than_the_budget() {
    let full = NeverAccepts::new().await;
    let route = spilling(Route::to_url(&full.url()))
        .with("budget", "2s")
        .with("budget_margin", "700ms");
    let gateway = Gateway::start(route).await;
    let (answer, took) = gateway.timed(Event::new("evt_1")).await;
    answer.assert(202, "queued");
    assert!(took < Duration::from_secs(2), "answered after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spilled_event_survives_a_kill() {
    let closed = ClosedPort::new();
    let mut gateway = Gateway::start(spilling(Route::to_url(&closed.url()))).await;
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
    upstream.received(1).await;
    queue_is_empty(&gateway).await;
    assert_eq!(upstream.event_ids(), ["evt_1"]);
}

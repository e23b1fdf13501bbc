//! `enforce: false`: an unverified request is forwarded, marked, and changes nothing that a genuine
//! event needs.

use serde_json::json;

use crate::harness::upstream::ClosedPort;
use crate::harness::*;

fn unenforced_route(upstream: &Upstream) -> Route {
    Route::to(upstream).with("enforce", "false")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unverified_request_is_marked_and_counted() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(unenforced_route(&upstream)).await;
    let event = Event::new("evt_1");
    for (number, (result, request)) in [
        ("mismatch", event.forged()),
        ("missing", event.post().without("X-VPN-Signature")),
        (
            "malformed",
            event.post().set("X-VPN-Signature", "sha256=zz"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        gateway
            .send(request.header("Hookstile-Verified", "true"))
            .await
            .assert(200, "delivered");
        let received = upstream.last();
        received.assert_header("Hookstile-Verified", "false");
        // A receiver that deduplicates by ID must not mistake the genuine event for a copy of this
        // one.
        received.assert_no_header("Hookstile-Event-Id");
        received.assert_no_header("Idempotency-Key");
        assert_eq!(
            (received.body, upstream.count()),
            (event.body.clone(), number + 1)
        );
        let metrics = gateway.metrics().await;
        metrics.assert_value(
            "signature_checks_total",
            &[("route", "hooks"), ("result", result)],
            1.0,
        );
        gateway
            .wait_for_request_log(json!({"outcome": "delivered", "unverified": result}))
            .await;
    }
    gateway.metrics().await.assert_value(
        "requests_total",
        &[("route", "hooks"), ("outcome", "delivered")],
        3.0,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_event_does_not_use_up_genuine_id() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(unenforced_route(&upstream)).await;
    let event = Event::new("evt_1");
    gateway.send(event.forged()).await.assert(200, "delivered");
    gateway.send(event.forged()).await.assert(200, "delivered");
    gateway.send(event.post()).await.assert(200, "delivered");
    upstream.last().assert_no_header("Hookstile-Verified");
    gateway.send(event.post()).await.assert(409, "duplicate");
    gateway.send(event.forged()).await.assert(200, "delivered");
    assert_eq!(upstream.count(), 4);
    let total = gateway.api("/webhooks/wh_hooks/deliveries").await["total"].clone();
    assert_eq!(total, json!(1), "an unverified request leaves no record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn non_event_is_forwarded_but_filtered_type_is_not() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(unenforced_route(&upstream).with("events", r#"["user.*"]"#)).await;
    gateway
        .send(Event::typed("evt_0", "vpn.connected").forged())
        .await
        .assert(200, "ignored");
    upstream.assert_untouched();
    gateway
        .send(Request::post(b"not JSON"))
        .await
        .assert(200, "delivered");
    upstream.last().assert_header("Hookstile-Verified", "false");
    // A verified event is handled as on any other route.
    gateway
        .send(Event::raw("{}").post())
        .await
        .assert_problem(400, "invalid_event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_stores_genuine_and_forwards_unverified() {
    let upstream = Upstream::replying([Reply::status(500), Reply::ok()]);
    let gateway = Gateway::start(unenforced_route(&upstream).with("delivery", "queue")).await;
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert(500, "upstream_rejected");
    gateway
        .send(Event::new("evt_1").post())
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(2).await;
    upstream.last().assert_no_header("Hookstile-Verified");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_failure_is_reported_normally() {
    let port = ClosedPort::new();
    let gateway = Gateway::start(Route::to_url(&port.url()).with("enforce", "false")).await;
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert_problem(502, "upstream_unreachable");
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(unenforced_route(&upstream).with("budget", "1500ms")).await;
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert_problem(504, "budget_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unenforced_route_always_warns_at_start() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(unenforced_route(&upstream)).await;
    assert!(
        gateway.output().contains("open to anyone"),
        "{}",
        gateway.output()
    );
}

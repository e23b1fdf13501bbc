//! `enforce: false`: what does not verify is forwarded, marked, and touches nothing that a genuine event needs.

use serde_json::json;

use crate::harness::upstream::ClosedPort;
use crate::harness::*;

fn shadow(upstream: &Upstream) -> Route {
    Route::to(upstream).with("enforce", "false")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_verify_is_forwarded_marked_and_counted() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(shadow(&upstream)).await;
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
        let seen = upstream.last();
        seen.assert_header("Hookstile-Verified", "false");
        // A receiver that goes by IDs must not take the genuine event for a copy of this.
        seen.assert_no_header("Hookstile-Event-Id");
        seen.assert_no_header("Idempotency-Key");
        assert_eq!(
            (seen.body, upstream.count()),
            (event.body.clone(), number + 1)
        );
        let metrics = gateway.metrics().await;
        metrics.assert_value(
            "signature_checks_total",
            &[("route", "hooks"), ("result", result)],
            1.0,
        );
        gateway
            .logged(json!({"outcome": "delivered", "unverified": result}))
            .await;
    }
    gateway.metrics().await.assert_value(
        "requests_total",
        &[("route", "hooks"), ("outcome", "delivered")],
        3.0,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_event_does_not_use_up_the_genuine_one_s_id() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(shadow(&upstream)).await;
    let event = Event::new("evt_1");
    gateway.send(event.forged()).await.assert(200, "delivered");
    gateway.send(event.forged()).await.assert(200, "delivered");
    gateway.send(event.post()).await.assert(200, "delivered");
    upstream.last().assert_no_header("Hookstile-Verified");
    gateway.send(event.post()).await.assert(409, "duplicate");
    gateway.send(event.forged()).await.assert(200, "delivered");
    assert_eq!(upstream.count(), 4);
    let total = gateway.api("/webhooks/wh_hooks/deliveries").await["total"].clone();
    assert_eq!(total, json!(1), "what nobody vouches for leaves no record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_event_passes_too_and_what_the_route_does_not_take_does_not() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(shadow(&upstream).with("events", r#"["user.*"]"#)).await;
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
    // What verifies is held to the same as ever.
    gateway
        .send(Event::raw("{}").post())
        .await
        .assert_problem(400, "invalid_event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_holds_what_is_genuine_and_the_rest_is_forwarded_at_once() {
    let upstream = Upstream::replying([Reply::status(500), Reply::ok()]);
    let gateway = Gateway::start(shadow(&upstream).with("delivery", "queue")).await;
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert(500, "upstream_rejected");
    gateway
        .send(Event::new("evt_1").post())
        .await
        .assert(202, "queued");
    upstream.received(2).await;
    upstream.last().assert_no_header("Hookstile-Verified");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_or_silent_upstream_is_told_as_ever() {
    let port = ClosedPort::new();
    let gateway = Gateway::start(Route::to_url(&port.url()).with("enforce", "false")).await;
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert_problem(502, "upstream_unreachable");
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(shadow(&upstream).with("budget", "1500ms")).await;
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert_problem(504, "budget_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_route_is_never_started_without_a_warning() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(shadow(&upstream)).await;
    assert!(
        gateway.output().contains("open to anyone"),
        "{}",
        gateway.output()
    );
}

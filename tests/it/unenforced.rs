//! `enforce: false`: an unverified request is forwarded, marked, and changes nothing that a genuine
//! event needs.

use serde_json::{Value, json};

use crate::harness::command::run_cli;
use crate::harness::upstream::ClosedPort;
use crate::harness::wait::eventually;
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
async fn let_pass_is_explained_and_captured() {
    let upstream = Upstream::replying([Reply::status(500)]);
    let gateway = Gateway::start(unenforced_route(&upstream).with("capture", "{}")).await;
    let body: &[u8] = br#"{"id":"evt_1","type":"user.created"}"#;
    let request =
        Request::post(&[body, b"\n"].concat()).header("X-VPN-Signature", &sign(SECRET, body));
    gateway.send(request).await.assert(500, "upstream_rejected");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(500, "upstream_rejected");
    let newest = async || gateway.api("/rejections").await["rejections"][0].clone();
    eventually("it is explained", async || {
        newest().await["explanation"].is_string()
    })
    .await;
    let all = gateway.api("/rejections").await;
    let listed = &all["rejections"][0];
    let kind = [&listed["outcome"], &listed["reason"], &listed["let_pass"]];
    assert_eq!(
        (kind, &listed["status"], &all["total"]),
        (
            [
                &json!("invalid_signature"),
                &json!("mismatch"),
                &json!(true)
            ],
            &json!(500),
            &json!(1)
        ),
        "{all}"
    );
    let explanation = listed["explanation"].as_str().expect("just seen");
    assert!(explanation.contains("a newline was added"), "{explanation}");
    let logged = |line: &Value| line["message"] == "unverified request explained";
    eventually("it is logged", async || gateway.lines().iter().any(logged)).await;
    let id = listed["capture_id"].as_str().expect("it is captured");
    let captured = gateway.api(&format!("/captures/{id}")).await["capture"].clone();
    assert_eq!(
        (&captured["let_pass"], &captured["body"]),
        (
            &json!(true),
            &json!(format!("{}\n", String::from_utf8_lossy(body)))
        )
    );
    let shown = run_cli(&gateway, "rejections list").await.stdout;
    assert!(
        shown.contains("invalid_signature/mismatch (let pass)"),
        "{shown}"
    );
    let status = gateway.api("/status").await;
    assert_eq!(status["rejected_last_hour"], json!([]), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unenforced_request_may_be_rejected() {
    let upstream = Upstream::ok();
    let route = unenforced_route(&upstream)
        .with("capture", "{}")
        .with("events", r#"["user.*"]"#)
        .with("rate_limit", "{per_second: 1, burst: 1}");
    let gateway = Gateway::start(route).await;
    let ignored = Event::typed("evt_0", "vpn.connected").forged();
    gateway.send(ignored).await.assert(200, "ignored");
    let forged = Event::new("evt_1").forged();
    gateway.send(forged.clone()).await.assert(200, "delivered");
    gateway
        .send(forged)
        .await
        .assert_problem(429, "rate_limited");
    let all = gateway.api("/rejections").await["rejections"].clone();
    let kinds: Vec<_> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (&one["outcome"], &one["let_pass"], &one["status"]))
        .collect();
    let let_pass = (&json!("invalid_signature"), &json!(true), &json!(200));
    let limited = (&json!("rate_limited"), &json!(false), &json!(429));
    // Nothing was let pass of an event that the route does not accept.
    let ignored = (&json!("ignored"), &json!(false), &json!(200));
    assert_eq!(kinds, [limited, let_pass, ignored]);
    assert_eq!(gateway.api("/captures").await["total"], 1);
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

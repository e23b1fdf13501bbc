//! Rejected requests: operators can list them, memory is bounded, and a rejection holds nothing
//! that could prove a signature.

use serde_json::{Value, json};

use crate::harness::command::run_cli;
use crate::harness::*;

fn list(document: &Value) -> &Vec<Value> {
    document["rejections"].as_array().expect("a list")
}

/// Returns the total number of requests behind a list.
fn total_count(rejections: &[Value]) -> u64 {
    rejections
        .iter()
        .map(|rejection| 1 + rejection["left_out"].as_u64().expect("a number"))
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_signature_flood_is_counted_and_bounded() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream),
        Route::to(&upstream).named("quiet"),
    ]))
    .await;
    gateway
        .send(Event::new("evt_missing").post().without("X-VPN-Signature"))
        .await
        .assert(401, "invalid_signature");
    let mut sender = gateway.connect().await;
    for number in 0..600 {
        let forged = Event::new(&format!("evt_{number}")).forged();
        sender.send(forged).await.assert(401, "invalid_signature");
    }
    let document = gateway.api("/webhooks/wh_hooks/rejections?limit=100").await;
    let rejections = list(&document);
    assert!(rejections.len() <= 100, "{}", rejections.len());
    assert_eq!(
        (document["success"].as_bool(), total_count(rejections)),
        (Some(true), 601),
        "{document}"
    );
    let oldest = rejections.last().expect("some");
    assert_eq!(
        oldest["reason"], "missing",
        "a flood does not displace rare rejections"
    );
    assert!(gateway.api("/webhooks/wh_quiet/rejections").await["rejections"] == json!([]));

    let rejected = gateway.api("/status").await["rejected_last_hour"].clone();
    let kinds: Vec<_> = rejected
        .as_array()
        .expect("a list")
        .iter()
        .map(|kind| &kind["count"])
        .collect();
    assert_eq!(kinds, [&json!(600), &json!(1)], "{rejected}");
    let shown = run_cli(&gateway, "status").await.stdout;
    let line = "hooks: rejected in the last hour: 600 invalid_signature/mismatch, 1 invalid_signature/missing, last at 2";
    assert!(shown.contains(line), "{shown}");
    assert!(
        !shown.contains("quiet: rejected") && !shown.contains("no route: rejected"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejection_shows_sender_target_and_reason() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let event = Event::new("evt_1");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let forged = event.forged().header("User-Agent", "Sender/1.0");
    gateway
        .send(forged.header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01")))
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Request::new("GET", "/nothing/here?token=in_a_query"))
        .await
        .assert(404, "unknown_route");
    gateway
        .send(Request::new("GET", PATH))
        .await
        .assert(405, "method_not_allowed");
    gateway
        .connect()
        .await
        .send_raw(b"nonsense\r\n\r\n")
        .await
        .expect("an answer");

    let document = gateway.api("/rejections").await;
    let outcomes: Vec<_> = list(&document)
        .iter()
        .map(|rejection| &rejection["outcome"])
        .collect();
    assert_eq!(
        outcomes,
        [
            "malformed_request",
            "method_not_allowed",
            "unknown_route",
            "invalid_signature"
        ]
    );
    let refused = &list(&document)[3];
    let expected = json!({
        "at": refused["at"], "webhook_id": "wh_hooks", "route": "hooks", "outcome": "invalid_signature",
        "reason": "mismatch", "let_pass": false, "status": 401, "method": "POST", "path": PATH,
        "peer": "127.0.0.1",
        "body_bytes": event.body.len(), "trace_id": trace, "user_agent": "Sender/1.0", "event_id": null,
        "event_type": null, "left_out": 0, "capture_id": null, "explanation": refused["explanation"],
    });
    assert_eq!(*refused, expected);
    let unmatched = &list(&document)[2];
    assert_eq!(
        (&unmatched["route"], &unmatched["path"]),
        (&json!(null), &json!("/nothing/here"))
    );
    assert_eq!(
        (&unmatched["reason"], &unmatched["method"]),
        (&json!(null), &json!("GET"))
    );
    assert_eq!(list(&document)[0]["reason"], "unparsable");
    assert_eq!(
        list(&gateway.api("/webhooks/wh_hooks/rejections").await).len(),
        2
    );
    let first = gateway.api("/rejections?limit=1").await;
    assert_eq!(
        (list(&first).len(), &first["total"], &first["has_more"]),
        (1, &json!(4), &json!(true))
    );
    assert!(
        run_cli(&gateway, "status")
            .await
            .stdout
            .contains("no route: rejected in the last hour: 1 ")
    );

    for (path, status) in [
        ("/webhooks/wh_none/rejections", 404),
        ("/webhooks/hooks/rejections", 404),
        ("/rejections?limit=0", 400),
        ("/rejections?limit=101", 400),
        ("/rejections?limit=1&limit=1", 400),
        ("/rejections?status=dead", 400),
    ] {
        assert_eq!(gateway.admin_get(path).await.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejection_holds_no_secret_or_long_text() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let event = Event::raw(r#"{"id":"evt_1","type":"user.created","data":"in_the_body"}"#);
    let signature = sign("whsec_of_another_sender", &event.body);
    let request = event
        .signed_with("whsec_of_another_sender")
        .header("Authorization", "Bearer in_a_header");
    gateway
        .send(request.header("Cookie", "in_a_cookie"))
        .await
        .assert(401, "invalid_signature");
    let long = format!("/{}?in_a_query", "p".repeat(5000));
    gateway
        .send(Request::new("POST", &long).header("User-Agent", &"u".repeat(5000)))
        .await
        .assert(404, "unknown_route");
    let text =
        gateway.admin_get("/rejections").await.text() + &gateway.admin_get("/status").await.text();
    let hex = signature.trim_start_matches("sha256=");
    for hidden in [
        hex,
        SECRET,
        "in_the_body",
        "in_a_header",
        "in_a_cookie",
        "in_a_query",
        "evt_1",
    ] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
    let document = gateway.api("/rejections").await;
    let lengths =
        ["path", "user_agent"].map(|name| list(&document)[0][name].as_str().map(str::len));
    assert_eq!(lengths, [Some(256), Some(128)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_keeps_rejections_of_kept_route() {
    let upstream = Upstream::ok();
    let two = Setup::new([Route::to(&upstream), Route::to(&upstream).named("second")]);
    let gateway = Gateway::start(two.clone()).await;
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Event::new("evt_1").forged().at("/webhooks/second"))
        .await
        .assert(401, "invalid_signature");
    let changed = Setup::from(Route::to(&upstream).with("budget", "9s"));
    gateway.reload(changed).await;
    assert_eq!(
        list(&gateway.api("/webhooks/wh_hooks/rejections").await).len(),
        1
    );
    assert_eq!(
        gateway
            .admin_get("/webhooks/wh_second/rejections")
            .await
            .status,
        404
    );
    gateway
        .send(Event::new("evt_2").forged())
        .await
        .assert(401, "invalid_signature");
    assert_eq!(list(&gateway.api("/rejections").await).len(), 2);
    gateway.reload(two).await;
    assert_eq!(
        list(&gateway.api("/webhooks/wh_second/rejections").await).len(),
        0
    );
}

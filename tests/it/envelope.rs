//! Ambiguous events, which two receivers could read differently, are rejected; plain ones are
//! delivered.

use serde_json::json;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_event_is_rejected() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    let long = "x".repeat(256);
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"evt_1\"".to_vec(),
        b"id=evt_1&type=t".to_vec(),
        br#"{"id":"evt_1","type":"t""#.to_vec(),
        br#"{"id":"evt_1","type":"t"} {}"#.to_vec(),
        br#"{"id":"evt_1","type":"t"}x"#.to_vec(),
        br#"{"id":"evt_1","type":"t",}"#.to_vec(),
        br"{'id':'evt_1','type':'t'}".to_vec(),
        br#"{"type":"t"}"#.to_vec(),
        br#"{"id":"evt_1"}"#.to_vec(),
        br#"{"data":{"id":"evt_1","type":"t"}}"#.to_vec(),
        br#"{"id":null,"type":"t"}"#.to_vec(),
        br#"{"id":"","type":"t"}"#.to_vec(),
        br#"{"id":true,"type":"t"}"#.to_vec(),
        br#"{"id":{"id":"evt_1"},"type":"t"}"#.to_vec(),
        br#"{"id":["evt_1"],"type":"t"}"#.to_vec(),
        br#"{"id":1.0,"type":"t"}"#.to_vec(),
        br#"{"id":1e3,"type":"t"}"#.to_vec(),
        br#"{"id":1E3,"type":"t"}"#.to_vec(),
        br#"{"id":01,"type":"t"}"#.to_vec(),
        br#"{"id":"a\u0000b","type":"t"}"#.to_vec(),
        br#"{"id":"a\nb","type":"t"}"#.to_vec(),
        br#"{"id":"a\u001bb","type":"t"}"#.to_vec(),
        br#"{"id":"a\u007fb","type":"t"}"#.to_vec(),
        br#"{"id":"\ud800","type":"t"}"#.to_vec(),
        b"{\"id\":\"a\nb\",\"type\":\"t\"}".to_vec(),
        b"{\"id\":\"a\xffb\",\"type\":\"t\"}".to_vec(),
        b"{\"id\":\"evt_1\",\"type\":\"t\",\"data\":\"\xc3\x28\"}".to_vec(),
        b"\xff\xfe{\x00}\x00".to_vec(),
        format!(r#"{{"id":"{long}","type":"t"}}"#).into_bytes(),
        br#"{"id":"evt_1","id":"evt_2","type":"t"}"#.to_vec(),
        br#"{"id":"evt_1","type":"t","id":"evt_1"}"#.to_vec(),
        br#"{"id":"evt_1","\u0069d":"evt_2","type":"t"}"#.to_vec(),
        br#"{"id":"evt_1","ID":"evt_2","type":"t"}"#.to_vec(),
        br#"{"Id":"evt_2","id":"evt_1","type":"t"}"#.to_vec(),
        br#"{"id":"evt_1","\u0049D":"evt_2","type":"t"}"#.to_vec(),
        br#"{"id":"evt_1","type":"t","type":"u"}"#.to_vec(),
        br#"{"id":"evt_1","type":"t","Type":"u"}"#.to_vec(),
        br#"{"ID":"evt_1","type":"t"}"#.to_vec(),
        br#"{"id":"evt_1","type":null}"#.to_vec(),
        br#"{"id":"evt_1","type":""}"#.to_vec(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let response = client.send(Event::raw(body)).await;
        assert_eq!(
            (response.status, response.outcome()),
            (400, "invalid_event"),
            "{shown}"
        );
    }
    upstream.assert_untouched();
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unambiguous_event_passes_with_its_id() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let longest = "x".repeat(255);
    let plain = [
        (r#"{"id":"evt_1","type":"t"}"#.to_owned(), "evt_1"),
        (
            r#"{"type":"t","\u0069d":"evt_escaped_key"}"#.to_owned(),
            "evt_escaped_key",
        ),
        (
            r#"{"id":"\u0065vt_escaped","type":"t"}"#.to_owned(),
            "evt_escaped",
        ),
        (r#"{"id":42,"type":"t"}"#.to_owned(), "42"),
        (r#"{"id":-7,"type":"t"}"#.to_owned(), "-7"),
        (
            r#"{"id":90071992547409931,"type":"t"}"#.to_owned(),
            "90071992547409931",
        ),
        (
            r#"{"id":123456789012345678901234567890,"type":"t"}"#.to_owned(),
            "123456789012345678901234567890",
        ),
        (
            r#"{"data":{"id":"a","ID":"b","id":"c"},"id":"evt_deep","type":"t"}"#.to_owned(),
            "evt_deep",
        ),
        (r#"{"id":"evt_space","type":"t"} "#.to_owned(), "evt_space"),
        (format!(r#"{{"id":"{longest}","type":"t"}}"#), &longest),
    ];
    for (body, id) in &plain {
        gateway
            .send(Event::raw(body.as_bytes()))
            .await
            .assert(200, "delivered")
            .assert_event_id(id);
        upstream.last().assert_header("Hookstile-Event-Id", id);
        upstream.last().assert_header("Hookstile-Event-Type", "t");
    }
    assert_eq!(upstream.count(), plain.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn number_and_string_ids_are_two_events() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::raw(r#"{"id":1,"type":"t"}"#))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::raw(r#"{"id":"1","type":"t"}"#))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::raw(r#"{"id":1,"type":"t"}"#))
        .await
        .assert(409, "duplicate");
    gateway
        .send(Event::raw(r#"{"id":"1","type":"t"}"#))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_number_ids_are_not_rounded() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::raw(r#"{"id":90071992547409931,"type":"t"}"#))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::raw(r#"{"id":90071992547409932,"type":"t"}"#))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn escaped_id_equals_plain_id() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::raw(r#"{"id":"evt_1","type":"t"}"#))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::raw(r#"{"id":"\u0065vt_1","type":"t"}"#))
        .await
        .assert(409, "payload_mismatch");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn non_ascii_id_is_accepted() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::raw(r#"{"id":"päivä-日","type":"t"}"#))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::raw(r#"{"id":"päivä-日","type":"t"}"#))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pointers_and_headers_locate_envelope() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with(
        "event",
        "{id: /meta/event~1id, type: {header: X-Event-Type}}",
    );
    let gateway = Gateway::start(route).await;
    let event =
        Event::raw(r#"{"meta":{"event/id":"evt_deep"},"id":"evt_top","type":"in the body"}"#);
    gateway
        .send(event.post())
        .await
        .assert(400, "invalid_event");
    gateway
        .send(
            event
                .post()
                .header("X-Event-Type", "a")
                .header("X-Event-Type", "b"),
        )
        .await
        .assert(400, "invalid_event");
    upstream.assert_untouched();
    let response = gateway
        .send(event.post().header("X-Event-Type", "in.the.header"))
        .await;
    response
        .assert(200, "delivered")
        .assert_event_id("evt_deep");
    upstream
        .last()
        .assert_header("Hookstile-Event-Type", "in.the.header");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_id_marks_captured_body() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("event", "{id: {header: X-Delivery}, type: /type}");
    let gateway = Gateway::start(route).await;
    let captured = Event::new("whatever").post();
    gateway
        .send(captured.clone().header("X-Delivery", "delivery-1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Replay");
    gateway
        .send(captured.clone().header("X-Delivery", "delivery-2"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("Hookstile-Possible-Replay", "true");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_age_rejects_stale_and_future_events() {
    let upstream = Upstream::ok();
    let envelope = "{id: /id, type: /type, timestamp: /at, max_age: 5m}";
    let gateway = Gateway::start(Route::to(&upstream).with("event", envelope)).await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let at = |id: &str, at: String| Event::raw(format!(r#"{{"id":"{id}","type":"t","at":{at}}}"#));
    let refused = [
        at("old", (now - 3600).to_string()),
        at("old in ms", ((now - 3600) * 1000).to_string()),
        at("future", (now + 3600).to_string()),
        at("long ago", r#""2001-09-09T01:46:40Z""#.into()),
        at("far ahead", r#""2999-01-01T00:00:00Z""#.into()),
        at("no time", r#""yesterday""#.into()),
        at("null", "null".into()),
        Event::new("missing"),
    ];
    for event in refused {
        gateway.send(event).await.assert(400, "invalid_event");
    }
    upstream.assert_untouched();
    gateway
        .wait_for_request_log(json!({"outcome": "invalid_event", "reason": "stale"}))
        .await;
    gateway
        .send(at("now", now.to_string()))
        .await
        .assert(200, "delivered");
    gateway
        .send(at("now in ms", (now * 1000).to_string()))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_event_passes_without_max_age() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("event", "{id: /id, type: /type, timestamp: /at}");
    let gateway = Gateway::start(route).await;
    let event = Event::raw(r#"{"id":"evt_1","type":"t","at":"2001-09-09T01:46:40Z"}"#);
    gateway.send(event).await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlisted_event_type_is_ignored() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Route::to(&upstream).with("events", r#"["user.*", billing.invoice.paid]"#))
            .await;
    let typed = |event_type: &str| Event::typed(&format!("evt {event_type}"), event_type);
    for event_type in [
        "users.created",
        "user",
        "billing.invoice",
        "billing.invoice.paid.twice",
        "xuser.created",
        "USER.created",
    ] {
        gateway
            .send(typed(event_type))
            .await
            .assert(200, "ignored")
            .assert_event_id(&format!("evt {event_type}"));
    }
    upstream.assert_untouched();
    for event_type in ["user.created", "user.mfa.enabled", "billing.invoice.paid"] {
        gateway
            .send(typed(event_type))
            .await
            .assert(200, "delivered");
    }
    // An ignored event is not remembered either.
    gateway
        .send(typed("users.created"))
        .await
        .assert(200, "ignored");
}

//! Reports about events whose ID the signature does not cover.

use serde_json::{Value, json};

use crate::harness::command::{command, finish, run_cli};
use crate::harness::*;

const REPLAY: &str = "Hookstile-Possible-Replay";

fn github(body: &str, id: &str, event_type: &str) -> Request {
    Request::post(body.as_bytes())
        .header("X-Hub-Signature-256", &sign(SECRET, body.as_bytes()))
        .header("X-GitHub-Delivery", id)
        .header("X-GitHub-Event", event_type)
}

fn seconds_ago(seconds: u64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    (now.as_secs() - seconds).to_string()
}

/// Signs a body with a time, as Slack does.
fn slack(body: &str, time: &str) -> Request {
    let signed = format!("v0:{time}:{body}");
    let tag = hmac_hex(SECRET, signed.as_bytes());
    Request::post(body.as_bytes())
        .header("X-Slack-Request-Timestamp", time)
        .header("X-Slack-Signature", &format!("v0={tag}"))
}

/// Sends a request that must be delivered, and returns whether it was marked as a possible replay.
async fn delivered(gateway: &Gateway, upstream: &Upstream, request: Request) -> bool {
    let before = upstream.count();
    gateway.send(request).await.assert(200, "delivered");
    assert_eq!(upstream.count(), before + 1);
    upstream.last().header(REPLAY) == Some("true")
}

/// Returns the outcomes and event IDs of the rejections with this outcome.
async fn listed(gateway: &Gateway, outcome: &str) -> Vec<(Value, Value)> {
    let document = gateway.api(&format!("/rejections?outcome={outcome}")).await;
    document["rejections"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (row["event_id"].clone(), row["event_type"].clone()))
        .collect()
}

/// Report: one order with three subscriptions on one endpoint. ID and topic are in headers, the
/// bodies are equal, and two of the three events were acknowledged and lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_body_with_other_headers_is_another_event() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "github")).await;
    let body = r#"{"action":"deploy","branch":"main"}"#;
    let events = [("a", "push"), ("b", "push"), ("b", "release")];
    for (number, (id, event_type)) in events.into_iter().enumerate() {
        let marked = delivered(&gateway, &upstream, github(body, id, event_type)).await;
        assert_eq!(marked, number > 0, "{id} {event_type}");
    }
    for (id, event_type) in events {
        let copy = gateway.send(github(body, id, event_type)).await;
        copy.assert(200, "duplicate");
    }
    assert_eq!(upstream.count(), 3);
    let metrics = gateway.metrics().await;
    for (result, count) in [("new", 1.0), ("possible_replay", 2.0), ("duplicate", 3.0)] {
        let labels = [("route", "hooks"), ("result", result)];
        metrics.assert_value("ledger_checks_total", &labels, count);
    }
    assert_eq!(
        listed(&gateway, "duplicate").await,
        [("b", "release"), ("b", "push"), ("a", "push")]
            .map(|(id, event_type)| (json!(id), json!(event_type)))
    );
}

/// Report: somebody without the secret puts another event's ID on a captured request. The event
/// with this ID was then taken for a copy, acknowledged, and never delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_under_another_id_does_not_take_it() {
    let (star, push) = (r#"{"action":"created","starred":1}"#, r#"{"ref":"main"}"#);
    for unsigned in ["deliver", "reject"] {
        let upstream = Upstream::replying([Reply::status(500), Reply::ok()]);
        let route = Route::to(&upstream)
            .with("provider", "github")
            .with("events", "[push]")
            .with("replay", &format!("{{unsigned: {unsigned}}}"));
        let gateway = Gateway::start(route).await;
        gateway
            .send(github(star, "star-1", "star"))
            .await
            .assert(200, "ignored");
        gateway
            .send(github(push, "push-1", "push"))
            .await
            .assert(500, "upstream_rejected");
        gateway
            .send(github(star, "push-1", "push"))
            .await
            .assert(200, "delivered");
        let marked = delivered(&gateway, &upstream, github(push, "push-1", "push")).await;
        assert!(!marked, "{unsigned}");
        upstream.last().assert_header("Hookstile-Attempt", "2");
        assert_eq!(
            listed(&gateway, "ignored").await,
            [(json!("star-1"), json!("star"))]
        );
    }
}

/// Report: a captured request can be sent under as many IDs as there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_one_body_are_limited_and_never_silent() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream).with("provider", "github")).await;
    for number in 0..=16 {
        let marked = delivered(
            &gateway,
            &upstream,
            github("{}", &number.to_string(), "push"),
        )
        .await;
        assert_eq!(marked, number > 0);
        if number == 8 {
            gateway.kill().await;
            gateway.restart().await;
        }
    }
    for id in ["17", "18"] {
        gateway
            .send(github("{}", id, "push"))
            .await
            .assert_problem(409, "duplicate");
    }
    gateway
        .send(github("{}", "3", "push"))
        .await
        .assert(200, "duplicate");
    assert_eq!(upstream.count(), 17);
    let document = gateway.api("/rejections?outcome=duplicate").await;
    let reasons: Vec<_> = document["rejections"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (&row["event_id"], &row["reason"], &row["status"]))
        .collect();
    let too_many = json!("too_many_copies");
    assert_eq!(
        reasons,
        [
            (&json!("3"), &Value::Null, &json!(200)),
            (&json!("18"), &too_many, &json!(409)),
            (&json!("17"), &too_many, &json!(409)),
        ]
    );
    // Another body is not affected.
    assert!(!delivered(&gateway, &upstream, github("[]", "19", "push")).await);
}

/// Report: an operator wants every copy of a body stopped, whatever its ID.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_reject_stops_a_body_under_any_id() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .with("provider", "github")
        .with("replay", "{unsigned: reject}");
    let gateway = Gateway::start(route).await;
    assert!(!delivered(&gateway, &upstream, github("{}", "a", "push")).await);
    for (id, event_type) in [("a", "push"), ("b", "push"), ("a", "star")] {
        let copy = gateway.send(github("{}", id, event_type)).await;
        copy.assert(200, "duplicate");
    }
    assert!(!delivered(&gateway, &upstream, github("[1]", "a", "push")).await);
}

/// Report: an alert is repeated with the same body and signed again each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_body_signed_again_is_delivered_and_marked() {
    let upstream = Upstream::ok();
    let scheme = "{header: X-Slack-Signature, prefix: \"v0=\", signed: \"v0:{timestamp}:{body}\", \
                  timestamp: {header: X-Slack-Request-Timestamp}}";
    let route = Route::to(&upstream)
        .signature(scheme)
        .with("event", "{id: {body_digest: true}, type: /status}");
    let gateway = Gateway::start(route).await;
    let body = r#"{"status":"firing"}"#;
    let times = [seconds_ago(120), seconds_ago(60), seconds_ago(0)];
    for (number, time) in times.iter().enumerate() {
        let marked = delivered(&gateway, &upstream, slack(body, time)).await;
        assert_eq!(marked, number > 0);
    }
    let ids = upstream.event_ids();
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    for time in &times {
        let copy = gateway.send(slack(body, time)).await;
        copy.assert(409, "duplicate");
    }
}

/// Report: a sender says only that something has changed, so each notification is the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sender_without_identity_is_never_a_duplicate() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Route::to(&upstream).with("event", "{id: {none: true}, type: /type}")).await;
    let event = Event::new("evt_1");
    for _ in 0..20 {
        assert!(delivered(&gateway, &upstream, event.post()).await);
        upstream.last().assert_no_header("Idempotency-Key");
    }
    let ids = upstream.event_ids();
    assert!(ids[0] != ids[1], "{ids:?}");
    let deliveries = gateway.api("/deliveries").await;
    assert_eq!(deliveries["total"], 20);
}

/// Report: one ID is unique only together with another member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joined_id_uses_all_its_pointers() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("event", "{id: [/shop, /id], type: /type}");
    let gateway = Gateway::start(route).await;
    let event = |shop: &str, id: &str, more: &str| {
        Event::raw(format!(
            r#"{{"shop":"{shop}","id":"{id}","type":"t"{more}}}"#
        ))
        .post()
    };
    for (shop, id) in [
        ("a", "1"),
        ("b", "1"),
        ("a", "2"),
        ("a|1", "2"),
        ("a", "1|2"),
    ] {
        assert!(!delivered(&gateway, &upstream, event(shop, id, "")).await);
    }
    assert_eq!(upstream.event_ids()[..3], ["a|1", "b|1", "a|2"]);
    gateway
        .send(event("a", "1", ""))
        .await
        .assert(409, "duplicate");
    gateway
        .send(event("a", "1", r#","n":1"#))
        .await
        .assert(409, "payload_mismatch");
    gateway
        .send(Event::raw(r#"{"shop":"a","type":"t"}"#))
        .await
        .assert(400, "invalid_event");
    assert_eq!(
        listed(&gateway, "payload_mismatch").await,
        [(json!("a|1"), json!("t"))]
    );
}

/// Report: the ID is the message's or the order's, which has several events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_of_an_object_does_not_stop_its_other_events() {
    let upstream = Upstream::ok();
    let event = "{id: {pointer: /order, names: object}, type: /type}";
    let gateway = Gateway::start(Route::to(&upstream).with("event", event)).await;
    let order = |event_type: &str, n: u32| {
        Event::raw(format!(r#"{{"order":7,"type":"{event_type}","n":{n}}}"#)).post()
    };
    for (event_type, n) in [("created", 1), ("paid", 1), ("updated", 1), ("updated", 2)] {
        let marked = delivered(&gateway, &upstream, order(event_type, n)).await;
        assert!(!marked, "every part is signed");
        upstream.last().assert_header("Hookstile-Event-Id", "7");
    }
    gateway
        .send(order("updated", 1))
        .await
        .assert(409, "duplicate");
}

/// Report: signed messages that are no events were rejected for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_message_reaches_the_application() {
    let upstream = Upstream::ok();
    let control = "{id: /events/0/id, type: /events/0/type, missing_id: body_digest, \
                   default_type: control}";
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream)
            .named("slack")
            .with("provider", "slack"),
        Route::to(&upstream).named("line").with("event", control),
        Route::to(&upstream)
            .named("strict")
            .with("event", "{id: /events/0/id, type: /events/0/type}"),
    ]))
    .await;
    let limited = r#"{"type":"app_rate_limited","team_id":"T1"}"#;
    let request = slack(limited, &seconds_ago(1)).at("/webhooks/slack");
    assert!(!delivered(&gateway, &upstream, request.clone()).await);
    upstream
        .last()
        .assert_header("Hookstile-Event-Type", "app_rate_limited");
    gateway.send(request).await.assert(200, "duplicate");

    let verify = Event::raw(r#"{"destination":"U1","events":[]}"#);
    let at_line = verify.post().at("/webhooks/line");
    assert!(!delivered(&gateway, &upstream, at_line).await);
    upstream
        .last()
        .assert_header("Hookstile-Event-Type", "control");
    gateway
        .send(verify.post().at("/webhooks/strict"))
        .await
        .assert(400, "invalid_event");
    // What is there and wrong is no control message.
    let wrong = Event::raw(r#"{"events":[{"id":null,"type":"t"}]}"#);
    gateway
        .send(wrong.post().at("/webhooks/line"))
        .await
        .assert(400, "invalid_event");
}

/// Report: a sender collects its events in a JSON array.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_is_one_event_delivered_whole() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("events", "[user.*]");
    let gateway = Gateway::start(route).await;
    let batch = Event::raw(r#"[{"id":"a","type":"x"},{"id":"b","type":"y"}]"#);
    assert!(!delivered(&gateway, &upstream, batch.post()).await);
    let received = upstream.last();
    received.assert_header("Hookstile-Event-Type", "batch");
    assert_eq!(received.body, batch.body);
    gateway.send(batch).await.assert(409, "duplicate");
    for no_batch in ["[]", "[1", "[1] []"] {
        gateway
            .send(Event::raw(no_batch))
            .await
            .assert(400, "invalid_event");
    }
}

/// Report: an event that was forgotten by its ID stayed known by its body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_with_unsigned_id_is_forgotten_by_its_id() {
    let upstream = Upstream::ok();
    for mode in ["proxy", "queue"] {
        let route = Route::to(&upstream)
            .with("provider", "github")
            .with("delivery", mode);
        let gateway = Gateway::start(route).await;
        let count = upstream.count();
        for number in 1..=2 {
            let response = gateway.send(github("{}", "a", "push")).await;
            assert!([200, 202].contains(&response.status), "{response:?}");
            eventually("the event arrives", async || {
                upstream.count() == count + number
            })
            .await;
            upstream.last().assert_no_header(REPLAY);
            eventually("the delivery is recorded", async || {
                gateway.api("/deliveries?status=success").await["total"] == number
            })
            .await;
            gateway
                .send(github("{}", "a", "push"))
                .await
                .assert(200, "duplicate");
            let forget = gateway
                .admin_post("/webhooks/wh_hooks/forget", &json!({"event_id": "a"}))
                .await;
            assert_eq!(forget.status, 200, "{forget:?}");
        }
    }
}

/// Report: a provider's preset acknowledges what it drops, and nobody hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_events_are_announced_and_listed() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("provider", "github")
            .with("events", "[push]"),
    )
    .await;
    let mut check = command();
    check
        .current_dir(gateway.directory())
        .env("WEBHOOK_SECRET", SECRET)
        .arg("check")
        .arg("--config")
        .arg(gateway.config());
    let run = finish(check).await;
    let announced = "route `hooks`: answers 200 and does not deliver copies of a delivered event: \
                     ID, type and body are equal; events of other types than `events` has";
    assert!(run.assert(0).stderr.contains(announced), "{}", run.stderr);

    assert!(!delivered(&gateway, &upstream, github("{}", "a", "push")).await);
    for request in [github("{}", "a", "push"), github("[1]", "b", "star")] {
        assert_eq!(gateway.send(request).await.status, 200);
    }
    let listed = run_cli(&gateway, "rejections list --outcome ignored --route hooks").await;
    let row: Vec<_> = listed.assert(0).stdout.lines().collect();
    assert_eq!(row.len(), 2, "{}", listed.stdout);
    for column in ["hooks", "200", "ignored", "star", " b "] {
        assert!(row[1].contains(column), "{column}: {}", row[1]);
    }
    let all = run_cli(&gateway, "rejections list --json").await.json();
    assert_eq!(all["total"], 2);
    let response = gateway.admin_get("/rejections?outcome=duplicated").await;
    assert_eq!(response.status, 400, "{response:?}");
    let page = gateway.admin_get("/ui/rejections?outcome=duplicate").await;
    let html = String::from_utf8_lossy(&page.body).into_owned();
    let shows = |outcome: &str| html.contains(&format!("<code class=\"kind\">{outcome}</code>"));
    assert!(shows("duplicate") && !shows("ignored"), "{html}");
}

//! Recovery after an outage: redelivering all failed events at a pace, and forgetting an event so
//! that it is delivered once more.

use serde_json::{Value, json};

use crate::harness::command::run_cli as hookstile;
use crate::harness::*;

const REDELIVER: &str = "/deliveries/redeliver";
const FORGET: &str = "/webhooks/wh_hooks/forget";

fn parsed(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

/// Posts a request that must succeed and returns its document.
async fn post_ok(gateway: &Gateway, path: &str, body: Value, status: u16) -> Value {
    let response = gateway.admin_post(path, &body).await;
    assert_eq!(
        response.status,
        status,
        "{path} {body}: {}",
        response.text()
    );
    parsed(&response)
}

/// Posts a request that must be rejected with this code and returns the error's detail.
async fn post_rejected(
    gateway: &Gateway,
    path: &str,
    body: Value,
    status: u16,
    code: &str,
) -> String {
    let response = gateway.admin_post(path, &body).await;
    assert_eq!(
        (response.status, &parsed(&response)["code"]),
        (status, &json!(code)),
        "{path} {body}: {}",
        response.text()
    );
    parsed(&response)["detail"]
        .as_str()
        .expect("a sentence")
        .to_owned()
}

/// Returns the expected summary of a redelivery.
fn redelivery_summary(
    dry_run: bool,
    matched: u64,
    accepted: u64,
    refused: &[(&str, u64)],
) -> Value {
    let refused: Vec<_> = refused
        .iter()
        .map(|(code, count)| json!({"code": code, "count": count}))
        .collect();
    json!({"success": true, "dry_run": dry_run, "matched": matched, "accepted": accepted, "refused": refused})
}

/// Starts an upstream that fails this many times and then accepts everything.
fn failing_upstream(times: usize) -> Upstream {
    Upstream::replying([vec![Reply::status(500); times], vec![Reply::ok()]].concat())
}

/// Sends events that fail: `evt_1` and on, each received in another millisecond.
async fn fail_events(gateway: &Gateway, events: usize) {
    for number in 1..=events {
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(500, "upstream_rejected");
        let now = || jiff::Timestamp::now().as_millisecond();
        let answered = now();
        eventually("the clock advances", async || now() > answered).await;
    }
}

async fn delivery(gateway: &Gateway, number: u64) -> Value {
    gateway.api(&format!("/deliveries/del_{number}")).await["delivery"].clone()
}

async fn wait_for_status(gateway: &Gateway, number: u64, status: &str) {
    eventually(format!("del_{number} is {status}"), async || {
        delivery(gateway, number).await["status"] == status
    })
    .await;
}

/// Returns the seconds until the next attempt.
async fn seconds_until_attempt(gateway: &Gateway, number: u64) -> u64 {
    let delivery = delivery(gateway, number).await;
    assert_eq!(delivery["status"], "pending", "{delivery}");
    delivery["next_attempt_in_seconds"]
        .as_u64()
        .expect("a time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_events_are_redelivered_oldest_first() {
    let (upstream, other) = (failing_upstream(70), failing_upstream(1));
    let route = Route::to(&upstream).with("concurrency", "1");
    let gateway = Gateway::start(Setup::new([route, Route::to(&other).named("other")])).await;
    // More events than one batch commits.
    fail_events(&gateway, 70).await;
    gateway
        .send(Event::new("evt_other").post().at("/webhooks/other"))
        .await
        .assert(500, "upstream_rejected");
    gateway
        .send(Event::new("evt_good"))
        .await
        .assert(200, "delivered");
    assert_eq!(
        post_ok(&gateway, REDELIVER, json!({"webhook_id": "wh_hooks"}), 202).await,
        redelivery_summary(false, 70, 70, &[])
    );
    upstream.wait_for_requests(141).await;
    let expected: Vec<_> = (1..=70).map(|number| format!("evt_{number}")).collect();
    assert_eq!(upstream.event_ids()[71..], expected);
    wait_for_status(&gateway, 70, "success").await;
    assert_eq!(
        post_ok(&gateway, REDELIVER, json!({"webhook_id": "wh_hooks"}), 202).await,
        redelivery_summary(false, 0, 0, &[])
    );
    assert_eq!(delivery(&gateway, 71).await["status"], "failed");
    assert_eq!((upstream.count(), other.count()), (141, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivery_pace_survives_kill() {
    let upstream = failing_upstream(4);
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    fail_events(&gateway, 4).await;
    let selection = json!({"status": "failed", "per_second": 0.001});
    assert_eq!(
        post_ok(&gateway, REDELIVER, selection, 202).await,
        redelivery_summary(false, 4, 4, &[])
    );
    wait_for_status(&gateway, 1, "success").await;
    for round in ["as requested", "after a kill"] {
        let (second, third, fourth) = (
            seconds_until_attempt(&gateway, 2).await,
            seconds_until_attempt(&gateway, 3).await,
            seconds_until_attempt(&gateway, 4).await,
        );
        assert!((500..=1_000).contains(&second), "{round}: {second}");
        assert!(
            (990..=1_010).contains(&(third - second)),
            "{round}: {third} after {second}"
        );
        assert!(
            (990..=1_010).contains(&(fourth - third)),
            "{round}: {fourth} after {third}"
        );
        gateway.kill().await;
        gateway.restart().await;
    }
    assert_eq!(upstream.count(), 5);
    // A redelivery without a pace sends all waiting events at once.
    assert_eq!(
        post_ok(&gateway, REDELIVER, json!({"status": "pending"}), 202).await,
        redelivery_summary(false, 3, 3, &[])
    );
    upstream.wait_for_requests(8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_changes_nothing() {
    let (upstream, forgetful) = (failing_upstream(3), failing_upstream(2));
    let other = Route::to(&forgetful)
        .named("other")
        .with("retain", "{payloads: none}");
    let gateway = Gateway::start(Setup::new([Route::to(&upstream), other])).await;
    fail_events(&gateway, 3).await;
    for id in ["evt_1", "evt_2"] {
        let event = Event::new(id).post().at("/webhooks/other");
        gateway.send(event).await.assert(500, "upstream_rejected");
    }
    let before = gateway.api("/deliveries").await;
    let not_kept = [("payload_not_kept", 2)];
    assert_eq!(
        post_ok(
            &gateway,
            REDELIVER,
            json!({"status": "failed", "dry_run": true}),
            200
        )
        .await,
        redelivery_summary(true, 5, 3, &not_kept)
    );
    assert_eq!(
        post_ok(
            &gateway,
            REDELIVER,
            json!({"event_id": "evt_1", "dry_run": true}),
            200
        )
        .await,
        redelivery_summary(true, 2, 1, &[("payload_not_kept", 1)])
    );
    assert_eq!(gateway.api("/deliveries").await, before);
    assert_eq!((upstream.count(), forgetful.count()), (3, 2));
    assert_eq!(
        post_ok(&gateway, REDELIVER, json!({"status": "failed"}), 202).await,
        redelivery_summary(false, 5, 3, &not_kept)
    );
    upstream.wait_for_requests(6).await;
    assert_eq!(forgetful.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_redelivery_request_changes_nothing() {
    let upstream = failing_upstream(1);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    fail_events(&gateway, 1).await;
    for everything in [
        json!({}),
        json!({"dry_run": true}),
        json!({"per_second": 5}),
    ] {
        let detail = post_rejected(&gateway, REDELIVER, everything, 400, "invalid_body").await;
        assert!(detail.contains("at least one of"), "{detail}");
    }
    let nothing = Request::post(b"")
        .at(REDELIVER)
        .set("Host", &gateway.admin_address().to_string());
    assert_eq!(
        Client::connect(gateway.admin_address())
            .await
            .send(nothing)
            .await
            .status,
        400
    );
    for (wrong, named) in [
        (json!({"status": "failed", "per_second": 0}), "per_second"),
        (
            json!({"status": "failed", "per_second": 10_001}),
            "per_second",
        ),
        (
            json!({"status": "failed", "per_second": "fast"}),
            "invalid type",
        ),
        (json!({"status": "Failed"}), "status"),
        (json!({"since": "yesterday"}), "since"),
        (json!({"statsu": "failed"}), "statsu"),
    ] {
        let detail = post_rejected(&gateway, REDELIVER, wrong, 400, "invalid_body").await;
        assert!(detail.contains(named), "{detail}");
    }
    post_rejected(
        &gateway,
        REDELIVER,
        json!({"webhook_id": "wh_none"}),
        404,
        "unknown_webhook",
    )
    .await;
    post_rejected(
        &gateway,
        "/webhooks/wh_hooks/recover",
        json!({}),
        400,
        "invalid_body",
    )
    .await;
    let recover = json!({"since": "2026-01-01T00:00:00Z"});
    post_rejected(
        &gateway,
        "/webhooks/wh_none/recover",
        recover,
        404,
        "unknown_webhook",
    )
    .await;
    assert_eq!(
        (
            upstream.count(),
            delivery(&gateway, 1).await["status"].clone()
        ),
        (1, json!("failed"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_recovers_events_since_a_time() {
    let upstream = failing_upstream(3);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    fail_events(&gateway, 3).await;
    let at = |text: &Value| {
        text.as_str()
            .expect("a time")
            .parse::<jiff::Timestamp>()
            .expect("a time")
    };
    let (first, second) = (
        at(&delivery(&gateway, 1).await["received_at"]),
        at(&delivery(&gateway, 2).await["received_at"]),
    );
    let ids = async |query: &str| -> Vec<String> {
        let list = gateway.api(&format!("/deliveries?{query}")).await;
        let of_webhook = gateway
            .api(&format!("/webhooks/wh_hooks/deliveries?{query}"))
            .await;
        assert_eq!(list, of_webhook);
        let deliveries = list["deliveries"].as_array().expect("a list").iter();
        deliveries
            .map(|delivery| delivery["event_id"].as_str().expect("an ID").to_owned())
            .collect()
    };
    assert_eq!(ids(&format!("since={second}")).await, ["evt_3", "evt_2"]);
    assert_eq!(ids(&format!("until={second}")).await, ["evt_1"]);
    assert_eq!(
        ids(&format!("since={first}&until={second}")).await,
        ["evt_1"]
    );
    let recover = "/webhooks/wh_hooks/recover";
    let since = json!({"since": second, "dry_run": true});
    assert_eq!(
        post_ok(&gateway, recover, since, 200).await,
        redelivery_summary(true, 2, 2, &[])
    );
    assert_eq!(
        post_ok(&gateway, recover, json!({"since": second}), 202).await,
        redelivery_summary(false, 2, 2, &[])
    );
    upstream.wait_for_requests(5).await;
    assert_eq!(upstream.event_ids()[3..], ["evt_2", "evt_3"]);
    assert_eq!(delivery(&gateway, 1).await["status"], "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivery_is_refused_while_a_copy_is_in_flight() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([
        Reply::status(500),
        Reply::status(500),
        Reply::ok().after(&gate),
        Reply::ok(),
    ]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    fail_events(&gateway, 2).await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.wait_for_requests(3).await;
    let response = post_ok(&gateway, REDELIVER, json!({"status": "failed"}), 202).await;
    assert_eq!(
        response,
        redelivery_summary(false, 2, 1, &[("in_flight", 1)])
    );
    upstream.wait_for_requests(4).await;
    gate.open();
    sender.read_response().await.assert(200, "delivered");
    wait_for_status(&gateway, 1, "success").await;
    wait_for_status(&gateway, 2, "success").await;
    assert_eq!(upstream.count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chosen_deliveries_are_redelivered() {
    let upstream = failing_upstream(3);
    let gateway = Gateway::start(Route::to(&upstream).with("retain", "{payloads: all}")).await;
    fail_events(&gateway, 3).await;
    gateway
        .send(Event::new("evt_4"))
        .await
        .assert(200, "delivered");
    let chosen = json!({"ids": ["del_3", "del_1", "del_4", "del_1", "del_99"], "dry_run": true});
    assert_eq!(
        post_ok(&gateway, REDELIVER, chosen, 200).await,
        redelivery_summary(true, 3, 3, &[])
    );
    let failed = json!({"ids": ["del_1", "del_4"], "status": "failed"});
    assert_eq!(
        post_ok(&gateway, REDELIVER, failed, 202).await,
        redelivery_summary(false, 1, 1, &[])
    );
    wait_for_status(&gateway, 1, "success").await;
    assert_eq!(delivery(&gateway, 2).await["status"], "failed");
    for ids in [json!([]), json!(["evt_1"]), json!(vec!["del_1"; 101])] {
        let detail = post_rejected(
            &gateway,
            REDELIVER,
            json!({"ids": ids}),
            400,
            "invalid_body",
        )
        .await;
        assert!(detail.contains("1 to 100"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_or_removed_route_keeps_redeliveries() {
    let upstream = failing_upstream(2);
    let route = || Route::to(&upstream).with("retry", "{initial: 50m}");
    let gateway = Gateway::start(route()).await;
    fail_events(&gateway, 1).await;
    post_ok(&gateway, "/webhooks/wh_hooks/pause", json!({}), 200).await;
    assert_eq!(
        post_ok(&gateway, REDELIVER, json!({"status": "failed"}), 202).await,
        redelivery_summary(false, 1, 1, &[])
    );
    assert_eq!(
        (seconds_until_attempt(&gateway, 1).await, upstream.count()),
        (0, 1)
    );
    post_ok(&gateway, "/webhooks/wh_hooks/resume", json!({}), 200).await;
    // The second failure of the same event, this time of its queued copy.
    upstream.wait_for_requests(2).await;
    eventually("it waits", async || {
        delivery(&gateway, 1).await["attempt_count"] == 2
    })
    .await;
    gateway.rewrite(route().named("another"));
    gateway.signal("HUP");
    eventually("the route is removed", async || {
        gateway.api("/webhooks").await["webhooks"][0]["id"] == "wh_another"
    })
    .await;
    let selection = json!({"webhook_id": "wh_hooks", "status": "pending"});
    assert_eq!(
        post_ok(&gateway, REDELIVER, selection, 202).await,
        redelivery_summary(false, 1, 1, &[])
    );
    assert_eq!(
        (seconds_until_attempt(&gateway, 1).await, upstream.count()),
        (0, 2)
    );
    gateway.rewrite(route());
    gateway.signal("HUP");
    wait_for_status(&gateway, 1, "success").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_redeliveries_run_one_at_a_time() {
    let upstream = failing_upstream(3);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    fail_events(&gateway, 3).await;
    // Another writer locks the store for a moment.
    let database = gateway.databases().remove(0);
    let store = rusqlite::Connection::open(database).expect("the store");
    store
        .busy_timeout(std::time::Duration::from_secs(10))
        .expect("a setting");
    store.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let mut client = Client::connect(gateway.admin_address()).await;
    let body = json!({"status": "failed"}).to_string();
    let request = Request::post(body.as_bytes())
        .at(REDELIVER)
        .set("Host", &gateway.admin_address().to_string());
    client.write(&request.bytes()).await;
    eventually("the redelivery runs", async || {
        gateway.output().contains("selected for a bulk redelivery")
    })
    .await;
    post_rejected(
        &gateway,
        REDELIVER,
        json!({"status": "dead"}),
        409,
        "redelivery_under_way",
    )
    .await;
    let dry = json!({"status": "failed", "dry_run": true});
    assert_eq!(
        post_ok(&gateway, REDELIVER, dry, 200).await,
        redelivery_summary(true, 3, 3, &[])
    );
    drop(client);
    store.execute_batch("ROLLBACK").expect("no lock");
    upstream.wait_for_requests(6).await;
    let done =
        |line: &Value| line["operation"] == "redeliver_matching" && line["outcome"] == "done";
    eventually("the audit log has the redelivery", async || {
        gateway.lines().iter().any(done)
    })
    .await;
    eventually("the next redelivery may start", async || {
        gateway
            .admin_post(REDELIVER, &json!({"status": "dead"}))
            .await
            .status
            == 202
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_event_passes_once_despite_kill() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    for id in ["evt_1", "evt_2"] {
        gateway.send(Event::new(id)).await.assert(200, "delivered");
    }
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    assert_eq!(
        post_ok(&gateway, FORGET, json!({"event_id": "evt_1"}), 200).await,
        json!({"success": true})
    );
    gateway.kill().await;
    gateway.restart().await;
    post_rejected(
        &gateway,
        FORGET,
        json!({"event_id": "evt_1"}),
        404,
        "unknown_event",
    )
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    upstream.last().assert_header("Hookstile-Attempt", "1");
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Duplicate");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_is_forgotten_by_its_id_or_its_digest() {
    let upstream = Upstream::ok();
    let in_header = Route::to(&upstream).with("event", "{id: {header: X-Delivery}, type: /type}");
    let digest = Route::to(&upstream)
        .named("digest")
        .with("event", "{id: {body_digest: true}, type: /type}");
    let gateway = Gateway::start(Setup::new([in_header, digest])).await;
    let event = |id: &str| Event::new("whatever").post().header("X-Delivery", id);
    gateway.send(event("first")).await.assert(200, "delivered");
    gateway.send(event("second")).await.assert(200, "delivered");
    post_rejected(
        &gateway,
        FORGET,
        json!({"event_id": "third"}),
        404,
        "unknown_event",
    )
    .await;
    post_ok(&gateway, FORGET, json!({"event_id": "first"}), 200).await;
    assert_eq!(gateway.send(event("second")).await.status, 409);
    gateway.send(event("first")).await.assert(200, "delivered");
    upstream
        .last()
        .assert_header("Hookstile-Possible-Replay", "true");
    assert_eq!(gateway.send(event("first")).await.status, 409);

    let by_body = || Event::new("whatever").post().at("/webhooks/digest");
    gateway.send(by_body()).await.assert(200, "delivered");
    gateway.send(by_body()).await.assert(409, "duplicate");
    let shown =
        gateway.api("/webhooks/wh_digest/deliveries").await["deliveries"][0]["event_id"].clone();
    let forget = "/webhooks/wh_digest/forget";
    post_rejected(
        &gateway,
        forget,
        json!({"event_id": "whatever"}),
        404,
        "unknown_event",
    )
    .await;
    post_ok(&gateway, forget, json!({"event_id": shown}), 200).await;
    gateway.send(by_body()).await.assert(200, "delivered");
    gateway.send(by_body()).await.assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pace_beyond_three_days_is_rejected() {
    let upstream = Upstream::replying([Reply::status(500)]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for id in ["evt_1", "evt_2"] {
        gateway
            .send(Event::new(id))
            .await
            .assert(500, "upstream_rejected");
    }
    let slow = json!({"webhook_id": "wh_hooks", "per_second": 0.000_001});
    post_rejected(
        &gateway,
        "/deliveries/redeliver",
        slow,
        422,
        "pace_too_slow",
    )
    .await;
    assert_eq!(gateway.api("/deliveries?status=failed").await["total"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forget_needs_exact_id_and_no_delivery() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([
        Reply::ok(),
        Reply::ok(),
        Reply::ok().after(&gate),
        Reply::ok(),
    ]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let text = || Event::raw(r#"{"id":"1","type":"t"}"#);
    let number = || Event::raw(r#"{"id":1,"type":"t"}"#);
    gateway.send(text()).await.assert(200, "delivered");
    gateway.send(number()).await.assert(200, "delivered");
    post_ok(&gateway, FORGET, json!({"event_id": 1}), 200).await;
    post_rejected(
        &gateway,
        FORGET,
        json!({"event_id": 1}),
        404,
        "unknown_event",
    )
    .await;
    gateway.send(text()).await.assert(409, "duplicate");
    let mut sender = gateway.connect().await;
    sender.write(&number().post().bytes()).await;
    upstream.wait_for_requests(3).await;
    post_rejected(&gateway, FORGET, json!({"event_id": 1}), 409, "in_flight").await;
    gate.open();
    sender.read_response().await.assert(200, "delivered");
    for wrong in [
        json!({}),
        json!({"event_id": null}),
        json!({"event_id": 1.5}),
        json!({"event_id": ""}),
    ] {
        post_rejected(&gateway, FORGET, wrong, 400, "invalid_body").await;
    }
    post_rejected(
        &gateway,
        "/webhooks/wh_none/forget",
        json!({"event_id": "1"}),
        404,
        "unknown_webhook",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_event_in_queue_is_delivered() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("delivery", "queue")).await;
    post_ok(&gateway, "/webhooks/wh_hooks/pause", json!({}), 200).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    post_ok(&gateway, FORGET, json!({"event_id": "evt_1"}), 200).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    post_ok(&gateway, "/webhooks/wh_hooks/resume", json!({}), 200).await;
    upstream.wait_for_requests(2).await;
    wait_for_status(&gateway, 1, "success").await;
    wait_for_status(&gateway, 2, "success").await;
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphql_recovery_has_the_same_rules() {
    let upstream = failing_upstream(2);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    fail_events(&gateway, 2).await;
    let run_query = async |query: &str| {
        parsed(
            &gateway
                .admin_post("/graphql", &json!({"query": query}))
                .await,
        )
    };
    let counts = "{ success dryRun matched accepted refused { code count } }";
    let redelivery_summary = |dry_run, matched, accepted| json!({"success": true, "dryRun": dry_run, "matched": matched, "accepted": accepted, "refused": []});
    let dry = run_query(&format!(
        "mutation {{ redeliverMatching(status: failed, dryRun: true) {counts} }}"
    ))
    .await;
    assert_eq!(
        dry["data"]["redeliverMatching"],
        redelivery_summary(true, 2, 2),
        "{dry}"
    );
    let second = delivery(&gateway, 2).await["received_at"].clone();
    let recovered = run_query(&format!(
        r#"mutation {{ recoverWebhook(id: "wh_hooks", since: {second}) {counts} }}"#
    ))
    .await;
    assert_eq!(
        recovered["data"]["recoverWebhook"],
        redelivery_summary(false, 1, 1),
        "{recovered}"
    );
    wait_for_status(&gateway, 2, "success").await;
    let since = run_query(&format!(
        "{{ deliveries(since: {second}) {{ deliveries {{ eventId }} }} }}"
    ))
    .await;
    assert_eq!(
        since["data"]["deliveries"]["deliveries"],
        json!([{"eventId": "evt_2"}]),
        "{since}"
    );
    let again = run_query(&format!(
        r#"mutation {{ redeliverMatching(eventId: "evt_1") {counts} }}"#
    ))
    .await;
    assert_eq!(
        again["data"]["redeliverMatching"],
        redelivery_summary(false, 1, 1),
        "{again}"
    );
    wait_for_status(&gateway, 1, "success").await;
    let forget = r#"mutation { forgetEvent(id: "wh_hooks", eventId: "evt_1") }"#;
    assert_eq!(run_query(forget).await["data"]["forgetEvent"], true);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    for (query, code) in [
        (
            r#"forgetEvent(id: "wh_hooks", eventId: 1)"#,
            "unknown_event",
        ),
        (
            r#"forgetEvent(id: "wh_hooks", eventId: [1])"#,
            "invalid_body",
        ),
        (
            r#"forgetEvent(id: "wh_none", eventId: "evt_1")"#,
            "unknown_webhook",
        ),
        ("redeliverMatching { matched }", "invalid_body"),
        (
            "redeliverMatching(status: dead, perSecond: 0.0) { matched }",
            "invalid_body",
        ),
        (
            r#"redeliverMatching(webhookId: "wh_none") { matched }"#,
            "unknown_webhook",
        ),
        (
            r#"recoverWebhook(id: "hooks", since: "2026-01-01T00:00:00Z") { matched }"#,
            "unknown_webhook",
        ),
        (
            r#"recoverWebhook(id: "wh_hooks", since: "yesterday") { matched }"#,
            "invalid_query",
        ),
    ] {
        let response = run_query(&format!("mutation {{ {query} }}")).await;
        assert_eq!(
            response["errors"][0]["extensions"]["code"], code,
            "{query}: {response}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cli_redelivers_and_forgets() {
    let (upstream, forgetful) = (failing_upstream(2), failing_upstream(1));
    let other = Route::to(&forgetful)
        .named("other")
        .with("retain", "{payloads: none}");
    let gateway = Gateway::start(Setup::new([Route::to(&upstream), other])).await;
    fail_events(&gateway, 2).await;
    gateway
        .send(Event::new("evt_1").post().at("/webhooks/other"))
        .await
        .assert(500, "upstream_rejected");

    let dry = hookstile(&gateway, "events redeliver --since 1h --dry-run").await;
    assert_eq!(
        dry.assert(0).stdout,
        "2 of 3 events can be delivered again\n"
    );
    assert!(
        dry.stderr.contains("1 event: payload_not_kept"),
        "{}",
        dry.stderr
    );
    let none = hookstile(&gateway, "events redeliver --until 1h --json").await;
    assert_eq!(none.assert(0).json(), redelivery_summary(false, 0, 0, &[]));
    let listed = hookstile(&gateway, "events list --since 1h --route hooks --json")
        .await
        .assert(0)
        .json();
    assert_eq!(listed["total"], 2);
    assert!(
        hookstile(&gateway, "events list --until 1d")
            .await
            .assert(0)
            .stderr
            .contains("no deliveries")
    );

    let all = hookstile(
        &gateway,
        "events redeliver --status failed --per-second 100 --json",
    )
    .await;
    assert_eq!(
        all.assert(1).json(),
        redelivery_summary(false, 3, 2, &[("payload_not_kept", 1)])
    );
    upstream.wait_for_requests(4).await;
    wait_for_status(&gateway, 1, "success").await;
    wait_for_status(&gateway, 2, "success").await;
    assert!(
        hookstile(&gateway, "events redeliver --route none")
            .await
            .assert(1)
            .stderr
            .contains("unknown_webhook")
    );

    let forgotten = hookstile(&gateway, "events forget --route hooks evt_1").await;
    assert!(
        forgotten.assert(0).stdout.starts_with("evt_1 is forgotten"),
        "{}",
        forgotten.stdout
    );
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let again = hookstile(&gateway, "events forget --route hooks evt_3 --json").await;
    assert!(
        again.assert(1).stderr.contains("unknown_event"),
        "{}",
        again.stderr
    );
    gateway
        .send(Event::raw(r#"{"id":12345678901234567890123,"type":"t"}"#))
        .await
        .assert(200, "delivered");
    let number = hookstile(
        &gateway,
        "events forget --route hooks --json 12345678901234567890123",
    )
    .await;
    assert_eq!(number.assert(0).json(), json!({"success": true}));

    for wrong in [
        "events redeliver --dry-run",
        "events redeliver --per-second 5",
        "events redeliver --dead --per-second 0",
        "events redeliver --dead --per-second nan",
        "events redeliver --dead --status dead",
        "events redeliver --dead del_1",
        "events redeliver --since yesterday",
        "events forget --route hooks",
    ] {
        hookstile(&gateway, wrong).await.assert(2);
    }
    gateway.signal("INT");
    gateway.wait_for_exit().await;
    hookstile(&gateway, "events redeliver --dead")
        .await
        .assert(69);
    hookstile(&gateway, "events forget --route hooks evt_1")
        .await
        .assert(69);
}

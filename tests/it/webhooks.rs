//! Webhooks made over the API: served at once, kept through restarts and kills, and no way to reach what they should not.

use serde_json::{Value, json};

use crate::harness::patience::eventually;
use crate::harness::*;

async fn write(gateway: &Gateway, method: &str, path: &str, document: &Value) -> Answer {
    let request = Request::post(document.to_string().as_bytes())
        .at(path)
        .method(method);
    Client::connect(gateway.admin())
        .await
        .send(request.set("Host", &gateway.admin().to_string()))
        .await
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, parsed(answer)["code"].as_str()),
        (status, Some(code)),
        "{}",
        answer.text()
    );
}

/// Makes one: its document, with the secret in it.
async fn make(gateway: &Gateway, document: &Value) -> Value {
    let answer = write(gateway, "POST", "/webhooks", document).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made = parsed(&answer);
    assert_eq!(made["success"], true);
    made["webhook"].clone()
}

fn event_for(webhook: &Value, id: &str) -> Request {
    let event = Event::new(id);
    event
        .signed_with(webhook["secret"].as_str().unwrap())
        .at(webhook["path"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_is_made_serves_at_once_and_its_secret_is_shown_this_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let webhook = make(
        &gateway,
        &json!({"url": upstream.url(), "events": ["user.*"], "description": "mine"}),
    )
    .await;
    let id = webhook["id"].as_str().unwrap();
    assert_eq!(webhook["path"], format!("/webhooks/{id}"));
    assert_eq!(
        (&webhook["provider"], &webhook["source"]),
        (&json!("vpn-enterprise"), &json!("api"))
    );
    gateway
        .send(event_for(&webhook, "evt_1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("Hookstile-Route", id.strip_prefix("wh_").unwrap());
    let other =
        Event::typed("evt_2", "vpn.connected").signed_with(webhook["secret"].as_str().unwrap());
    gateway
        .send(other.at(webhook["path"].as_str().unwrap()))
        .await
        .assert(200, "ignored");
    let shown = gateway.api(&format!("/webhooks/{id}")).await;
    assert_eq!(shown["webhook"]["secret"], "whsec_***masked***");
    assert_eq!(
        (
            &shown["webhook"]["description"],
            &shown["webhook"]["status"]
        ),
        (&json!("mine"), &json!("active"))
    );
    assert!(
        !gateway
            .output()
            .contains(webhook["secret"].as_str().unwrap()),
        "the log holds the secret"
    );
    assert_eq!(gateway.api("/webhooks").await["total"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_there_after_a_kill_and_after_a_reload() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    let document = json!({"url": upstream.url(), "provider": "orbvpn", "secret": "mine", "path": "/made", "headers": {"X-A": "b"}});
    let webhook = make(&gateway, &document).await;
    let event = |id: &str| {
        let body = Event::new(id).body;
        Request::post(&body)
            .at("/made")
            .header("X-Signature", &sign("mine", &body))
    };
    gateway.kill().await;
    gateway.restart().await;
    gateway.send(event("evt_1")).await.assert(200, "delivered");
    upstream.last().assert_header("X-A", "b");
    gateway.rewrite(Route::to(&upstream).with("budget", "9s"));
    gateway.signal("HUP");
    gateway
        .metrics_past("config_last_reload_success_timestamp_seconds", &[], 1.0)
        .await;
    gateway.send(event("evt_2")).await.assert(200, "delivered");
    gateway.send(event("evt_1")).await.assert(409, "duplicate");
    let path = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    assert_eq!(
        write(&gateway, "DELETE", &path, &json!({})).await.status,
        200
    );
    gateway
        .send(event("evt_3"))
        .await
        .assert(404, "unknown_route");
    gateway.kill().await;
    gateway.restart().await;
    gateway
        .send(event("evt_3"))
        .await
        .assert(404, "unknown_route");
    assert_eq!(
        write(&gateway, "DELETE", &path, &json!({})).await.status,
        404
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_given_stays_and_what_is_switched_off_answers_503() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let webhook = make(&gateway, &json!({"url": upstream.url(), "active": false})).await;
    let path = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    let answer = gateway.send(event_for(&webhook, "evt_1")).await;
    answer.assert_problem(503, "inactive");
    answer.assert_retry_after();
    upstream.assert_untouched();
    let changed = parsed(
        &write(
            &gateway,
            "PUT",
            &path,
            &json!({"active": true, "max_body": "2KiB"}),
        )
        .await,
    );
    assert_eq!(
        (&changed["webhook"]["status"], &changed["webhook"]["url"]),
        (&json!("active"), &json!(upstream.url()))
    );
    gateway
        .send(event_for(&webhook, "evt_1"))
        .await
        .assert(200, "delivered");
    let secret = webhook["secret"].as_str().unwrap();
    let big = Event::sized("evt_2", 4096)
        .signed_with(secret)
        .at(webhook["path"].as_str().unwrap());
    gateway
        .send(big)
        .await
        .assert_problem(413, "body_too_large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_of_the_file_is_neither_changed_nor_shadowed() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (method, document) in [("PUT", json!({"active": false})), ("DELETE", json!({}))] {
        refused(
            &write(&gateway, method, "/webhooks/wh_hooks", &document).await,
            409,
            "in_file",
        );
    }
    for document in [
        json!({"url": upstream.url(), "path": PATH}),
        json!({"url": upstream.url(), "path": PATH, "host": "hooks.test"}),
    ] {
        refused(
            &write(&gateway, "POST", "/webhooks", &document).await,
            409,
            "taken",
        );
    }
    let made = make(&gateway, &json!({"url": upstream.url(), "path": "/made"})).await;
    let again = write(
        &gateway,
        "POST",
        "/webhooks",
        &json!({"url": upstream.url(), "path": "/made"}),
    )
    .await;
    refused(&again, 409, "taken");
    // A file that takes the path later goes before.
    gateway.rewrite(Route::to(&upstream).with("path", "/made"));
    gateway.signal("HUP");
    eventually("the file's route is served", async || {
        gateway
            .send(Event::new("evt_1").post().at("/made"))
            .await
            .status
            != 401
    })
    .await;
    gateway
        .send(event_for(&made, "evt_2"))
        .await
        .assert_problem(401, "invalid_signature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_webhook_is_refused_with_its_reasons() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (document, says) in [
        (json!({}), "url"),
        (json!({"url": upstream.url(), "enforce": false}), "enforce"),
        (
            json!({"url": upstream.url(), "secrets": [{"file": "/etc/passwd"}]}),
            "secrets",
        ),
        (json!({"url": upstream.url(), "budget": "0s"}), "0s"),
        (
            json!({"url": upstream.url(), "provider": "striped"}),
            "provider",
        ),
        (json!({"url": upstream.url(), "path": "no-slash"}), "path"),
        (json!({"url": upstream.url(), "secret": ""}), "empty"),
        (
            json!({"url": "http://169.254.169.254/latest/meta-data"}),
            "metadata",
        ),
        (
            json!({"url": "http://user:pw@127.0.0.1/"}),
            "user information",
        ),
        (json!({"url": "file:///etc/passwd"}), "url"),
    ] {
        let answer = write(&gateway, "POST", "/webhooks", &document).await;
        refused(&answer, 422, "invalid_webhook");
        assert!(
            answer.text().contains(says),
            "{document}: {}",
            answer.text()
        );
    }
    for text in ["", "[]", "{\"url\":", "{\"url\": 7}"] {
        let request = Request::post(text.as_bytes())
            .at("/webhooks")
            .set("Host", &gateway.admin().to_string());
        refused(
            &Client::connect(gateway.admin()).await.send(request).await,
            400,
            "invalid_body",
        );
    }
    let long = json!({"url": upstream.url(), "description": "x".repeat(100_000)});
    refused(
        &write(&gateway, "POST", "/webhooks", &long).await,
        413,
        "body_too_large",
    );
    assert_eq!(gateway.api("/webhooks").await["total"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_are_held_to_the_list_where_there_is_one() {
    let upstream = Upstream::ok();
    let admin = format!(
        r#"{{address: "127.0.0.1:0", allowed_upstreams: ["http://{}/hooks"]}}"#,
        upstream.address()
    );
    let gateway = Gateway::start(Setup::from(Route::to(&upstream)).with("admin", &admin)).await;
    let url = |path: &str| json!({"url": format!("http://{}{path}", upstream.address())});
    make(&gateway, &url("/hooks/a")).await;
    for other in [
        url("/"),
        url("/hookster"),
        json!({"url": "http://127.0.0.1:1/hooks/a"}),
    ] {
        refused(
            &write(&gateway, "POST", "/webhooks", &other).await,
            422,
            "invalid_webhook",
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_event_goes_through_the_front_door_signed_and_recorded() {
    let upstream = Upstream::ok();
    let in_body = Route::to(&upstream)
        .named("inside")
        .signature("{field: /signature}");
    let standard = Route::to(&upstream)
        .named("standard")
        .with("provider", "standard-webhooks");
    let standard = standard.with("secrets", "[{env: STANDARD_SECRET}]");
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let gateway = Gateway::start(
        Setup::new([Route::to(&upstream), in_body, standard]).env("STANDARD_SECRET", key),
    )
    .await;
    let made = make(
        &gateway,
        &json!({"url": upstream.url(), "provider": "github"}),
    )
    .await;
    for id in [
        "wh_hooks",
        "wh_inside",
        "wh_standard",
        made["id"].as_str().unwrap(),
    ] {
        let tested = parsed(
            &write(
                &gateway,
                "POST",
                &format!("/webhooks/{id}/test"),
                &json!({}),
            )
            .await,
        );
        assert_eq!(
            (&tested["success"], &tested["outcome"]),
            (&json!(true), &json!("delivered")),
            "{id}: {tested}"
        );
        assert_eq!(tested["event_type"], "webhook.test");
        upstream
            .last()
            .assert_header("Hookstile-Event-Type", "webhook.test");
        let listed = gateway
            .api(&format!(
                "/webhooks/{id}/deliveries?event_type=webhook.test"
            ))
            .await;
        assert_eq!(
            (&listed["total"], &listed["deliveries"][0]["test"]),
            (&json!(1), &json!(true)),
            "{id}"
        );
        upstream.last().assert_header("Hookstile-Test", "true");
        upstream.last().assert_no_header("Hookstile-Test-Mark");
    }
    let claimed = Event::new("evt_1")
        .post()
        .header("Hookstile-Test", "true")
        .header("Hookstile-Test-Mark", &"0".repeat(64));
    gateway.send(claimed).await.assert(200, "delivered");
    upstream.last().assert_no_header("Hookstile-Test");
    assert_eq!(
        gateway.api("/deliveries?event_id=evt_1").await["deliveries"][0]["test"],
        false
    );
    let document = json!({"event_type": "user.created", "custom_data": {"n": 7}});
    let tested = parsed(&write(&gateway, "POST", "/webhooks/wh_hooks/test", &document).await);
    assert_eq!(tested["event_type"], "user.created");
    let body: Value = serde_json::from_slice(&upstream.last().body).unwrap();
    assert_eq!(
        (&body["type"], &body["data"]["n"]),
        (&json!("user.created"), &json!(7))
    );
    refused(
        &write(&gateway, "POST", "/webhooks/wh_none/test", &json!({})).await,
        404,
        "unknown_webhook",
    );
    refused(
        &write(
            &gateway,
            "POST",
            "/webhooks/wh_hooks/test",
            &json!({"typ": "x"}),
        )
        .await,
        400,
        "invalid_body",
    );
    refused(
        &write(
            &gateway,
            "POST",
            "/webhooks/wh_hooks/test",
            &json!(["user.created", {}]),
        )
        .await,
        400,
        "invalid_body",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_event_comes_from_loopback() {
    let upstream = Upstream::ok();
    let allowed = Route::to(&upstream).with("allow_from", "[127.0.0.1/32]");
    let elsewhere = Route::to(&upstream)
        .named("elsewhere")
        .with("allow_from", "[203.0.113.0/24]");
    let gateway = Gateway::start(Setup::new([allowed, elsewhere])).await;
    for (id, status, outcome) in [
        ("wh_hooks", 200, "delivered"),
        ("wh_elsewhere", 403, "forbidden_address"),
    ] {
        let path = format!("/webhooks/{id}/test");
        let tested = parsed(&write(&gateway, "POST", &path, &json!({})).await);
        assert_eq!(
            (&tested["status"], &tested["outcome"]),
            (&json!(status), &json!(outcome)),
            "{tested}"
        );
    }
    let delivered = upstream.last();
    delivered.assert_header("X-Forwarded-For", "127.0.0.1");
    delivered.assert_header("X-Forwarded-Proto", "http");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_cannot_stand_in_a_header_is_told_so_where_it_would_have_to() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "github")).await;
    let answer = write(
        &gateway,
        "POST",
        "/webhooks/wh_hooks/test",
        &json!({"event_type": "a\nb"}),
    )
    .await;
    refused(&answer, 422, "not_in_header");
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_route_goes_on_taking_events_and_delivers_them_when_it_is_resumed_through_a_kill()
{
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream).with("delivery", "queue")).await;
    let paused = parsed(&write(&gateway, "POST", "/webhooks/wh_hooks/pause", &json!({})).await);
    assert_eq!(paused["webhook"]["queue"]["paused"], true);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway.kill().await;
    gateway.restart().await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(202, "queued");
    // Another one that waits tells that the lane has looked, had it not been paused.
    gateway
        .metric_reaches("queue_events", &[("state", "pending")], 2.0)
        .await;
    upstream.assert_untouched();
    let resumed = parsed(&write(&gateway, "POST", "/webhooks/wh_hooks/resume", &json!({})).await);
    assert_eq!(resumed["webhook"]["queue"]["paused"], false);
    upstream.received(2).await;
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
    refused(
        &write(&gateway, "POST", "/webhooks/wh_none/pause", &json!({})).await,
        404,
        "unknown_webhook",
    );
}

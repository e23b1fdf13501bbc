//! Webhooks created over the API: they serve at once, survive restarts and kills, and can't reach
//! upstreams outside the allowed list.

use serde_json::{Value, json};

use crate::harness::wait::eventually;
use crate::harness::*;

async fn send_json(gateway: &Gateway, method: &str, path: &str, document: &Value) -> Response {
    let request = Request::post(document.to_string().as_bytes())
        .at(path)
        .method(method);
    Client::connect(gateway.admin_address())
        .await
        .send(request.set("Host", &gateway.admin_address().to_string()))
        .await
}

fn parsed(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

fn assert_problem(response: &Response, status: u16, code: &str) {
    assert_eq!(
        (response.status, parsed(response)["code"].as_str()),
        (status, Some(code)),
        "{}",
        response.text()
    );
}

/// Creates a webhook and returns its document, with the secret.
async fn create_webhook(gateway: &Gateway, document: &Value) -> Value {
    let response = send_json(gateway, "POST", "/webhooks", document).await;
    assert_eq!(response.status, 201, "{}", response.text());
    let made = parsed(&response);
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
async fn new_webhook_works_and_shows_secret_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let webhook = create_webhook(
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
        "the log contains the secret"
    );
    assert_eq!(gateway.api("/webhooks").await["total"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_survives_kill_and_reload() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    let document = json!({"url": upstream.url(), "provider": "orbvpn", "secret": "mine", "path": "/made", "headers": {"X-A": "b"}});
    let webhook = create_webhook(&gateway, &document).await;
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
        .wait_for_metric_at_least("config_last_reload_success_timestamp_seconds", &[], 1.0)
        .await;
    gateway.send(event("evt_2")).await.assert(200, "delivered");
    gateway.send(event("evt_1")).await.assert(409, "duplicate");
    let path = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    assert_eq!(
        send_json(&gateway, "DELETE", &path, &json!({}))
            .await
            .status,
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
        send_json(&gateway, "DELETE", &path, &json!({}))
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_keeps_omitted_fields() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let webhook = create_webhook(&gateway, &json!({"url": upstream.url(), "active": false})).await;
    let path = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    let response = gateway.send(event_for(&webhook, "evt_1")).await;
    response.assert_problem(503, "inactive");
    response.assert_retry_after();
    upstream.assert_untouched();
    let changed = parsed(
        &send_json(
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
async fn file_route_cannot_be_changed_or_hidden() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (method, document) in [("PUT", json!({"active": false})), ("DELETE", json!({}))] {
        assert_problem(
            &send_json(&gateway, method, "/webhooks/wh_hooks", &document).await,
            409,
            "in_file",
        );
    }
    for document in [
        json!({"url": upstream.url(), "path": PATH}),
        json!({"url": upstream.url(), "path": PATH, "host": "hooks.test"}),
    ] {
        assert_problem(
            &send_json(&gateway, "POST", "/webhooks", &document).await,
            409,
            "taken",
        );
    }
    let made = create_webhook(&gateway, &json!({"url": upstream.url(), "path": "/made"})).await;
    let again = send_json(
        &gateway,
        "POST",
        "/webhooks",
        &json!({"url": upstream.url(), "path": "/made"}),
    )
    .await;
    assert_problem(&again, 409, "taken");
    // A route for this path that is added to the file later takes precedence.
    gateway.rewrite(Route::to(&upstream).with("path", "/made"));
    gateway.signal("HUP");
    eventually("the file's route is active", async || {
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
async fn invalid_webhook_is_rejected_with_reasons() {
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
        let response = send_json(&gateway, "POST", "/webhooks", &document).await;
        assert_problem(&response, 422, "invalid_webhook");
        assert!(
            response.text().contains(says),
            "{document}: {}",
            response.text()
        );
    }
    for text in ["", "[]", "{\"url\":", "{\"url\": 7}"] {
        let request = Request::post(text.as_bytes())
            .at("/webhooks")
            .set("Host", &gateway.admin_address().to_string());
        assert_problem(
            &Client::connect(gateway.admin_address())
                .await
                .send(request)
                .await,
            400,
            "invalid_body",
        );
    }
    let long = json!({"url": upstream.url(), "description": "x".repeat(100_000)});
    assert_problem(
        &send_json(&gateway, "POST", "/webhooks", &long).await,
        413,
        "body_too_large",
    );
    assert_eq!(gateway.api("/webhooks").await["total"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_must_be_on_configured_list() {
    let upstream = Upstream::ok();
    let admin = format!(
        r#"{{address: "127.0.0.1:0", allowed_upstreams: ["http://{}/hooks"]}}"#,
        upstream.address()
    );
    let gateway = Gateway::start(Setup::from(Route::to(&upstream)).with("admin", &admin)).await;
    let url = |path: &str| json!({"url": format!("http://{}{path}", upstream.address())});
    create_webhook(&gateway, &url("/hooks/a")).await;
    for other in [
        url("/"),
        url("/hookster"),
        url("/hooks/../admin"),
        url("/hooks/%2e%2e/admin"),
        url("/hooks/..%2fadmin"),
        url("/hooks/%252e%252e/admin"),
        url("/hooks/..;/admin"),
        json!({"url": "http://127.0.0.1:1/hooks/a"}),
    ] {
        assert_problem(
            &send_json(&gateway, "POST", "/webhooks", &other).await,
            422,
            "invalid_webhook",
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credential_endpoints_are_never_upstreams() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let made = create_webhook(&gateway, &json!({"url": upstream.url()})).await;
    let change = format!("/webhooks/{}", made["id"].as_str().unwrap());
    for host in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[::ffff:169.254.169.254]",
        "[::169.254.169.254]",
        "[2002:a9fe:a9fe::1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2001:0:a9fe:a9fe::1]",
        "[2001:db8::5efe:169.254.169.254]",
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "metadata.google.internal",
    ] {
        let document = json!({"url": format!("http://{host}/latest/meta-data")});
        for (method, path) in [("POST", "/webhooks"), ("PUT", &*change)] {
            let response = send_json(&gateway, method, path, &document).await;
            assert_problem(&response, 422, "invalid_webhook");
            assert!(response.text().contains("metadata"), "{host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn number_of_webhooks_is_bounded() {
    let upstream = Upstream::ok();
    let admin = r#"{address: "127.0.0.1:0", max_webhooks: 2}"#;
    let mut gateway = Gateway::start(Setup::from(Route::to(&upstream)).with("admin", admin)).await;
    let document = json!({"url": upstream.url()});
    let first = create_webhook(&gateway, &document).await;
    create_webhook(&gateway, &document).await;
    let path = format!("/webhooks/{}", first["id"].as_str().unwrap());
    for _ in 0..2 {
        let response = send_json(&gateway, "POST", "/webhooks", &document).await;
        assert_problem(&response, 409, "too_many_webhooks");
        let changed = send_json(&gateway, "PUT", &path, &json!({"description": "kept"})).await;
        assert_eq!(changed.status, 200, "{}", changed.text());
        gateway.kill().await;
        gateway.restart().await;
    }
    let removed = send_json(&gateway, "DELETE", &path, &json!({})).await;
    assert_eq!(removed.status, 200, "{}", removed.text());
    create_webhook(&gateway, &document).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_event_is_signed_sent_and_recorded() {
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
    let made = create_webhook(
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
            &send_json(
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
    let tested = parsed(&send_json(&gateway, "POST", "/webhooks/wh_hooks/test", &document).await);
    assert_eq!(tested["event_type"], "user.created");
    let body: Value = serde_json::from_slice(&upstream.last().body).unwrap();
    assert_eq!(
        (&body["type"], &body["data"]["n"]),
        (&json!("user.created"), &json!(7))
    );
    assert_problem(
        &send_json(&gateway, "POST", "/webhooks/wh_none/test", &json!({})).await,
        404,
        "unknown_webhook",
    );
    assert_problem(
        &send_json(
            &gateway,
            "POST",
            "/webhooks/wh_hooks/test",
            &json!({"typ": "x"}),
        )
        .await,
        400,
        "invalid_body",
    );
    assert_problem(
        &send_json(
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
        let tested = parsed(&send_json(&gateway, "POST", &path, &json!({})).await);
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
async fn event_type_unfit_for_header_is_reported() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "github")).await;
    let response = send_json(
        &gateway,
        "POST",
        "/webhooks/wh_hooks/test",
        &json!({"event_type": "a\nb"}),
    )
    .await;
    assert_problem(&response, 422, "not_in_header");
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_route_accepts_and_delivers_on_resume() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream).with("delivery", "queue")).await;
    let paused = parsed(&send_json(&gateway, "POST", "/webhooks/wh_hooks/pause", &json!({})).await);
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
    // Both events are pending: a route worker that ignored the pause would have sent one by now.
    gateway
        .wait_for_metric("queue_events", &[("state", "pending")], 2.0)
        .await;
    upstream.assert_untouched();
    let resumed =
        parsed(&send_json(&gateway, "POST", "/webhooks/wh_hooks/resume", &json!({})).await);
    assert_eq!(resumed["webhook"]["queue"]["paused"], false);
    upstream.wait_for_requests(2).await;
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
    assert_problem(
        &send_json(&gateway, "POST", "/webhooks/wh_none/pause", &json!({})).await,
        404,
        "unknown_webhook",
    );
}

//! Reports about the providers' documents, field by field: what the documents show must be what the
//! program answers. Its own fields may stand beside theirs.

use serde_json::{Value, json};

use crate::harness::*;

async fn admin(gateway: &Gateway, request: Request) -> Response {
    let host = gateway.admin_address().to_string();
    Client::connect(gateway.admin_address())
        .await
        .send(request.set("Host", &host))
        .await
}

fn parsed(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

async fn call(gateway: &Gateway, method: &str, path: &str, document: &Value) -> Value {
    let request = Request::post(document.to_string().as_bytes())
        .at(path)
        .method(method);
    parsed(&admin(gateway, request).await)
}

/// Asserts that `shown` has each member of the `documented` example, at any depth, with a value of
/// the same type.
fn assert_like(shown: &Value, documented: &Value, at: &str) {
    match (shown, documented) {
        (Value::Object(shown), Value::Object(documented)) => {
            for (name, example) in documented {
                let at = format!("{at}/{name}");
                let value = shown.get(name);
                assert_like(
                    value.unwrap_or_else(|| panic!("{at} is missing")),
                    example,
                    &at,
                );
            }
        }
        (Value::Array(shown), Value::Array(documented)) => {
            assert!(!shown.is_empty(), "{at} is empty");
            assert_like(&shown[0], &documented[0], at);
        }
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_)) => {}
        (shown, documented) => panic!("{at}: {shown} is not like {documented}"),
    }
    let is_time = |text: &str| text.parse::<jiff::Timestamp>().is_ok();
    if documented.as_str().is_some_and(is_time) {
        assert!(shown.as_str().is_some_and(is_time), "{at}: {shown}");
    }
}

/// Returns a webhook as the document shows it in each response, with `more` members.
fn documented(more: Value) -> Value {
    let mut webhook = json!({
        "id": "wh_124", "url": "https://api.myapp.com/webhooks/vpn-enterprise",
        "events": ["user.created"], "status": "active", "created_at": "2024-12-02T15:30:00Z",
    });
    let Value::Object(more) = more else {
        panic!("{more} has no members")
    };
    webhook.as_object_mut().expect("an object").extend(more);
    webhook
}

fn user_created(id: &str) -> Event {
    let event = json!({
        "id": id, "type": "user.created", "created": 1_733_149_185,
        "data": {"user_id": "usr_456", "email": "newuser@example.com"},
    });
    Event::raw(event.to_string())
}

/// The examples in VPN Enterprise's document of its webhooks API: each call with its response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vpn_enterprise_document_is_answered_field_by_field() {
    let upstream = Upstream::deciding(|request, _| match request.header("Hookstile-Event-Id") {
        Some("evt_failed") => Reply::status(500),
        _ => Reply::full(200, "", b"OK"),
    });
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let made = call(
        &gateway,
        "POST",
        "/webhooks",
        &json!({
            "url": upstream.url(),
            "events": ["user.created", "vpn.connected", "billing.invoice.paid"],
            "description": "Production webhook for user and billing events",
            "active": true,
            "retain": {"payloads": "all"},
        }),
    )
    .await;
    let new = documented(json!({"secret": "whsec_1234", "description": "Production webhook"}));
    assert_like(&made, &json!({"success": true, "webhook": new}), "POST");
    let secret = made["webhook"]["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let id = made["webhook"]["id"].as_str().unwrap();
    let at = made["webhook"]["path"].as_str().unwrap();

    let event = |id: &str| user_created(id).signed_with(secret).at(at);
    gateway.send(event("evt_1")).await.assert(200, "delivered");
    gateway
        .send(event("evt_failed"))
        .await
        .assert(500, "upstream_rejected");

    let listed = gateway.api("/webhooks").await;
    let webhook = listed["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|webhook| webhook["id"] == id);
    let stats = json!({"successful": 1249, "failed": 3, "last_30_days": 87});
    let short = documented(json!({
        "secret": "whsec_***masked***", "last_delivery": "2024-12-02T14:20:00Z",
        "delivery_stats": stats,
    }));
    assert_like(webhook.expect("the webhook"), &short, "GET list");
    assert_like(&listed, &json!({"success": true, "total": 2}), "GET list");

    let path = format!("/webhooks/{id}");
    let long = documented(json!({
        "secret": "whsec_***masked***", "updated_at": "2024-11-15T09:20:00Z",
        "description": "Production webhook",
        "delivery_stats": {
            "total_deliveries": 1252, "successful_deliveries": 1249, "failed_deliveries": 3,
            "last_successful_delivery": "2024-12-02T14:20:00Z",
            "last_failed_delivery": "2024-11-28T11:15:00Z", "average_response_time_ms": 145,
        },
    }));
    let shown = gateway.api(&path).await;
    assert_like(
        &shown,
        &json!({"success": true, "webhook": long}),
        "GET one",
    );
    let before = &shown["webhook"]["updated_at"];
    assert_eq!(before, &shown["webhook"]["created_at"]);

    let deliveries = gateway
        .api(&format!("{path}/deliveries?status=success"))
        .await;
    let delivery = json!({
        "id": "del_789", "webhook_id": "wh_123", "event_type": "user.created",
        "delivered_at": "2024-12-02T14:20:00Z", "status": "success", "response_status": 200,
        "response_time_ms": 142, "attempts": 1,
        "event_data": {"data": {"user_id": "usr_456", "email": "newuser@example.com"}},
    });
    let page = json!({
        "success": true, "deliveries": [delivery], "total": 1252, "has_more": true,
    });
    assert_like(&deliveries, &page, "GET deliveries");
    assert_eq!(deliveries["deliveries"][0]["webhook_id"], id);

    let changed = call(
        &gateway,
        "PUT",
        &path,
        &json!({
            "url": upstream.url(), "events": ["user.created", "user.deleted"],
            "description": "Updated webhook with additional events", "active": true,
        }),
    )
    .await;
    let change =
        documented(json!({"updated_at": "2024-12-02T15:30:00Z", "description": "Updated"}));
    assert_like(
        &changed,
        &json!({"success": true, "webhook": change}),
        "PUT",
    );
    assert!(changed["webhook"]["updated_at"].as_str() > before.as_str());

    let deleted = parsed(&admin(&gateway, Request::new("DELETE", &path)).await);
    assert_eq!(
        deleted,
        json!({"success": true, "message": "Webhook deleted successfully", "webhook_id": id})
    );
}

/// The document's own test event, on a route whose `events` do not list `webhook.test`: it was
/// answered `ignored`, and never reached the application. A sender cannot pass the filter so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_test_event_passes_the_events_filter() {
    let upstream = Upstream::deciding(|_, _| Reply::full(200, "", b"OK"));
    let route = |name: &str| {
        Route::to(&upstream)
            .named(name)
            .with("events", "[user.created]")
    };
    let header_typed = route("headed").with("provider", "github");
    let queued = route("queued").with("delivery", "queue");
    let gateway = Gateway::start(Setup::new([route("hooks"), header_typed, queued])).await;
    let document = json!({
        "event_type": "webhook.test",
        "custom_data": {"test": true, "timestamp": "2024-12-02T15:30:00Z"},
    });
    for (number, route) in (1..).zip(["hooks", "headed", "queued"]) {
        let tested = call(
            &gateway,
            "POST",
            &format!("/webhooks/wh_{route}/test"),
            &document,
        )
        .await;
        assert_eq!(tested["success"], true, "{route}: {tested}");
        upstream.wait_for_requests(number).await;
        let received = upstream.last();
        received.assert_header("Hookstile-Event-Type", "webhook.test");
        received.assert_header("Hookstile-Test", "true");
        let body: Value = serde_json::from_slice(&received.body).unwrap();
        assert_eq!(body["data"], document["custom_data"], "{route}");
        let delivery = &tested["test_delivery"];
        if route == "queued" {
            assert_like(
                delivery,
                &json!({"delivery_id": "del_1", "status": "pending"}),
                route,
            );
            continue;
        }
        let documented = json!({
            "delivery_id": "del_test_123", "status": "success", "response_status": 200,
            "response_time_ms": 89, "response_body": "OK", "delivered_at": "2024-12-02T15:30:05Z",
        });
        assert_like(delivery, &documented, route);
        assert_eq!(delivery["response_body"], "OK");
        let found = gateway
            .api(&format!(
                "/deliveries/{}",
                delivery["delivery_id"].as_str().unwrap()
            ))
            .await;
        assert_eq!(
            found["delivery"]["event_id"],
            upstream.last().header("Hookstile-Event-Id").unwrap()
        );
    }
    // The sender has the secret, and what an application sees of a test event.
    for (number, (name, value)) in [
        ("Hookstile-Test", "true"),
        ("Hookstile-Test-Mark", "true"),
        ("Hookstile-Test-Mark", &*"0".repeat(64)),
        ("hookstile_test_mark", &*"0".repeat(64)),
    ]
    .into_iter()
    .enumerate()
    {
        let event = Event::typed(&format!("evt_test_{number}"), "webhook.test");
        let claimed = event.post().at("/webhooks/hooks").header(name, value);
        gateway.send(claimed).await.assert(200, "ignored");
    }
    assert_eq!(upstream.count(), 3);
}

/// `curl -X DELETE`, as the document shows the call, was answered with 415. A browser's request
/// still needs the content type.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_without_a_body_needs_no_content_type() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let made = call(
        &gateway,
        "POST",
        "/webhooks",
        &json!({"url": upstream.url()}),
    )
    .await;
    let path = format!("/webhooks/{}", made["webhook"]["id"].as_str().unwrap());
    let delete = || Request::new("DELETE", &path);
    for refused in [
        delete().header("Origin", &format!("http://{}", gateway.admin_address())),
        delete().header("Sec-Fetch-Site", "same-origin"),
        delete().header("Content-Type", "text/plain"),
        Request::post(b"{}")
            .method("DELETE")
            .at(&path)
            .without("Content-Type"),
        Request::post(b"{}")
            .method("DELETE")
            .at(&path)
            .without("Content-Type")
            .chunked(1),
    ] {
        admin(&gateway, refused)
            .await
            .assert_header("Content-Type", "application/problem+json");
    }
    assert_eq!(
        gateway.api(&path).await["webhook"]["id"],
        made["webhook"]["id"]
    );
    assert_eq!(admin(&gateway, delete()).await.status, 200);
    // So is any other change from a browser: a form of another origin can send a POST.
    let pause = || Request::new("POST", "/webhooks/wh_hooks/pause");
    let from_form = pause().header("Sec-Fetch-Site", "cross-site");
    assert_eq!(admin(&gateway, from_form).await.status, 415);
    assert_eq!(admin(&gateway, pause()).await.status, 200);
}

/// `OrbVPN`'s document asks for 200, and lists six events. A stored event was answered with 202,
/// and `check` did not know `device.activated`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orbvpn_document_is_followed_to_the_letter() {
    let upstream = Upstream::ok();
    let events = "[subscription.created, subscription.renewed, subscription.expired, \
                  user.created, payment.completed, device.activated]";
    let orbvpn = |name: &str, delivery: &str| {
        let route = Route::to(&upstream).named(name).with("provider", "orbvpn");
        route.with("events", events).with("delivery", delivery)
    };
    let asked = orbvpn("asked", "queue").with("accept_status", "202");
    let gateway = Gateway::start(Setup::new([
        orbvpn("queued", "queue"),
        orbvpn("direct", "proxy"),
        asked,
        Route::to(&upstream)
            .named("other")
            .with("delivery", "queue"),
    ]))
    .await;
    let mut check = command::command();
    check
        .env("WEBHOOK_SECRET", SECRET)
        .args(["check", "--config"]);
    check.arg(gateway.config());
    let checked = command::finish(check).await;
    checked.assert(0);
    assert!(
        !checked.stderr.contains("device.activated"),
        "{}",
        checked.stderr
    );
    let event = |number: usize, path: &str| {
        let event = json!({
            "id": format!("evt_{number}"), "type": "device.activated",
            "timestamp": jiff::Timestamp::now().to_string(), "data": {"device": "d_1"},
        });
        let body = event.to_string().into_bytes();
        Request::post(&body)
            .at(path)
            .header("X-Signature", &sign(SECRET, &body))
    };
    gateway
        .send(event(1, "/webhooks/queued"))
        .await
        .assert(200, "queued");
    gateway
        .send(event(2, "/webhooks/direct"))
        .await
        .assert(200, "delivered");
    gateway
        .send(event(3, "/webhooks/asked"))
        .await
        .assert(202, "queued");
    let other = Event::new("evt_4").post().at("/webhooks/other");
    gateway.send(other).await.assert(202, "queued");
    // A webhook that is made as the document shows it has its status, too.
    let variables = json!({"webhook": {
        "url": upstream.url(), "events": ["subscription.created", "device.activated"],
        "secret": "your_webhook_secret_key", "headers": {"X-Custom-Header": "your-value"},
        "settings": {"delivery": "queue"},
    }});
    let mutation = "mutation configureWebhook($webhook: WebhookInput!) { \
                    configureWebhook(webhook: $webhook) { id url events active createdAt path } }";
    let document = json!({"query": mutation, "variables": variables});
    let made = call(&gateway, "POST", "/graphql", &document).await;
    let webhook = &made["data"]["configureWebhook"];
    assert_like(
        webhook,
        &json!({
            "id": "webhook_abc123", "url": "https://your-app.com/webhooks/orbvpn",
            "events": ["subscription.created"], "active": true,
            "createdAt": "2024-12-02T15:30:00Z",
        }),
        "configureWebhook",
    );
    let body = json!({
        "id": "evt_5", "type": "device.activated", "timestamp": jiff::Timestamp::now().to_string(),
    });
    let body = body.to_string().into_bytes();
    let sent = Request::post(&body)
        .at(webhook["path"].as_str().unwrap())
        .header("X-Signature", &sign("your_webhook_secret_key", &body));
    gateway.send(sent).await.assert(200, "queued");
    upstream.wait_for_requests(5).await;
    upstream.requests_for("evt_5")[0].assert_header("X-Custom-Header", "your-value");
}

/// A successful delivery had no `event_data` in any list, and nothing said how to keep it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_data_is_listed_where_payloads_are_kept() {
    let upstream = Upstream::ok();
    let kept = Route::to(&upstream).named("kept");
    let kept = kept.with("retain", "{payloads: all}");
    let queued = Route::to(&upstream)
        .named("queued")
        .with("delivery", "queue");
    let queued = queued.with("retain", "{payloads: all}");
    let gateway = Gateway::start(Setup::new([
        kept,
        queued,
        Route::to(&upstream).named("usual"),
    ]))
    .await;
    for (name, status) in [("kept", 200), ("queued", 202), ("usual", 200)] {
        let body = br#"{"id": "evt_1", "type": "user.created", "data": {"user_id": "usr_456"}}"#;
        let sent = Event::raw(body.to_vec())
            .post()
            .at(&format!("/webhooks/{name}"));
        assert_eq!(gateway.send(sent).await.status, status);
        let path = format!("/webhooks/wh_{name}/deliveries?status=success");
        wait::eventually("the delivery is recorded", async || {
            gateway.api(&path).await["total"] == 1
        })
        .await;
        let data = gateway.api(&path).await["deliveries"][0]["event_data"].clone();
        let expected = match name {
            "usual" => Value::Null,
            _ => serde_json::from_slice(body).unwrap(),
        };
        assert_eq!(data, expected, "{name}");
    }
}

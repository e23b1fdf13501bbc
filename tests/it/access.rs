//! Access to the admin listener: the host names and tokens it accepts, and the audit log of every
//! change.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::command::{command, finish};
use crate::harness::wait::eventually;
use crate::harness::*;

const TOKEN: &str = "admin_it_token_41d7";
const READ_TOKEN: &str = "read_it_token_5e02";

fn guarded(route: Route) -> Setup {
    let admin = r#"{address: "127.0.0.1:0", token: {env: ADMIN}, read_token: {env: READ}, hosts: [Ops.Example.com]}"#;
    Setup::from(route)
        .with("admin", admin)
        .env("ADMIN", TOKEN)
        .env("READ", READ_TOKEN)
}

async fn send(gateway: &Gateway, request: Request) -> Response {
    Client::connect(gateway.admin_address())
        .await
        .send(request)
        .await
}

fn get(path: &str, token: &str) -> Request {
    Request::new("GET", path)
        .set("Host", "localhost")
        .header("Authorization", &format!("Bearer {token}"))
}

fn post(path: &str, token: &str, document: &Value) -> Request {
    let request = Request::post(document.to_string().as_bytes())
        .at(path)
        .set("Host", "localhost");
    request.header("Authorization", &format!("Bearer {token}"))
}

fn parsed(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

/// Waits for the audit log line that has these members.
async fn audit_line(gateway: &Gateway, members: Value) -> Value {
    let fits = |line: &Value| {
        members
            .as_object()
            .unwrap()
            .iter()
            .all(|(name, value)| line.get(name) == Some(value))
    };
    let find = || {
        gateway
            .lines()
            .into_iter()
            .find(|line| line["message"] == "audit" && fits(line))
    };
    eventually(format!("the audit log has {members}"), async || {
        find().is_some()
    })
    .await;
    find().unwrap()
}

async fn run_cli(gateway: &Gateway, token: &str, line: &str) -> crate::harness::command::Run {
    let mut command = command();
    command
        .args(line.split(' '))
        .arg(format!("--admin=http://{}", gateway.admin_address()));
    command
        .env("HOOKSTILE_ADMIN_TOKEN", token)
        .current_dir(std::env::temp_dir());
    finish(command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_file_is_watched() {
    let upstream = Upstream::ok();
    let admin = r#"{address: "127.0.0.1:0", token: {file: admin.token}}"#;
    let setup = Setup::from(Route::to(&upstream))
        .with("admin", admin)
        .file("admin.token", TOKEN);
    let gateway = Gateway::start(setup).await;
    let status = async |token: &str| send(&gateway, get("/webhooks", token)).await.status;
    assert_eq!(status(TOKEN).await, 200);
    let new = "admin_it_token_93be";
    std::fs::write(gateway.directory().join("admin.token"), new).expect("a writable folder");
    eventually("the new token is accepted", async || {
        status(new).await == 200
    })
    .await;
    assert_eq!(status(TOKEN).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_ends_when_its_token_does() {
    let route = Route::to(&Upstream::ok());
    let gateway = Gateway::start(guarded(route.clone())).await;
    let log_in = async |token: &str| {
        let form = Request::post(format!("token={token}").as_bytes()).at("/ui/login");
        let response = send(&gateway, form.set("Host", "localhost")).await;
        assert_eq!(response.status, 303, "{response:?}");
        let cookie = response.header("set-cookie").expect("a cookie");
        cookie.split(';').next().expect("a value").to_owned()
    };
    let (operator, reader) = (log_in(TOKEN).await, log_in(READ_TOKEN).await);
    let status = async |cookie: &str| {
        let request = Request::new("GET", "/webhooks").set("Host", "localhost");
        send(&gateway, request.header("Cookie", cookie))
            .await
            .status
    };
    assert_eq!((status(&operator).await, status(&reader).await), (200, 200));
    // A token that has expired already is refused.
    let expires = jiff::Timestamp::now() + Duration::from_secs(5);
    let expires = format!("{{env: ADMIN, expires: \"{expires}\"}}");
    let earlier = guarded(route).yaml().replace("{env: ADMIN}", &expires);
    gateway.rewrite_text(&earlier);
    eventually("the operator is logged out", async || {
        status(&operator).await == 401
    })
    .await;
    assert_eq!(status(&reader).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_token_cannot_change_anything() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(guarded(Route::to(&upstream))).await;
    for path in [
        "/webhooks",
        "/webhooks/wh_hooks",
        "/deliveries",
        "/rejections",
        "/status",
    ] {
        assert_eq!(
            send(&gateway, get(path, READ_TOKEN)).await.status,
            200,
            "{path}"
        );
    }
    let writes = [
        ("POST", "/webhooks", json!({"url": upstream.url()})),
        ("PUT", "/webhooks/wh_hooks", json!({"active": false})),
        ("DELETE", "/webhooks/wh_hooks", json!({})),
        ("POST", "/webhooks/wh_hooks/test", json!({})),
        ("POST", "/webhooks/wh_hooks/pause", json!({})),
        ("POST", "/webhooks/wh_hooks/resume", json!({})),
        (
            "POST",
            "/webhooks/wh_hooks/recover",
            json!({"since": "2026-01-01T00:00:00Z"}),
        ),
        (
            "POST",
            "/webhooks/wh_hooks/forget",
            json!({"event_id": "evt_1"}),
        ),
        ("POST", "/deliveries/del_1/redeliver", json!({})),
        ("POST", "/deliveries/redeliver", json!({"status": "dead"})),
        (
            "POST",
            "/deliveries/redeliver",
            json!({"status": "dead", "dry_run": true}),
        ),
        ("DELETE", "/deliveries/redeliver", json!({})),
        ("POST", "/reload", json!({})),
    ];
    for (method, path, document) in writes {
        let response = send(&gateway, post(path, READ_TOKEN, &document).method(method)).await;
        assert_eq!(
            (response.status, parsed(&response)["code"].as_str()),
            (403, Some("read_only")),
            "{method} {path}"
        );
    }
    let query = json!({"query": "{ webhooks { id } }"});
    assert_eq!(
        parsed(&send(&gateway, post("/graphql", READ_TOKEN, &query)).await)["data"]["webhooks"][0]
            ["id"],
        "wh_hooks"
    );
    let mutations = [
        "configureWebhook(webhook: {url: \"http://127.0.0.1:1/\", events: []}) { id }",
        "configureWebhook(webhook: {id: \"wh_hooks\", url: \"http://127.0.0.1:1/\", events: []}) { id }",
        "deleteWebhook(id: \"wh_hooks\")",
        "pauseWebhook(id: \"wh_hooks\") { id }",
        "resumeWebhook(id: \"wh_hooks\") { id }",
        "testWebhook(id: \"wh_hooks\") { status }",
        "redeliver(id: \"del_1\") { id }",
        "redeliverMatching(status: dead) { matched }",
        "redeliverMatching(status: dead, dryRun: true) { matched }",
        "recoverWebhook(id: \"wh_hooks\", since: \"2026-01-01T00:00:00Z\") { matched }",
        "forgetEvent(id: \"wh_hooks\", eventId: \"evt_1\")",
    ];
    for mutation in mutations {
        let response = send(
            &gateway,
            post(
                "/graphql",
                READ_TOKEN,
                &json!({"query": format!("mutation {{ {mutation} }}")}),
            ),
        );
        let response = parsed(&response.await);
        assert_eq!(
            response["errors"][0]["extensions"]["code"], "read_only",
            "{mutation}: {response}"
        );
    }
    upstream.assert_untouched();
    run_cli(&gateway, READ_TOKEN, "status").await.assert(0);
    let refused = run_cli(&gateway, READ_TOKEN, "reload").await;
    assert!(
        refused.assert(77).stderr.contains("may only read"),
        "{}",
        refused.stderr
    );
    assert_eq!(send(&gateway, get("/status", "other")).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_listener_accepts_only_configured_hosts() {
    let gateway = Gateway::start(guarded(Route::to(&Upstream::ok()))).await;
    for (host, status) in [
        ("ops.example.com", 200),
        ("OPS.example.com:443", 200),
        ("example.com", 421),
        ("x.ops.example.com", 421),
    ] {
        assert_eq!(
            send(&gateway, get("/status", TOKEN).set("Host", host))
                .await
                .status,
            status,
            "{host}"
        );
    }
    let from_page =
        post("/webhooks/wh_hooks/pause", TOKEN, &json!({})).set("Host", "ops.example.com");
    let own = from_page
        .clone()
        .header("Origin", "https://ops.example.com");
    assert_eq!(send(&gateway, own).await.status, 200);
    let other = send(&gateway, from_page.header("Origin", "https://evil.example")).await;
    assert_eq!(
        (other.status, parsed(&other)["code"].as_str()),
        (403, Some("cross_origin"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_log_records_each_change_and_its_result() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(guarded(
        Route::to(&upstream).with("retain", "{payloads: all}"),
    ))
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    eventually("the delivery is recorded", async || {
        parsed(&send(&gateway, get("/deliveries", TOKEN)).await)["deliveries"][0]["status"]
            == "success"
    })
    .await;
    let made = parsed(
        &send(
            &gateway,
            post("/webhooks", TOKEN, &json!({"url": upstream.url()})),
        )
        .await,
    );
    let made = made["webhook"]["id"].as_str().unwrap().to_owned();
    let name = made.strip_prefix("wh_").unwrap();
    let of = |path: &str| format!("/webhooks/{made}{path}");
    let redeliver = || "/deliveries/redeliver".to_owned();
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    let mutation = |text: &str| json!({"query": format!("mutation {{ {text} }}")});
    let pause = mutation("pauseWebhook(id: \"wh_none\") { id }");
    let all = mutation("redeliverMatching(webhookId: \"wh_gone\") { matched }");
    let recover =
        mutation("recoverWebhook(id: \"wh_gone\", since: \"2026-01-01T00:00:00Z\") { matched }");
    let forget = mutation("forgetEvent(id: \"wh_gone\", eventId: \"evt_1\")");
    let changes = [
        (
            "PUT",
            of(""),
            json!({"description": "mine"}),
            ["change_webhook", name, "done"],
        ),
        ("POST", of("/pause"), json!({}), ["pause", name, "done"]),
        ("POST", of("/resume"), json!({}), ["resume", name, "done"]),
        ("POST", of("/test"), json!({}), ["test", name, "done"]),
        (
            "DELETE",
            of(""),
            json!({}),
            ["remove_webhook", name, "done"],
        ),
        (
            "DELETE",
            of(""),
            json!({}),
            ["remove_webhook", name, "unknown_webhook"],
        ),
        (
            "DELETE",
            "/webhooks/wh_hooks".into(),
            json!({}),
            ["remove_webhook", "hooks", "in_file"],
        ),
        (
            "POST",
            "/webhooks/wh_hooks/forget".into(),
            json!({"event_id": "evt_1"}),
            ["forget", "hooks/evt_1", "done"],
        ),
        (
            "POST",
            "/webhooks/wh_hooks/forget".into(),
            json!({"event_id": 1}),
            ["forget", "hooks/1", "unknown_event"],
        ),
        (
            "POST",
            "/webhooks/wh_hooks/recover".into(),
            since,
            ["recover", "hooks", "done"],
        ),
        (
            "POST",
            redeliver(),
            json!({"status": "dead"}),
            ["redeliver_matching", "", "done"],
        ),
        (
            "POST",
            redeliver(),
            json!({"webhook_id": "wh_hooks"}),
            ["redeliver_matching", "hooks", "done"],
        ),
        (
            "POST",
            redeliver(),
            json!({"webhook_id": "wh_none"}),
            ["redeliver_matching", "none", "unknown_webhook"],
        ),
        (
            "POST",
            "/deliveries/del_1/redeliver".into(),
            json!({}),
            ["redeliver", "del_1", "done"],
        ),
        (
            "POST",
            "/deliveries/del_9/redeliver".into(),
            json!({}),
            ["redeliver", "del_9", "unknown_delivery"],
        ),
        ("POST", "/reload".into(), json!({}), ["reload", "", "done"]),
        (
            "POST",
            "/graphql".into(),
            pause,
            ["pause", "none", "unknown_webhook"],
        ),
        (
            "POST",
            "/graphql".into(),
            all,
            ["redeliver_matching", "gone", "unknown_webhook"],
        ),
        (
            "POST",
            "/graphql".into(),
            recover,
            ["recover", "gone", "unknown_webhook"],
        ),
        (
            "POST",
            "/graphql".into(),
            forget,
            ["forget", "gone/evt_1", "unknown_webhook"],
        ),
    ];
    audit_line(
        &gateway,
        json!({"operation": "make_webhook", "subject": name, "outcome": "done"}),
    )
    .await;
    for (method, path, document, [operation, subject, outcome]) in changes {
        send(&gateway, post(&path, TOKEN, &document).method(method)).await;
        let line = audit_line(
            &gateway,
            json!({"operation": operation, "subject": subject, "outcome": outcome}),
        )
        .await;
        assert_eq!(
            (&line["by"], &line["peer"], &line["level"]),
            (&json!("token"), &json!("127.0.0.1"), &json!("info"))
        );
    }
    let before = gateway
        .lines()
        .iter()
        .filter(|line| line["message"] == "audit")
        .count();
    send(&gateway, get("/status", TOKEN)).await;
    send(
        &gateway,
        post("/graphql", TOKEN, &json!({"query": "{ webhooks { id } }"})),
    )
    .await;
    send(
        &gateway,
        post(
            &redeliver(),
            TOKEN,
            &json!({"status": "success", "dry_run": true}),
        ),
    )
    .await;
    send(&gateway, post("/reload", TOKEN, &json!({}))).await;
    eventually("the audit log has the reload", async || {
        gateway
            .lines()
            .iter()
            .filter(|line| line["message"] == "audit")
            .count()
            > before
    })
    .await;
    let after = gateway
        .lines()
        .iter()
        .filter(|line| line["message"] == "audit")
        .count();
    assert_eq!(after, before + 1, "reading is not a change");
    for secret in [TOKEN, READ_TOKEN] {
        assert!(!gateway.output().contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_admin_client_loses_its_connection() {
    let gateway = Gateway::start(guarded(Route::to(&Upstream::ok()))).await;
    let login = b"POST /ui/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\ntok";
    let mut head = Client::connect(gateway.admin_address()).await;
    head.write(b"GET / HTTP/1.1\r\n").await;
    let mut body = Client::connect(gateway.admin_address()).await;
    body.write(login).await;
    assert_eq!(body.read_response().await.status, 408);
    head.wait_for_close().await;
    assert_eq!(send(&gateway, get("/status", TOKEN)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_log_records_forbidden_attempts() {
    let gateway = Gateway::start(guarded(Route::to(&Upstream::ok()))).await;
    send(
        &gateway,
        post("/webhooks/wh_hooks/resume", READ_TOKEN, &json!({})),
    )
    .await;
    let refused = json!({"operation": "change", "subject": "/webhooks/wh_hooks/resume", "outcome": "read_only"});
    audit_line(&gateway, refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_signature_header_is_redacted() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .signature("{header: X-Check}")
        .with("retain", "{payloads: all}");
    let gateway = Gateway::start(route).await;
    let event = Event::new("evt_1");
    let check = hmac_hex(SECRET, &event.body);
    let request = Request::post(&event.body)
        .header("X-Check", &check)
        .header("X-Tenant", "a");
    gateway.send(request).await.assert(200, "delivered");
    let shown = gateway.api("/deliveries/del_1").await;
    assert!(!shown.to_string().contains(&check), "{shown}");
    let headers = shown["delivery"]["headers"].as_array().unwrap();
    let value = |name: &str| {
        &headers
            .iter()
            .find(|header| header["name"] == name)
            .unwrap()["value"]
    };
    assert_eq!(
        (value("X-Check"), value("X-Tenant")),
        (&json!("***"), &json!("a"))
    );
}

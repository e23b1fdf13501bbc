//! The operator's view of deliveries and the actions on them: over the admin listener, on the
//! command line, and in the store itself.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::command::{Run, command, finish, run_cli as hookstile};
use crate::harness::process::Process;
use crate::harness::programs::{program, tool};
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

const TOKEN: &str = "admin_it_token_0b77";
const QUICK: &str = "{initial: 1ms, max_interval: 10ms, horizon: 1h}";

fn queue_to(upstream: &Upstream) -> Route {
    Route::to(upstream)
        .with("delivery", "queue")
        .with("retry", QUICK)
}

/// An upstream that rejects an event three times for good, which makes it a dead letter.
fn rejecting_upstream() -> Upstream {
    Upstream::replying([
        Reply::status(422),
        Reply::status(422),
        Reply::status(422),
        Reply::ok(),
    ])
}

fn with_token(route: Route) -> Setup {
    let admin = r#"{address: "127.0.0.1:0", token: {file: admin.token}}"#;
    Setup::from(route)
        .with("admin", admin)
        .file("admin.token", TOKEN)
}

/// Sends a request to the admin listener, with any `Host`.
async fn send_to_admin(gateway: &Gateway, request: Request) -> Response {
    Client::connect(gateway.admin_address())
        .await
        .send(request)
        .await
}

fn admin_request(gateway: &Gateway, method: &str, path: &str) -> Request {
    Request::new(method, path).set("Host", &gateway.admin_address().to_string())
}

/// Returns a document of the API.
async fn get(gateway: &Gateway, path: &str) -> Value {
    let response = send_to_admin(gateway, admin_request(gateway, "GET", path)).await;
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.assert_header("Content-Type", "application/json");
    let document: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(document["success"], true, "{document}");
    document
}

async fn redeliver(gateway: &Gateway, id: &str) -> Response {
    let request = admin_request(gateway, "POST", &format!("/deliveries/{id}/redeliver"));
    send_to_admin(
        gateway,
        request
            .header("Content-Type", "application/json")
            .header("Content-Length", "0"),
    )
    .await
}

#[track_caller]
fn assert_problem(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    response.assert_header("Content-Type", "application/problem+json");
    let problem: Value = serde_json::from_slice(&response.body).expect("a problem is JSON");
    assert_eq!(
        (&problem["status"], &problem["code"]),
        (&json!(status), &json!(code)),
        "{problem}"
    );
    for member in ["type", "title", "detail"] {
        assert!(
            problem[member]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{member} in {problem}"
        );
    }
}

async fn dead_letter(gateway: &Gateway, event: Event) {
    gateway.send(event).await.assert(202, "queued");
    gateway
        .wait_for_metric(
            "queue_events",
            &[("route", "hooks"), ("state", "dead")],
            1.0,
        )
        .await;
}

async fn wait_until_delivered(gateway: &Gateway, id: &str) {
    let path = format!("/deliveries/{id}");
    eventually("the event is delivered", async || {
        get(gateway, &path).await["delivery"]["status"] == "success"
    })
    .await;
}

/// Runs `hookstile` in the gateway's folder, which contains the configuration.
async fn hookstile_offline(gateway: &Gateway, line: &str) -> Run {
    let mut command = command();
    command
        .current_dir(gateway.directory())
        .args(line.split(' '))
        .arg("--offline");
    finish(command).await
}

async fn stop(gateway: &Gateway) {
    gateway.signal("INT");
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_list_routes_with_event_counts() {
    let upstream = rejecting_upstream();
    let other = Upstream::ok();
    let route = queue_to(&upstream).with("events", r#"["user.*"]"#);
    let own = Route::to(&other)
        .named("own")
        .signature("{header: X-Own-Signature}");
    let gateway = Gateway::start(Setup::new([route, own])).await;
    dead_letter(&gateway, Event::new("evt_1")).await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(4).await;
    eventually("the deliveries are recorded", async || {
        let webhook = get(&gateway, "/webhooks").await["webhooks"][0].clone();
        webhook["delivery_stats"]["successful"] == 1 && webhook["last_hour"]["delivered"] == 1
    })
    .await;

    let list = get(&gateway, "/webhooks").await;
    assert_eq!(
        (&list["total"], list["webhooks"].as_array().map(Vec::len)),
        (&json!(2), Some(2))
    );
    let webhook = &list["webhooks"][0];
    let expected = json!({
        "id": "wh_hooks", "url": upstream.url(), "events": ["user.*"], "status": "active",
        "secret": "whsec_***masked***", "delivery_stats": {"successful": 1, "failed": 1, "last_30_days": 2},
        "name": "hooks", "path": PATH, "provider": "vpn-enterprise", "delivery": "queue", "source": "file",
        "queue": {"pending": 0, "dead": 1, "oldest_pending_at": null, "paused": false}, "silent": false,
        "last_hour": {
            "accepted": 2, "delivered": 1, "dead": 1, "late": 0, "success": 0.5,
            "p95_seconds": webhook["last_hour"]["p95_seconds"],
        },
        "created_at": webhook["created_at"], "updated_at": webhook["updated_at"],
        "last_delivery": webhook["last_delivery"],
    });
    assert_eq!(*webhook, expected);
    assert!(
        webhook["updated_at"].is_string()
            && webhook["created_at"].is_string()
            && webhook["last_delivery"].is_string(),
        "{webhook}"
    );
    let own = &list["webhooks"][1];
    assert_eq!(
        (&own["events"], &own["delivery"], &own["last_delivery"]),
        (&json!(["*"]), &json!("proxy"), &json!(null))
    );
    assert!(own.get("provider").is_none(), "{own}");

    let one = get(&gateway, "/webhooks/wh_hooks").await["webhook"].clone();
    let stats = one["delivery_stats"].as_object().expect("the long form");
    let counts = [
        "total_deliveries",
        "successful_deliveries",
        "failed_deliveries",
    ]
    .map(|name| stats[name].as_u64());
    assert_eq!(counts, [Some(2), Some(1), Some(1)]);
    assert!(
        stats["last_successful_delivery"].is_string() && stats["last_failed_delivery"].is_string(),
        "{one}"
    );
    assert!(stats["average_response_time_ms"].is_u64(), "{one}");
    for unknown in [
        "/webhooks/wh_other",
        "/webhooks/hooks",
        "/webhooks/wh_other/deliveries",
    ] {
        assert_problem(
            &send_to_admin(&gateway, admin_request(&gateway, "GET", unknown)).await,
            404,
            "unknown_webhook",
        );
    }
    assert_problem(
        &send_to_admin(&gateway, admin_request(&gateway, "GET", "/webhook")).await,
        404,
        "unknown_path",
    );
    let wrong_method = send_to_admin(
        &gateway,
        admin_request(&gateway, "GET", "/deliveries/del_1/redeliver"),
    )
    .await;
    assert_problem(&wrong_method, 405, "method_not_allowed");
    wrong_method.assert_header("Allow", "POST");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_updates_webhooks_and_keeps_deliveries() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.rewrite(Route::to(&upstream).named("added"));
    gateway.signal("HUP");
    eventually("the API lists the new route", async || {
        get(&gateway, "/webhooks").await["webhooks"][0]["id"] == "wh_added"
    })
    .await;
    assert_problem(
        &send_to_admin(
            &gateway,
            admin_request(&gateway, "GET", "/webhooks/wh_hooks"),
        )
        .await,
        404,
        "unknown_webhook",
    );
    let left = get(&gateway, "/webhooks/wh_hooks/deliveries").await;
    assert_eq!(left["deliveries"][0]["event_id"], "evt_1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_shows_event_and_attempts() {
    let upstream = rejecting_upstream();
    let gateway = Gateway::start(queue_to(&upstream)).await;
    // No number type of the gateway can hold these digits.
    let body = r#"{"id":"evt_1","type":"user.created","data":{"n":12345678901234567890.10}}"#;
    dead_letter(&gateway, Event::raw(body)).await;
    let response = send_to_admin(
        &gateway,
        admin_request(&gateway, "GET", "/deliveries/del_1"),
    )
    .await;
    assert!(
        response.text().contains(&format!("\"event_data\":{body}")),
        "{}",
        response.text()
    );
    response.assert_header("Cache-Control", "no-store");

    let delivery = get(&gateway, "/deliveries/del_1").await["delivery"].clone();
    let fixed = json!({
        "id": "del_1", "webhook_id": "wh_hooks", "event_type": "user.created", "event_id": "evt_1", "status": "dead",
        "response_status": 422, "error": null, "reason": "rejected", "next_attempt_in_seconds": null,
        "possible_duplicate": false, "payload_kept": true, "attempt_count": 3,
        "verified_with": "current",
    });
    for (name, value) in fixed.as_object().expect("members") {
        assert_eq!(delivery[name], *value, "{name} in {delivery}");
    }
    assert!(
        delivery["received_at"].is_string() && delivery["response_time_ms"].is_u64(),
        "{delivery}"
    );
    let log = delivery["attempts"].as_array().expect("its attempts");
    assert_eq!(
        log.iter()
            .map(|attempt| attempt["number"].as_u64())
            .collect::<Vec<_>>(),
        [1, 2, 3].map(Some)
    );
    assert_eq!(log[2]["at"], delivery["delivered_at"]);
    for attempt in log {
        assert_eq!(
            (&attempt["status"], &attempt["error"]),
            (&json!(422), &json!(null))
        );
        assert!(attempt["duration_ms"].is_u64(), "{attempt}");
    }
    let listed = get(&gateway, "/webhooks/wh_hooks/deliveries").await["deliveries"][0].clone();
    let mut expected = delivery;
    expected["attempts"] = json!(3);
    let headers = expected
        .as_object_mut()
        .expect("members")
        .remove("headers")
        .expect("headers");
    assert_eq!(
        listed, expected,
        "a list shows the same without headers, and counts the attempts"
    );
    let header = |name: &str| {
        headers
            .as_array()
            .expect("a list")
            .iter()
            .find(|header| header["name"] == name)
    };
    assert_eq!(
        header("X-VPN-Signature").expect("the header is listed")["value"],
        "***"
    );
    assert_eq!(
        header("Hookstile-Event-Id").expect("the header is shown")["value"],
        "evt_1"
    );
    for unknown in ["/deliveries/del_9", "/deliveries/evt_1"] {
        assert_problem(
            &send_to_admin(&gateway, admin_request(&gateway, "GET", unknown)).await,
            404,
            "unknown_delivery",
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_delivery_shows_next_attempt() {
    let closed = ClosedPort::new();
    let route = Route::to_url(&closed.url()).with("delivery", "queue");
    let route = route.with("retry", "{initial: 50m, max_interval: 1h}");
    let gateway = Gateway::start(route).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    let delivery = async || get(&gateway, "/deliveries/del_1").await["delivery"].clone();
    eventually("the first attempt fails", async || {
        delivery().await["attempt_count"] == 1
    })
    .await;
    let delivery = delivery().await;
    assert_eq!(
        (&delivery["status"], &delivery["error"]),
        (
            &json!("pending"),
            &json!("the upstream refuses connections")
        )
    );
    assert!(
        delivery["next_attempt_in_seconds"]
            .as_u64()
            .is_some_and(|wait| wait <= 3000),
        "{delivery}"
    );
    let webhook = get(&gateway, "/webhooks/wh_hooks").await["webhook"].clone();
    assert_eq!(webhook["queue"]["pending"], 1);
    assert_eq!(
        webhook["queue"]["oldest_pending_at"],
        delivery["received_at"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_list_rejects_invalid_parameters() {
    let upstream = Upstream::replying([Reply::status(500), Reply::ok()]);
    let other = Upstream::ok();
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream),
        Route::to(&other).named("other"),
    ]))
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(500, "upstream_rejected");
    gateway
        .send(Event::typed("evt_2", "user.deleted"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_other").post().at("/webhooks/other"))
        .await
        .assert(200, "delivered");
    let ids = |page: &Value| {
        let deliveries = page["deliveries"].as_array().expect("deliveries").iter();
        deliveries
            .map(|delivery| delivery["event_id"].as_str().expect("an ID").to_owned())
            .collect::<Vec<_>>()
    };

    for (query, expected) in [
        ("/deliveries", vec!["evt_other", "evt_2", "evt_1"]),
        ("/deliveries?limit=1", vec!["evt_other"]),
        ("/deliveries?webhook_id=wh_other", vec!["evt_other"]),
        ("/deliveries?status=failed&event_data=false", vec!["evt_1"]),
        ("/deliveries?webhook_id=wh_hooks&status=dead", vec![]),
        (
            "/deliveries?search=evt_",
            vec!["evt_other", "evt_2", "evt_1"],
        ),
        ("/deliveries?search=evt_o", vec!["evt_other"]),
        ("/deliveries?search=evt_&status=failed", vec!["evt_1"]),
        ("/deliveries?search=vt_1", vec![]),
        ("/deliveries?search=del_2", vec!["evt_2"]),
        ("/deliveries?search=del_2&webhook_id=wh_other", vec![]),
    ] {
        assert_eq!(ids(&get(&gateway, query).await), expected, "{query}");
    }
    for query in [
        "limit=0",
        "limit=101",
        "limit=x",
        "status=lost",
        "cursor=x",
        "limit=1&limit=1",
        "statsu=dead",
    ] {
        let response = send_to_admin(
            &gateway,
            admin_request(
                &gateway,
                "GET",
                &format!("/webhooks/wh_hooks/deliveries?{query}"),
            ),
        )
        .await;
        assert_problem(&response, 400, "invalid_parameter");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_payload_is_shown_with_single_delivery() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("retain", "{payloads: all}")).await;
    let event = Event::sized("evt_long", 200_000);
    gateway.send(event.clone()).await.assert(200, "delivered");
    let listed = get(&gateway, "/deliveries").await["deliveries"][0].clone();
    assert_eq!(
        (&listed["event_data"], &listed["payload_kept"]),
        (&json!(null), &json!(true))
    );
    let sent: Value = serde_json::from_slice(&event.body).expect("JSON");
    assert!(
        get(&gateway, "/deliveries/del_1").await["delivery"]["event_data"] == sent,
        "the event is unchanged"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_guards_all_but_health_and_metrics() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(with_token(Route::to(&upstream))).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let request = Request::new("GET", path).set("Host", "prometheus-target.example");
        assert_eq!(send_to_admin(&gateway, request).await.status, 200, "{path}");
    }
    let paths = [
        "/",
        "/status",
        "/webhooks",
        "/webhooks/wh_hooks",
        "/deliveries",
        "/deliveries/del_1",
        "/none",
    ];
    for path in paths {
        for authorization in [None, Some("Bearer wrong"), Some(&*format!("Basic {TOKEN}"))] {
            let request = admin_request(&gateway, "GET", path);
            let request = match authorization {
                Some(value) => request.header("Authorization", value),
                None => request,
            };
            let response = send_to_admin(&gateway, request).await;
            assert_problem(&response, 401, "unauthorized");
            response.assert_header("WWW-Authenticate", "Bearer");
        }
    }
    let request = admin_request(&gateway, "GET", "/webhooks")
        .header("Authorization", &format!("Bearer {TOKEN}"));
    assert_eq!(send_to_admin(&gateway, request).await.status, 200);
    assert!(!gateway.output().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cross_site_browser_request_gets_nothing() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for host in ["evil.example", "127.0.0.1.evil.example", "192.0.2.1"] {
        let request = Request::new("GET", "/webhooks").set("Host", host);
        assert_problem(&send_to_admin(&gateway, request).await, 421, "misdirected");
    }
    for host in ["localhost", "127.0.0.1:1", "[::1]:9180"] {
        assert_eq!(
            send_to_admin(&gateway, Request::new("GET", "/webhooks").set("Host", host))
                .await
                .status,
            200,
            "{host}"
        );
    }
    let change = || {
        admin_request(&gateway, "POST", "/deliveries/del_1/redeliver").header("Content-Length", "0")
    };
    let from_page = || change().header("Sec-Fetch-Site", "same-origin");
    assert_problem(
        &send_to_admin(&gateway, from_page()).await,
        415,
        "unsupported_media_type",
    );
    // No browser sends this.
    assert_problem(
        &send_to_admin(&gateway, change()).await,
        404,
        "unknown_delivery",
    );
    let form = change().header("Content-Type", "application/x-www-form-urlencoded");
    assert_problem(
        &send_to_admin(&gateway, form).await,
        415,
        "unsupported_media_type",
    );
    let json = || change().header("Content-Type", "application/json");
    for origin in ["https://evil.example", "null"] {
        assert_problem(
            &send_to_admin(&gateway, json().header("Origin", origin)).await,
            403,
            "cross_origin",
        );
    }
    let same = json().header("Origin", &format!("http://{}", gateway.admin_address()));
    assert_problem(
        &send_to_admin(&gateway, same).await,
        404,
        "unknown_delivery",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_in_delivery_is_not_redelivered() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::status(500), Reply::ok().after(&gate)]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(500, "upstream_rejected");
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.wait_for_requests(2).await;
    assert_problem(&redeliver(&gateway, "del_1").await, 409, "in_flight");
    gate.open();
    sender.read_response().await.assert(200, "delivered");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unstored_event_is_not_redelivered() {
    let upstream = rejecting_upstream();
    let gateway = Gateway::start(queue_to(&upstream)).await;
    let event = Event::new("evt_1");
    dead_letter(&gateway, event.clone()).await;
    let response = redeliver(&gateway, "del_1").await;
    assert_eq!(response.status, 202, "{}", response.text());
    let accepted: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(
        (&accepted["success"], &accepted["delivery"]["id"]),
        (&json!(true), &json!("del_1"))
    );
    upstream.wait_for_requests(4).await;
    assert_eq!(upstream.last().body, event.body);
    wait_until_delivered(&gateway, "del_1").await;
    assert_eq!(
        get(&gateway, "/webhooks/wh_hooks").await["webhook"]["queue"]["dead"],
        0
    );
    assert_problem(&redeliver(&gateway, "del_1").await, 409, "payload_not_kept");
    assert_problem(&redeliver(&gateway, "del_2").await, 404, "unknown_delivery");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cli_reports_found_and_missing_deliveries() {
    let upstream = rejecting_upstream();
    let gateway = Gateway::start(queue_to(&upstream)).await;
    dead_letter(&gateway, Event::new("evt_1")).await;

    let list = hookstile(&gateway, "events list --status dead --route hooks").await;
    list.assert(0);
    for shown in [
        "del_1",
        "dead",
        "hooks",
        "user.created",
        "evt_1",
        "422",
        "rejected",
    ] {
        assert!(list.stdout.contains(shown), "{shown} in {}", list.stdout);
    }
    let json = hookstile(
        &gateway,
        "events list --json --event-id evt_1 --type user.created --limit 5",
    )
    .await;
    let document = json.assert(0).json();
    assert_eq!(
        document,
        get(&gateway, "/deliveries").await,
        "the same document as the API's"
    );
    let none = hookstile(&gateway, "events list --status success").await;
    assert_eq!(
        (
            none.assert(0).stdout.as_str(),
            none.stderr.contains("no deliveries")
        ),
        ("", true)
    );
    let none = hookstile(&gateway, "events list --status success --json").await;
    assert_eq!(none.assert(0).json()["deliveries"], json!([]));
    assert!(
        hookstile(&gateway, "events list --route other")
            .await
            .assert(1)
            .stderr
            .contains("unknown_webhook")
    );

    let shown = hookstile(&gateway, "events show del_1").await;
    assert!(
        shown.assert(0).stdout.contains(r#"  "id": "evt_1","#),
        "{}",
        shown.stdout
    );
    for unknown in ["del_7", "evt_7", "1", "../status"] {
        let shown = hookstile(&gateway, &format!("events show {unknown}")).await;
        assert!(
            shown.assert(1).stderr.contains("unknown_delivery"),
            "{}",
            shown.stderr
        );
    }
    for wrong in ["events redeliver", "events list --limit 0"] {
        hookstile(&gateway, wrong).await.assert(2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redeliver_names_events_it_cannot_redeliver() {
    let upstream = rejecting_upstream();
    let gateway = Gateway::start(queue_to(&upstream)).await;
    dead_letter(&gateway, Event::new("evt_1")).await;
    let mixed = hookstile(&gateway, "events redeliver del_7 del_1").await;
    assert!(
        mixed.assert(1).stdout.starts_with("del_1 ") && mixed.stderr.contains("del_7"),
        "{}",
        mixed.stderr
    );
    upstream.wait_for_requests(4).await;
    wait_until_delivered(&gateway, "del_1").await;
    let refused = hookstile(&gateway, "events redeliver --json del_1")
        .await
        .assert(1)
        .json();
    assert_eq!(
        (&refused["success"], &refused["accepted"]),
        (&json!(false), &json!([]))
    );
    assert_eq!(
        (&refused["refused"][0]["id"], &refused["refused"][0]["code"]),
        (&json!("del_1"), &json!("payload_not_kept"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_list_is_paged_into_one_document() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut sender = gateway.connect().await;
    for number in 0..105 {
        sender
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    let document = hookstile(&gateway, "events list --json --limit 103")
        .await
        .assert(0)
        .json();
    let ids: Vec<_> = document["deliveries"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["id"].clone())
        .collect();
    let expected: Vec<_> = (3..=105)
        .rev()
        .map(|number| json!(format!("del_{number}")))
        .collect();
    assert_eq!(ids, expected);
    assert_eq!(
        (&document["total"], &document["has_more"]),
        (&json!(105), &json!(true))
    );
    let table = hookstile(&gateway, "events list --limit 1000").await;
    assert_eq!(table.assert(0).stdout.lines().count(), 1 + 105);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_redelivered_in_order() {
    let upstream = Upstream::replying([vec![Reply::status(422); 9], vec![Reply::ok()]].concat());
    let gateway = Gateway::start(queue_to(&upstream).with("concurrency", "1")).await;
    for number in 1..=3 {
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(202, "queued");
    }
    gateway
        .wait_for_metric(
            "queue_events",
            &[("route", "hooks"), ("state", "dead")],
            3.0,
        )
        .await;
    let run = hookstile(&gateway, "events redeliver --dead --route hooks").await;
    assert!(
        run.assert(0)
            .stdout
            .starts_with("3 of 3 events will be delivered again"),
        "{}",
        run.stdout
    );
    upstream.wait_for_requests(12).await;
    assert_eq!(upstream.event_ids()[9..], ["evt_1", "evt_2", "evt_3"]);
    gateway
        .wait_for_metric(
            "queue_events",
            &[("route", "hooks"), ("state", "dead")],
            0.0,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_reports_running_and_ready() {
    let upstream = Upstream::ok();
    let setup = with_token(queue_to(&upstream)).with("shutdown", "{drain: 60s, grace: 5s}");
    let gateway = Gateway::start(setup).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .wait_for_metric(
            "queue_events",
            &[("route", "hooks"), ("state", "pending")],
            0.0,
        )
        .await;

    let refused = hookstile(&gateway, "status").await;
    assert!(
        refused.assert(77).stderr.contains("HOOKSTILE_ADMIN_TOKEN"),
        "{}",
        refused.stderr
    );
    // The token comes from the configuration, even if other values in it can't be resolved.
    let known = hookstile(&gateway, "status --config hookstile.yaml").await;
    assert!(
        known.assert(0).stdout.contains("  ready\n") && known.stdout.contains("\nhooks "),
        "{}",
        known.stdout
    );
    let with_variable = async |token: &str| {
        let mut command = command();
        command.current_dir(gateway.directory());
        command.args([
            "status",
            "--json",
            "--admin",
            &gateway.admin_address().to_string(),
        ]);
        // No proxy listens there, so the command must reach the gateway without one.
        command
            .env("HOOKSTILE_ADMIN_TOKEN", token)
            .envs(["http_proxy", "ALL_PROXY"].map(|n| (n, "http://127.0.0.1:1")));
        finish(command).await
    };
    let members_of = with_variable(TOKEN).await;
    let status = members_of.assert(0).json();
    assert_eq!(
        (&status["reachable"], &status["ready"]),
        (&json!(true), &json!(true)),
        "{status}"
    );
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        status["webhooks"][0]["delivery_stats"]["successful_deliveries"], 1,
        "{status}"
    );
    with_variable("wrong").await.assert(77);

    gateway.signal("TERM");
    eventually("it drains", async || {
        gateway.admin_get("/readyz").await.status == 503
    })
    .await;
    let draining = with_variable(TOKEN).await;
    assert_eq!(
        (draining.code, &draining.json()["reason"]),
        (Some(1), &json!("draining"))
    );
    stop(&gateway).await;
    let gone = with_variable(TOKEN).await;
    assert_eq!(gone.assert(69).json()["reachable"], false);
    hookstile(&gateway, "events list").await.assert(69);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_output_pipe_is_no_failure() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let admin = format!("--admin={}", gateway.admin_address());
    for line in [
        &["events", "list"][..],
        &["events", "show", "del_1"],
        &["status", "--json"],
    ] {
        let mut command = command();
        command.current_dir(gateway.directory());
        let mut child = command
            .args(line)
            .arg(&admin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        drop(child.stdout.take());
        let waiting =
            tokio::task::spawn_blocking(move || child.wait_with_output().expect("a child"));
        let output = within("the command", waiting).await.expect("no panic");
        assert_eq!(
            (output.status.code(), output.stderr.len()),
            (Some(0), 0),
            "{line:?}: {output:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cli_reads_store_only_while_stopped() {
    let upstream = rejecting_upstream();
    let gateway = Gateway::start(queue_to(&upstream)).await;
    dead_letter(&gateway, Event::new("evt_1")).await;
    let (list, show) = (
        "events list --json --status dead --route hooks",
        "events show del_1 --json",
    );
    let online = [
        hookstile(&gateway, list).await,
        hookstile(&gateway, show).await,
    ]
    .map(|run| run.assert(0).json());
    let refused = hookstile_offline(&gateway, "events list").await;
    assert!(
        refused
            .assert(1)
            .stderr
            .contains(&format!("process {}", gateway.pid())),
        "{}",
        refused.stderr
    );

    stop(&gateway).await;
    let offline = [
        hookstile_offline(&gateway, list).await,
        hookstile_offline(&gateway, show).await,
    ];
    assert_eq!(offline.map(|run| run.assert(0).json()), online);
    assert!(
        hookstile_offline(&gateway, "events show del_2")
            .await
            .assert(1)
            .stderr
            .contains("unknown_delivery")
    );
    hookstile_offline(&gateway, "events list --admin=http://127.0.0.1:1")
        .await
        .assert(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_missing_store_creates_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let offline = async || {
        let mut command = command();
        command.current_dir(folder.path());
        command.args(["events", "list", "--offline"]);
        finish(command).await
    };
    assert!(
        offline().await.assert(2).stderr.contains("--config"),
        "without a configuration"
    );
    let config = format!(
        "{}store: {{path: kept}}\n",
        Setup::from(Route::to_url("http://127.0.0.1:1/")).yaml()
    );
    std::fs::write(folder.path().join("hookstile.yaml"), config).expect("a writable folder");
    let missing = offline().await;
    assert!(
        missing.assert(1).stderr.contains("there is no store in"),
        "{}",
        missing.stderr
    );
    assert!(!folder.path().join("kept").exists());
    std::fs::create_dir(folder.path().join("kept")).expect("a writable folder");
    std::fs::write(
        folder.path().join("kept/hookstile.db"),
        "not a database, but longer than the 100 bytes of SQLite's header. ".repeat(2),
    )
    .expect("a writable folder");
    let foreign = offline().await;
    assert!(
        foreign
            .assert(1)
            .stderr
            .contains("was not written by this program"),
        "{}",
        foreign.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_backup_opens_as_store() {
    let found = program("HOOKSTILE_SQLITE3", "sqlite3");
    let Some(sqlite3) = tool("sqlite3", found, "the backup of a running gateway's store") else {
        return;
    };
    let upstream = rejecting_upstream();
    let gateway = Gateway::start(queue_to(&upstream)).await;
    dead_letter(&gateway, Event::new("evt_1")).await;
    for (name, line) in [
        ("copied", ".backup restored/copied"),
        ("vacuumed", "VACUUM INTO 'restored/vacuumed'"),
    ] {
        std::fs::create_dir_all(gateway.directory().join("restored")).expect("a writable folder");
        let mut backup = Command::new(&sqlite3);
        backup
            .args(["-cmd", ".timeout 5000", "hookstile-data/hookstile.db", line])
            .current_dir(gateway.directory());
        let run = finish(backup).await;
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
    }
    stop(&gateway).await;

    let (moved, store) = (Upstream::ok(), gateway.directory().join("hookstile-data"));
    for name in ["copied", "vacuumed"] {
        std::fs::remove_dir_all(&store).expect("the old store");
        std::fs::create_dir(&store).expect("a writable folder");
        std::fs::copy(
            gateway.directory().join("restored").join(name),
            store.join("hookstile.db"),
        )
        .expect("a copy");
        let list = hookstile_offline(&gateway, "events list --json").await;
        assert_eq!(
            list.assert(0).json()["deliveries"][0]["event_id"],
            "evt_1",
            "{name}"
        );
        let path = format!("{{path: \"{}\"}}", store.display());
        let restored = Gateway::start(Setup::from(queue_to(&moved)).with("store", &path)).await;
        restored
            .send(Event::new("evt_1"))
            .await
            .assert(409, "duplicate");
        assert_eq!(redeliver(&restored, "del_1").await.status, 202, "{name}");
        eventually("it arrives", async || {
            moved.event_ids().contains(&"evt_1".to_owned())
        })
        .await;
        stop(&restored).await;
    }
}

/// Starts `hookstile events tail` and waits until it follows.
async fn tail(gateway: &Gateway, line: &str) -> Process {
    let mut command = command();
    command.current_dir(gateway.directory());
    command
        .args(["events", "tail"])
        .args(line.split_whitespace());
    let tail = Process::spawn(command.arg(format!("--admin=http://{}", gateway.admin_address())));
    tail.wait_for_output("following the deliveries").await;
    tail
}

/// Returns this member of each JSON line on standard output.
fn members_of(tail: &Process, member: &str) -> Vec<String> {
    let stdout = tail.stdout();
    let complete = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
    let text = |line: &str| {
        serde_json::from_str::<Value>(line).expect("JSON")[member]
            .as_str()
            .map(str::to_owned)
    };
    complete
        .lines()
        .map(|line| text(line).expect("a text"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_prints_each_delivery_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_before"))
        .await
        .assert(200, "delivered");
    let (tail, since) = (
        tail(&gateway, "--json").await,
        tail(&gateway, "--json --since del_2").await,
    );
    let mut sender = gateway.connect().await;
    for number in 0..300 {
        sender
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    let all: Vec<_> = (0..300).map(|number| format!("evt_{number}")).collect();
    eventually("all deliveries are printed", async || {
        members_of(&tail, "event_id").len() >= 300
    })
    .await;
    eventually("all deliveries are printed", async || {
        members_of(&since, "event_id").len() >= 299
    })
    .await;
    gateway
        .send(Event::new("evt_last"))
        .await
        .assert(200, "delivered");
    eventually("the last delivery is printed", async || {
        members_of(&tail, "event_id")
            .last()
            .is_some_and(|id| id == "evt_last")
    })
    .await;
    assert_eq!(
        members_of(&tail, "event_id"),
        [&all[..], &["evt_last".into()]].concat()
    );
    for signal in ["INT", "TERM"] {
        let child = if signal == "INT" { &tail } else { &since };
        child.signal(signal);
        assert_eq!(
            child.wait_for_exit().await.code(),
            Some(0),
            "{signal}: {}",
            child.output()
        );
    }
    assert_eq!(members_of(&since, "event_id")[..299], all[1..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_filters_by_route_and_status() {
    let (gate, other) = (Gate::shut(), Upstream::ok());
    let rejecting_upstream = Upstream::replying([Reply::status(422).after(&gate)]);
    let queue = queue_to(&rejecting_upstream).with("retry", "{initial: 1ms, max_interval: 10ms}");
    let gateway = Gateway::start(Setup::new([queue, Route::to(&other).named("other")])).await;
    gateway
        .send(Event::new("evt_old"))
        .await
        .assert(202, "queued");
    gateway
        .send(Event::new("evt_1").post().at("/webhooks/other"))
        .await
        .assert(200, "delivered");
    let dead = tail(&gateway, "--status dead --route hooks --json").await;
    let successes = tail(&gateway, "--route other --since 0").await;
    gate.open();
    eventually("the dead letter is printed", async || {
        members_of(&dead, "event_id") == ["evt_old"]
    })
    .await;
    eventually("the delivery is printed", async || {
        successes.stdout().contains("evt_1")
    })
    .await;
    let line = successes.stdout();
    assert!(
        line.lines().count() == 1 && line.contains("success") && line.contains("user.created"),
        "{line}"
    );
    assert!(
        hookstile(&gateway, "events tail --route none")
            .await
            .assert(1)
            .stderr
            .contains("unknown_webhook")
    );
    hookstile(&gateway, "events tail --since x").await.assert(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_waits_for_gateway_and_says_so_once() {
    let upstream = Upstream::ok();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let setup = Setup::from(Route::to(&upstream))
        .with("admin", &format!("{{address: \"{port}\"}}"))
        .stopping_at_once();
    let mut gateway = Gateway::start(setup).await;
    let tail = tail(&gateway, "--json").await;
    gateway.stop().await;
    tail.wait_for_output("cannot be reached").await;
    gateway.restart().await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    eventually("the delivery is printed", async || {
        members_of(&tail, "event_id") == ["evt_1"]
    })
    .await;
    assert_eq!(
        tail.output().matches("waiting for it").count(),
        1,
        "{}",
        tail.output()
    );
    stop(&gateway).await;
    assert_eq!(hookstile(&gateway, "events tail").await.code, Some(69));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_ends_when_output_closes() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let mut command = command();
    command.current_dir(gateway.directory());
    command
        .args(["events", "tail", "--since", "0"])
        .arg(format!("--admin=http://{}", gateway.admin_address()));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let mut code = None;
    eventually("it ends", async || {
        code = child
            .try_wait()
            .expect("a child")
            .map(|status| status.code());
        code.is_some()
    })
    .await;
    assert_eq!(code, Some(Some(0)));
}

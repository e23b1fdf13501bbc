//! Delivery records: every delivery is visible over the API and the command line, and dead letters
//! can be redelivered.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::process::Process;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

const HOOKS: (&str, &str) = ("route", "hooks");

fn queued(route: Route) -> Route {
    route.with("delivery", "queue").with(
        "retry",
        "{initial: 20ms, factor: 2, max_interval: 200ms, horizon: 1h}",
    )
}

/// The output of a run of the command line.
struct CommandOutput {
    code: Option<i32>,
    stdout: String,
    all: String,
}

impl CommandOutput {
    /// Parses standard output as JSON after asserting success.
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.all);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.all))
    }
}

/// Runs `hookstile` in the gateway's folder, with the admin listener's address unless it is to read
/// the store itself.
async fn hookstile(gateway: &Gateway, arguments: &[&str]) -> CommandOutput {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookstile"));
    command
        .args(arguments)
        .current_dir(gateway.directory())
        .env("WEBHOOK_SECRET", SECRET);
    if !arguments.contains(&"--offline") {
        command
            .arg("--admin")
            .arg(format!("http://{}", gateway.admin_address()));
    }
    let process = Process::spawn(&mut command);
    let code = process.wait_for_exit().await.code();
    CommandOutput {
        code,
        stdout: process.stdout(),
        all: process.output(),
    }
}

/// Waits for a delivery of this event with this status, and returns it.
async fn delivery(gateway: &Gateway, event_id: &str, status: &str) -> Value {
    let path = format!("/webhooks/wh_hooks/deliveries?event_id={event_id}&status={status}");
    let mut found = Value::Null;
    eventually(format!("{event_id} is recorded as {status}"), async || {
        found = gateway.api(&path).await["deliveries"][0].clone();
        !found.is_null()
    })
    .await;
    found
}

/// Starts a gateway with a delivery that succeeded at once, one that needed three attempts, and a
/// dead letter.
async fn with_deliveries(upstream: &Upstream) -> Gateway {
    let gateway = Gateway::start(Setup::from(queued(Route::to(upstream))).stopping_at_once()).await;
    gateway
        .send(Event::new("evt_good"))
        .await
        .assert(202, "queued");
    gateway
        .send(Event::new("evt_late"))
        .await
        .assert(202, "queued");
    gateway
        .send(Event::new("evt_dead"))
        .await
        .assert(202, "queued");
    gateway
        .wait_for_metric("queue_events", &[HOOKS, ("state", "dead")], 1.0)
        .await;
    for state in ["pending", "delivering"] {
        gateway
            .wait_for_metric("queue_events", &[HOOKS, ("state", state)], 0.0)
            .await;
    }
    gateway
}

/// An upstream that accepts `evt_good` at once, `evt_late` the third time, and `evt_dead` the
/// fourth.
fn failing_by_event() -> Upstream {
    Upstream::deciding(
        |request, attempt| match (request.header("Hookstile-Event-Id"), attempt) {
            (Some("evt_late"), 1) => Reply::status(503),
            (Some("evt_late"), 2) => Reply::status(429),
            (Some("evt_dead"), 1..=3) => Reply::status(422),
            _ => Reply::ok(),
        },
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_match_provider_documentation() {
    let upstream = failing_by_event();
    let gateway = with_deliveries(&upstream).await;
    delivery(&gateway, "evt_late", "success").await;
    let response = gateway.api("/webhooks/wh_hooks/deliveries").await;
    assert_eq!(response["success"], true, "{response}");
    assert_eq!(response["total"], 3, "{response}");
    assert_eq!(response["has_more"], false, "{response}");
    let deliveries = response["deliveries"].as_array().expect("a list");
    assert_eq!(deliveries.len(), 3, "{response}");
    for delivery in deliveries {
        assert!(
            delivery["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("del_")),
            "{delivery}"
        );
        assert_eq!(delivery["webhook_id"], "wh_hooks", "{delivery}");
        assert_eq!(delivery["event_type"], "user.created", "{delivery}");
    }
    let good = delivery(&gateway, "evt_good", "success").await;
    assert_eq!(
        (&good["response_status"], &good["attempts"]),
        (&json!(200), &json!(1)),
        "{good}"
    );
    assert!(
        good["response_time_ms"]
            .as_f64()
            .is_some_and(|ms| (0.0..10_000.0).contains(&ms)),
        "{good}"
    );
    let at: jiff::Timestamp = good["delivered_at"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("RFC 3339");
    assert!(
        (jiff::Timestamp::now() - at).get_seconds().abs() < 100,
        "{good}"
    );
    let dead = delivery(&gateway, "evt_dead", "dead").await;
    assert_eq!(
        (&dead["response_status"], &dead["attempts"]),
        (&json!(422), &json!(3)),
        "{dead}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_is_paged_and_filtered() {
    let upstream = failing_by_event();
    let gateway = with_deliveries(&upstream).await;
    delivery(&gateway, "evt_late", "success").await;
    let ids = |response: &Value| -> Vec<String> {
        let deliveries = response["deliveries"].as_array().expect("a list").iter();
        deliveries
            .map(|delivery| delivery["event_id"].as_str().expect("an ID").to_owned())
            .collect()
    };
    let list = "/webhooks/wh_hooks/deliveries";
    let all = ids(&gateway.api(list).await);
    let page = gateway.api(&format!("{list}?limit=2")).await;
    assert_eq!(page["has_more"], true, "{page}");
    assert_eq!(ids(&page), all[..2]);
    let cursor = page["next_cursor"]
        .as_str()
        .expect("a cursor to the next page");
    let rest = gateway
        .api(&format!("{list}?limit=2&cursor={cursor}"))
        .await;
    assert_eq!(rest["has_more"], false, "{rest}");
    assert_eq!(ids(&rest), all[2..]);
    assert_eq!(
        ids(&gateway.api(&format!("{list}?status=dead")).await),
        ["evt_dead"]
    );
    assert_eq!(
        ids(&gateway.api(&format!("{list}?event_id=evt_late")).await),
        ["evt_late"]
    );
    assert_eq!(
        ids(&gateway
            .api(&format!("{list}?event_type=user.created"))
            .await)
        .len(),
        3
    );
    assert_eq!(
        ids(&gateway.api(&format!("{list}?event_type=other")).await).len(),
        0
    );
    assert_eq!(
        gateway
            .admin_get("/webhooks/wh_none/deliveries")
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_shows_each_attempt() {
    let upstream = failing_by_event();
    let gateway = with_deliveries(&upstream).await;
    let late = delivery(&gateway, "evt_late", "success").await;
    let id = late["id"].as_str().expect("an ID");
    let response = gateway.api(&format!("/deliveries/{id}")).await;
    assert_eq!(response["success"], true, "{response}");
    let shown = &response["delivery"];
    assert_eq!(
        (&shown["event_id"], &shown["status"]),
        (&json!("evt_late"), &json!("success")),
        "{response}"
    );
    let attempts = shown["attempts"].as_array().expect("a list of attempts");
    let statuses: Vec<_> = attempts
        .iter()
        .map(|attempt| (&attempt["number"], &attempt["status"]))
        .collect();
    assert_eq!(
        statuses,
        [
            (&json!(1), &json!(503)),
            (&json!(2), &json!(429)),
            (&json!(3), &json!(200))
        ],
        "{response}"
    );
    let mut before = None;
    for attempt in attempts {
        let at: jiff::Timestamp = attempt["at"]
            .as_str()
            .expect("a time")
            .parse()
            .expect("RFC 3339");
        assert!(
            before.replace(at).is_none_or(|before| before <= at),
            "in order: {response}"
        );
        assert!(
            attempt["duration_ms"]
                .as_f64()
                .is_some_and(|ms| (0.0..10_000.0).contains(&ms)),
            "{response}"
        );
        assert!(
            attempt["error"].is_null(),
            "a response is not an error: {response}"
        );
    }
    assert_eq!(gateway.admin_get("/deliveries/del_none").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_attempt_shows_its_error() {
    let closed = ClosedPort::new();
    let gateway = Gateway::start(queued(Route::to_url(&closed.url()))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .wait_for_metric_at_least(
            "queue_attempts_total",
            &[HOOKS, ("result", "connect_error")],
            1.0,
        )
        .await;
    let pending = delivery(&gateway, "evt_1", "pending").await;
    let id = pending["id"].as_str().expect("an ID");
    let mut first = Value::Null;
    eventually("the API shows the attempt", async || {
        first = gateway.api(&format!("/deliveries/{id}")).await["delivery"]["attempts"][0].clone();
        !first.is_null()
    })
    .await;
    assert_eq!(
        (&first["number"], &first["status"]),
        (&json!(1), &Value::Null),
        "{first}"
    );
    assert!(
        first["error"]
            .as_str()
            .is_some_and(|error| !error.is_empty()),
        "{first}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_proxied_events_are_recorded() {
    let upstream = Upstream::replying([Reply::ok(), Reply::status(500)]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(500, "upstream_rejected");
    gateway
        .send(Event::new("evt_3").forged())
        .await
        .assert(401, "invalid_signature");
    let good = delivery(&gateway, "evt_1", "success").await;
    assert_eq!(
        (&good["response_status"], &good["attempts"]),
        (&json!(200), &json!(1)),
        "{good}"
    );
    let failed = delivery(&gateway, "evt_2", "failed").await;
    assert_eq!(failed["response_status"], 500, "{failed}");
    let all = gateway.api("/webhooks/wh_hooks/deliveries").await;
    assert_eq!(all["total"], 2, "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_show_delivery_results() {
    let upstream = failing_by_event();
    let gateway = with_deliveries(&upstream).await;
    delivery(&gateway, "evt_late", "success").await;
    let response = gateway.api("/webhooks").await;
    assert_eq!(response["success"], true, "{response}");
    let webhook = &response["webhooks"][0];
    assert_eq!(
        (&webhook["id"], &webhook["url"]),
        (&json!("wh_hooks"), &json!(upstream.url())),
        "{response}"
    );
    assert_eq!(webhook["secret"], "whsec_***masked***", "{response}");
    assert_eq!(
        (&webhook["path"], &webhook["delivery"]),
        (&json!(PATH), &json!("queue")),
        "{response}"
    );
    assert_eq!(
        (&webhook["provider"], &webhook["source"]),
        (&json!("vpn-enterprise"), &json!("file")),
        "{response}"
    );
    assert_eq!(webhook["delivery_stats"]["successful"], 2, "{response}");
    assert_eq!(webhook["delivery_stats"]["failed"], 1, "{response}");
    assert!(!response.to_string().contains(SECRET), "{response}");
    let one = gateway.api("/webhooks/wh_hooks").await;
    let stats = &one["webhook"]["delivery_stats"];
    assert_eq!(stats["total_deliveries"], 3, "{one}");
    assert_eq!(stats["successful_deliveries"], 2, "{one}");
    assert_eq!(stats["failed_deliveries"], 1, "{one}");
    assert!(stats["average_response_time_ms"].is_number(), "{one}");
    for time in ["last_successful_delivery", "last_failed_delivery"] {
        let at = stats[time]
            .as_str()
            .unwrap_or_else(|| panic!("{time} in {one}"));
        at.parse::<jiff::Timestamp>().expect("RFC 3339");
    }
    assert_eq!(gateway.admin_get("/webhooks/wh_none").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letter_is_redelivered_on_request() {
    let upstream = failing_by_event();
    let mut gateway = with_deliveries(&upstream).await;
    // The record survives a restart.
    gateway.kill().await;
    gateway.restart().await;
    let dead = delivery(&gateway, "evt_dead", "dead").await;
    let path = format!(
        "/deliveries/{}/redeliver",
        dead["id"].as_str().expect("an ID")
    );
    let response = gateway.admin_post(&path, &json!({})).await;
    assert!(
        (200..300).contains(&response.status),
        "{response:?}: {}",
        response.text()
    );
    eventually("the event is delivered", async || {
        upstream.requests_for("evt_dead").len() == 4
    })
    .await;
    gateway.wait_for_metric("queue_events", &[], 0.0).await;
    let requests = upstream.requests_for("evt_dead");
    assert_eq!(requests[3].body, requests[0].body);
    assert_eq!(
        requests[3].header("X-VPN-Signature"),
        requests[0].header("X-VPN-Signature")
    );
    delivery(&gateway, "evt_dead", "success").await;
    gateway
        .send(Event::new("evt_dead"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivery_needs_json_and_a_payload() {
    let upstream = failing_by_event();
    let gateway = with_deliveries(&upstream).await;
    let dead = delivery(&gateway, "evt_dead", "dead").await;
    let path = format!(
        "/deliveries/{}/redeliver",
        dead["id"].as_str().expect("an ID")
    );
    let admin = gateway.admin_address().to_string();
    let form = Request::post(b"a=b")
        .at(&path)
        .set("Host", &admin)
        .set("Content-Type", "text/plain");
    assert_eq!(
        Client::connect(gateway.admin_address())
            .await
            .send(form)
            .await
            .status,
        415
    );
    assert_eq!(
        gateway
            .admin_post("/deliveries/del_none/redeliver", &json!({}))
            .await
            .status,
        404
    );
    assert_eq!(gateway.admin_get(&path).await.status, 405);
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[HOOKS, ("state", "dead")], 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cli_lists_shows_and_redelivers() {
    let upstream = failing_by_event();
    let gateway = with_deliveries(&upstream).await;
    let dead = delivery(&gateway, "evt_dead", "dead").await;
    let id = dead["id"].as_str().expect("an ID");
    let list = hookstile(&gateway, &["events", "list"]).await;
    assert_eq!(list.code, Some(0), "{}", list.all);
    for text in ["evt_good", "evt_late", "evt_dead", id] {
        assert!(list.stdout.contains(text), "{text} in {}", list.stdout);
    }
    let dead_only = hookstile(&gateway, &["events", "list", "--status", "dead", "--json"]).await;
    assert_eq!(
        dead_only.json()["deliveries"].as_array().map(Vec::len),
        Some(1),
        "{}",
        dead_only.all
    );
    let show = hookstile(&gateway, &["events", "show", id, "--json"])
        .await
        .json();
    assert_eq!(show["delivery"]["event_id"], "evt_dead", "{show}");
    let redelivered = hookstile(&gateway, &["events", "redeliver", id]).await;
    assert_eq!(redelivered.code, Some(0), "{}", redelivered.all);
    eventually("the event is delivered", async || {
        upstream.requests_for("evt_dead").len() == 4
    })
    .await;
    let unknown = hookstile(&gateway, &["events", "show", "del_none"]).await;
    assert_eq!(unknown.code, Some(1), "{}", unknown.all);
    let status = hookstile(&gateway, &["status"]).await;
    assert_eq!(status.code, Some(0), "{}", status.all);
    assert!(status.stdout.contains("hooks"), "{}", status.all);
    assert!(
        hookstile(&gateway, &["status", "--json"])
            .await
            .json()
            .is_object()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cli_reports_unreachable_gateway() {
    let upstream = failing_by_event();
    let mut gateway = with_deliveries(&upstream).await;
    gateway.stop().await;
    for arguments in [&["events", "list"][..], &["status"]] {
        let output = hookstile(&gateway, arguments).await;
        assert_eq!(output.code, Some(69), "{}", output.all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_is_readable_only_when_stopped() {
    let upstream = failing_by_event();
    let mut gateway = with_deliveries(&upstream).await;
    delivery(&gateway, "evt_late", "success").await;
    let arguments = [
        "events",
        "list",
        "--offline",
        "--config",
        "hookstile.yaml",
        "--json",
    ];
    let refused = hookstile(&gateway, &arguments).await;
    assert_eq!(refused.code, Some(1), "{}", refused.all);
    assert!(
        refused.all.contains(&gateway.pid().to_string()),
        "the message names the holder: {}",
        refused.all
    );
    gateway.kill().await;
    let listed = hookstile(&gateway, &arguments).await.json();
    assert_eq!(
        listed["deliveries"].as_array().map(Vec::len),
        Some(3),
        "{listed}"
    );
    gateway.restart().await;
    gateway
        .send(Event::new("evt_good"))
        .await
        .assert(409, "duplicate");
}

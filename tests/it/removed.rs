//! Routes that are renamed or removed: their events are shown as a problem, keep what was promised,
//! and are delivered by another route if an operator moves them.

use serde_json::{Value, json};

use crate::harness::command::run_cli as hookstile;
use crate::harness::upstream::Received;
use crate::harness::*;
use crate::replicas::shared_store_setup;

const OLD: (&str, &str) = ("route", "old");

/// A route whose events wait after a failed attempt for as long as the upstream asks.
fn queued(upstream: &Upstream, name: &str) -> Route {
    let retry = "{max_interval: 2h, permanent: {attempts: 1, at_least: 0s}}";
    Route::to(upstream)
        .with("name", name)
        .with("delivery", "queue")
        .with("retry", retry)
}

/// An upstream that asks for a later attempt at an event's first, and refuses `evt_dead` at first.
fn upstream_after_outage() -> Upstream {
    Upstream::deciding(
        |request, attempt| match request.header("Hookstile-Event-Id") {
            _ if attempt > 1 => Reply::ok(),
            Some("evt_dead") => Reply::status(422),
            _ => Reply::full(503, "Retry-After: 3600\r\n", b""),
        },
    )
}

async fn move_over_api(gateway: &Gateway, from: &str, to: &str) -> (u16, Value) {
    let path = format!("/webhooks/wh_{from}/move");
    let to = json!({"to": format!("wh_{to}")});
    let response = gateway.admin_post(&path, &to).await;
    let document = serde_json::from_slice(&response.body).expect("JSON");
    (response.status, document)
}

async fn removed_routes(gateway: &Gateway) -> Value {
    gateway.api("/webhooks/removed").await["removed_routes"].clone()
}

async fn wait_for_removed(gateway: &Gateway, names: &[&str]) {
    eventually(format!("{names:?} are removed"), async || {
        let removed = removed_routes(gateway).await;
        let removed = removed.as_array().expect("a list");
        removed
            .iter()
            .map(|route| route["name"].as_str().expect("a name"))
            .eq(names.iter().copied())
    })
    .await;
}

/// Sends an event and redelivers it until it is delivered.
async fn deliver(gateway: &Gateway, route: &str, id: &str) {
    gateway.send(Event::new(id)).await.assert(202, "queued");
    let redeliver = format!("events redeliver --status pending --route {route}");
    let delivered = format!("/deliveries?event_id={id}&status=success");
    eventually(format!("{id} is delivered"), async || {
        hookstile(gateway, &redeliver).await;
        gateway.api(&delivered).await["total"] == 1
    })
    .await;
}

/// Returns what identifies a request, whatever the route that sent it.
fn content(request: &Received) -> (Vec<u8>, Vec<(String, String)>) {
    let own = |name: &str| {
        ["hookstile-attempt", "hookstile-possible-duplicate"]
            .contains(&name.to_ascii_lowercase().as_str())
    };
    let head = String::from_utf8_lossy(&request.head).into_owned();
    let fields = head.lines().skip(1).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        (!own(name)).then(|| (name.to_owned(), value.trim().to_owned()))
    });
    (request.body.clone(), fields.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_route_shows_and_moves_its_events() {
    let upstream = upstream_after_outage();
    let gateway = Gateway::start(Setup::from(queued(&upstream, "old")).stopping_at_once()).await;
    for id in ["evt_1", "evt_2", "evt_dead"] {
        gateway.send(Event::new(id)).await.assert(202, "queued");
    }
    let dead = [OLD, ("state", "dead")];
    gateway.wait_for_metric("queue_events", &dead, 1.0).await;
    upstream.wait_for_requests(3).await;
    assert_eq!(removed_routes(&gateway).await, json!([]));

    gateway
        .reload(Setup::from(queued(&upstream, "new")).stopping_at_once())
        .await;
    wait_for_removed(&gateway, &["old"]).await;
    let removed = removed_routes(&gateway).await;
    let status = gateway.api("/status").await;
    assert_eq!(status["removed_routes"][0]["name"], "old");
    let route = &removed[0];
    assert_eq!(
        [&route["id"], &route["pending"], &route["dead"]],
        [&json!("wh_old"), &json!(2), &json!(1)]
    );
    let time = |name: &str| route[name].as_str().expect("a time").to_owned();
    assert!(time("oldest_pending_at") < time("horizon_ends_at"));
    let metrics = gateway.metrics().await;
    metrics.assert_value("queue_unconfigured_events", &[OLD], 3.0);
    metrics.assert_value("queue_events", &[OLD, ("state", "pending")], 2.0);
    metrics.assert_at_least("queue_oldest_event_age_seconds", &[OLD], 0.001);
    assert_eq!(metrics.find("requests_total", &[OLD]), None);
    let problems = gateway.api("/problems").await["problems"].clone();
    let problem = &problems[0];
    assert_eq!(
        [&problem["code"], &problem["severity"], &problem["route"]],
        ["route_removed", "critical", "old"],
        "{problems}"
    );
    let words = "no longer configured; 2 events wait for it, with 1 dead letter";
    for command in ["status", "problems"] {
        let run = hookstile(&gateway, command).await;
        assert!(run.stdout.contains(words), "{command}: {}", run.stdout);
        assert!(run.stdout.contains("hookstile routes move old TO"));
    }
    let page = gateway.admin_get("/").await.text();
    assert!(page.contains(words), "{page}");

    let moved = hookstile(&gateway, "routes move old new").await;
    assert_eq!(
        moved.assert(0).stdout,
        "2 waiting events and 1 dead letter moved from old to new\n"
    );
    upstream.wait_for_requests(5).await;
    for id in ["evt_1", "evt_2"] {
        let requests = upstream.requests_for(id);
        assert_eq!(content(&requests[0]), content(&requests[1]), "byte by byte");
        requests[1].assert_header("Hookstile-Attempt", "2");
    }
    wait_for_removed(&gateway, &[]).await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.find("queue_unconfigured_events", &[]), None);
    assert_eq!(metrics.find("queue_events", &[OLD]), None);
    metrics.assert_value("queue_events", &[("route", "new"), ("state", "dead")], 1.0);
    assert_eq!(
        gateway.api("/deliveries?webhook_id=wh_new").await["total"],
        3
    );
    let audited = gateway.lines().into_iter().any(|line| {
        (&line["operation"], &line["subject"]) == (&json!("move_events"), &json!("old to new"))
    });
    assert!(audited, "{}", gateway.output());
    let redelivered = hookstile(&gateway, "events redeliver --dead --route new").await;
    redelivered.assert(0);
    upstream.wait_for_requests(6).await;
    assert_eq!(upstream.requests_for("evt_dead").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn move_that_cannot_be_says_why() {
    let upstream = upstream_after_outage();
    let proxied = || Route::to(&upstream).named("proxied");
    let setup = |name| Setup::new([queued(&upstream, name), proxied()]).stopping_at_once();
    let gateway = Gateway::start(setup("old")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(1).await;
    let (status, problem) = move_over_api(&gateway, "proxied", "old").await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("still_configured"))
    );
    gateway.reload(setup("new")).await;
    wait_for_removed(&gateway, &["old"]).await;
    for (from, to, expected, code) in [
        ("old", "nowhere", 422, "unknown_target"),
        ("old", "old", 422, "same_route"),
        ("old", "proxied", 422, "no_queue"),
        ("nothing", "new", 404, "unknown_webhook"),
    ] {
        let (status, problem) = move_over_api(&gateway, from, to).await;
        assert_eq!(
            (status, &problem["code"]),
            (expected, &json!(code)),
            "{problem}"
        );
    }
    let graphql = |id: &str, to: &str| {
        let query = "mutation($id: ID!, $to: ID!) { moveEvents(id: $id, to: $to) { pending } }";
        json!({"query": query, "variables": {"id": id, "to": to}})
    };
    let refused = gateway
        .admin_post("/graphql", &graphql("wh_old", "wh_x"))
        .await;
    assert!(
        refused.text().contains("unknown_target"),
        "{}",
        refused.text()
    );
    for (line, words) in [
        (
            "routes move old nowhere",
            "there is no route `nowhere`; the routes are: new, proxied",
        ),
        (
            "routes move odl new",
            "there is no route `odl`; removed routes with events are: old",
        ),
        ("routes move old proxied", "has no queue"),
        (
            "routes pause odl",
            "there is no route `odl`; the routes are: new, proxied",
        ),
        (
            "routes test a/b",
            "there is no route `a/b`; the routes are: new, proxied",
        ),
    ] {
        let run = hookstile(&gateway, line).await;
        assert!(
            run.assert(1).stderr.contains(words),
            "{line}: {}",
            run.stderr
        );
    }
    let query = json!({"query": "{ removedRoutes { id pending } }"});
    let listed = gateway.admin_post("/graphql", &query).await;
    assert!(
        listed.text().contains(r#""id":"wh_old","pending":1"#),
        "{}",
        listed.text()
    );
    let moved = gateway
        .admin_post("/graphql", &graphql("wh_old", "wh_new"))
        .await;
    assert!(moved.text().contains(r#""pending":1"#), "{}", moved.text());
    upstream.wait_for_requests(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempt_in_flight_is_not_made_twice() {
    let gate = Gate::shut();
    let held = gate.clone();
    let (old, new) = (
        Upstream::deciding(move |_, _| Reply::ok().after(&held)),
        Upstream::ok(),
    );
    let route = queued(&old, "old").with("concurrency", "1");
    let gateway = Gateway::start(Setup::from(route).stopping_at_once()).await;
    for id in ["evt_1", "evt_2"] {
        gateway.send(Event::new(id)).await.assert(202, "queued");
    }
    old.wait_for_requests(1).await;
    gateway
        .reload(Setup::from(queued(&new, "new")).stopping_at_once())
        .await;
    let moving = async { move_over_api(&gateway, "old", "new").await };
    let opening = async { gate.open() };
    let ((status, moved), ()) = tokio::join!(moving, opening);
    assert_eq!((status, &moved["pending"]), (200, &json!(1)), "{moved}");
    new.wait_for_requests(1).await;
    assert_eq!(
        (old.event_ids(), new.event_ids()),
        (vec!["evt_1".into()], vec!["evt_2".into()])
    );
    wait_for_removed(&gateway, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_listed_paused_resumed_and_tested() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Setup::from(queued(&upstream, "billing")).stopping_at_once()).await;
    let listed = |state: &str, waiting: usize| {
        let path = PATH;
        let url = upstream.url();
        [
            "billing".to_owned(),
            state.into(),
            "queue".into(),
            waiting.to_string(),
            "0".into(),
            path.into(),
            url,
        ]
    };
    let row = async || {
        let list = hookstile(&gateway, "routes list").await;
        let line = list
            .assert(0)
            .stdout
            .lines()
            .nth(1)
            .expect("one route")
            .to_owned();
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row().await, listed("active", 0));
    let paused = hookstile(&gateway, "routes pause billing").await;
    assert_eq!(
        paused.assert(0).stdout,
        "billing is paused; 0 events waiting\n"
    );
    let test = hookstile(&gateway, "routes test billing --type invoice.paid --json").await;
    let test = test.assert(0).json();
    assert_eq!(
        [&test["outcome"], &test["event_type"]],
        [&json!("queued"), &json!("invoice.paid")]
    );
    assert_eq!(row().await, listed("paused", 1));
    upstream.assert_untouched();
    let resumed = hookstile(&gateway, "routes resume billing --json").await;
    assert_eq!(
        resumed.assert(0).json()["webhook"]["queue"]["paused"],
        false
    );
    upstream.wait_for_requests(1).await;
    let list = hookstile(&gateway, "routes list --json")
        .await
        .assert(0)
        .json();
    assert_eq!(list["webhooks"][0]["name"], "billing");
    assert_eq!(list["removed_routes"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_without_route_keeps_its_events() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = upstream_after_outage();
    let keeping =
        |route: Route, time: &str| route.with("retain", &format!("{{payloads: all, for: {time}}}"));
    let url = postgres.url();
    let old = keeping(queued(&upstream, "old"), "30d");
    let mut one = Gateway::start(shared_store_setup(old, &url)).await;
    let new = keeping(queued(&upstream, "new"), "1h");
    let two = Gateway::start(shared_store_setup(new, &url)).await;
    let total = async |query: &str| two.api(&format!("/deliveries?{query}")).await["total"].clone();
    deliver(&one, "old", "evt_done").await;
    let count = upstream.count();
    one.send(Event::new("evt_1")).await.assert(202, "queued");
    upstream.wait_for_requests(count + 1).await;
    eventually("the attempt is recorded", async || {
        two.api("/deliveries?event_id=evt_1").await["deliveries"][0]["attempt_count"] == 1
    })
    .await;

    // The other gateway still has it.
    let (status, problem) = move_over_api(&two, "old", "new").await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("still_configured"))
    );
    assert_eq!(removed_routes(&two).await, json!([]));
    one.stop().await;
    wait_for_removed(&two, &["old"]).await;

    // Two sweeps, each of which deletes a record of the route that is configured.
    for id in ["evt_2", "evt_3"] {
        deliver(&two, "new", id).await;
        postgres.sql("UPDATE hookstile.store SET uptime_ms = uptime_ms + 8 * 86400000");
        eventually("the record is deleted", async || {
            total(&format!("event_id={id}")).await == 0
        })
        .await;
    }
    assert_eq!(total("webhook_id=wh_old").await, 2, "16 days of 30");
    let count = upstream.count();
    let (status, moved) = move_over_api(&two, "old", "new").await;
    assert_eq!(
        (status, &moved["pending"], &moved["left"]),
        (200, &json!(1), &json!(0))
    );
    upstream.wait_for_requests(count + 1).await;
    let requests = upstream.requests_for("evt_1");
    assert_eq!(content(&requests[0]), content(&requests[1]), "byte by byte");
    requests[1].assert_header("Hookstile-Attempt", "2");
}

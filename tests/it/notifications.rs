//! `notify`: an endpoint hears once that a problem begins, and once that it has ended. Here, the
//! endpoint is another gateway, which verifies the signatures.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::upstream::ClosedPort;
use crate::harness::*;
use crate::partition::wait_server_time;
use crate::replicas::with_database;

const KEY: &str = "whsec_bm90aWZ5LWl0LXNlY3JldC0wMTIzNDU2Nzg5";

/// An endpoint that accepts notifications with a valid signature, each once.
struct Endpoint {
    gateway: Gateway,
    sink: Upstream,
}

impl Endpoint {
    async fn start() -> Self {
        let sink = Upstream::ok();
        let route = Route::to(&sink)
            .with("provider", "standard-webhooks")
            .with("secrets", "[{env: NOTIFY_SECRET}]");
        let setup = Setup::from(route).env("NOTIFY_SECRET", KEY);
        let gateway = Gateway::start(setup).await;
        Self { gateway, sink }
    }

    /// Configures a gateway to notify this endpoint, after shorter delays than usual.
    fn notified_by(&self, setup: Setup) -> Setup {
        let url = format!("http://{}{PATH}", self.gateway.public_address());
        let notify = format!(
            "{{url: \"{url}\", secret: {{env: NOTIFY_SECRET}}, begin_after: 1s, end_after: 10s}}"
        );
        setup.with("notify", &notify).env("NOTIFY_SECRET", KEY)
    }

    /// Returns the type and the document of each notification so far.
    fn received(&self) -> Vec<(String, Value)> {
        let bodies = self.sink.requests().into_iter().map(|request| {
            let body: Value = serde_json::from_slice(&request.body).expect("JSON");
            assert!(body["timestamp"].is_string(), "{body}");
            let event_type = body["type"].as_str().expect("a text").to_owned();
            (event_type, body["data"].clone())
        });
        bodies.collect()
    }

    /// Waits for that many notifications, and returns the last one.
    async fn wait_for(&self, count: usize) -> (String, Value) {
        self.sink.wait_for_requests(count).await;
        let received = self.received();
        assert_eq!(received.len(), count, "{received:#?}");
        received.into_iter().next_back().expect("one")
    }
}

/// Makes a route's upstream fail for this gateway, or work again.
async fn send(gateway: &Gateway, name: &str, status: u16, outcome: &str) {
    for number in 0..12 {
        gateway
            .send(Event::new(&format!("{name}_{number}")))
            .await
            .assert(status, outcome);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problem_is_notified_when_it_begins_and_ends() {
    let endpoint = Endpoint::start().await;
    let closed = ClosedPort::new();
    let url = closed.url();
    let gateway = Gateway::start(endpoint.notified_by(Route::to_url(&url).into())).await;
    send(&gateway, "down", 502, "upstream_unreachable").await;
    let (event_type, problem) = endpoint.wait_for(1).await;
    assert_eq!(event_type, "hookstile.problem.began");
    assert_eq!(
        (&problem["route"], &problem["code"], &problem["severity"]),
        (
            &"hooks".into(),
            &"upstream_failing".into(),
            &"critical".into()
        )
    );
    let summary = problem["summary"].as_str().expect("a text");
    assert!(summary.starts_with(&url), "{summary}");
    let _upstream = closed.open([Reply::ok()]);
    send(&gateway, "up", 200, "delivered").await;
    let (event_type, ended) = endpoint.wait_for(2).await;
    assert_eq!(event_type, "hookstile.problem.ended");
    assert_eq!(ended["since"], problem["since"]);
    assert_eq!(ended["ended"]["reason"], "recovered", "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_is_notified_as_no_recovery() {
    let endpoint = Endpoint::start().await;
    let closed = ClosedPort::new();
    let gateway = Gateway::start(endpoint.notified_by(Route::to_url(&closed.url()).into())).await;
    send(&gateway, "down", 502, "upstream_unreachable").await;
    assert_eq!(endpoint.wait_for(1).await.0, "hookstile.problem.began");
    let paused = gateway
        .admin_post("/webhooks/wh_hooks/pause", &json!({}))
        .await;
    assert_eq!(paused.status, 200, "{}", paused.text());
    // What failed before is at risk as long as the route is paused.
    let (event_type, began) = endpoint.wait_for(2).await;
    assert_eq!(event_type, "hookstile.problem.began");
    assert_eq!(began["code"], "route_paused", "{began}");
    let (event_type, ended) = endpoint.wait_for(3).await;
    assert_eq!(event_type, "hookstile.problem.ended");
    assert_eq!(ended["code"], "upstream_failing", "{ended}");
    assert_eq!(ended["ended"]["reason"], "paused", "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notification_is_sent_until_accepted() {
    let sink = Upstream::replying([Reply::status(500), Reply::ok()]);
    let closed = ClosedPort::new();
    let notify = format!(
        "{{url: \"{}\", secret: {{env: NOTIFY_SECRET}}, begin_after: 1s}}",
        sink.url()
    );
    let setup = Setup::from(Route::to_url(&closed.url()))
        .with("notify", &notify)
        .env("NOTIFY_SECRET", KEY);
    let gateway = Gateway::start(setup).await;
    send(&gateway, "down", 502, "upstream_unreachable").await;
    sink.wait_for_requests(2).await;
    let ids: Vec<_> = sink
        .requests()
        .iter()
        .map(|request| request.header("webhook-id").map(str::to_owned))
        .collect();
    assert!(ids[0].is_some() && ids[0] == ids[1], "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_notify_once() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let endpoint = Endpoint::start().await;
    let closed = ClosedPort::new();
    let setup = Setup::from(Route::to_url(&closed.url())).stopping_at_once();
    let setup = with_database(&postgres.url(), endpoint.notified_by(setup));
    let (one, two) = (
        Gateway::start(setup.clone()).await,
        Gateway::start(setup).await,
    );
    for (gateway, name) in [(&one, "down_one"), (&two, "down_two")] {
        send(gateway, name, 502, "upstream_unreachable").await;
    }
    assert_eq!(endpoint.wait_for(1).await.0, "hookstile.problem.began");
    let announced = "SELECT count(*) FROM hookstile.incidents";
    assert_eq!(postgres.sql(announced), "1");
    let _upstream = closed.open([Reply::ok()]);
    for (gateway, name) in [(&one, "up_one"), (&two, "up_two")] {
        send(gateway, name, 200, "delivered").await;
    }
    let (event_type, ended) = endpoint.wait_for(2).await;
    assert_eq!(event_type, "hookstile.problem.ended");
    assert_eq!(ended["ended"]["reason"], "recovered", "{ended}");
    eventually("the end is recorded", async || {
        postgres.sql(announced) == "0"
    })
    .await;
}

/// Sends events to a gateway, of which every nth one fails.
async fn send_failing(gateway: &Gateway, round: &str, nth: usize) {
    for number in 0..12 {
        let kind = if number % nth == 0 { "bad" } else { "good" };
        let id = format!("{kind}_{round}_{number}_{}", gateway.pid());
        gateway.send(Event::new(&id)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_notify_once_that_it_got_worse() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let endpoint = Endpoint::start().await;
    let upstream = Upstream::deciding(|request, _| {
        let id = request.header("Hookstile-Event-Id").unwrap_or_default();
        Reply::status(if id.starts_with("bad") { 500 } else { 200 })
    });
    let setup = Setup::from(Route::to(&upstream)).stopping_at_once();
    let setup = with_database(&postgres.url(), endpoint.notified_by(setup));
    let (one, two) = (
        Gateway::start(setup.clone()).await,
        Gateway::start(setup).await,
    );
    for gateway in [&one, &two] {
        send_failing(gateway, "a_quarter", 4).await;
    }
    let (event_type, problem) = endpoint.wait_for(1).await;
    assert_eq!(event_type, "hookstile.problem.began");
    assert_eq!(problem["severity"], "warning");
    for round in ["all", "still_all", "all_to_the_end"] {
        for gateway in [&one, &two] {
            send_failing(gateway, round, 1).await;
        }
    }
    let (event_type, worse) = endpoint.wait_for(2).await;
    assert_eq!(event_type, "hookstile.problem.began");
    assert_eq!(worse["severity"], "critical");
    assert_eq!(worse["code"], problem["code"]);
    let told = "SELECT told FROM hookstile.incidents";
    eventually("that is recorded", async || postgres.sql(told) == "3").await;
    assert_eq!(endpoint.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notification_of_killed_gateway_is_sent() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let gate = Gate::shut();
    let held = gate.clone();
    let sink = Upstream::deciding(move |_, _| Reply::ok().after(&held));
    let closed = ClosedPort::new();
    let notify = format!(
        "{{url: \"{}\", secret: {{env: NOTIFY_SECRET}}, begin_after: 1s}}",
        sink.url()
    );
    let setup = Setup::from(Route::to_url(&closed.url())).stopping_at_once();
    let setup = setup.with("notify", &notify).env("NOTIFY_SECRET", KEY);
    let setup = with_database(&postgres.url(), setup);
    let mut killed = Gateway::start(setup.clone()).await;
    send(&killed, "down", 502, "upstream_unreachable").await;
    sink.wait_for_requests(1).await;
    killed.kill().await;
    gate.open();
    // The lease of the killed gateway ends.
    postgres.sql("UPDATE hookstile.store SET uptime_ms = uptime_ms + 20000");
    let _other = Gateway::start(setup).await;
    sink.wait_for_requests(2).await;
    let sent = sink.requests();
    let ids: Vec<_> = sent.iter().map(|it| it.header("webhook-id")).collect();
    assert!(ids[0].is_some() && ids[0] == ids[1], "{ids:?}");
    let bodies = sent
        .iter()
        .map(|it| serde_json::from_slice::<Value>(&it.body).expect("JSON"));
    let data: Vec<_> = bodies.map(|body| body["data"].clone()).collect();
    assert_eq!(data[0], data[1]);
    let told = "SELECT told FROM hookstile.incidents";
    eventually("that is recorded", async || postgres.sql(told) == "3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problem_of_one_gateway_ends_with_it() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let endpoint = Endpoint::start().await;
    let (closed, upstream) = (ClosedPort::new(), Upstream::ok());
    let setup = |url: &str| {
        let setup = Setup::from(Route::to_url(url)).stopping_at_once();
        with_database(&postgres.url(), endpoint.notified_by(setup))
    };
    let one = Gateway::start(setup(&closed.url())).await;
    let other = Gateway::start(setup(&upstream.url())).await;
    send(&one, "down", 502, "upstream_unreachable").await;
    send(&other, "works", 200, "delivered").await;
    assert_eq!(endpoint.wait_for(1).await.0, "hookstile.problem.began");
    wait_server_time(&postgres, Duration::from_secs(12)).await;
    assert_eq!(endpoint.received().len(), 1, "it goes on");
    let _upstream = closed.open([Reply::ok()]);
    send(&one, "up", 200, "delivered").await;
    let (event_type, ended) = endpoint.wait_for(2).await;
    assert_eq!(event_type, "hookstile.problem.ended");
    assert_eq!(ended["code"], "upstream_failing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_database_is_notified_as_problem() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let endpoint = Endpoint::start().await;
    let closed = ClosedPort::new();
    let setup = Setup::from(Route::to_url(&closed.url()).with("delivery", "queue"));
    let setup = with_database(&postgres.url(), endpoint.notified_by(setup)).stopping_at_once();
    let gateway = Gateway::start(setup).await;
    // Of a route whose attempts fail, the list has what only the store knows.
    send(&gateway, "waits", 202, "queued").await;
    let (_, problem) = endpoint.wait_for(1).await;
    assert_eq!(problem["code"], "upstream_failing");
    postgres.freeze().await;
    let mut codes = Vec::new();
    eventually("the store is a problem", async || {
        let asked = Instant::now();
        let document = gateway.api("/problems").await;
        assert!(asked.elapsed() < Duration::from_secs(3), "{document}");
        let problems = document["problems"].as_array().expect("a list");
        codes = problems.iter().map(|it| it["code"].clone()).collect();
        codes.contains(&"store_unavailable".into())
    })
    .await;
    assert!(codes.contains(&"upstream_failing".into()), "{codes:?}");
    let (event_type, problem) = endpoint.wait_for(2).await;
    assert_eq!(event_type, "hookstile.problem.began");
    assert_eq!(problem["code"], "store_unavailable");
    postgres.resume();
    let (event_type, problem) = endpoint.wait_for(3).await;
    assert_eq!(event_type, "hookstile.problem.ended");
    assert_eq!(problem["code"], "store_unavailable");
}

//! `notify`: an endpoint hears once that a problem begins, and once that it has ended. Here, the
//! endpoint is another gateway, which verifies the signatures.

use serde_json::{Value, json};

use crate::harness::upstream::ClosedPort;
use crate::harness::*;
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
    let (event_type, ended) = endpoint.wait_for(2).await;
    assert_eq!(event_type, "hookstile.problem.ended");
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
    let announced = "SELECT count(*) FROM hookstile.problems";
    assert_eq!(postgres.sql(announced).trim(), "1");
    let _upstream = closed.open([Reply::ok()]);
    for (gateway, name) in [(&one, "up_one"), (&two, "up_two")] {
        send(gateway, name, 200, "delivered").await;
    }
    let (event_type, ended) = endpoint.wait_for(2).await;
    assert_eq!(event_type, "hookstile.problem.ended");
    assert_eq!(ended["ended"]["reason"], "recovered", "{ended}");
    assert_eq!(postgres.sql(announced).trim(), "0");
}

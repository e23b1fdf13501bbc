//! An embedded store that is moved into PostgreSQL: what was promised before is kept after.

use serde_json::json;

use crate::harness::command::{Run, command, finish};
use crate::harness::*;

/// Writes a configuration beside the gateway's own that differs from it in the store, and moves the store there.
async fn moved(gateway: &Gateway, url: &str) -> Run {
    let config = std::fs::read_to_string(gateway.config()).expect("the configuration");
    let shared = format!("{config}\nstore: {{postgres: {{url: {{env: DATABASE_URL}}}}}}\n");
    std::fs::write(gateway.directory().join("shared.yaml"), shared).expect("a file");
    let mut command = command();
    command
        .current_dir(gateway.directory())
        .env("DATABASE_URL", url);
    command.args([
        "move-store",
        "--from",
        "hookstile-data",
        "--config",
        "shared.yaml",
    ]);
    finish(command).await
}

fn shared(route: &Route, url: &str) -> Setup {
    Setup::from(route.clone())
        .with("store", "{postgres: {url: {env: DATABASE_URL}}}")
        .env("DATABASE_URL", url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_an_embedded_store_held_is_there_after_it_was_moved() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::deciding(|request, _| {
        if request.header("Hookstile-Event-Id") == Some("evt_dead") {
            Reply::status(410)
        } else {
            Reply::ok()
        }
    });
    let route = Route::to(&upstream).with("delivery", "queue");
    let mut embedded = Gateway::start(route.clone()).await;
    for event in ["evt_1", "evt_2", "evt_dead"] {
        embedded.send(Event::new(event)).await.assert(202, "queued");
    }
    embedded
        .metric_reaches("queue_events", &[("state", "dead")], 1.0)
        .await;
    upstream.received(3).await;
    let webhook = embedded
        .admin_post("/webhooks", &json!({"url": upstream.url()}))
        .await;
    assert_eq!(webhook.status, 201, "{}", webhook.text());
    assert_eq!(
        embedded
            .admin_post("/webhooks/wh_hooks/pause", &json!({}))
            .await
            .status,
        200
    );
    embedded
        .send(Event::new("evt_waits"))
        .await
        .assert(202, "queued");
    let (webhooks, deliveries) = (
        embedded.api("/webhooks").await,
        embedded.api("/deliveries").await,
    );
    embedded.kill().await;
    let attempts = upstream.count();

    let run = moved(&embedded, &postgres.url()).await;
    assert!(
        run.assert(0)
            .stderr
            .contains("moved 4 IDs, 4 deliveries and 1 webhook"),
        "{}",
        run.stderr
    );

    let one = Gateway::start(shared(&route, &postgres.url())).await;
    for event in ["evt_1", "evt_2", "evt_dead", "evt_waits"] {
        one.send(Event::new(event))
            .await
            .assert_problem(409, "duplicate");
    }
    assert_eq!(one.api("/webhooks").await["total"], webhooks["total"]);
    let events = |page: &serde_json::Value| {
        let all = page["deliveries"].as_array().expect("a list").iter();
        all.map(|delivery| (delivery["id"].clone(), delivery["status"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(events(&one.api("/deliveries").await), events(&deliveries));
    one.metric_reaches("queue_events", &[("state", "dead")], 1.0)
        .await;
    assert_eq!(upstream.count(), attempts, "it is paused still");
    assert_eq!(
        one.admin_post("/webhooks/wh_hooks/resume", &json!({}))
            .await
            .status,
        200
    );
    upstream.received(attempts + 1).await;
    assert_eq!(
        upstream.event_ids().last().map(String::as_str),
        Some("evt_waits")
    );
    one.send(Event::new("evt_new")).await.assert(202, "queued");
    upstream.received(attempts + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_moved_once_and_not_while_a_gateway_serves_either() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let route = Route::to(&upstream);
    let mut embedded = Gateway::start(route.clone()).await;
    embedded
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let served = moved(&embedded, &postgres.url()).await;
    assert!(
        served.assert(1).stderr.contains("process"),
        "{}",
        served.stderr
    );
    embedded.kill().await;

    let mut one = Gateway::start(shared(&route, &postgres.url())).await;
    eventually("it counts time", async || {
        postgres.sql("select running_ms > 0 from hookstile.store") == "t"
    })
    .await;
    let served = moved(&embedded, &postgres.url()).await;
    assert!(
        served
            .assert(1)
            .stderr
            .contains("a gateway serves from the database"),
        "{}",
        served.stderr
    );
    one.send(Event::new("evt_2")).await.assert(200, "delivered");
    one.kill().await;
    eventually("it is noticed to be gone", async || {
        let refused = moved(&embedded, &postgres.url()).await;
        refused.assert(1).stderr.contains("holds events already")
    })
    .await;

    postgres.sql("drop schema hookstile cascade");
    moved(&embedded, &postgres.url()).await.assert(0);
    let again = moved(&embedded, &postgres.url()).await;
    assert!(
        again.assert(1).stderr.contains("hookstile-data.moved"),
        "{}",
        again.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_in_the_configuration_nothing_is_moved() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    gateway.kill().await;
    let mut command = command();
    command
        .current_dir(gateway.directory())
        .args(["move-store", "--from", "hookstile-data"]);
    assert!(finish(command).await.assert(78).stderr.contains("postgres"));
    assert!(gateway.store().exists());
}

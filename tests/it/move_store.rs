//! Moving an embedded store to PostgreSQL: every promise made before holds after the move.

use serde_json::json;

use crate::harness::command::{Run, command, finish};
use crate::harness::*;

/// Writes a configuration that differs from the gateway's only in its store, and moves the store
/// there.
async fn move_store_to(gateway: &Gateway, url: &str) -> Run {
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

fn shared_store_setup(route: &Route, url: &str) -> Setup {
    Setup::from(route.clone())
        .with("store", "{postgres: {url: {env: DATABASE_URL}}}")
        .env("DATABASE_URL", url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_store_keeps_everything() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::deciding(|request, _| {
        if request.header("Hookstile-Event-Id") == Some("evt_dead") {
            Reply::status(422)
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
        .wait_for_metric("queue_events", &[("state", "dead")], 1.0)
        .await;
    upstream.wait_for_requests(3).await;
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

    let run = move_store_to(&embedded, &postgres.url()).await;
    assert!(
        run.assert(0)
            .stderr
            .contains("moved 4 IDs, 4 deliveries and 1 webhook"),
        "{}",
        run.stderr
    );

    let one = Gateway::start(shared_store_setup(&route, &postgres.url())).await;
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
    one.wait_for_metric("queue_events", &[("state", "dead")], 1.0)
        .await;
    assert_eq!(upstream.count(), attempts, "the route is still paused");
    assert_eq!(
        one.admin_post("/webhooks/wh_hooks/resume", &json!({}))
            .await
            .status,
        200
    );
    upstream.wait_for_requests(attempts + 1).await;
    assert_eq!(
        upstream.event_ids().last().map(String::as_str),
        Some("evt_waits")
    );
    one.send(Event::new("evt_new")).await.assert(202, "queued");
    upstream.wait_for_requests(attempts + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_moves_once_and_only_while_unused() {
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
    let served = move_store_to(&embedded, &postgres.url()).await;
    assert!(
        served.assert(1).stderr.contains("process"),
        "{}",
        served.stderr
    );
    embedded.kill().await;

    let mut one = Gateway::start(shared_store_setup(&route, &postgres.url())).await;
    eventually("the store's clock runs", async || {
        postgres.sql("select uptime_ms > 0 from hookstile.store") == "t"
    })
    .await;
    let served = move_store_to(&embedded, &postgres.url()).await;
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
    eventually(
        "the database notices that the gateway is gone",
        async || {
            let refused = move_store_to(&embedded, &postgres.url()).await;
            refused.assert(1).stderr.contains("holds events already")
        },
    )
    .await;

    postgres.sql("drop schema hookstile cascade");
    move_store_to(&embedded, &postgres.url()).await.assert(0);
    let again = move_store_to(&embedded, &postgres.url()).await;
    assert!(
        again.assert(1).stderr.contains("hookstile-data.moved"),
        "{}",
        again.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn move_needs_a_configured_database() {
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

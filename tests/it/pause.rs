//! A paused route: what senders are answered in each delivery mode, and for how long.

use serde_json::json;

use crate::harness::*;

async fn set_paused(gateway: &Gateway, action: &str) {
    let path = format!("/webhooks/wh_hooks/{action}");
    let response = gateway.admin_post(&path, &json!({})).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_proxy_route_answers_503() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    set_paused(&gateway, "pause").await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(503, "inactive")
        .assert_header("Retry-After", "60");
    gateway
        .wait_for_request_log(json!({"outcome": "inactive", "reason": "paused"}))
        .await;
    gateway.stop().await;
    gateway.restart().await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(503, "inactive");
    gateway.rewrite(Route::to(&upstream).with("budget", "8s"));
    gateway.signal("HUP");
    gateway
        .wait_for_metric_at_least("config_last_reload_successful", &[], 1.0)
        .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(503, "inactive");
    let test = gateway
        .admin_post("/webhooks/wh_hooks/test", &json!({}))
        .await;
    assert!(
        test.text().contains("\"outcome\":\"inactive\""),
        "{}",
        test.text()
    );
    assert_eq!(upstream.count(), 0);
    set_paused(&gateway, "resume").await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_spill_route_stores() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("delivery", "spill");
    let gateway = Gateway::start(route).await;
    set_paused(&gateway, "pause").await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert_problem(401, "invalid_signature");
    assert_eq!(upstream.count(), 0);
    set_paused(&gateway, "resume").await;
    upstream.wait_for_requests(1).await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_queue_route_still_accepts() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("delivery", "queue");
    let gateway = Gateway::start(route).await;
    set_paused(&gateway, "pause").await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    let waiting = [("route", "hooks"), ("state", "pending")];
    gateway.wait_for_metric("queue_events", &waiting, 1.0).await;
    assert_eq!(upstream.count(), 0);
    set_paused(&gateway, "resume").await;
    upstream.wait_for_requests(1).await;
}

//! Events that a queue has in memory, because they were stored just now: whatever happens to them
//! meanwhile, each is delivered as if it had been read from the store.

use serde_json::json;

use crate::harness::sender::digest;
use crate::harness::*;

const HOOKS: (&str, &str) = ("route", "hooks");

/// A queue that delivers one event after the other.
fn queued(upstream: &Upstream, name: &str) -> Route {
    Route::to(upstream)
        .with("name", name)
        .with("delivery", "queue")
        .with("concurrency", "1")
        .with("attempt_timeout", "60s")
        .with("retry", "{initial: 50ms, max_interval: 500ms, horizon: 1h}")
}

/// An upstream that answers once the gate is open.
fn waiting(gate: &Gate) -> Upstream {
    Upstream::replying([Reply::ok().after(gate)])
}

fn ids(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("evt_{number}")).collect()
}

/// Sends events of this size, of which the first is being attempted from then on.
async fn send_all(gateway: &Gateway, upstream: &Upstream, count: usize, bytes: usize) {
    let mut client = gateway.connect().await;
    for id in ids(0..count) {
        client
            .send(Event::sized(&id, bytes))
            .await
            .assert(202, "queued");
    }
    upstream.wait_for_requests(1).await;
}

async fn wait_for_empty_queue(gateway: &Gateway) {
    gateway.wait_for_metric("queue_events", &[], 0.0).await;
}

async fn post(gateway: &Gateway, path: &str, body: serde_json::Value) {
    let response = gateway.admin_post(path, &body).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_loses_no_event_in_memory() {
    let gate = Gate::shut();
    let upstream = waiting(&gate);
    let setup = Setup::from(queued(&upstream, "hooks")).stopping_at_once();
    let mut gateway = Gateway::start(setup).await;
    send_all(&gateway, &upstream, 50, 1_000).await;
    gateway.kill().await;
    gateway.restart().await;
    gate.open();
    wait_for_empty_queue(&gateway).await;
    // Only the attempt that the kill interrupted is repeated.
    let expected = [ids(0..1), ids(0..50)].concat();
    assert_eq!(upstream.event_ids(), expected);
    for (number, request) in upstream.requests().iter().enumerate() {
        if number == 1 {
            request.assert_header("Hookstile-Possible-Duplicate", "true");
        } else {
            request.assert_no_header("Hookstile-Possible-Duplicate");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_queue_keeps_its_order() {
    let gate = Gate::shut();
    let upstream = waiting(&gate);
    let gateway = Gateway::start(queued(&upstream, "hooks")).await;
    send_all(&gateway, &upstream, 20, 1_000).await;
    post(&gateway, "/webhooks/wh_hooks/pause", json!({})).await;
    gate.open();
    gateway
        .wait_for_metric("queue_events", &[HOOKS, ("state", "pending")], 19.0)
        .await;
    let mut client = gateway.connect().await;
    for id in ids(20..30) {
        client.send(Event::new(&id)).await.assert(202, "queued");
    }
    assert_eq!(upstream.count(), 1);
    post(&gateway, "/webhooks/wh_hooks/resume", json!({})).await;
    wait_for_empty_queue(&gateway).await;
    assert_eq!(upstream.event_ids(), ids(0..30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_is_delivered_whole_in_order() {
    // More than fits in memory: by bytes, and by number.
    for (count, bytes) in [(24, 1 << 20), (1_200, 1_000)] {
        let gate = Gate::shut();
        let upstream = waiting(&gate);
        let gateway = Gateway::start(queued(&upstream, "hooks")).await;
        send_all(&gateway, &upstream, count, bytes).await;
        gate.open();
        wait_for_empty_queue(&gateway).await;
        assert_eq!(upstream.event_ids(), ids(0..count));
        for (request, id) in upstream.requests().iter().zip(ids(0..count)) {
            let sent = Event::sized(&id, bytes).body;
            assert_eq!(digest(&request.body), digest(&sent), "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivered_event_is_sent_once() {
    let gate = Gate::shut();
    let upstream = waiting(&gate);
    let gateway = Gateway::start(queued(&upstream, "hooks")).await;
    send_all(&gateway, &upstream, 10, 1_000).await;
    let listed = gateway.api("/deliveries?event_id=evt_4").await;
    let id = listed["deliveries"][0]["id"].as_str().expect("an ID");
    let redeliver = format!("/deliveries/{id}/redeliver");
    let response = gateway.admin_post(&redeliver, &json!({})).await;
    assert!(response.status < 300, "{}", response.text());
    gate.open();
    wait_for_empty_queue(&gateway).await;
    // It is due from now on, so it has the last place.
    let expected = [ids(0..4), ids(5..10), ids(4..5)].concat();
    assert_eq!(upstream.event_ids(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_events_reach_one_upstream() {
    let gate = Gate::shut();
    let (old, new) = (waiting(&gate), Upstream::ok());
    let gateway = Gateway::start(Setup::from(queued(&old, "old")).stopping_at_once()).await;
    send_all(&gateway, &old, 10, 1_000).await;
    gateway
        .reload(Setup::from(queued(&new, "new")).stopping_at_once())
        .await;
    gate.open();
    let removed = [("route", "old")];
    gateway
        .wait_for_metric("queue_unconfigured_events", &removed, 9.0)
        .await;
    let to = json!({"to": "wh_new"});
    post(&gateway, "/webhooks/wh_old/move", to).await;
    wait_for_empty_queue(&gateway).await;
    assert_eq!(old.event_ids(), ids(0..1));
    assert_eq!(new.event_ids(), ids(1..10));
}

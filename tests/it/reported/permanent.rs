//! Reports about failures that look permanent.

use std::time::Duration;

use crate::harness::*;

const HOOKS: (&str, &str) = ("route", "hooks");

/// Retries quickly, so that many attempts fit into the time that an event is retried at least.
fn queued(upstream: &Upstream, permanent: &str) -> Route {
    Route::to(upstream).with("delivery", "queue").with(
        "retry",
        &format!("{{initial: 1ms, factor: 1, max_interval: 20ms{permanent}}}"),
    )
}

/// An application that was deployed answered 404 for a minute; all events were dead letters within
/// seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_outlives_the_404_of_a_deployment() {
    let mut replies = [404, 410, 401, 400, 403, 405].repeat(3);
    replies.push(200);
    let upstream = Upstream::replying(replies.into_iter().map(Reply::status).collect::<Vec<_>>());
    let gateway = Gateway::start(queued(&upstream, "")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(19).await;
    gateway.wait_for_metric("queue_events", &[HOOKS], 0.0).await;
    let metrics = gateway.metrics().await;
    metrics.assert_value("queue_dead_lettered_total", &[HOOKS], 0.0);
    metrics.assert_value("queue_attempts_total", &[HOOKS, ("result", "2xx")], 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lasting_404_dead_letters_after_attempts_and_time() {
    let upstream = Upstream::replying([Reply::status(404)]);
    let permanent = ", permanent: {attempts: 4, at_least: 500ms}";
    let gateway = Gateway::start(queued(&upstream, permanent)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .wait_for_metric("queue_events", &[HOOKS, ("state", "dead")], 1.0)
        .await;
    let requests = upstream.requests();
    assert!(requests.len() >= 4, "{} attempts", requests.len());
    let retried = requests[requests.len() - 1].at - requests[0].at;
    assert!(retried >= Duration::from_millis(400), "{retried:?}");
    gateway.metrics().await.assert_value(
        "queue_dead_lettered_total",
        &[HOOKS, ("reason", "rejected")],
        1.0,
    );
}

/// A refusal of the content does not wait for an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_content_dead_letters_after_attempts_alone() {
    for status in [413, 415, 422] {
        let upstream = Upstream::replying([Reply::status(404), Reply::status(status)]);
        let permanent = ", permanent: {attempts: 2}";
        let gateway = Gateway::start(queued(&upstream, permanent)).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(202, "queued");
        gateway
            .wait_for_metric("queue_events", &[HOOKS, ("state", "dead")], 1.0)
            .await;
        assert_eq!(upstream.count(), 2, "{status}");
    }
}

/// After a fault of the application, somebody had to redeliver thousands of dead letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_redelivered_once_upstream_recovers() {
    let upstream = Upstream::deciding(|request, attempt| {
        match (request.header("Hookstile-Event-Id"), attempt) {
            (Some("evt_poison"), _) | (Some("evt_1" | "evt_2"), ..=3) => Reply::status(422),
            _ => Reply::ok(),
        }
    });
    let setup = Setup::from(queued(&upstream, ""))
        .with("dead_letters", "{redeliver: when_healthy}")
        .stopping_at_once();
    let gateway = Gateway::start(setup).await;
    for id in ["evt_1", "evt_2", "evt_poison"] {
        gateway.send(Event::new(id)).await.assert(202, "queued");
    }
    gateway
        .wait_for_metric("queue_events", &[HOOKS, ("state", "dead")], 3.0)
        .await;
    assert_eq!(upstream.count(), 9);
    gateway
        .send(Event::new("evt_good"))
        .await
        .assert(202, "queued");
    eventually("the dead letters are delivered", async || {
        ["evt_1", "evt_2"]
            .iter()
            .all(|id| upstream.requests_for(id).len() == 4)
    })
    .await;
    eventually("the poisonous event is a dead letter again", async || {
        let list = gateway.api("/deliveries?status=dead").await;
        list["total"] == 1 && list["deliveries"][0]["reason"] == "again"
    })
    .await;
    assert_eq!(upstream.requests_for("evt_poison").len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporary_4xx_is_not_permanent() {
    let mut replies = [408, 409, 425, 429].repeat(3);
    replies.push(200);
    let upstream = Upstream::replying(replies.into_iter().map(Reply::status).collect::<Vec<_>>());
    let permanent = ", permanent: {attempts: 1, at_least: 0s}";
    let gateway = Gateway::start(queued(&upstream, permanent)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(13).await;
    gateway.wait_for_metric("queue_events", &[HOOKS], 0.0).await;
    gateway
        .metrics()
        .await
        .assert_value("queue_dead_lettered_total", &[HOOKS], 0.0);
}

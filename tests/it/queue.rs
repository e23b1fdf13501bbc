//! Queued delivery: events are accepted at once and delivered when the upstream is ready. None is
//! lost, none is repeated without a fault, and no route blocks another.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::harness::history::Sent;
use crate::harness::upstream::{ClosedPort, Received};
use crate::harness::*;

const HOOKS: (&str, &str) = ("route", "hooks");

/// Gives the route a queue with short retry intervals.
fn queued(route: Route) -> Route {
    route.with("delivery", "queue").with(
        "retry",
        "{initial: 50ms, factor: 2, max_interval: 500ms, horizon: 1h}",
    )
}

fn setup(route: Route) -> Setup {
    Setup::from(route).stopping_at_once()
}

async fn wait_for_empty_queue(gateway: &Gateway) {
    gateway.wait_for_metric("queue_events", &[], 0.0).await;
}

/// Sends the events one after the other and asserts that each is accepted.
async fn send_accepted(gateway: &Gateway, ids: impl IntoIterator<Item = String>) {
    let mut client = gateway.connect().await;
    for id in ids {
        client.send(Event::new(&id)).await.assert(202, "queued");
    }
}

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("evt_{number}"))
}

fn attempt_numbers(requests: &[Received]) -> Vec<String> {
    requests
        .iter()
        .map(|request| {
            request
                .header("Hookstile-Attempt")
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sender_is_answered_while_upstream_hangs() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(queued(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued")
        .assert_event_id("evt_1");
    upstream.wait_for_requests(1).await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(202, "queued")
        .assert_event_id("evt_2");
    let metrics = gateway.metrics().await;
    metrics.assert_value("requests_total", &[HOOKS, ("outcome", "queued")], 2.0);
    metrics.assert_value("queue_events", &[HOOKS], 2.0);
    gate.open();
    wait_for_empty_queue(&gateway).await;
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accept_status_can_be_200() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(queued(Route::to(&upstream)).with("accept_status", "200")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "queued")
        .assert_event_id("evt_1");
    wait_for_empty_queue(&gateway).await;
    assert_eq!(upstream.event_ids(), ["evt_1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_of_queued_event_is_a_duplicate() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(queued(Route::to(&upstream))).await;
    let event = Event::new("evt_1");
    gateway.send(event.clone()).await.assert(202, "queued");
    gateway
        .send(event.clone())
        .await
        .assert_problem(409, "duplicate");
    gateway
        .send(Event::typed("evt_1", "other"))
        .await
        .assert_problem(409, "payload_mismatch");
    gate.open();
    wait_for_empty_queue(&gateway).await;
    gateway.send(event).await.assert_problem(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_copies_are_accepted_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(queued(Route::to(&upstream))).await;
    let copy = |number: usize| {
        let (to, event) = (
            gateway.public_address(),
            Event::new(&format!("evt_{}", number % 10)),
        );
        tokio::spawn(async move { Client::connect(to).await.send(event).await })
    };
    let copies: Vec<_> = (0..80).map(copy).collect();
    let mut queued = 0;
    for copy in copies {
        let response = within("an answer", copy)
            .await
            .expect("no panic in a sender");
        assert!(
            ["queued", "duplicate", "in_flight"].contains(&response.outcome()),
            "{response:?}"
        );
        queued += usize::from(response.outcome() == "queued");
    }
    wait_for_empty_queue(&gateway).await;
    assert_eq!((queued, upstream.count()), (10, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_sends_the_original_request() {
    // The upstream closes in between: the attempt itself would replace a kept connection that turns
    // out dead.
    let upstream = Upstream::replying([
        Reply::status(503).then_close(),
        Reply::disconnect(),
        Reply::ok(),
    ]);
    let route = queued(Route::to(&upstream)).with("headers", "{X-Custom-Header: your-value}");
    let gateway = Gateway::start(route).await;
    let mut body = br#"{"id":"evt_1", "type":"user.created","data":"#.to_vec();
    body.extend("\" \u{1f980} \\u0000\"  }\r\n".bytes());
    let event = Event::raw(body);
    let before = Timestamp::now();
    let request = event
        .post()
        .set("Content-Type", "application/json; charset=utf-8")
        .header("User-Agent", "VPN-Enterprise-Webhooks/1.0")
        .header("X-Twice", "one")
        .header("X-Twice", "two")
        .header("X-Empty", "")
        .header("X-Custom-Header", "theirs")
        .header("Keep-Alive", "timeout=5")
        .header("Hookstile-Attempt", "99")
        .header("hookstile_possible_duplicate", "true")
        .chunked(7);
    gateway.send(request).await.assert(202, "queued");
    let after = Timestamp::now();
    upstream.wait_for_requests(3).await;
    wait_for_empty_queue(&gateway).await;
    let requests = upstream.requests();
    assert_eq!(attempt_numbers(&requests), ["1", "2", "3"]);
    let mut arrival_times = Vec::new();
    for request in &requests {
        assert_eq!(
            (request.method.as_str(), request.target.as_str()),
            ("POST", "/receiver")
        );
        assert_eq!(request.body, event.body, "byte for byte");
        request.assert_header("X-VPN-Signature", &sign(SECRET, &event.body));
        request.assert_header("Content-Type", "application/json; charset=utf-8");
        request.assert_header("Content-Length", &event.body.len().to_string());
        request.assert_header("User-Agent", "VPN-Enterprise-Webhooks/1.0");
        request.assert_header("X-Empty", "");
        request.assert_header("X-Custom-Header", "your-value");
        request.assert_header("Hookstile-Event-Id", "evt_1");
        request.assert_header("Hookstile-Event-Type", "user.created");
        request.assert_header("Hookstile-Route", "hooks");
        request.assert_header("Idempotency-Key", "evt_1");
        request.assert_header("X-Forwarded-For", "127.0.0.1");
        request.assert_header("X-Forwarded-Proto", "http");
        request.assert_header("X-Forwarded-Host", "hooks.test");
        assert_eq!(request.headers.all("X-Twice"), ["one", "two"]);
        for dropped in [
            "Transfer-Encoding",
            "Keep-Alive",
            "hookstile_possible_duplicate",
        ] {
            request.assert_no_header(dropped);
        }
        arrival_times.push(
            request
                .header("Hookstile-Received-At")
                .expect("a time")
                .to_owned(),
        );
    }
    requests[1].assert_no_header("Hookstile-Possible-Duplicate");
    requests[2].assert_header("Hookstile-Possible-Duplicate", "true");
    arrival_times.dedup();
    assert_eq!(
        arrival_times.len(),
        1,
        "every attempt carries the arrival time: {arrival_times:?}"
    );
    let arrived: Timestamp = arrival_times[0].parse().expect("RFC 3339");
    let millisecond = jiff::SignedDuration::from_millis(1);
    assert!(
        (before - millisecond..=after).contains(&arrived),
        "{arrived} is between {before} and {after}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_key_and_large_body_are_kept() {
    let upstream = Upstream::replying([Reply::status(500), Reply::ok()]);
    let gateway = Gateway::start(queued(Route::to(&upstream)).with("max_body", "4MiB")).await;
    let event = Event::sized("evt_1", 3 << 20);
    gateway
        .send(event.post().header("Idempotency-Key", "theirs"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(2).await;
    wait_for_empty_queue(&gateway).await;
    for request in upstream.requests() {
        request.assert_header("Idempotency-Key", "theirs");
        assert!(request.body == event.body, "byte for byte");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_upstream_is_retried_until_accepted() {
    let statuses = [500, 503, 408, 409, 425, 429, 301, 502];
    let mut replies: Vec<_> = statuses.into_iter().map(Reply::status).collect();
    replies.push(Reply::ok());
    let upstream = Upstream::replying(replies);
    let gateway = Gateway::start(
        queued(Route::to(&upstream)).with("retry", "{initial: 10ms, max_interval: 50ms}"),
    )
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(statuses.len() + 1).await;
    wait_for_empty_queue(&gateway).await;
    let requests = upstream.requests();
    assert_eq!(
        attempt_numbers(&requests),
        ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
    );
    for request in &requests {
        request.assert_no_header("Hookstile-Possible-Duplicate");
    }
    let metrics = gateway.metrics().await;
    for (result, count) in [
        ("5xx", 3.0),
        ("4xx", 4.0),
        ("3xx", 1.0),
        ("2xx", 1.0),
        ("timeout", 0.0),
    ] {
        metrics.assert_value("queue_attempts_total", &[HOOKS, ("result", result)], count);
    }
    metrics.assert_value("queue_dead_lettered_total", &[HOOKS], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timed_out_attempt_marks_the_next() {
    let upstream = Upstream::replying([Reply::hang(), Reply::status(500), Reply::ok()]);
    let gateway =
        Gateway::start(queued(Route::to(&upstream)).with("attempt_timeout", "300ms")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(3).await;
    wait_for_empty_queue(&gateway).await;
    let requests = upstream.requests();
    requests[0].assert_no_header("Hookstile-Possible-Duplicate");
    requests[1].assert_header("Hookstile-Possible-Duplicate", "true");
    requests[2].assert_header("Hookstile-Possible-Duplicate", "true");
    assert_eq!(attempt_numbers(&requests), ["1", "2", "3"]);
    let metrics = gateway.metrics().await;
    for (result, count) in [("timeout", 1.0), ("5xx", 1.0), ("2xx", 1.0)] {
        metrics.assert_value("queue_attempts_total", &[HOOKS, ("result", result)], count);
    }
}

/// Sends an event and returns the time between its first and its second attempt.
async fn time_to_second_attempt(gateway: &Gateway, upstream: &Upstream) -> Duration {
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(2).await;
    let requests = upstream.requests();
    requests[1].at - requests[0].at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_seconds_is_obeyed() {
    let upstream = Upstream::replying([Reply::full(503, "Retry-After: 2\r\n", b""), Reply::ok()]);
    let route = queued(Route::to(&upstream)).with("retry", "{initial: 10ms, max_interval: 1m}");
    let gateway = Gateway::start(route).await;
    let waited = time_to_second_attempt(&gateway, &upstream).await;
    assert!(waited >= Duration::from_secs(2), "retried after {waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_date_is_obeyed() {
    let upstream = Upstream::deciding(|_, attempt| {
        if attempt > 1 {
            return Reply::ok();
        }
        let until = Timestamp::now() + jiff::SignedDuration::from_secs(3);
        let date = until.strftime("%a, %d %b %Y %H:%M:%S GMT");
        Reply::full(429, &format!("Retry-After: {date}\r\n"), b"")
    });
    let route = queued(Route::to(&upstream)).with("retry", "{initial: 10ms, max_interval: 1m}");
    let gateway = Gateway::start(route).await;
    let waited = time_to_second_attempt(&gateway, &upstream).await;
    // An HTTP date has whole seconds, so it lies between two and three seconds ahead.
    assert!(
        waited >= Duration::from_millis(1900),
        "retried after {waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_capped_at_longest_interval() {
    let upstream =
        Upstream::replying([Reply::full(503, "Retry-After: 86400\r\n", b""), Reply::ok()]);
    let route = queued(Route::to(&upstream)).with("retry", "{initial: 10ms, max_interval: 200ms}");
    let gateway = Gateway::start(route).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(2).await;
    wait_for_empty_queue(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn third_permanent_failure_is_final() {
    for status in [413, 415, 422] {
        let upstream = Upstream::replying([Reply::status(status)]);
        let gateway = Gateway::start(queued(Route::to(&upstream))).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(202, "queued");
        gateway
            .wait_for_metric("queue_events", &[HOOKS, ("state", "dead")], 1.0)
            .await;
        assert_eq!(
            attempt_numbers(&upstream.requests()),
            ["1", "2", "3"],
            "upstream {status}"
        );
        let metrics = gateway.metrics().await;
        metrics.assert_value(
            "queue_dead_lettered_total",
            &[HOOKS, ("reason", "rejected")],
            1.0,
        );
        metrics.assert_value("queue_dead_lettered_total", &[HOOKS], 1.0);
        for state in ["pending", "delivering"] {
            metrics.assert_value("queue_events", &[HOOKS, ("state", state)], 0.0);
        }
        metrics.assert_value("queue_oldest_event_age_seconds", &[HOOKS], 0.0);
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert_problem(409, "duplicate");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_event_becomes_dead_letter() {
    let closed = ClosedPort::new();
    let route = queued(Route::to_url(&closed.url()));
    let route = route.with("retry", "{initial: 50ms, max_interval: 200ms, horizon: 1s}");
    let mut gateway = Gateway::start(setup(route)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .wait_for_metric("queue_events", &[HOOKS, ("state", "dead")], 1.0)
        .await;
    gateway.metrics().await.assert_value(
        "queue_dead_lettered_total",
        &[HOOKS, ("reason", "expired")],
        1.0,
    );
    gateway.kill().await;
    gateway.restart().await;
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[HOOKS, ("state", "dead")], 1.0);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_limits_attempts_in_flight() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(queued(Route::to(&upstream)).with("concurrency", "3")).await;
    send_accepted(&gateway, numbered(10)).await;
    upstream.wait_for_requests(3).await;
    gateway
        .wait_for_metric("queue_events", &[HOOKS, ("state", "delivering")], 3.0)
        .await;
    gateway
        .wait_for_metric("queue_events", &[HOOKS, ("state", "pending")], 7.0)
        .await;
    assert_eq!(upstream.count(), 3);
    gate.open();
    wait_for_empty_queue(&gateway).await;
    assert_eq!((upstream.count(), upstream.most_concurrent()), (10, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_upstream_does_not_delay_other_routes() {
    let (hanging, closed, well) = (
        Upstream::replying([Reply::hang()]),
        ClosedPort::new(),
        Upstream::ok(),
    );
    let routes = [
        queued(Route::to(&hanging)).named("hanging"),
        queued(Route::to_url(&closed.url())).named("gone"),
        queued(Route::to(&well))
            .named("well")
            .with("concurrency", "1"),
    ];
    let gateway = Gateway::start(Setup::new(routes)).await;
    let mut client = gateway.connect().await;
    // More events than may be in flight at once.
    for number in 0..50 {
        for route in ["hanging", "gone"] {
            let event = Event::new(&format!("evt_{number}"));
            client
                .send(event.post().at(&format!("/webhooks/{route}")))
                .await
                .assert(202, "queued");
        }
    }
    for number in 0..20 {
        let start = Instant::now();
        let event = Event::new(&format!("evt_{number}"));
        client
            .send(event.post().at("/webhooks/well"))
            .await
            .assert(202, "queued");
        well.wait_for_requests(number + 1).await;
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "delivered after {:?}",
            start.elapsed()
        );
    }
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[("route", "hanging")], 50.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_attempts_follow_arrival_order() {
    let expected: Vec<_> = numbered(50).collect();
    // One attempt at a time; the closed gate makes all events wait.
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(queued(Route::to(&upstream)).with("concurrency", "1")).await;
    send_accepted(&gateway, numbered(50)).await;
    gate.open();
    wait_for_empty_queue(&gateway).await;
    assert_eq!(upstream.event_ids(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempt_overtakes_only_attempts_in_flight() {
    const AT_ONCE: usize = 4;
    let upstream = Upstream::ok();
    let concurrency = AT_ONCE.to_string();
    let gateway =
        Gateway::start(queued(Route::to(&upstream)).with("concurrency", &concurrency)).await;
    send_accepted(&gateway, numbered(50)).await;
    wait_for_empty_queue(&gateway).await;
    let arrived = upstream.event_ids();
    for (number, id) in numbered(50).enumerate() {
        let place = arrived.iter().position(|arrived| *arrived == id);
        let place = place.expect("every event arrives");
        assert!(place + AT_ONCE > number, "{id} came as number {place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_events_survive_stop_and_kill() {
    for killed in [false, true] {
        let closed = ClosedPort::new();
        let mut gateway = Gateway::start(setup(queued(Route::to_url(&closed.url())))).await;
        send_accepted(&gateway, numbered(20)).await;
        if killed {
            gateway.kill().await;
        } else {
            assert_eq!(gateway.stop().await.code(), Some(0));
        }
        gateway.restart().await;
        gateway
            .metrics()
            .await
            .assert_value("queue_events", &[HOOKS], 20.0);
        let upstream = closed.open([Reply::ok()]);
        wait_for_empty_queue(&gateway).await;
        let mut ids = upstream.event_ids();
        ids.sort();
        let mut expected: Vec<_> = numbered(20).collect();
        expected.sort();
        assert_eq!(ids, expected, "each once, killed: {killed}");
        for request in upstream.requests() {
            request.assert_no_header("Hookstile-Possible-Duplicate");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_attempt_is_retried_marked() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let mut gateway = Gateway::start(setup(queued(Route::to(&upstream)))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(1).await;
    gateway.kill().await;
    gateway.restart().await;
    upstream.wait_for_requests(2).await;
    wait_for_empty_queue(&gateway).await;
    upstream.requests()[1].assert_header("Hookstile-Possible-Duplicate", "true");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_request_is_never_queued() {
    let upstream = Upstream::ok();
    let route = queued(Route::to(&upstream))
        .with("events", "[user.created]")
        .with("max_body", "64KiB");
    let gateway = Gateway::start(route).await;
    gateway
        .send(Event::new("evt_1").forged())
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Event::raw("{}"))
        .await
        .assert(400, "invalid_event");
    gateway
        .send(Event::typed("evt_2", "other"))
        .await
        .assert(200, "ignored");
    gateway
        .send(Event::sized("evt_3", 70_000))
        .await
        .assert(413, "body_too_large");
    gateway
        .send(Event::new("evt_4").post().method("PUT"))
        .await
        .assert(405, "method_not_allowed");
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[], 0.0);
    gateway
        .send(Event::new("evt_5"))
        .await
        .assert(202, "queued");
    wait_for_empty_queue(&gateway).await;
    assert_eq!(upstream.event_ids(), ["evt_5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_show_the_queue() {
    let closed = ClosedPort::new();
    let gateway = Gateway::start(queued(Route::to_url(&closed.url()))).await;
    let start = gateway.metrics().await;
    for state in ["pending", "delivering", "dead"] {
        start.assert_value("queue_events", &[HOOKS, ("state", state)], 0.0);
    }
    for result in [
        "2xx",
        "3xx",
        "4xx",
        "5xx",
        "connect_error",
        "timeout",
        "broken",
    ] {
        start.assert_value("queue_attempts_total", &[HOOKS, ("result", result)], 0.0);
    }
    for reason in ["rejected", "expired"] {
        start.assert_value(
            "queue_dead_lettered_total",
            &[HOOKS, ("reason", reason)],
            0.0,
        );
    }
    start.assert_value("queue_oldest_event_age_seconds", &[HOOKS], 0.0);
    assert_eq!(
        start.find("queue_delivery_delay_seconds_count", &[HOOKS]),
        None
    );
    send_accepted(&gateway, numbered(3)).await;
    let age = async || {
        gateway
            .metrics()
            .await
            .value("queue_oldest_event_age_seconds", &[HOOKS])
    };
    eventually("the oldest event ages", async || age().await >= 0.3).await;
    assert!(age().await < 100.0, "in seconds");
    let metrics = gateway.metrics().await;
    metrics.assert_value("queue_events", &[HOOKS], 3.0);
    metrics.assert_at_least(
        "queue_attempts_total",
        &[HOOKS, ("result", "connect_error")],
        1.0,
    );
    let upstream = closed.open([Reply::ok()]);
    wait_for_empty_queue(&gateway).await;
    gateway
        .wait_for_metric("queue_delivery_delay_seconds_count", &[HOOKS], 3.0)
        .await;
    let metrics = gateway.metrics().await;
    metrics.assert_value("queue_attempts_total", &[HOOKS, ("result", "2xx")], 3.0);
    metrics.assert_at_least("queue_delivery_delay_seconds_sum", &[HOOKS], 0.3);
    metrics.assert_value("queue_oldest_event_age_seconds", &[HOOKS], 0.0);
    assert_eq!(upstream.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_route_keeps_events_until_it_returns() {
    let (closed, other) = (ClosedPort::new(), Upstream::ok());
    let hooks = || queued(Route::to_url(&closed.url()));
    let rest = || queued(Route::to(&other)).named("other");
    let both = || Setup::new([hooks(), rest()]).stopping_at_once();
    let mut gateway = Gateway::start(both()).await;
    send_accepted(&gateway, numbered(3)).await;
    gateway.rewrite(Setup::new([rest()]).stopping_at_once());
    gateway.signal("HUP");
    eventually("the route is gone", async || {
        gateway.send(Event::new("evt_0")).await.status == 404
    })
    .await;
    let event = Event::new("evt_other").post().at("/webhooks/other");
    gateway.send(event).await.assert(202, "queued");
    other.wait_for_requests(1).await;
    // Neither a reload nor a restart without the route drops its events.
    gateway.stop().await;
    gateway
        .restart_with(Setup::new([rest()]).stopping_at_once())
        .await;
    gateway.rewrite(both());
    gateway.signal("HUP");
    eventually("the route is back", async || {
        gateway.send(Event::new("evt_0")).await.status == 409
    })
    .await;
    let upstream = closed.open([Reply::ok()]);
    wait_for_empty_queue(&gateway).await;
    let mut ids = upstream.event_ids();
    ids.sort();
    assert_eq!(ids, ["evt_0", "evt_1", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_upstream_gets_waiting_events() {
    let (closed, new) = (ClosedPort::new(), Upstream::ok());
    let gateway = Gateway::start(queued(Route::to_url(&closed.url()))).await;
    send_accepted(&gateway, numbered(3)).await;
    gateway.rewrite(queued(Route::to(&new)));
    gateway.signal("HUP");
    new.wait_for_requests(3).await;
    wait_for_empty_queue(&gateway).await;
    assert_eq!(new.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_with_full_queue_loses_nothing() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let setup =
        Setup::from(queued(Route::to(&upstream))).with("shutdown", "{drain: 0s, grace: 1s}");
    let mut gateway = Gateway::start(setup).await;
    send_accepted(&gateway, numbered(100)).await;
    upstream.wait_for_requests(1).await;
    let start = Instant::now();
    assert_eq!(gateway.stop().await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "stopped after {:?}",
        start.elapsed()
    );
    gate.open();
    gateway.restart().await;
    wait_for_empty_queue(&gateway).await;
    let ids: std::collections::BTreeSet<_> = upstream.event_ids().into_iter().collect();
    assert_eq!(ids.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_finishes_attempts_within_grace() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let setup =
        Setup::from(queued(Route::to(&upstream))).with("shutdown", "{drain: 0s, grace: 15s}");
    let mut gateway = Gateway::start(setup).await;
    send_accepted(&gateway, numbered(3)).await;
    upstream.wait_for_requests(3).await;
    gateway.signal("TERM");
    eventually("the listener is closed", async || {
        tokio::net::TcpStream::connect(gateway.public_address())
            .await
            .is_err()
    })
    .await;
    gate.open();
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
    gateway.restart().await;
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[], 0.0);
    assert_eq!(upstream.count(), 3, "no attempt is repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_does_not_send_backlog_at_once() {
    let upstream = Upstream::replying([Reply::ok().slowly(Duration::from_millis(5))]);
    let closed = ClosedPort::new();
    let mut gateway = Gateway::start(setup(
        queued(Route::to_url(&closed.url())).with("concurrency", "4"),
    ))
    .await;
    send_accepted(&gateway, numbered(200)).await;
    gateway.kill().await;
    gateway
        .restart_with(setup(queued(Route::to(&upstream)).with("concurrency", "4")))
        .await;
    wait_for_empty_queue(&gateway).await;
    assert_eq!(upstream.count(), 200);
    assert!(
        upstream.most_concurrent() <= 4,
        "{} attempts at once",
        upstream.most_concurrent()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_stays_on_disk() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let mut gateway = Gateway::start(setup(
        queued(Route::to(&upstream)).with("attempt_timeout", "60s"),
    ))
    .await;
    // These events make the process allocate what it needs for this many senders.
    queue_events(&gateway, "warm", 2_000).await;
    let before = gateway.resident_bytes();
    queue_events(&gateway, "evt", 20_000).await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[HOOKS], 22_000.0);
    // The bodies alone take 20 MiB.
    assert!(
        grown < 16 << 20,
        "20,000 events of 1 KiB on disk, and {} KiB more in memory",
        grown >> 10
    );
    gateway
        .metrics()
        .await
        .assert_at_least("store_bytes", &[], f64::from(20_000 * 1024));
    gateway.kill().await;
    gateway.restart().await;
    let again = gateway.resident_bytes();
    assert!(
        again < before + (16 << 20),
        "{} KiB after the start, {} KiB before",
        again >> 10,
        before >> 10
    );
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[HOOKS], 22_000.0);
}

/// Queues `count` events of 1 KiB over 32 concurrent connections.
async fn queue_events(gateway: &Gateway, prefix: &'static str, count: usize) {
    let senders = 32;
    let sender = |sender: usize| {
        let to = gateway.public_address();
        tokio::spawn(async move {
            let mut client = Client::connect(to).await;
            for number in 0..count / senders + usize::from(sender < count % senders) {
                let event = Event::sized(&format!("{prefix}_{sender}_{number}"), 1024);
                client.send(event).await.assert(202, "queued");
            }
        })
    };
    for task in (0..senders).map(sender).collect::<Vec<_>>() {
        task.await.expect("no panic in a sender");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_without_faults_delivers_exactly_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(queued(Route::to(&upstream))).await;
    let fleet = Fleet::start(&gateway.endpoint(), PATH, 8);
    fleet.wait_for_progress(500).await;
    let sent: Vec<Sent> = fleet.finish().await;
    wait_for_empty_queue(&gateway).await;
    let attempts = upstream.attempts();
    let (disturbances, dead) = (Vec::new(), std::collections::BTreeSet::new());
    let history = History {
        duplicate: Duplicate::Accepted,
        stored_first: true,
        sent,
        attempts,
        disturbances,
        dead,
    };
    history.assert_sound();
    assert_eq!(history.acknowledged(), upstream.count());
}

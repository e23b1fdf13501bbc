//! Accepted now, delivered when the upstream takes it: once if all goes well, never lost, and never in another's way.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::harness::history::Sent;
use crate::harness::upstream::{ClosedPort, Received};
use crate::harness::*;

const HOOKS: (&str, &str) = ("route", "hooks");

/// A queued route that tries again soon.
fn queued(route: Route) -> Route {
    route.with("delivery", "queue").with(
        "retry",
        "{initial: 50ms, factor: 2, max_interval: 500ms, horizon: 1h}",
    )
}

fn setup(route: Route) -> Setup {
    Setup::from(route).stopping_at_once()
}

async fn queue_is_empty(gateway: &Gateway) {
    gateway.metric_reaches("queue_events", &[], 0.0).await;
}

/// Sends events, one after the other, each accepted.
async fn accepted(gateway: &Gateway, ids: impl IntoIterator<Item = String>) {
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
async fn the_sender_is_answered_at_once_although_the_upstream_hangs() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(queued(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued")
        .assert_event_id("evt_1");
    upstream.received(1).await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(202, "queued")
        .assert_event_id("evt_2");
    let metrics = gateway.metrics().await;
    metrics.assert_value("requests_total", &[HOOKS, ("outcome", "queued")], 2.0);
    metrics.assert_value("queue_events", &[HOOKS], 2.0);
    gate.open();
    queue_is_empty(&gateway).await;
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_an_acceptance_may_be_200() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(queued(Route::to(&upstream)).with("accept_status", "200")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "queued")
        .assert_event_id("evt_1");
    queue_is_empty(&gateway).await;
    assert_eq!(upstream.event_ids(), ["evt_1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_an_accepted_event_is_a_duplicate_before_and_after_its_delivery() {
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
    queue_is_empty(&gateway).await;
    gateway.send(event).await.assert_problem(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_at_one_time_are_accepted_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(queued(Route::to(&upstream))).await;
    let copy = |number: usize| {
        let (to, event) = (gateway.data(), Event::new(&format!("evt_{}", number % 10)));
        tokio::spawn(async move { Client::connect(to).await.send(event).await })
    };
    let copies: Vec<_> = (0..80).map(copy).collect();
    let mut queued = 0;
    for copy in copies {
        let answer = within("an answer", copy)
            .await
            .expect("no panic in a sender");
        assert!(
            ["queued", "duplicate", "in_flight"].contains(&answer.outcome()),
            "{answer:?}"
        );
        queued += usize::from(answer.outcome() == "queued");
    }
    queue_is_empty(&gateway).await;
    assert_eq!((queued, upstream.count()), (10, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_brings_what_the_sender_sent() {
    // Closed in between: a kept connection that proves dead would be replaced within the attempt.
    let upstream = Upstream::replying([Reply::status(503).then_close(), Reply::cut(), Reply::ok()]);
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
    upstream.received(3).await;
    queue_is_empty(&gateway).await;
    let requests = upstream.requests();
    assert_eq!(attempt_numbers(&requests), ["1", "2", "3"]);
    let mut told = Vec::new();
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
        told.push(
            request
                .header("Hookstile-Received-At")
                .expect("a time")
                .to_owned(),
        );
    }
    requests[1].assert_no_header("Hookstile-Possible-Duplicate");
    requests[2].assert_header("Hookstile-Possible-Duplicate", "true");
    told.dedup();
    assert_eq!(
        told.len(),
        1,
        "the time of arrival, whatever attempt it is: {told:?}"
    );
    let arrived: Timestamp = told[0].parse().expect("RFC 3339");
    let millisecond = jiff::SignedDuration::from_millis(1);
    assert!(
        (before - millisecond..=after).contains(&arrived),
        "{arrived} is between {before} and {after}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_senders_own_idempotency_key_and_a_large_body_are_kept() {
    let upstream = Upstream::replying([Reply::status(500), Reply::ok()]);
    let gateway = Gateway::start(queued(Route::to(&upstream)).with("max_body", "4MiB")).await;
    let event = Event::sized("evt_1", 3 << 20);
    gateway
        .send(event.post().header("Idempotency-Key", "theirs"))
        .await
        .assert(202, "queued");
    upstream.received(2).await;
    queue_is_empty(&gateway).await;
    for request in upstream.requests() {
        request.assert_header("Idempotency-Key", "theirs");
        assert!(request.body == event.body, "byte for byte");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_upstream_is_tried_until_it_takes_the_event() {
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
    upstream.received(statuses.len() + 1).await;
    queue_is_empty(&gateway).await;
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
async fn an_attempt_that_timed_out_is_of_unknown_outcome_and_the_next_one_says_so() {
    let upstream = Upstream::replying([Reply::hang(), Reply::status(500), Reply::ok()]);
    let gateway =
        Gateway::start(queued(Route::to(&upstream)).with("attempt_timeout", "300ms")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.received(3).await;
    queue_is_empty(&gateway).await;
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

/// Sends an event, and answers how long after the first attempt at it the second one came.
async fn pause_after_the_first_attempt(gateway: &Gateway, upstream: &Upstream) -> Duration {
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.received(2).await;
    let requests = upstream.requests();
    requests[1].at - requests[0].at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_in_seconds_is_waited_for() {
    let upstream = Upstream::replying([Reply::full(503, "Retry-After: 2\r\n", b""), Reply::ok()]);
    let route = queued(Route::to(&upstream)).with("retry", "{initial: 10ms, max_interval: 1m}");
    let gateway = Gateway::start(route).await;
    let waited = pause_after_the_first_attempt(&gateway, &upstream).await;
    assert!(
        waited >= Duration::from_secs(2),
        "tried again after {waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_as_a_date_is_waited_for() {
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
    let waited = pause_after_the_first_attempt(&gateway, &upstream).await;
    // Such a date has whole seconds: it lies between two and three seconds ahead.
    assert!(
        waited >= Duration::from_millis(1900),
        "tried again after {waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_is_waited_for_no_longer_than_the_longest_interval() {
    let upstream =
        Upstream::replying([Reply::full(503, "Retry-After: 86400\r\n", b""), Reply::ok()]);
    let route = queued(Route::to(&upstream)).with("retry", "{initial: 10ms, max_interval: 200ms}");
    let gateway = Gateway::start(route).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.received(2).await;
    queue_is_empty(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_refusal_is_believed_the_third_time() {
    for status in [410, 404, 400, 422] {
        let upstream = Upstream::replying([Reply::status(status)]);
        let gateway = Gateway::start(queued(Route::to(&upstream))).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(202, "queued");
        gateway
            .metric_reaches("queue_events", &[HOOKS, ("state", "dead")], 1.0)
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
async fn an_event_that_outlives_the_horizon_becomes_a_dead_letter_and_stays_one() {
    let closed = ClosedPort::new();
    let route = queued(Route::to_url(&closed.url()));
    let route = route.with("retry", "{initial: 50ms, max_interval: 200ms, horizon: 1s}");
    let mut gateway = Gateway::start(setup(route)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .metric_reaches("queue_events", &[HOOKS, ("state", "dead")], 1.0)
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
async fn concurrency_bounds_the_attempts_in_flight_and_no_more() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(queued(Route::to(&upstream)).with("concurrency", "3")).await;
    accepted(&gateway, numbered(10)).await;
    upstream.received(3).await;
    gateway
        .metric_reaches("queue_events", &[HOOKS, ("state", "delivering")], 3.0)
        .await;
    gateway
        .metric_reaches("queue_events", &[HOOKS, ("state", "pending")], 7.0)
        .await;
    assert_eq!(upstream.count(), 3);
    gate.open();
    queue_is_empty(&gateway).await;
    assert_eq!((upstream.count(), upstream.most_at_once()), (10, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_hangs_or_is_gone_does_not_delay_another_routes_events() {
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
    // More than may be in flight at once.
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
        well.received(number + 1).await;
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
async fn first_attempts_are_made_in_the_order_of_arrival() {
    let expected: Vec<_> = numbered(50).collect();
    // One at a time, whatever waits: a gate makes all of them wait.
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(queued(Route::to(&upstream)).with("concurrency", "1")).await;
    accepted(&gateway, numbered(50)).await;
    gate.open();
    queue_is_empty(&gateway).await;
    assert_eq!(upstream.event_ids(), expected);
    // Several at a time, from a sender that waits for each acceptance.
    let upstream = Upstream::ok();
    let gateway = Gateway::start(queued(Route::to(&upstream))).await;
    accepted(&gateway, numbered(50)).await;
    queue_is_empty(&gateway).await;
    assert_eq!(upstream.event_ids(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_delivered_once_after_a_stop_and_after_a_kill() {
    for killed in [false, true] {
        let closed = ClosedPort::new();
        let mut gateway = Gateway::start(setup(queued(Route::to_url(&closed.url())))).await;
        accepted(&gateway, numbered(20)).await;
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
        queue_is_empty(&gateway).await;
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
async fn an_attempt_cut_off_by_a_kill_is_made_again_and_told() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let mut gateway = Gateway::start(setup(queued(Route::to(&upstream)))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.received(1).await;
    gateway.kill().await;
    gateway.restart().await;
    upstream.received(2).await;
    queue_is_empty(&gateway).await;
    upstream.requests()[1].assert_header("Hookstile-Possible-Duplicate", "true");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_accepted_is_never_queued() {
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
    queue_is_empty(&gateway).await;
    assert_eq!(upstream.event_ids(), ["evt_5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_seen_in_the_metrics() {
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
    start.assert_value("queue_delivery_delay_seconds_count", &[HOOKS], 0.0);
    accepted(&gateway, numbered(3)).await;
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
    queue_is_empty(&gateway).await;
    gateway
        .metric_reaches("queue_delivery_delay_seconds_count", &[HOOKS], 3.0)
        .await;
    let metrics = gateway.metrics().await;
    metrics.assert_value("queue_attempts_total", &[HOOKS, ("result", "2xx")], 3.0);
    metrics.assert_at_least("queue_delivery_delay_seconds_sum", &[HOOKS], 0.3);
    metrics.assert_value("queue_oldest_event_age_seconds", &[HOOKS], 0.0);
    assert_eq!(upstream.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_removed_keeps_its_events_and_delivers_them_when_it_is_back() {
    let (closed, other) = (ClosedPort::new(), Upstream::ok());
    let hooks = || queued(Route::to_url(&closed.url()));
    let rest = || queued(Route::to(&other)).named("other");
    let both = || Setup::new([hooks(), rest()]).stopping_at_once();
    let mut gateway = Gateway::start(both()).await;
    accepted(&gateway, numbered(3)).await;
    gateway.rewrite(Setup::new([rest()]).stopping_at_once());
    gateway.signal("HUP");
    eventually("the route is gone", async || {
        gateway.send(Event::new("evt_0")).await.status == 404
    })
    .await;
    let event = Event::new("evt_other").post().at("/webhooks/other");
    gateway.send(event).await.assert(202, "queued");
    other.received(1).await;
    // Neither a reload nor a restart without the route forgets them.
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
    queue_is_empty(&gateway).await;
    let mut ids = upstream.event_ids();
    ids.sort();
    assert_eq!(ids, ["evt_0", "evt_1", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_upstream_gets_what_waits() {
    let (closed, new) = (ClosedPort::new(), Upstream::ok());
    let gateway = Gateway::start(queued(Route::to_url(&closed.url()))).await;
    accepted(&gateway, numbered(3)).await;
    gateway.rewrite(queued(Route::to(&new)));
    gateway.signal("HUP");
    new.received(3).await;
    queue_is_empty(&gateway).await;
    assert_eq!(new.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_with_a_full_queue_ends_in_time_and_loses_nothing() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let setup =
        Setup::from(queued(Route::to(&upstream))).with("shutdown", "{drain: 0s, grace: 1s}");
    let mut gateway = Gateway::start(setup).await;
    accepted(&gateway, numbered(100)).await;
    upstream.received(1).await;
    let start = Instant::now();
    assert_eq!(gateway.stop().await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "stopped after {:?}",
        start.elapsed()
    );
    gate.open();
    gateway.restart().await;
    queue_is_empty(&gateway).await;
    let ids: std::collections::BTreeSet<_> = upstream.event_ids().into_iter().collect();
    assert_eq!(ids.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_in_flight_are_finished_within_the_grace_of_a_stop() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let setup =
        Setup::from(queued(Route::to(&upstream))).with("shutdown", "{drain: 0s, grace: 15s}");
    let mut gateway = Gateway::start(setup).await;
    accepted(&gateway, numbered(3)).await;
    upstream.received(3).await;
    gateway.signal("TERM");
    eventually("the listener is closed", async || {
        tokio::net::TcpStream::connect(gateway.data())
            .await
            .is_err()
    })
    .await;
    gate.open();
    assert_eq!(gateway.exited().await.code(), Some(0));
    gateway.restart().await;
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[], 0.0);
    assert_eq!(upstream.count(), 3, "none was made twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_does_not_send_a_backlog_all_at_once() {
    let upstream = Upstream::replying([Reply::ok().slowly(Duration::from_millis(5))]);
    let closed = ClosedPort::new();
    let mut gateway = Gateway::start(setup(
        queued(Route::to_url(&closed.url())).with("concurrency", "4"),
    ))
    .await;
    accepted(&gateway, numbered(200)).await;
    gateway.kill().await;
    gateway
        .restart_with(setup(queued(Route::to(&upstream)).with("concurrency", "4")))
        .await;
    queue_is_empty(&gateway).await;
    assert_eq!(upstream.count(), 200);
    assert!(
        upstream.most_at_once() <= 4,
        "{} attempts at once",
        upstream.most_at_once()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_stays_on_disk_and_not_in_memory() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let mut gateway = Gateway::start(setup(
        queued(Route::to(&upstream)).with("attempt_timeout", "60s"),
    ))
    .await;
    // Whatever it needs for so many senders at once, it has after these.
    fill(&gateway, "warm", 2_000).await;
    let before = gateway.resident_bytes();
    fill(&gateway, "evt", 20_000).await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[HOOKS], 22_000.0);
    // The bodies alone are 20 MiB.
    assert!(
        grown < 12 << 20,
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
        again < before + (12 << 20),
        "{} KiB after the start, {} KiB before",
        again >> 10,
        before >> 10
    );
    gateway
        .metrics()
        .await
        .assert_value("queue_events", &[HOOKS], 22_000.0);
}

/// Queues so many events of 1 KiB, from 32 connections at once.
async fn fill(gateway: &Gateway, prefix: &'static str, count: usize) {
    let senders = 32;
    let sender = |sender: usize| {
        let to = gateway.data();
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
async fn under_load_without_any_trouble_every_event_is_delivered_exactly_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(queued(Route::to(&upstream))).await;
    let fleet = Fleet::start(&gateway.front(), PATH, 8);
    fleet.progresses(500).await;
    let sent: Vec<Sent> = fleet.finish().await;
    queue_is_empty(&gateway).await;
    let attempts = upstream.attempts();
    let (disturbances, dead) = (Vec::new(), std::collections::BTreeSet::new());
    let history = History {
        duplicate: Duplicate::IsAccepted,
        sent,
        attempts,
        disturbances,
        dead,
    };
    history.assert_sound();
    assert_eq!(history.acknowledged(), upstream.count());
}

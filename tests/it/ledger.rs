//! The ledger: an event is delivered once, and a failed delivery never loses it.

use serde_json::json;

use crate::harness::upstream::ClosedPort;
use crate::harness::*;

/// Sends the request in the background.
fn send_in_background(
    gateway: &Gateway,
    request: impl Into<Request>,
) -> tokio::task::JoinHandle<Response> {
    let (to, request) = (gateway.public_address(), request.into());
    tokio::spawn(async move { Client::connect(to).await.send(request).await })
}

async fn response_of(task: tokio::task::JoinHandle<Response>) -> Response {
    within("the background sender's answer", task)
        .await
        .expect("no panic in the sender")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completed_event_is_never_forwarded_again() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let event = Event::new("evt_1");
    gateway.send(event.clone()).await.assert(200, "delivered");
    let mut kept = gateway.connect().await;
    let mut h2 = gateway.connect_h2().await;
    for _ in 0..5 {
        kept.send(event.clone()).await.assert(409, "duplicate");
        kept.send(event.post().chunked(3))
            .await
            .assert(409, "duplicate");
        h2.send(event.clone()).await.assert(409, "duplicate");
    }
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
    let metrics = gateway.metrics().await;
    metrics.assert_value(
        "ledger_checks_total",
        &[("route", "hooks"), ("result", "new")],
        2.0,
    );
    metrics.assert_value(
        "ledger_checks_total",
        &[("route", "hooks"), ("result", "duplicate")],
        15.0,
    );
    metrics.assert_value("ledger_entries", &[], 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_event_is_released_for_retry() {
    for status in [500, 503, 400, 404, 409, 410, 429, 301, 304] {
        let upstream = Upstream::replying([Reply::status(status), Reply::ok()]);
        let gateway = Gateway::start(Route::to(&upstream)).await;
        let event = Event::new("evt_1");
        let response = gateway.send(event.clone()).await;
        assert_eq!(response.outcome(), "upstream_rejected", "upstream {status}");
        gateway.send(event.clone()).await.assert(200, "delivered");
        upstream.last().assert_header("Hookstile-Attempt", "2");
        upstream
            .last()
            .assert_no_header("Hookstile-Possible-Duplicate");
        gateway.send(event).await.assert(409, "duplicate");
        assert_eq!(upstream.count(), 2, "upstream {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_are_counted_until_success() {
    let upstream = Upstream::replying([
        Reply::status(500),
        Reply::status(503),
        Reply::status(404),
        Reply::ok(),
    ]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for _ in 0..4 {
        gateway.send(Event::new("evt_1")).await;
    }
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    let attempts: Vec<_> = upstream
        .requests()
        .iter()
        .map(|r| r.header("Hookstile-Attempt").map(str::to_owned))
        .collect();
    assert_eq!(attempts, ["1", "2", "3", "4"].map(|n| Some(n.to_owned())));
    gateway
        .wait_for_request_log(json!({"event_id": "evt_1", "outcome": "delivered", "attempt": 4}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn released_event_may_change_its_body() {
    let upstream = Upstream::replying([Reply::status(500), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::typed("evt_1", "first.try"))
        .await
        .assert(500, "upstream_rejected");
    gateway
        .send(Event::typed("evt_1", "second.try"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::typed("evt_1", "first.try"))
        .await
        .assert(409, "payload_mismatch");
    gateway
        .send(Event::typed("evt_1", "second.try"))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreached_upstream_releases_event_unmarked() {
    let closed = ClosedPort::new();
    let gateway = Gateway::start(Route::to_url(&closed.url())).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(502, "upstream_unreachable");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(502, "upstream_unreachable");
    let upstream = closed.open([Reply::ok()]);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Duplicate");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_delivery_marks_its_retry() {
    let upstream = Upstream::replying([Reply::disconnect(), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(502, "upstream_unreachable");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    upstream.requests()[0].assert_no_header("Hookstile-Possible-Duplicate");
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
    upstream.last().assert_header("Hookstile-Attempt", "2");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    gateway.metrics().await.assert_value(
        "upstream_requests_total",
        &[("route", "hooks"), ("result", "broken")],
        1.0,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timed_out_delivery_marks_its_retry() {
    let upstream = Upstream::replying([Reply::hang(), Reply::ok()]);
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("budget", "2s")
            .with("budget_margin", "500ms"),
    )
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(504, "budget_exceeded")
        .assert_event_id("evt_1");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
    upstream.last().assert_header("Hookstile-Attempt", "2");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    gateway.metrics().await.assert_value(
        "upstream_requests_total",
        &[("route", "hooks"), ("result", "timeout")],
        1.0,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_copies_are_delivered_once() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let copies: Vec<_> = (0..16)
        .map(|_| send_in_background(&gateway, Event::new("evt_1")))
        .collect();
    upstream.wait_for_requests(1).await;
    // One copy is being delivered and four wait for it; the other eleven are answered at once.
    eventually("all but five copies are answered", async || {
        copies.iter().filter(|copy| copy.is_finished()).count() == 11
    })
    .await;
    assert_eq!(upstream.count(), 1);
    gate.open();
    let mut outcomes = std::collections::BTreeMap::new();
    for copy in copies {
        let response = response_of(copy).await;
        if response.outcome() == "in_flight" {
            response
                .assert_problem(409, "in_flight")
                .assert_retry_after()
                .assert_event_id("evt_1");
        }
        *outcomes
            .entry((response.status, response.outcome().to_owned()))
            .or_insert(0) += 1;
    }
    let expected = [
        ((200, "delivered".to_owned()), 1),
        ((409, "duplicate".to_owned()), 4),
        ((409, "in_flight".to_owned()), 11),
    ];
    assert_eq!(outcomes, expected.into());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_events_are_delivered_once_each() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let events = (0..80)
        .map(|n| send_in_background(&gateway, Event::new(&format!("evt_{}", n % 20))))
        .collect::<Vec<_>>();
    let mut delivered = 0;
    for task in events {
        let response = response_of(task).await;
        assert!(
            ["delivered", "duplicate", "in_flight"].contains(&response.outcome()),
            "{response:?}"
        );
        delivered += usize::from(response.outcome() == "delivered");
    }
    let mut ids = upstream.event_ids();
    ids.sort();
    ids.dedup();
    assert_eq!((delivered, upstream.count(), ids.len()), (20, 20, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_flight_reject_answers_copy_at_once() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(Route::to(&upstream).with("replay", "{in_flight: reject}")).await;
    let first = send_in_background(&gateway, Event::new("evt_1"));
    upstream.wait_for_requests(1).await;
    let copy = gateway.send(Event::new("evt_1")).await;
    copy.assert_problem(409, "in_flight").assert_retry_after();
    assert!(
        !first.is_finished(),
        "the copy was answered while the first was being delivered"
    );
    gate.open();
    response_of(first).await.assert(200, "delivered");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_copy_is_tried_after_release() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::status(500).after(&gate), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let first = send_in_background(&gateway, Event::new("evt_1"));
    upstream.wait_for_requests(1).await;
    let copy = send_in_background(&gateway, Event::new("evt_1"));
    gateway
        .wait_for_metric("requests_in_flight", &[], 2.0)
        .await;
    assert_eq!(upstream.count(), 1);
    gate.open();
    response_of(first).await.assert(500, "upstream_rejected");
    response_of(copy).await.assert(200, "delivered");
    upstream.last().assert_header("Hookstile-Attempt", "2");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_copies_are_tried_one_at_a_time() {
    let gates = [Gate::shut(), Gate::shut(), Gate::shut()];
    let replies: Vec<_> = gates
        .iter()
        .map(|gate| Reply::status(500).after(gate))
        .collect();
    let upstream = Upstream::replying(replies);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let copies: Vec<_> = (0..3)
        .map(|_| send_in_background(&gateway, Event::new("evt_1")))
        .collect();
    gateway
        .wait_for_metric("requests_in_flight", &[], 3.0)
        .await;
    for (number, gate) in gates.iter().enumerate() {
        upstream.wait_for_requests(number + 1).await;
        assert_eq!(upstream.count(), number + 1, "one attempt at a time");
        gate.open();
    }
    for copy in copies {
        response_of(copy).await.assert(500, "upstream_rejected");
    }
    assert_eq!(upstream.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_in_flight_does_not_block_another() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let held = send_in_background(&gateway, Event::new("evt_1"));
    upstream.wait_for_requests(1).await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    assert!(!held.is_finished());
    gate.open();
    response_of(held).await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_up_sender_does_not_stop_delivery() {
    for politely in [true, false] {
        let gate = Gate::shut();
        let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
        let gateway = Gateway::start(Route::to(&upstream)).await;
        let mut sender = gateway.connect().await;
        sender.write(&Event::new("evt_1").post().bytes()).await;
        upstream.wait_for_requests(1).await;
        if politely {
            drop(sender);
        } else {
            sender.reset();
        }
        // Other events come and go meanwhile, which gives the gateway time to notice the hang-up.
        for number in 0..50 {
            gateway
                .send(Event::new(&format!("evt_other_{number}")))
                .await
                .assert(200, "delivered");
        }
        let copy = send_in_background(&gateway, Event::new("evt_1"));
        gate.open();
        response_of(copy).await.assert(409, "duplicate");
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert(409, "duplicate");
        assert_eq!(
            upstream
                .event_ids()
                .iter()
                .filter(|id| *id == "evt_1")
                .count(),
            1
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2c_reset_does_not_stop_delivery() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect_h2().await;
    let sending = tokio::spawn(async move { client.try_send(Event::new("evt_1"), &[]).await });
    upstream.wait_for_requests(1).await;
    sending.abort();
    let _ = sending.await;
    for number in 0..50 {
        gateway
            .send(Event::new(&format!("evt_other_{number}")))
            .await
            .assert(200, "delivered");
    }
    gate.open();
    gateway
        .wait_for_metric(
            "upstream_requests_total",
            &[("route", "hooks"), ("result", "2xx")],
            51.0,
        )
        .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.count(), 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hang_up_within_body_leaves_nothing() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut bytes = Event::sized("evt_1", 5000).post().bytes();
    bytes.truncate(bytes.len() - 1);
    let mut sender = gateway.connect().await;
    sender.write(&bytes).await;
    sender.reset();
    gateway
        .wait_for_metric("requests_in_flight", &[], 0.0)
        .await;
    upstream.assert_untouched();
    gateway
        .send(Event::sized("evt_1", 5000))
        .await
        .assert(200, "delivered");
    upstream.last().assert_header("Hookstile-Attempt", "1");
    gateway
        .metrics()
        .await
        .assert_value("body_bytes_in_flight", &[], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_id_on_two_routes_is_two_events() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream).named("one"),
        Route::to(&upstream).named("two"),
    ]))
    .await;
    let event = Event::new("evt_1");
    gateway
        .send(event.post().at("/webhooks/one"))
        .await
        .assert(200, "delivered");
    gateway
        .send(event.post().at("/webhooks/two"))
        .await
        .assert(200, "delivered");
    gateway
        .send(event.post().at("/webhooks/one"))
        .await
        .assert(409, "duplicate");
    gateway
        .send(event.post().at("/webhooks/two"))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_differing_in_anything_are_distinct() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let ids = [
        "evt_1",
        "EVT_1",
        "evt_1 ",
        " evt_1",
        "evt_10",
        "evt_",
        "hooks",
        "hooks:evt_1",
        "\u{e9}",
        "e\u{301}",
    ];
    for id in ids {
        gateway.send(Event::new(id)).await.assert(200, "delivered");
    }
    assert_eq!(upstream.count(), ids.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_is_never_acknowledged_before_success() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::status(500).after(&gate), Reply::status(500)]);
    let gateway =
        Gateway::start(Route::to(&upstream).with("replay", "{on_duplicate: acknowledge}")).await;
    let first = send_in_background(&gateway, Event::new("evt_1"));
    upstream.wait_for_requests(1).await;
    let copy = send_in_background(&gateway, Event::new("evt_1"));
    gateway
        .wait_for_metric("requests_in_flight", &[], 2.0)
        .await;
    gate.open();
    response_of(first).await.assert(500, "upstream_rejected");
    response_of(copy).await.assert(500, "upstream_rejected");
}

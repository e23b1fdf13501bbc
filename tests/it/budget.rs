//! Every request is answered within its budget, whatever is slow. Only these tests measure time.

use std::time::{Duration, Instant};

use crate::harness::upstream::{ClosedPort, NeverAccepts};
use crate::harness::*;

const BUDGET: Duration = Duration::from_secs(2);

/// Gives the route a budget of two seconds, half a second of which is reserved for the response.
fn with_short_budget(route: Route) -> Route {
    route.with("budget", "2s").with("budget_margin", "500ms")
}

/// Asserts that the response came before the end of the budget, but only after waiting for most of
/// it.
#[track_caller]
fn assert_in_time(elapsed: Duration) {
    assert!(
        elapsed < BUDGET,
        "answered after {elapsed:?}, the budget is {BUDGET:?}"
    );
    assert!(
        elapsed > Duration::from_millis(700),
        "answered after {elapsed:?}: the gateway did not wait"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_upstream_is_cut_in_budget() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    let (response, elapsed) = gateway.send_timed(Event::new("evt_1")).await;
    response
        .assert_problem(504, "budget_exceeded")
        .assert_event_id("evt_1");
    assert_in_time(elapsed);
    assert_eq!(upstream.count(), 1, "a sent request is not repeated");
    eventually("the upstream connection is closed", async || {
        upstream.open() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_upstream_is_cut_in_budget_over_h2c() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    let mut client = gateway.connect_h2().await;
    let start = Instant::now();
    client
        .send(Event::new("evt_1"))
        .await
        .assert_problem(504, "budget_exceeded");
    assert_in_time(start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_response_is_cut_in_budget() {
    let half_head = Reply::raw("HTTP/1.1 200 OK\r\nContent-Le").then_stall();
    let half_body =
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.").then_stall();
    let half_chunk =
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nten").then_stall();
    let no_end = Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nno end").then_stall();
    for reply in [half_head, half_body, half_chunk, no_end] {
        let upstream = Upstream::replying([reply]);
        let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
        let (response, elapsed) = gateway.send_timed(Event::new("evt_1")).await;
        response.assert_problem(504, "budget_exceeded");
        assert_in_time(elapsed);
        eventually("the upstream connection is closed", async || {
            upstream.open() == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unaccepting_upstream_is_cut_in_budget() {
    let never = NeverAccepts::new().await;
    let gateway = Gateway::start(with_short_budget(Route::to_url(&never.url()))).await;
    let (response, elapsed) = gateway.send_timed(Event::new("evt_1")).await;
    response
        .assert_problem(504, "budget_exceeded")
        .assert_event_id("evt_1");
    assert_in_time(elapsed);
    let upstream = never.accept();
    let mut client = gateway.connect().await;
    eventually("the retry is delivered", async || {
        client.send(Event::new("evt_1")).await.outcome() == "delivered"
    })
    .await;
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connection_fails_at_once() {
    let closed = ClosedPort::new();
    let gateway = Gateway::start(with_short_budget(Route::to_url(&closed.url()))).await;
    let (response, elapsed) = gateway.send_timed(Event::new("evt_1")).await;
    response.assert_problem(502, "upstream_unreachable");
    assert!(elapsed < BUDGET, "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dripping_body_is_cut_in_budget() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    for request in [
        Event::sized("evt_1", 4000).post(),
        Event::sized("evt_1", 4000).post().chunked(1),
    ] {
        let mut client = gateway.connect().await;
        let start = Instant::now();
        client.write(&request.head_bytes()).await;
        let response = client
            .trickle(&request.body_bytes(), Duration::from_millis(20))
            .await
            .expect("an answer");
        response.assert_problem(408, "body_timeout");
        assert_in_time(start.elapsed());
        client.rest().await;
    }
    upstream.assert_untouched();
    gateway
        .send(Event::sized("evt_1", 4000))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_body_is_cut_in_budget() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    let request = Event::new("evt_1").post();
    let heads = [
        request.head_bytes(),
        request.clone().chunked(10).head_bytes(),
        {
            let mut short = request.bytes();
            short.pop();
            short
        },
    ];
    for head in heads {
        let mut client = gateway.connect().await;
        let start = Instant::now();
        client.write(&head).await;
        client
            .read_response()
            .await
            .assert_problem(408, "body_timeout");
        assert_in_time(start.elapsed());
        client.wait_for_close().await;
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_h2c_body_is_cut_in_budget() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    let mut client = gateway.connect_h2().await;
    let start = Instant::now();
    client
        .send_unfinished(Event::new("evt_1").post())
        .await
        .assert(408, "body_timeout");
    assert_in_time(start.elapsed());
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dripping_head_is_cut() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{header_timeout: 1s}");
    let gateway = Gateway::start(setup).await;
    let head = Event::new("evt_1")
        .post()
        .header("X-Long", &"x".repeat(4000))
        .head_bytes();
    let mut client = gateway.connect().await;
    let start = Instant::now();
    let response = client
        .trickle(&head, Duration::from_millis(20))
        .await
        .expect("an answer");
    let elapsed = start.elapsed();
    response.assert_problem(408, "body_timeout");
    assert!(
        elapsed > Duration::from_millis(500) && elapsed < Duration::from_secs(5),
        "{elapsed:?}"
    );
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_head_is_cut_on_any_connection() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{header_timeout: 1s}");
    let gateway = Gateway::start(setup).await;
    let mut kept = gateway.connect().await;
    kept.send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    for mut client in [gateway.connect().await, kept] {
        let start = Instant::now();
        client
            .write(b"POST /webhooks/vpn-enterprise HTTP/1.1\r\nHost: hooks.test\r\nX-Un")
            .await;
        client
            .read_response()
            .await
            .assert_problem(408, "body_timeout");
        client.wait_for_close().await;
        let elapsed = start.elapsed();
        assert!(
            elapsed > Duration::from_millis(500) && elapsed < Duration::from_secs(5),
            "{elapsed:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budget_starts_at_first_byte_of_head() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    let bytes = Event::new("evt_1").post().bytes();
    let mut client = gateway.connect().await;
    let start = Instant::now();
    client.write(&bytes[..10]).await;
    // The sender is slow on purpose; this delay is part of the claim.
    tokio::time::sleep(Duration::from_millis(900)).await;
    client.write(&bytes[10..]).await;
    client
        .read_response()
        .await
        .assert_problem(504, "budget_exceeded");
    assert_in_time(start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_body_shortens_upstream_time() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    let request = Event::new("evt_1").post();
    let mut client = gateway.connect().await;
    let start = Instant::now();
    client.write(&request.head_bytes()).await;
    // The sender is slow on purpose; this delay is part of the claim.
    tokio::time::sleep(Duration::from_millis(900)).await;
    client.write(&request.body_bytes()).await;
    client
        .read_response()
        .await
        .assert_problem(504, "budget_exceeded");
    assert_in_time(start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection_spends_no_budget() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("budget", "1s")
            .with("budget_margin", "300ms"),
    )
    .await;
    let mut client = gateway.connect().await;
    for number in 0..2 {
        // Longer than the budget; this delay is part of the claim.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection_is_closed_silently() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{idle_timeout: 1s}");
    let gateway = Gateway::start(setup).await;
    let mut client = gateway.connect().await;
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    client.wait_for_close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_pooled_failure_gets_no_second_budget() {
    let gate = Gate::shut();
    let upstream =
        Upstream::replying([Reply::ok(), Reply::disconnect().after(&gate), Reply::hang()]);
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let opening = async {
        upstream.wait_for_requests(2).await;
        // The receiver is slow on purpose; this delay is part of the claim.
        tokio::time::sleep(Duration::from_millis(700)).await;
        gate.open();
    };
    let ((response, elapsed), ()) = tokio::join!(gateway.send_timed(Event::new("evt_2")), opening);
    response.assert_problem(504, "budget_exceeded");
    assert_in_time(elapsed);
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_copy_has_its_own_budget() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    let first = gateway.send_timed(Event::new("evt_1"));
    let copy = async {
        upstream.wait_for_requests(1).await;
        gateway.send_timed(Event::new("evt_1")).await
    };
    let ((first, _), (copy, elapsed)) = tokio::join!(first, copy);
    first.assert_problem(504, "budget_exceeded");
    assert!(
        ["in_flight", "budget_exceeded"].contains(&copy.outcome()),
        "{copy:?}"
    );
    assert!(elapsed < BUDGET, "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budget_outlives_gone_sender() {
    let upstream = Upstream::replying([Reply::hang(), Reply::ok()]);
    let gateway = Gateway::start(with_short_budget(Route::to(&upstream))).await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.wait_for_requests(1).await;
    sender.reset();
    gateway
        .wait_for_metric(
            "upstream_requests_total",
            &[("route", "hooks"), ("result", "timeout")],
            1.0,
        )
        .await;
    eventually("the upstream connection is closed", async || {
        upstream.open() == 0
    })
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_budget_is_ten_seconds() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let (response, elapsed) = gateway.send_timed(Event::new("evt_1")).await;
    response.assert_problem(504, "budget_exceeded");
    assert!(
        elapsed > Duration::from_secs(8) && elapsed < Duration::from_secs(10),
        "{elapsed:?}"
    );
}

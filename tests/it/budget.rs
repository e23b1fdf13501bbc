//! Every request is answered inside its budget, whatever is slow. The only tests that look at the time.

use std::time::{Duration, Instant};

use crate::harness::upstream::{ClosedPort, NeverAccepts};
use crate::harness::*;

const BUDGET: Duration = Duration::from_secs(2);

/// A route with two seconds to answer in, half a second of them kept in hand.
fn hurried(route: Route) -> Route {
    route.with("budget", "2s").with("budget_margin", "500ms")
}

/// Answered before the budget was spent, and not long before: it was waited for.
#[track_caller]
fn assert_in_time(elapsed: Duration) {
    assert!(
        elapsed < BUDGET,
        "answered after {elapsed:?}, the budget is {BUDGET:?}"
    );
    assert!(
        elapsed > Duration::from_millis(700),
        "answered after {elapsed:?}: nothing was waited for"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_upstream_is_answered_inside_the_budget_and_let_go() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
    let (answer, elapsed) = gateway.timed(Event::new("evt_1")).await;
    answer
        .assert_problem(504, "budget_exceeded")
        .assert_event_id("evt_1");
    assert_in_time(elapsed);
    assert_eq!(
        upstream.count(),
        1,
        "a request that was sent is not sent again"
    );
    eventually("the upstream connection is closed", async || {
        upstream.open() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_upstream_is_answered_inside_the_budget_over_h2c() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
    let mut client = gateway.connect_h2().await;
    let start = Instant::now();
    client
        .send(Event::new("evt_1"))
        .await
        .assert_problem(504, "budget_exceeded");
    assert_in_time(start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_upstream_head_or_body_is_answered_inside_the_budget() {
    let half_head = Reply::raw("HTTP/1.1 200 OK\r\nContent-Le").then_stall();
    let half_body =
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.").then_stall();
    let half_chunk =
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nten").then_stall();
    let no_end = Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nno end").then_stall();
    for reply in [half_head, half_body, half_chunk, no_end] {
        let upstream = Upstream::replying([reply]);
        let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
        let (answer, elapsed) = gateway.timed(Event::new("evt_1")).await;
        answer.assert_problem(504, "budget_exceeded");
        assert_in_time(elapsed);
        eventually("the upstream connection is closed", async || {
            upstream.open() == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_never_accepts_is_answered_inside_the_budget_and_the_event_released() {
    let never = NeverAccepts::new().await;
    let gateway = Gateway::start(hurried(Route::to_url(&never.url()))).await;
    let (answer, elapsed) = gateway.timed(Event::new("evt_1")).await;
    answer
        .assert_problem(504, "budget_exceeded")
        .assert_event_id("evt_1");
    assert_in_time(elapsed);
    let upstream = never.accept();
    let mut client = gateway.connect().await;
    eventually("the retry passes", async || {
        client.send(Event::new("evt_1")).await.outcome() == "delivered"
    })
    .await;
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_answered_without_waiting_for_the_budget_to_end() {
    let closed = ClosedPort::new();
    let gateway = Gateway::start(hurried(Route::to_url(&closed.url()))).await;
    let (answer, elapsed) = gateway.timed(Event::new("evt_1")).await;
    answer.assert_problem(502, "upstream_unreachable");
    assert!(elapsed < BUDGET, "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_sent_a_byte_at_a_time_is_cut_inside_the_budget() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
    for request in [
        Event::sized("evt_1", 4000).post(),
        Event::sized("evt_1", 4000).post().chunked(1),
    ] {
        let mut client = gateway.connect().await;
        let start = Instant::now();
        client.write(&request.head_bytes()).await;
        let answer = client
            .trickle(&request.body_bytes(), Duration::from_millis(20))
            .await
            .expect("an answer");
        answer.assert_problem(408, "body_timeout");
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
async fn a_body_that_never_comes_is_cut_inside_the_budget() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
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
        client.answer().await.assert_problem(408, "body_timeout");
        assert_in_time(start.elapsed());
        client.closed().await;
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_never_ends_over_h2c_is_cut_inside_the_budget() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
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
async fn a_head_sent_a_byte_at_a_time_is_cut() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{header_timeout: 1s}");
    let gateway = Gateway::start(setup).await;
    let head = Event::new("evt_1")
        .post()
        .header("X-Long", &"x".repeat(4000))
        .head_bytes();
    let mut client = gateway.connect().await;
    let start = Instant::now();
    let answer = client
        .trickle(&head, Duration::from_millis(20))
        .await
        .expect("an answer");
    let elapsed = start.elapsed();
    answer.assert_problem(408, "body_timeout");
    assert!(
        elapsed > Duration::from_millis(500) && elapsed < Duration::from_secs(5),
        "{elapsed:?}"
    );
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_stops_is_cut_on_a_fresh_and_on_a_kept_connection() {
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
        client.answer().await.assert_problem(408, "body_timeout");
        client.closed().await;
        let elapsed = start.elapsed();
        assert!(
            elapsed > Duration::from_millis(500) && elapsed < Duration::from_secs(5),
            "{elapsed:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_counts_from_the_first_byte_of_the_head() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
    let bytes = Event::new("evt_1").post().bytes();
    let mut client = gateway.connect().await;
    let start = Instant::now();
    client.write(&bytes[..10]).await;
    tokio::time::sleep(Duration::from_millis(900)).await; // the sender's own slowness, part of the claim
    client.write(&bytes[10..]).await;
    client.answer().await.assert_problem(504, "budget_exceeded");
    assert_in_time(start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_body_leaves_the_upstream_only_what_is_left_of_the_budget() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
    let request = Event::new("evt_1").post();
    let mut client = gateway.connect().await;
    let start = Instant::now();
    client.write(&request.head_bytes()).await;
    tokio::time::sleep(Duration::from_millis(900)).await; // the sender's own slowness, part of the claim
    client.write(&request.body_bytes()).await;
    client.answer().await.assert_problem(504, "budget_exceeded");
    assert_in_time(start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_spends_no_budget() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("budget", "1s")
            .with("budget_margin", "300ms"),
    )
    .await;
    let mut client = gateway.connect().await;
    for number in 0..2 {
        tokio::time::sleep(Duration::from_millis(1200)).await; // longer than the budget, part of the claim
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_idle_for_too_long_is_closed_without_a_word() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{idle_timeout: 1s}");
    let gateway = Gateway::start(setup).await;
    let mut client = gateway.connect().await;
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooled_connection_that_dies_late_leaves_no_second_budget() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok(), Reply::cut().after(&gate), Reply::hang()]);
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let opening = async {
        upstream.received(2).await;
        tokio::time::sleep(Duration::from_millis(700)).await; // the receiver's own slowness, part of the claim
        gate.open();
    };
    let ((answer, elapsed), ()) = tokio::join!(gateway.timed(Event::new("evt_2")), opening);
    answer.assert_problem(504, "budget_exceeded");
    assert_in_time(elapsed);
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_copy_is_answered_inside_its_own_budget() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
    let first = gateway.timed(Event::new("evt_1"));
    let copy = async {
        upstream.received(1).await;
        gateway.timed(Event::new("evt_1")).await
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
async fn a_sender_that_hangs_up_leaves_the_hand_over_its_budget_and_no_more() {
    let upstream = Upstream::replying([Reply::hang(), Reply::ok()]);
    let gateway = Gateway::start(hurried(Route::to(&upstream))).await;
    let mut sender = gateway.connect().await;
    sender.write(&Event::new("evt_1").post().bytes()).await;
    upstream.received(1).await;
    sender.reset();
    gateway
        .metric_reaches(
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
async fn the_default_budget_is_ten_seconds() {
    let upstream = Upstream::replying([Reply::hang()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let (answer, elapsed) = gateway.timed(Event::new("evt_1")).await;
    answer.assert_problem(504, "budget_exceeded");
    assert!(
        elapsed > Duration::from_secs(8) && elapsed < Duration::from_secs(10),
        "{elapsed:?}"
    );
}

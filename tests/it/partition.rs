//! Several gateways, one of which is stalled or disconnected from their PostgreSQL; and a
//! PostgreSQL that is stalled or crashes.

use std::time::{Duration, Instant};

use crate::harness::history::Disturbance;
use crate::harness::upstream::NeverAccepts;
use crate::harness::*;
use crate::replicas::{replicas, shared_store_setup, start_three_under_load, with_database};

/// Below the 4 seconds that a statement may take, so that the budget ends the wait.
const BUDGET: Duration = Duration::from_secs(3);

/// Sends the event until the store responds. A store that was just disturbed may be slow, and the
/// previous holder keeps the event until its lease ends.
async fn retry_until_answered(gateway: &Gateway, event: &Event) -> Response {
    let asking = async {
        loop {
            let response = gateway.send(event.post()).await;
            if response.status != 503 && response.outcome() != "in_flight" {
                return response;
            }
        }
    };
    within("the store responds", asking).await
}

/// Waits until the gateway has nothing in flight.
async fn wait_until_idle(gateway: &Gateway) {
    eventually("the gateway has nothing in flight", async || {
        let metrics = gateway.metrics().await;
        let delivering = metrics
            .find("queue_events", &[("state", "delivering")])
            .unwrap_or(0.0);
        metrics.value("requests_in_flight", &[]) + delivering < 0.5
    })
    .await;
}

/// Waits for this time by the server's clock.
pub async fn wait_server_time(postgres: &Postgres, time: Duration) {
    let now = || {
        postgres
            .sql("select now from hookstile.clock")
            .parse::<u128>()
            .expect("milliseconds")
    };
    let end = now() + time.as_millis();
    eventually("time passes", async || now() >= end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_claim_undoes_nothing() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let gate = Gate::shut();
    let held = gate.clone();
    let first = move |attempt| {
        if attempt == 1 {
            Reply::status(500).after(&held)
        } else {
            Reply::ok()
        }
    };
    let upstream = Upstream::deciding(move |_, attempt| first(attempt));
    let route = Route::to(&upstream)
        .with("budget", "2s")
        .with("replay", "{in_flight: reject}");
    let [one, two] = replicas(&route, &postgres).await;
    let event = Event::new("evt_1");
    let mut client = one.connect().await;
    client.write(&event.post().bytes()).await;
    eventually("the first copy arrives", async || upstream.count() == 1).await;
    one.freeze().await;
    retry_until_answered(&two, &event)
        .await
        .assert(200, "delivered");
    let second = upstream.last();
    second.assert_header("Hookstile-Attempt", "2");
    second.assert_header("Hookstile-Possible-Duplicate", "true");
    gate.open();
    one.resume();
    // The gateway records the result of its attempt before it responds.
    assert_ne!(client.read_response().await.status, 200);
    for gateway in [&one, &two] {
        retry_until_answered(gateway, &event)
            .await
            .assert_problem(409, "duplicate");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_connect_sends_nothing() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let claimed = "select count(*) from hookstile.ledger where lease_ends_ms is not null";
    let queued_attempt = "select count(*) from hookstile.deliveries where begun";
    for (delivery, held_query, outcome) in [
        ("proxy", claimed, (200, "delivered")),
        ("queue", queued_attempt, (409, "duplicate")),
    ] {
        let (unreachable, upstream) = (NeverAccepts::new().await, Upstream::ok());
        let route = |url: &str| {
            let route = Route::to_url(url)
                .named(delivery)
                .with("delivery", delivery);
            route.with("budget", "2s").with("attempt_timeout", "1s")
        };
        let one = Gateway::start(shared_store_setup(
            route(&unreachable.url()),
            &postgres.url(),
        ))
        .await;
        let request = Event::new("evt_1")
            .post()
            .at(&format!("/webhooks/{delivery}"));
        let mut client = one.connect().await;
        client.write(&request.bytes()).await;
        eventually("the gateway holds the event", async || {
            postgres.sql(held_query) == "1"
        })
        .await;
        one.freeze().await;
        let reached = unreachable.accept();
        let two = Gateway::start(shared_store_setup(route(&upstream.url()), &postgres.url())).await;
        let asking = async {
            loop {
                let response = two.send(request.clone()).await;
                if (response.status, response.outcome()) == outcome && upstream.count() == 1 {
                    return;
                }
            }
        };
        within("the other gateway takes over", asking).await;
        eventually(
            "the stalled gateway's connection is established",
            async || reached.open() == 1,
        )
        .await;
        one.resume();
        client.read_response().await;
        wait_until_idle(&one).await;
        assert_eq!((reached.count(), upstream.count()), (0, 1), "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_queue_attempt_undoes_nothing() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let gate = Gate::shut();
    let held = gate.clone();
    let first = move |attempt| {
        if attempt == 1 {
            Reply::status(500).after(&held)
        } else {
            Reply::ok()
        }
    };
    let upstream = Upstream::deciding(move |_, attempt| first(attempt));
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("attempt_timeout", "1s");
    let route = route.with("retry", "{initial: 20ms, factor: 1, max_interval: 20ms}");
    let [still] = replicas(&route, &postgres).await;
    still.send(Event::new("evt_1")).await.assert(202, "queued");
    eventually("the first attempt", async || upstream.count() == 1).await;
    still.freeze().await;
    let [other] = replicas(&route, &postgres).await;
    eventually("the other gateway takes over", async || {
        upstream.count() == 2
    })
    .await;
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
    let is_success = async |gateway: &Gateway| {
        gateway.api("/deliveries").await["deliveries"][0]["status"] == "success"
    };
    eventually("the event is delivered", async || is_success(&other).await).await;
    gate.open();
    still.resume();
    wait_until_idle(&still).await;
    assert!(is_success(&still).await);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_replicas_under_load_keep_every_promise() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut load_test = start_three_under_load(&postgres).await;
    // Longer than the lease of a claim, and than the lease of a queued event's attempt.
    for time in [6, 12] {
        let from = Instant::now();
        load_test.gateway.freeze().await;
        wait_server_time(&postgres, Duration::from_secs(time)).await;
        load_test.wait_for_progress(1).await;
        load_test.gateway.resume();
        load_test.wait_for_progress(5).await;
        load_test.record_disturbance(Disturbance::since(from));
        load_test.select_next_gateway();
    }
    load_test.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_replica_forwards_nothing() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut link = Link::open(postgres.address()).await;
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("budget", "3s");
    let cut_off = Gateway::start(shared_store_setup(
        route.clone(),
        &Postgres::url_at(link.address()),
    ))
    .await;
    let [other] = replicas(&route, &postgres).await;
    cut_off
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    link.partition();
    // At first the gateway has not noticed the partition yet; later it has.
    for number in 2..5 {
        let (response, elapsed) = cut_off
            .send_timed(Event::new(&format!("evt_{number}")))
            .await;
        response.assert_retry_after();
        assert_eq!(response.status, 503, "{response:?}");
        assert!(elapsed < BUDGET, "answered after {elapsed:?}");
    }
    other
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    other
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
    link.restore().await;
    retry_until_answered(&cut_off, &Event::new("evt_3"))
        .await
        .assert(200, "delivered");
    retry_until_answered(&cut_off, &Event::new("evt_2"))
        .await
        .assert_problem(409, "duplicate");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_database_costs_503_in_budget() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [one] = replicas(&Route::to(&upstream).with("budget", "3s"), &postgres).await;
    one.send(Event::new("evt_1")).await.assert(200, "delivered");
    postgres.freeze().await;
    for number in 2..5 {
        let (response, elapsed) = one.send_timed(Event::new(&format!("evt_{number}"))).await;
        response.assert_retry_after();
        assert_eq!(response.status, 503, "{response:?}");
        assert!(elapsed < BUDGET, "answered after {elapsed:?}");
    }
    assert_eq!(upstream.event_ids(), ["evt_1"]);
    postgres.resume();
    retry_until_answered(&one, &Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    retry_until_answered(&one, &Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_replica_under_load_keeps_every_promise() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut link = Link::open(postgres.address()).await;
    let mut load_test = start_three_under_load(&postgres).await;
    load_test
        .add_gateway(with_database(
            &Postgres::url_at(link.address()),
            load_test.setup_with_launcher(Launcher::default()),
        ))
        .await;
    for round in 0..4 {
        load_test.wait_for_progress(round * 7 % 25).await;
        let from = Instant::now();
        if round % 2 == 0 {
            link.partition();
        } else {
            link.sever().await;
        }
        load_test.wait_for_progress(10).await;
        link.restore().await;
        load_test.wait_for_progress(5).await;
        load_test.record_disturbance(Disturbance::since(from));
    }
    load_test.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_crashes_under_load_break_no_promise() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    let mut load_test = start_three_under_load(&postgres).await;
    for round in 0..4 {
        load_test.wait_for_progress(5 + round * 7 % 25).await;
        let from = Instant::now();
        if round % 2 == 0 {
            postgres.crash().await;
            postgres.restart().await;
        } else {
            postgres.freeze().await;
            // Longer than a budget, and shorter than a statement may take.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            postgres.resume();
        }
        load_test.wait_for_progress(5).await;
        load_test.record_disturbance(Disturbance::since(from));
    }
    load_test.finish().await;
}

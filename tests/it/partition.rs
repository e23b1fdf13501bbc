//! Several gateways of which one stands still or is cut off from their PostgreSQL, and a PostgreSQL that does or is.

use std::time::{Duration, Instant};

use crate::harness::history::Disturbance;
use crate::harness::upstream::NeverAccepts;
use crate::harness::*;
use crate::replicas::{on, replicas, shared, three_under_load};

/// Below the 4 seconds that a statement may take, so that it is the budget that ends the waiting.
const BUDGET: Duration = Duration::from_secs(3);

/// What a gateway says of an event once it can: a store that was just disturbed may be slow, and whoever had the event
/// holds it until a lease ends.
async fn asked_again(gateway: &Gateway, event: &Event) -> Answer {
    let asking = async {
        loop {
            let answer = gateway.send(event.post()).await;
            if answer.status != 503 && answer.outcome() != "in_flight" {
                return answer;
            }
        }
    };
    within("an answer of the store", asking).await
}

/// Waits until it has nothing in its hands.
async fn has_let_go(gateway: &Gateway) {
    eventually("it lets go", async || {
        let metrics = gateway.metrics().await;
        let delivering = metrics
            .find("queue_events", &[("state", "delivering")])
            .unwrap_or(0.0);
        metrics.value("requests_in_flight", &[]) + delivering < 0.5
    })
    .await;
}

/// Waits for so long, as the server counts it.
async fn passes_at(postgres: &Postgres, time: Duration) {
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
async fn a_replica_that_stood_still_for_longer_than_its_claim_undoes_nothing_of_what_another_did() {
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
    asked_again(&two, &event).await.assert(200, "delivered");
    let second = upstream.last();
    second.assert_header("Hookstile-Attempt", "2");
    second.assert_header("Hookstile-Possible-Duplicate", "true");
    gate.open();
    one.thaw();
    // It writes down what it knows of its attempt before it answers.
    assert_ne!(client.answer().await.status, 200);
    for gateway in [&one, &two] {
        asked_again(gateway, &event)
            .await
            .assert_problem(409, "duplicate");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stood_still_while_it_connected_sends_nothing_once_another_has_taken_over() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let claimed = "select count(*) from hookstile.ledger where lease_ends_ms is not null";
    let taken = "select count(*) from hookstile.deliveries where begun";
    for (delivery, begun, outcome) in [
        ("proxy", claimed, (200, "delivered")),
        ("queue", taken, (409, "duplicate")),
    ] {
        let (unreachable, upstream) = (NeverAccepts::new().await, Upstream::ok());
        let route = |url: &str| {
            let route = Route::to_url(url)
                .named(delivery)
                .with("delivery", delivery);
            route.with("budget", "2s").with("attempt_timeout", "1s")
        };
        let one = Gateway::start(shared(route(&unreachable.url()), &postgres.url())).await;
        let request = Event::new("evt_1")
            .post()
            .at(&format!("/webhooks/{delivery}"));
        let mut client = one.connect().await;
        client.write(&request.bytes()).await;
        eventually("it has the event", async || postgres.sql(begun) == "1").await;
        one.freeze().await;
        let reached = unreachable.accept();
        let two = Gateway::start(shared(route(&upstream.url()), &postgres.url())).await;
        let asking = async {
            loop {
                let answer = two.send(request.clone()).await;
                if (answer.status, answer.outcome()) == outcome && upstream.count() == 1 {
                    return;
                }
            }
        };
        within("another takes over", asking).await;
        eventually("the system has connected for it", async || {
            reached.open() == 1
        })
        .await;
        one.thaw();
        client.answer().await;
        has_let_go(&one).await;
        assert_eq!((reached.count(), upstream.count()), (0, 1), "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stood_still_over_an_attempt_at_a_stored_event_undoes_nothing_of_what_another_did()
 {
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
    eventually("another takes over", async || upstream.count() == 2).await;
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
    let is_success = async |gateway: &Gateway| {
        gateway.api("/deliveries").await["deliveries"][0]["status"] == "success"
    };
    eventually("it is delivered", async || is_success(&other).await).await;
    gate.open();
    still.thaw();
    has_let_go(&still).await;
    assert!(is_success(&still).await);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_stand_still_for_longer_than_their_leases_under_load_keep_every_promise() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut trial = three_under_load(&postgres).await;
    // Longer than a claim's lease, and than that of an attempt at a stored event.
    for time in [6, 12] {
        let from = Instant::now();
        trial.gateway.freeze().await;
        passes_at(&postgres, Duration::from_secs(time)).await;
        trial.progresses(1).await;
        trial.gateway.thaw();
        trial.progresses(5).await;
        trial.disturbed(Disturbance::since(from));
        trial.turns_to_the_next();
    }
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_forwards_nothing_while_another_goes_on_and_needs_no_restart() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut line = Cut::to(postgres.address()).await;
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("budget", "3s");
    let cut_off = Gateway::start(shared(route.clone(), &Postgres::url_at(line.address()))).await;
    let [other] = replicas(&route, &postgres).await;
    cut_off
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    line.cut();
    // First while it is not known yet, then while it is.
    for number in 2..5 {
        let (answer, elapsed) = cut_off.timed(Event::new(&format!("evt_{number}"))).await;
        answer.assert_retry_after();
        assert_eq!(answer.status, 503, "{answer:?}");
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
    line.mend().await;
    asked_again(&cut_off, &Event::new("evt_3"))
        .await
        .assert(200, "delivered");
    asked_again(&cut_off, &Event::new("evt_2"))
        .await
        .assert_problem(409, "duplicate");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stands_still_costs_503_inside_the_budget_and_nothing_is_forwarded() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [one] = replicas(&Route::to(&upstream).with("budget", "3s"), &postgres).await;
    one.send(Event::new("evt_1")).await.assert(200, "delivered");
    postgres.freeze().await;
    for number in 2..5 {
        let (answer, elapsed) = one.timed(Event::new(&format!("evt_{number}"))).await;
        answer.assert_retry_after();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(elapsed < BUDGET, "answered after {elapsed:?}");
    }
    assert_eq!(upstream.event_ids(), ["evt_1"]);
    postgres.thaw();
    asked_again(&one, &Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    asked_again(&one, &Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_again_and_again_under_load_keeps_every_promise() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut line = Cut::to(postgres.address()).await;
    let mut trial = three_under_load(&postgres).await;
    trial
        .is_joined_by(on(
            &Postgres::url_at(line.address()),
            trial.setup_under(Under::default()),
        ))
        .await;
    for round in 0..4 {
        trial.progresses(round * 7 % 25).await;
        let from = Instant::now();
        if round % 2 == 0 {
            line.cut();
        } else {
            line.sever().await;
        }
        trial.progresses(10).await;
        line.mend().await;
        trial.progresses(5).await;
        trial.disturbed(Disturbance::since(from));
    }
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_crashes_and_stands_still_under_load_breaks_no_promise_of_its_replicas() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    let mut trial = three_under_load(&postgres).await;
    for round in 0..4 {
        trial.progresses(5 + round * 7 % 25).await;
        let from = Instant::now();
        if round % 2 == 0 {
            postgres.crash().await;
            postgres.restart().await;
        } else {
            postgres.freeze().await;
            // Longer than a budget, and shorter than a statement may take.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            postgres.thaw();
        }
        trial.progresses(5).await;
        trial.disturbed(Disturbance::since(from));
    }
    trial.judge().await;
}

//! Several gateways on one PostgreSQL: one ledger, one queue, whatever becomes of any of them.

use crate::harness::*;

/// Keeps its events in this database.
fn shared(route: Route, url: &str) -> Setup {
    on(url, Setup::from(route).stopping_at_once())
}

fn on(url: &str, setup: Setup) -> Setup {
    setup.with("store", "{postgres: {url: {env: DATABASE_URL}}}").env("DATABASE_URL", url)
}

async fn replicas<const N: usize>(route: &Route, postgres: &Postgres) -> [Gateway; N] {
    let mut gateways = Vec::new();
    for _ in 0..N {
        gateways.push(Gateway::start(shared(route.clone(), &postgres.url())).await);
    }
    gateways.try_into().unwrap_or_else(|_| unreachable!())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_completed_is_a_duplicate_to_all_and_after_their_restart() {
    let Some(postgres) = Postgres::start().await else { return };
    let upstream = Upstream::ok();
    let [mut one, two, three] = replicas(&Route::to(&upstream), &postgres).await;
    one.send(Event::new("evt_1")).await.assert(200, "delivered");
    for replica in [&one, &two, &three] {
        replica.send(Event::new("evt_1")).await.assert_problem(409, "duplicate");
        replica.send(Event::typed("evt_1", "user.deleted")).await.assert_problem(409, "payload_mismatch");
    }
    one.kill().await;
    one.restart().await;
    one.send(Event::new("evt_1")).await.assert_problem(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_at_another_replica_waits_for_the_first_and_is_its_duplicate() {
    let Some(postgres) = Postgres::start().await else { return };
    let gate = Gate::shut();
    let held = gate.clone();
    let upstream = Upstream::deciding(move |_, _| Reply::ok().after(&held));
    let [one, two] = replicas(&Route::to(&upstream), &postgres).await;
    let first = async { one.send(Event::new("evt_1")).await };
    let second = async {
        eventually("the first copy arrives", async || upstream.count() == 1).await;
        let second = two.send(Event::new("evt_1"));
        let opened = async {
            // The claim is asked for by then, and not to be had.
            eventually("both are in flight", async || two.metrics().await.value("requests_in_flight", &[]) > 0.5).await;
            gate.open();
        };
        tokio::join!(second, opened).0
    };
    let (first, second) = tokio::join!(first, second);
    first.assert(200, "delivered");
    second.assert_problem(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_claim_of_a_killed_replica_lapses_and_the_next_attempt_is_marked() {
    let Some(postgres) = Postgres::start().await else { return };
    let upstream = Upstream::deciding(|_, attempt| if attempt == 1 { Reply::hang() } else { Reply::ok() });
    let route = Route::to(&upstream).with("budget", "2s").with("replay", "{in_flight: reject}");
    let [mut one, two] = replicas(&route, &postgres).await;
    let mut client = one.connect().await;
    client.write(&Event::new("evt_1").post().bytes()).await;
    eventually("the first copy arrives", async || upstream.count() == 1).await;
    one.kill().await;
    loop {
        let answer = two.send(Event::new("evt_1")).await;
        if answer.status == 200 {
            break;
        }
        answer.assert_problem(409, "in_flight");
    }
    let last = upstream.last();
    last.assert_header("Hookgate-Attempt", "2");
    last.assert_header("Hookgate-Possible-Duplicate", "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_a_killed_replica_was_delivering_is_taken_over_and_marked() {
    let Some(postgres) = Postgres::start().await else { return };
    let upstream = Upstream::deciding(|_, attempt| if attempt == 1 { Reply::hang() } else { Reply::ok() });
    let route = Route::to(&upstream).with("delivery", "queue").with("attempt_timeout", "1s");
    let [mut one, _two] = replicas(&route, &postgres).await;
    one.send(Event::new("evt_1")).await.assert(202, "queued");
    eventually("the first attempt", async || upstream.count() == 1).await;
    one.kill().await;
    eventually("another takes over", async || upstream.count() == 2).await;
    upstream.last().assert_header("Hookgate-Possible-Duplicate", "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_gone_costs_503_and_no_restart() {
    let Some(mut postgres) = Postgres::start().await else { return };
    let upstream = Upstream::ok();
    let [one] = replicas(&Route::to(&upstream), &postgres).await;
    one.send(Event::new("evt_1")).await.assert(200, "delivered");
    postgres.crash().await;
    let refused = one.send(Event::new("evt_2")).await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("Retry-After").is_some());
    assert_eq!(upstream.count(), 1);
    postgres.restart().await;
    while one.send(Event::new("evt_2")).await.status != 200 {}
    one.send(Event::new("evt_1")).await.assert_problem(409, "duplicate");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_beside_two_others_it_keeps_every_promise() {
    let Some(postgres) = Postgres::start().await else { return };
    let brief = |route: Route| route.with("budget", "2s").with("attempt_timeout", "2s");
    let mut trial = Trial::start_with(|setup| on(&postgres.url(), setup), brief).await;
    let beside = [trial.setup_under(Under::default()), trial.setup_under(Under::default())];
    let [setup, other] = beside;
    let _beside = (Gateway::start(setup).await, Gateway::start(other).await);
    for round in 0..6 {
        trial.progresses(round * 7 % 25).await;
        trial.kill().await;
        trial.restart().await;
    }
    trial.progresses(10).await;
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_is_made_at_one_replica_is_served_by_the_others() {
    let Some(postgres) = Postgres::start().await else { return };
    let upstream = Upstream::ok();
    let [one, two] = replicas(&Route::to(&upstream), &postgres).await;
    let document = format!(r#"{{"url": "{}"}}"#, upstream.url());
    let ask = Request::post(document.as_bytes()).at("/webhooks").set("Host", &one.admin().to_string());
    let made = Client::connect(one.admin()).await.send(ask).await;
    assert_eq!(made.status, 201, "{}", made.text());
    eventually("the other has it", async || two.api("/webhooks").await["total"] == 2).await;
}

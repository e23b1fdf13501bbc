//! Several gateways on one PostgreSQL: one ledger, one queue, whatever becomes of any of them.

use crate::clock::clock_like;
use crate::harness::*;

/// Keeps its events in this database.
pub fn shared(route: Route, url: &str) -> Setup {
    on(url, Setup::from(route).stopping_at_once())
}

pub fn on(url: &str, setup: Setup) -> Setup {
    setup
        .with("store", "{postgres: {url: {env: DATABASE_URL}}}")
        .env("DATABASE_URL", url)
}

pub async fn replicas<const N: usize>(route: &Route, postgres: &Postgres) -> [Gateway; N] {
    let mut gateways = Vec::new();
    for _ in 0..N {
        gateways.push(Gateway::start(shared(route.clone(), &postgres.url())).await);
    }
    gateways.try_into().unwrap_or_else(|_| unreachable!())
}

/// Three of them, and senders that go from one to the next.
pub async fn three_under_load(postgres: &Postgres) -> Trial {
    let brief = |route: Route| route.with("budget", "2s").with("attempt_timeout", "1s");
    let mut trial = Trial::start_with(|setup| on(&postgres.url(), setup), brief).await;
    for _ in 0..2 {
        trial
            .is_joined_by(trial.setup_under(Under::default()))
            .await;
    }
    trial
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_completed_is_a_duplicate_to_all_and_after_their_restart() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [mut one, two, three] = replicas(&Route::to(&upstream), &postgres).await;
    one.send(Event::new("evt_1")).await.assert(200, "delivered");
    for replica in [&one, &two, &three] {
        replica
            .send(Event::new("evt_1"))
            .await
            .assert_problem(409, "duplicate");
        replica
            .send(Event::typed("evt_1", "user.deleted"))
            .await
            .assert_problem(409, "payload_mismatch");
    }
    one.kill().await;
    one.restart().await;
    one.send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_at_another_replica_waits_for_the_first_and_is_its_duplicate() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
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
            eventually("both are in flight", async || {
                two.metrics().await.value("requests_in_flight", &[]) > 0.5
            })
            .await;
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
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::deciding(|_, attempt| {
        if attempt == 1 {
            Reply::hang()
        } else {
            Reply::ok()
        }
    });
    let route = Route::to(&upstream)
        .with("budget", "2s")
        .with("replay", "{in_flight: reject}");
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
    last.assert_header("Hookstile-Attempt", "2");
    last.assert_header("Hookstile-Possible-Duplicate", "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_a_killed_replica_was_delivering_is_taken_over_and_marked() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::deciding(|_, attempt| {
        if attempt == 1 {
            Reply::hang()
        } else {
            Reply::ok()
        }
    });
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("attempt_timeout", "1s");
    let [mut one, _two] = replicas(&route, &postgres).await;
    one.send(Event::new("evt_1")).await.assert(202, "queued");
    eventually("the first attempt", async || upstream.count() == 1).await;
    one.kill().await;
    eventually("another takes over", async || upstream.count() == 2).await;
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_gone_costs_503_and_no_restart() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
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
    one.send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_is_made_at_one_replica_is_served_by_the_others() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [one, two] = replicas(&Route::to(&upstream), &postgres).await;
    let document = format!(r#"{{"url": "{}"}}"#, upstream.url());
    let ask = Request::post(document.as_bytes())
        .at("/webhooks")
        .set("Host", &one.admin().to_string());
    let made = Client::connect(one.admin()).await.send(ask).await;
    assert_eq!(made.status, 201, "{}", made.text());
    eventually("the other has it", async || {
        two.api("/webhooks").await["total"] == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_one_after_the_other_under_one_load_three_replicas_keep_every_promise() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut trial = three_under_load(&postgres).await;
    for round in 0..6 {
        trial.progresses(round * 7 % 25).await;
        trial.kill().await;
        // The others take over what it had.
        trial.progresses(2).await;
        trial.restart().await;
        trial.turns_to_the_next();
    }
    trial.progresses(10).await;
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn added_and_removed_under_load_replicas_lose_nothing_and_repeat_nothing() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut trial = three_under_load(&postgres).await;
    for round in 0..3 {
        trial.progresses(round * 7 % 25).await;
        trial.is_left().await;
        trial.progresses(5).await;
        trial
            .is_joined_by(trial.setup_under(Under::default()))
            .await;
    }
    trial.progresses(5).await;
    // Nothing was killed: not one delivery may have been repeated.
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_events_are_spread_and_each_replica_tries_as_many_at_once_as_it_may() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let gate = Gate::shut();
    let held = gate.clone();
    let upstream = Upstream::deciding(move |_, _| Reply::ok().after(&held));
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("concurrency", "2");
    let two: [_; 2] = replicas(&route, &postgres).await;
    for number in 0..12 {
        // All by way of one of them.
        two[0]
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(202, "queued");
    }
    for gateway in &two {
        gateway
            .metric_reaches("queue_events", &[("state", "delivering")], 2.0)
            .await;
    }
    eventually("they are all tried", async || upstream.count() == 4).await;
    gate.open();
    eventually("all arrive", async || upstream.count() == 12).await;
    assert_eq!(upstream.most_at_once(), 4);
    for number in 0..12 {
        assert_eq!(upstream.requests_for(&format!("evt_{number}")).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_whose_clocks_are_ten_minutes_off_are_like_the_others() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::deciding(|request, attempt| {
        let is_held = request
            .header("Hookstile-Event-Id")
            .is_some_and(|id| id.starts_with("held"));
        if is_held && attempt == 1 {
            Reply::hang()
        } else {
            Reply::ok()
        }
    });
    let at_once = Route::to(&upstream)
        .named("proxy")
        .with("budget", "4s")
        .with("replay", "{in_flight: reject}");
    let stored = Route::to(&upstream)
        .named("queue")
        .with("delivery", "queue")
        .with("attempt_timeout", "3s");
    let setup = on(
        &postgres.url(),
        Setup::new([at_once, stored]).stopping_at_once(),
    );
    let right = Gateway::start(setup.clone()).await;
    let event =
        |id: &str, delivery: &str| Event::new(id).post().at(&format!("/webhooks/{delivery}"));
    let mut wrong = Vec::new();
    for offset in ["+10m", "-10m"] {
        let Some(under) = clock_like(offset) else {
            return;
        };
        let gateway = Gateway::start(setup.clone().under(under)).await;
        for (first, second, id) in [(&gateway, &right, "from"), (&right, &gateway, "to")] {
            let twice = event(&format!("{id}_{offset}"), "proxy");
            first.send(twice.clone()).await.assert(200, "delivered");
            second.send(twice).await.assert_problem(409, "duplicate");
        }
        wrong.push((gateway, offset));
    }
    let hours = |which| {
        let sql = format!(
            "select ({which}(ends_ms) - (select now from hookstile.clock)) / 3600000.0 from hookstile.ledger"
        );
        postgres.sql(&sql).parse::<f64>().expect("a number")
    };
    assert!(
        hours("min") > 95.9 && hours("max") < 96.1,
        "four days: {} to {}",
        hours("min"),
        hours("max")
    );

    let mut clients = Vec::new();
    for (number, (gateway, offset)) in wrong.iter().enumerate() {
        gateway
            .send(event(&format!("held_queue{offset}"), "queue"))
            .await
            .assert(202, "queued");
        let mut client = gateway.connect().await;
        client
            .write(&event(&format!("held_proxy{offset}"), "proxy").bytes())
            .await;
        clients.push(client);
        let held = || {
            upstream
                .event_ids()
                .iter()
                .filter(|id| id.starts_with("held"))
                .count()
        };
        eventually("both are tried", async || held() == 2 * (number + 1)).await;
        // To the others as good as dead. Killed, faketime would leave things behind.
        gateway.freeze().await;
    }
    let lease = |table| {
        let sql = format!(
            "select max(lease_ends_ms) - (select now from hookstile.clock) from hookstile.{table}"
        );
        postgres.sql(&sql).parse::<i64>().expect("milliseconds")
    };
    let (claim, attempt) = (lease("ledger"), lease("deliveries"));
    assert!(
        (1..=7000).contains(&claim) && (1..=13000).contains(&attempt),
        "{claim} and {attempt} ms are left"
    );
    for (_, offset) in &wrong {
        let id = format!("held_proxy{offset}");
        let takes_over = async { while right.send(event(&id, "proxy")).await.status != 200 {} };
        within("the claim lapses", takes_over).await;
        for id in [id, format!("held_queue{offset}")] {
            eventually(format!("{id} is taken over"), async || {
                upstream.requests_for(&id).len() == 2
            })
            .await;
            upstream.requests_for(&id)[1].assert_header("Hookstile-Possible-Duplicate", "true");
        }
    }
    for (gateway, _) in &mut wrong {
        gateway.thaw();
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_webhooks_made_on_one_path_at_two_replicas_at_once_one_is_refused() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [one, two] = replicas(&Route::to(&upstream), &postgres).await;
    for round in 0..10 {
        let document =
            serde_json::json!({"url": upstream.url(), "path": format!("/hooks/{round}")});
        let made = tokio::join!(
            one.admin_post("/webhooks", &document),
            two.admin_post("/webhooks", &document)
        );
        let mut statuses = [made.0.status, made.1.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "{} {}", made.0.text(), made.1.text());
    }
    assert_eq!(
        postgres.sql("select count(*) from hookstile.webhooks"),
        "10"
    );
}

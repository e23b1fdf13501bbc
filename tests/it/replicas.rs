//! Several gateways on one PostgreSQL: they share one ledger and one queue, whatever happens to any
//! of them.

use crate::clock::launcher_with_clock;
use crate::harness::*;

/// Configures a store in this database.
pub fn shared_store_setup(route: Route, url: &str) -> Setup {
    with_database(url, Setup::from(route).stopping_at_once())
}

pub fn with_database(url: &str, setup: Setup) -> Setup {
    setup
        .with("store", "{postgres: {url: {env: DATABASE_URL}}}")
        .env("DATABASE_URL", url)
}

/// Sends this many events at the same time.
pub async fn send_together(
    gateway: &Gateway,
    prefix: &str,
    count: usize,
    (status, outcome): (u16, &str),
) {
    let sent = (0..count).map(|number| async move {
        let event = Event::new(&format!("{prefix}_{number}"));
        gateway.send(event).await.assert(status, outcome);
    });
    futures_util::future::join_all(sent).await;
}

pub async fn replicas<const N: usize>(route: &Route, postgres: &Postgres) -> [Gateway; N] {
    let mut gateways = Vec::new();
    for _ in 0..N {
        gateways.push(Gateway::start(shared_store_setup(route.clone(), &postgres.url())).await);
    }
    gateways.try_into().unwrap_or_else(|_| unreachable!())
}

/// Starts three gateways under load, with senders that rotate between them.
pub async fn start_three_under_load(postgres: &Postgres) -> LoadTest {
    let mut load_test = LoadTest::start_with(
        |setup| with_database(&postgres.url(), setup),
        |route| route.with("budget", "2s").with("attempt_timeout", "1s"),
    )
    .await;
    for _ in 0..2 {
        load_test
            .add_gateway(load_test.setup_with_launcher(Launcher::default()))
            .await;
    }
    load_test
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completed_event_is_duplicate_everywhere() {
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
async fn copies_of_body_are_counted_across_replicas() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let statuses = [500, 200, 500].into_iter().map(Reply::status);
    let upstream = Upstream::replying(statuses.chain([Reply::ok()]).collect::<Vec<_>>());
    let route = Route::to(&upstream).with("event", "{id: {header: X-Delivery}, type: /type}");
    let [mut one, two] = replicas(&route, &postgres).await;
    let event = |id: &str| Event::new("whatever").post().header("X-Delivery", id);
    one.send(event("0")).await.assert(500, "upstream_rejected");
    two.send(event("0")).await.assert(200, "delivered");
    upstream.last().assert_header("Hookstile-Attempt", "2");
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Replay");
    // A marked attempt that fails counts, and its retry does not count again.
    one.send(event("1")).await.assert(500, "upstream_rejected");
    two.send(event("1")).await.assert(200, "delivered");
    upstream.last().assert_header("Hookstile-Attempt", "2");
    for number in 2..=16 {
        let replica = if number % 2 == 0 { &one } else { &two };
        let id = number.to_string();
        replica.send(event(&id)).await.assert(200, "delivered");
        upstream
            .last()
            .assert_header("Hookstile-Possible-Replay", "true");
    }
    one.kill().await;
    one.restart().await;
    for replica in [&one, &two] {
        replica
            .send(event("17"))
            .await
            .assert_problem(409, "duplicate");
        replica
            .send(event("1"))
            .await
            .assert_problem(409, "duplicate");
    }
    assert_eq!(upstream.count(), 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_at_other_replica_waits_for_first() {
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
            // By then the second replica has asked for the claim and did not get it.
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
async fn killed_replica_claim_lapses() {
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
        let response = two.send(Event::new("evt_1")).await;
        if response.status == 200 {
            break;
        }
        response.assert_problem(409, "in_flight");
    }
    let last = upstream.last();
    last.assert_header("Hookstile-Attempt", "2");
    last.assert_header("Hookstile-Possible-Duplicate", "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_replica_delivery_is_taken_over() {
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
    eventually("the other replica takes over", async || {
        upstream.count() == 2
    })
    .await;
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_killed_replica_all_arrive() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let gate = Gate::shut();
    let held = gate.clone();
    let upstream = Upstream::deciding(move |_, _| Reply::ok().after(&held));
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("concurrency", "4")
        .with("attempt_timeout", "2s");
    let [mut one] = replicas(&route, &postgres).await;
    let ids: Vec<_> = (0..6).map(|number| format!("evt_{number}")).collect();
    for id in &ids {
        one.send(Event::new(id)).await.assert(202, "queued");
    }
    eventually("four attempts", async || upstream.count() == 4).await;
    one.kill().await;
    gate.open();
    let [_two] = replicas(&route, &postgres).await;
    eventually("all arrive", async || upstream.count() == 10).await;
    let (begun, free) = ids.split_at(4);
    for id in begun {
        upstream.requests_for(id)[1].assert_header("Hookstile-Possible-Duplicate", "true");
    }
    for id in free {
        let requests = upstream.requests_for(id);
        assert_eq!(requests.len(), 1, "{id}");
        assert_eq!(requests[0].header("Hookstile-Possible-Duplicate"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_database_costs_503_but_no_restart() {
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
async fn webhook_created_at_one_replica_works_at_all() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [one, two] = replicas(&Route::to(&upstream), &postgres).await;
    let document = format!(r#"{{"url": "{}"}}"#, upstream.url());
    let request = Request::post(document.as_bytes())
        .at("/webhooks")
        .set("Host", &one.admin_address().to_string());
    let made = Client::connect(one.admin_address())
        .await
        .send(request)
        .await;
    assert_eq!(made.status, 201, "{}", made.text());
    eventually("the other replica has the webhook", async || {
        two.api("/webhooks").await["total"] == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_kills_under_load_keep_every_promise() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut load_test = start_three_under_load(&postgres).await;
    for round in 0..6 {
        load_test.wait_for_progress(round * 7 % 25).await;
        load_test.kill().await;
        // The others take over the events of the killed one.
        load_test.wait_for_progress(2).await;
        load_test.restart().await;
        load_test.select_next_gateway();
    }
    load_test.wait_for_progress(10).await;
    load_test.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_under_load_loses_nothing() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut load_test = start_three_under_load(&postgres).await;
    for round in 0..3 {
        load_test.wait_for_progress(round * 7 % 25).await;
        load_test.remove_gateway().await;
        load_test.wait_for_progress(5).await;
        load_test
            .add_gateway(load_test.setup_with_launcher(Launcher::default()))
            .await;
    }
    load_test.wait_for_progress(5).await;
    // No process was killed, so no delivery may be repeated.
    load_test.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_events_spread_within_concurrency() {
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
        // All events arrive through one of them.
        two[0]
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(202, "queued");
    }
    for gateway in &two {
        gateway
            .wait_for_metric("queue_events", &[("state", "delivering")], 2.0)
            .await;
    }
    eventually("all events are attempted", async || upstream.count() == 4).await;
    gate.open();
    eventually("all arrive", async || upstream.count() == 12).await;
    assert_eq!(upstream.most_concurrent(), 4);
    for number in 0..12 {
        assert_eq!(upstream.requests_for(&format!("evt_{number}")).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skewed_replica_clocks_make_no_difference() {
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
    let setup = with_database(
        &postgres.url(),
        Setup::new([at_once, stored]).stopping_at_once(),
    );
    let right = Gateway::start(setup.clone()).await;
    let event =
        |id: &str, delivery: &str| Event::new(id).post().at(&format!("/webhooks/{delivery}"));
    let mut wrong = Vec::new();
    for offset in ["+10m", "-10m"] {
        let Some(launcher) = launcher_with_clock(offset) else {
            return;
        };
        let gateway = Gateway::start(setup.clone().launched_by(launcher)).await;
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
        eventually("both events are attempted", async || {
            held() == 2 * (number + 1)
        })
        .await;
        // To the others it looks dead. faketime would leave files behind if the process were
        // killed.
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
        gateway.resume();
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicting_new_webhooks_keep_one() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_url_file_is_watched() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres.sql("create role first superuser login; create role second superuser login");
    let address = postgres.address();
    let url = |role: &str| format!("postgres://{role}@{address}/postgres");
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream))
        .with("store", "{postgres: {url: {file: database.url}}}")
        .file("database.url", &url("first"));
    let gateway = Gateway::start(setup).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let file = gateway.directory().join("database.url");
    std::fs::write(file, url("second")).expect("a writable folder");
    eventually("the file is loaded", async || {
        gateway.output().contains("configuration reloaded")
    })
    .await;
    postgres.sql(
        "alter role first nologin; \
         select pg_terminate_backend(pid) from pg_stat_activity where usename = 'first'",
    );
    let mut number = 1;
    eventually("events are stored by the second role", async || {
        number += 1;
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.status == 200
    })
    .await;
    let roles =
        "select distinct usename from pg_stat_activity where usename in ('first', 'second')";
    eventually("only the second role is connected", async || {
        postgres.sql(roles) == "second"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_body_delays_no_other_event() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("budget", "2s")
        .with("max_body", "4MiB");
    let [gateway] = replicas(&route, &postgres).await;
    postgres.sql(
        "create function slow() returns trigger language plpgsql as
            'begin perform pg_sleep(3); return new; end';
         create trigger slow before insert on hookstile.payloads for each row
            when (length(new.body) > 1000000) execute function slow()",
    );
    let large = async {
        gateway.send(Event::sized("large", 2 << 20)).await;
    };
    let writing = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    small_events_overtake(&gateway, &postgres, writing, large).await;
    wait_for_large_and_small(&upstream).await;
}

/// Sends small events while `large` is written to the database, which `writing` counts.
async fn small_events_overtake(
    gateway: &Gateway,
    postgres: &Postgres,
    writing: &str,
    large: impl Future<Output = ()>,
) {
    let others = async {
        eventually("the large one is written", async || {
            postgres.sql(writing) == "1"
        })
        .await;
        for number in 0..5 {
            let small = Event::new(&format!("evt_{number}"));
            gateway.send(small).await.assert(202, "queued");
        }
        assert_eq!(postgres.sql(writing), "1", "it is still written");
    };
    tokio::join!(large, others);
}

async fn wait_for_large_and_small(upstream: &Upstream) {
    eventually("all arrive", async || {
        let sent = upstream.event_ids();
        (0..5).all(|number| sent.contains(&format!("evt_{number}"))) && sent.len() == 6
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_writes() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("budget", "2s");
    let [one, two] = replicas(&route, &postgres).await;
    let looks = async {
        // A synchronous standby that is gone: what reads is answered, no commit is.
        postgres.sql("alter system set synchronous_standby_names = 'gone'");
        postgres.sql("select pg_reload_conf()");
        for gateway in [&one, &two] {
            eventually("the gateway is not ready", async || {
                gateway.admin_get("/readyz").await.status == 503
            })
            .await;
        }
        // Longer than a statement that was under way.
        let from = std::time::Instant::now();
        while from.elapsed() < std::time::Duration::from_secs(6) {
            for gateway in [&one, &two] {
                assert_eq!(gateway.admin_get("/readyz").await.status, 503);
            }
        }
    };
    let sending = async |gateway: &Gateway, id: &str| {
        for number in 0.. {
            let event = Event::new(&format!("{id}_{number}"));
            gateway.send(event).await;
        }
    };
    tokio::select! {
        () = looks => {}
        () = sending(&one, "one") => {}
        () = sending(&two, "two") => {}
    }
    postgres.sql("alter system reset synchronous_standby_names");
    postgres.sql("select pg_reload_conf()");
    for gateway in [&one, &two] {
        gateway.wait_until_ready().await;
    }
    let again = async { while one.send(Event::new("evt_1")).await.status != 200 {} };
    within("events are taken again", again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_that_cannot_grow_is_told_and_shared() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres.sql(
        "create role limited login connection limit 2;
         create schema hookstile authorization limited",
    );
    let upstream = Upstream::ok();
    let url = format!(
        "postgres://limited@{}/postgres?sslmode=disable",
        postgres.address()
    );
    let queued = Route::to(&upstream).with("delivery", "queue");
    let gateway = Gateway::start(shared_store_setup(queued, &url)).await;
    let senders = (0..20).map(|sender| {
        let gateway = &gateway;
        async move {
            for number in 0..5 {
                let event = Event::new(&format!("evt_{sender}_{number}"));
                gateway.send(event).await.assert(202, "queued");
            }
        }
    });
    futures_util::future::join_all(senders).await;
    eventually("all are delivered", async || upstream.count() == 100).await;
    assert_eq!(upstream.event_ids().len(), 100);
    let told = || {
        let lines = gateway.lines().into_iter();
        lines
            .filter(|line| {
                line["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("no further connection"))
            })
            .count()
    };
    eventually("it is told", async || told() == 1).await;
    assert!(!gateway.output().contains("events get 503"));
    gateway
        .wait_for_metric_at_least("store_errors_total", &[("operation", "connect")], 1.0)
        .await;
    gateway.wait_until_ready().await;
    assert_eq!(told(), 1, "{}", gateway.output());
    postgres.sql("alter role limited connection limit 100");
    send_together(&gateway, "more", 20, (202, "queued")).await;
    eventually("all are delivered", async || upstream.count() == 120).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_transaction_does_not_slow_the_queue() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let queued = Route::to(&upstream).with("delivery", "queue");
    let [mut gateway] = replicas(&queued, &postgres).await;
    let _open = postgres.hold_transaction().await;
    // As if many events had been delivered since: their entries stay in the indexes.
    let dead = 100_000;
    postgres.sql(&format!(
        "insert into hookstile.deliveries (id, route, event_id, event_type, received_ms, state,
            tried, possibly_delivered, attempts, payload_bytes, due_ms, queued_ms, test)
         select -i, 'hooks', 'gone', 'gone', 0, 'pending', 0, false, '[]', 0, 0, 0, false
            from generate_series(1, {dead}) as i;
         delete from hookstile.deliveries where id < 0"
    ));
    let read = || {
        postgres
            .sql(
                "select sum(idx_tup_read) from pg_stat_all_indexes
                 where indexrelname in ('deliveries_due', 'deliveries_open')",
            )
            .parse::<u64>()
            .expect("a number")
    };
    let before = read();
    for number in 0..200 {
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.assert(202, "queued");
    }
    upstream.wait_for_requests(200).await;
    // Each session writes its statistics when it ends.
    gateway.stop().await;
    let sessions = "select count(*) from pg_stat_activity where application_name = 'hookstile'";
    eventually("the sessions have ended", async || {
        postgres.sql(sessions) == "0"
    })
    .await;
    let entries = (read() - before) / dead;
    assert!(entries < 100, "each entry was read {entries} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_link_delays_no_other_event() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let link = Link::open_slow(postgres.address(), 5 << 20).await;
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("budget", "20s")
        .with("max_body", "32MiB");
    let url = Postgres::url_at(link.address());
    let gateway = Gateway::start(shared_store_setup(route, &url)).await;
    // It takes longer than another statement may, to store it and to load it.
    let large = async {
        let large = gateway.send(Event::sized("large", 24 << 20)).await;
        large.assert(202, "queued");
    };
    let writing = "select count(*) from pg_stat_activity where state like 'idle in%'
        and state_change < now() - interval '500 ms'";
    small_events_overtake(&gateway, &postgres, writing, large).await;
    wait_for_large_and_small(&upstream).await;
    assert!(
        !gateway
            .output()
            .contains("database operation of the store failed")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn search_that_timed_out_recovers() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let (upstream, other) = (Upstream::ok(), Upstream::ok());
    let queued = |upstream: &Upstream| Route::to(upstream).with("delivery", "queue");
    let routes = [queued(&upstream).named("slow"), queued(&other)];
    let setup = with_database(&postgres.url(), Setup::new(routes).stopping_at_once());
    let gateway = Gateway::start(setup).await;
    // The server ends each search of one route, as one of many dead entries.
    postgres.sql(
        "create function slow() returns trigger language plpgsql as
            'begin perform pg_sleep(9); return new; end';
         create trigger slow before update on hookstile.deliveries for each row
            when (new.route = 'slow' and old.lease_owner is null) execute function slow()",
    );
    // The events of a paused route are not leased as they are stored: they have to be searched for.
    let set_paused = async |action: &str| {
        let path = format!("/webhooks/wh_slow/{action}");
        let response = gateway.admin_post(&path, &serde_json::json!({})).await;
        assert_eq!(response.status, 200, "{}", response.text());
    };
    set_paused("pause").await;
    for number in 0..3 {
        let event = Event::new(&format!("slow_{number}"));
        let request = event.post().at("/webhooks/slow");
        gateway.send(request).await.assert(202, "queued");
    }
    // It came due long ago: a search of what is recent does not find it.
    postgres.sql(
        "update hookstile.deliveries set due_ms = due_ms - 120000, lease_owner = 0,
            lease_ends_ms = 0 where event_id = 'slow_0'",
    );
    set_paused("resume").await;
    let timed_out = |gateway: &Gateway| {
        let ended = "canceling statement due to statement timeout";
        gateway.output().matches(ended).count()
    };
    eventually("searches time out", async || timed_out(&gateway) >= 2).await;
    send_together(&gateway, "evt", 5, (202, "queued")).await;
    eventually("the other route delivers", async || other.count() == 5).await;
    assert_eq!(upstream.count(), 0);
    postgres.sql("drop trigger slow on hookstile.deliveries");
    let limit = std::time::Duration::from_secs(40);
    wait::eventually_in(limit, "all are delivered", async || {
        (0..3).all(|number| upstream.event_ids().contains(&format!("slow_{number}")))
    })
    .await;
    gateway.wait_until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_gateways_share_one_queue() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("delivery", "queue");
    let setup = shared_store_setup(route, &postgres.url());
    let mut gateways: Vec<_> = (0..8).map(|_| Gateway::launch(setup.clone())).collect();
    for gateway in &mut gateways {
        gateway.wait_until_up().await.expect("it starts");
    }
    let rounds = gateways
        .iter()
        .enumerate()
        .map(|(number, gateway)| async move {
            send_together(gateway, &format!("from_{number}"), 20, (202, "queued")).await;
        });
    futures_util::future::join_all(rounds).await;
    upstream.wait_for_requests(160).await;
    let left = "select count(*) from hookstile.deliveries where state <> 'success'";
    eventually("all are recorded", async || postgres.sql(left) == "0").await;
    // Half of them go.
    for gateway in &mut gateways[..4] {
        gateway.kill().await;
    }
    for (number, gateway) in gateways.iter().enumerate().skip(4) {
        let known = format!("from_{}_0", 7 - number);
        gateway
            .send(Event::new(&known))
            .await
            .assert_problem(409, "duplicate");
        send_together(gateway, &format!("then_{number}"), 5, (202, "queued")).await;
    }
    upstream.wait_for_requests(180).await;
    eventually("all are recorded", async || postgres.sql(left) == "0").await;
    let sent = upstream.event_ids();
    let distinct: std::collections::HashSet<_> = sent.iter().collect();
    assert_eq!((sent.len(), distinct.len()), (180, 180));
}

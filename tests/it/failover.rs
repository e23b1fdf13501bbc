//! A PostgreSQL with a standby that takes its place: nothing that the new primary has acknowledged
//! is lost, and no gateway uses both.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::*;
use crate::replicas::{send_together, shared_store_setup};

/// A primary and a standby, which follows it by way of a link.
struct Pair {
    primary: Postgres,
    link: Link,
    standby: Postgres,
}

impl Pair {
    async fn start() -> Option<Self> {
        let (primary, link, standby) = Postgres::start_with_standby().await?;
        Some(Self {
            primary,
            link,
            standby,
        })
    }

    /// Returns the URL of both, the primary first.
    fn url(&self) -> String {
        Postgres::url_at(format!(
            "{},{}",
            self.primary.address(),
            self.standby.address()
        ))
    }

    /// Waits until the standby has everything.
    async fn wait_for_standby(&self) {
        let behind = "select count(*) from pg_stat_replication
            where replay_lsn = pg_current_wal_lsn()";
        eventually("the standby has followed", async || {
            self.primary.sql(behind) == "1"
        })
        .await;
    }

    /// Lets the primary crash, and promotes the standby.
    async fn fail_over(&mut self) {
        self.primary.crash().await;
        self.standby.promote();
    }
}

/// Returns the number of the gateways' connections to a server.
fn connections(postgres: &Postgres) -> String {
    postgres.sql("select count(*) from pg_stat_activity where application_name = 'hookstile'")
}

fn disconnect_gateways(postgres: &Postgres) {
    postgres.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'hookstile'",
    );
}

/// Sends an event until the gateway takes it.
async fn send_until(gateway: &Gateway, id: &str, outcome: &str) {
    let sending = async { while gateway.send(Event::new(id)).await.outcome() != outcome {} };
    within(&format!("{id} is {outcome}"), sending).await;
}

/// Returns the lines of the log that say that a server is refused.
fn refusals(gateway: &Gateway) -> Vec<Value> {
    let lines = gateway.lines().into_iter();
    lines
        .filter(|line| {
            line["level"] == "error"
                && line["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("is refused"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_attempts_end_no_other_delivery() {
    let Some(mut pair) = Pair::start().await else {
        return;
    };
    let gate = Gate::shut();
    let held = gate.clone();
    let upstream = Upstream::deciding(move |_, _| Reply::ok().after(&held));
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("attempt_timeout", "30s")
        .with("concurrency", "200");
    let gateway = Gateway::start(shared_store_setup(route, &pair.url())).await;
    gateway
        .send(Event::new("first"))
        .await
        .assert(202, "queued");
    pair.wait_for_standby().await;
    pair.link.partition();
    // More than the numbers that the server gives without writing them down.
    for number in 0..50 {
        let lost = Event::new(&format!("lost_{number}"));
        gateway.send(lost).await.assert(202, "queued");
    }
    eventually("the lost ones are attempted", async || {
        upstream.count() == 51
    })
    .await;
    pair.fail_over().await;
    for number in 0..50 {
        send_until(&gateway, &format!("new_{number}"), "queued").await;
    }
    let reused = "select count(*) from hookstile.deliveries
        where event_id like 'new%' and id <= 51";
    assert_ne!(pair.standby.sql(reused), "0", "numbers are given again");
    gate.open();
    eventually("all new ones are sent", async || {
        let sent = upstream.event_ids();
        (0..50).all(|number| sent.contains(&format!("new_{number}")))
    })
    .await;
    let left = "select count(*) from hookstile.deliveries where state <> 'success'";
    eventually("all are delivered", async || pair.standby.sql(left) == "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn returned_primary_is_refused_once() {
    let Some(mut pair) = Pair::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let route = Route::to(&upstream);
    let gateway = Gateway::start(shared_store_setup(route, &pair.url())).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    pair.wait_for_standby().await;
    pair.fail_over().await;
    send_until(&gateway, "evt_2", "delivered").await;
    assert!(gateway.output().contains("has failed over"));
    // Not demoted: it accepts writes, and is the first in the URL.
    pair.primary.restart().await;
    for round in 0..3 {
        disconnect_gateways(&pair.standby);
        send_until(&gateway, &format!("round_{round}"), "delivered").await;
        for known in ["evt_1", "evt_2"] {
            send_until(&gateway, known, "duplicate").await;
        }
    }
    assert_eq!(upstream.count(), 5);
    let on_primary = "select count(*) from hookstile.ledger";
    assert_eq!(pair.primary.sql(on_primary), "1");
    let refused = refusals(&gateway);
    assert_eq!(refused.len(), 1, "{}", gateway.output());
    let reason = refused[0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("promoted in its place"), "{reason}");
    gateway.wait_until_ready().await;
    // With the old one alone, nothing is taken.
    pair.standby.crash().await;
    eventually("the gateway is not ready", async || {
        gateway.admin_get("/readyz").await.status == 503
    })
    .await;
    assert_eq!(gateway.send(Event::new("evt_3")).await.status, 503);
    assert_eq!(pair.primary.sql(on_primary), "1");
    assert_eq!(refusals(&gateway).len(), 1, "{}", gateway.output());
    pair.standby.restart().await;
    send_until(&gateway, "evt_3", "delivered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_gateway_chooses_the_promoted_server() {
    let Some(mut pair) = Pair::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = shared_store_setup(Route::to(&upstream), &pair.url());
    let one = Gateway::start(setup.clone()).await;
    one.send(Event::new("evt_1")).await.assert(200, "delivered");
    pair.wait_for_standby().await;
    pair.fail_over().await;
    send_until(&one, "evt_2", "delivered").await;
    pair.primary.restart().await;
    let two = Gateway::start(setup).await;
    send_until(&two, "evt_2", "duplicate").await;
    assert_eq!(connections(&pair.primary), "0");
    assert_eq!(refusals(&two).len(), 1, "{}", two.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_store_is_refused() {
    let (Some(mut one), Some(other)) = (Postgres::start().await, Postgres::start().await) else {
        return;
    };
    let upstream = Upstream::ok();
    let alone = Gateway::start(shared_store_setup(Route::to(&upstream), &other.url())).await;
    alone
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let both = Postgres::url_at(format!("{},{}", one.address(), other.address()));
    // The first one has a store, too, and its own events.
    let first = Gateway::start(shared_store_setup(Route::to(&upstream), &one.url())).await;
    let gateway = {
        other.freeze().await;
        let gateway = Gateway::start(shared_store_setup(Route::to(&upstream), &both)).await;
        other.resume();
        gateway
    };
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    drop(first);
    one.crash().await;
    eventually("the gateway is not ready", async || {
        gateway.admin_get("/readyz").await.status == 503
    })
    .await;
    eventually("the other store is refused", async || {
        refusals(&gateway).len() == 1
    })
    .await;
    assert_eq!(gateway.send(Event::new("evt_2")).await.status, 503);
    one.restart().await;
    send_until(&gateway, "evt_1", "duplicate").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_primary_is_left_in_seconds() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = shared_store_setup(Route::to(&upstream), &pair.url());
    let gateway = Gateway::start(setup.clone()).await;
    // Ten connections are open.
    send_together(&gateway, "before", 10, (200, "delivered")).await;
    pair.wait_for_standby().await;
    pair.primary.freeze().await;
    pair.standby.promote();
    let promoted = Instant::now();
    send_until(&gateway, "after", "delivered").await;
    let took = promoted.elapsed();
    // Five seconds on a machine that does nothing else.
    assert!(took < Duration::from_secs(8), "{took:?}");
    // Another one starts, and the known events are known.
    let other = Gateway::start(setup).await;
    send_until(&other, "before_1", "duplicate").await;
    pair.primary.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_copy_of_the_data_is_refused() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = shared_store_setup(Route::to(&upstream), &postgres.url());
    let gateway = Gateway::start(setup).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    // As if a copy from two minutes ago had been put in its place.
    postgres.sql("update hookstile.store set downtime_ms = downtime_ms - 120000");
    eventually("it is refused", async || refusals(&gateway).len() == 1).await;
    assert_eq!(gateway.admin_get("/readyz").await.status, 503);
    assert_eq!(gateway.send(Event::new("evt_2")).await.status, 503);
    let reason = refusals(&gateway)[0]["reason"].clone();
    assert!(
        reason
            .as_str()
            .is_some_and(|reason| reason.contains("went back")),
        "{reason}"
    );
    postgres.sql("update hookstile.store set downtime_ms = downtime_ms + 120000");
    gateway.wait_until_ready().await;
    send_until(&gateway, "evt_2", "delivered").await;
    assert_eq!(refusals(&gateway).len(), 1, "{}", gateway.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raised_version_is_the_same_store() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = shared_store_setup(Route::to(&upstream), &postgres.url());
    let gateway = Gateway::start(setup).await;
    // As a gateway of the next version does while this one still runs.
    postgres.sql("update hookstile.store set version = version + 1");
    disconnect_gateways(&postgres);
    send_until(&gateway, "evt_1", "delivered").await;
    assert_eq!(refusals(&gateway).len(), 0, "{}", gateway.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_primary_is_left_while_it_runs() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = shared_store_setup(Route::to(&upstream), &pair.url());
    let gateway = Gateway::start(setup).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    pair.wait_for_standby().await;
    // The primary does not know of it.
    pair.standby.promote();
    eventually("the promoted one is used alone", async || {
        connections(&pair.primary) == "0" && connections(&pair.standby) != "0"
    })
    .await;
    send_until(&gateway, "evt_1", "duplicate").await;
    send_until(&gateway, "evt_2", "delivered").await;
    let known = "select count(*) from hookstile.ledger";
    assert_eq!(pair.primary.sql(known), "1");
    assert_eq!(pair.standby.sql(known), "2");
    eventually("the other one is refused", async || {
        refusals(&gateway).len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_that_is_far_behind_is_refused() {
    let Some(mut pair) = Pair::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = shared_store_setup(Route::to(&upstream), &pair.url());
    let mut gateway = Gateway::start(setup).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    pair.wait_for_standby().await;
    pair.link.partition();
    // As if the primary had gone on for more than a quarter of an hour.
    pair.primary
        .sql("update hookstile.store set downtime_ms = downtime_ms + 960000");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    let ticked = "select uptime_ms from hookstile.store";
    let before: u64 = pair.primary.sql(ticked).parse().expect("a number");
    eventually("the gateway has seen that time", async || {
        let now: u64 = pair.primary.sql(ticked).parse().expect("a number");
        now > before + 2_000
    })
    .await;
    pair.fail_over().await;
    eventually("the copy is refused", async || {
        refusals(&gateway).len() == 1
    })
    .await;
    let reason = refusals(&gateway)[0]["reason"].clone();
    let is_told = |reason: &str| reason.contains("went back by 9");
    assert!(reason.as_str().is_some_and(is_told), "{reason}");
    eventually("the gateway is not ready", async || {
        gateway.admin_get("/readyz").await.status == 503
    })
    .await;
    assert_eq!(gateway.send(Event::new("evt_3")).await.status, 503);
    let known = "select count(*) from hookstile.ledger";
    assert_eq!(pair.standby.sql(known), "1");
    // An operator decides to use it.
    gateway.kill().await;
    gateway.restart().await;
    send_until(&gateway, "evt_1", "duplicate").await;
    send_until(&gateway, "evt_3", "delivered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_timelines_is_used() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres.sql(
        "create role plain login; create schema hookstile authorization plain;
         revoke execute on function pg_walfile_name(pg_lsn) from public",
    );
    let upstream = Upstream::ok();
    let url = format!(
        "postgres://plain@{}/postgres?sslmode=disable",
        postgres.address()
    );
    let gateway = Gateway::start(shared_store_setup(Route::to(&upstream), &url)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let timeline = "select timeline is null from hookstile.store";
    assert_eq!(postgres.sql(timeline), "t");
    disconnect_gateways(&postgres);
    send_until(&gateway, "evt_1", "duplicate").await;
    assert_eq!(refusals(&gateway).len(), 0, "{}", gateway.output());
    // An old copy is known by its clock.
    postgres.sql("update hookstile.store set downtime_ms = downtime_ms - 120000");
    eventually("it is refused", async || {
        refusals(&gateway).len() == 1 && gateway.admin_get("/readyz").await.status == 503
    })
    .await;
}

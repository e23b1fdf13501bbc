//! The PostgreSQL that a gateway connects to when it starts: its version, settings, TLS and hosts.

use std::time::Duration;

use crate::harness::tls::Authority;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;
use crate::replicas::{replicas, shared_store_setup};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_gateways_initialize_one_database() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let mut gateways: Vec<_> = (0..4)
        .map(|_| Gateway::launch(shared_store_setup(Route::to(&upstream), &postgres.url())))
        .collect();
    for gateway in &mut gateways {
        gateway.wait_until_up().await.expect("it starts");
    }
    gateways[0]
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    for gateway in &gateways {
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert_problem(409, "duplicate");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_database_is_left_unchanged() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [mut first] = replicas(&Route::to(&upstream), &postgres).await;
    first.stop().await;
    postgres.sql("update hookstile.store set version = 99");
    let (code, output) =
        Gateway::refuses(shared_store_setup(Route::to(&upstream), &postgres.url())).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("later version of hookstile (tables 99"),
        "{output}"
    );
    assert!(!output.contains("\"listening\""), "{output}");
    assert_eq!(postgres.sql("select version from hookstile.store"), "99");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_warns_of_unsafe_database_settings() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let warns = |gateway: &Gateway, setting: &str| {
        let lines = gateway.lines();
        lines.iter().any(|line| {
            line["level"] == "warn"
                && line["message"]
                    .as_str()
                    .is_some_and(|m| m.contains(setting))
        })
    };
    let [usual] = replicas(&Route::to(&upstream), &postgres).await;
    // The server that the tests start runs without it.
    assert!(warns(&usual, "`fsync` is off"), "{}", usual.output());
    assert!(
        !warns(&usual, "`synchronous_commit` is off"),
        "{}",
        usual.output()
    );
    postgres.sql("alter database postgres set synchronous_commit = off");
    let [hasty] = replicas(&Route::to(&upstream), &postgres).await;
    assert!(
        warns(&hasty, "`synchronous_commit` is off"),
        "{}",
        hasty.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_tls_verifies_the_configured_authority() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let Some(postgres) = Postgres::start_with_tls(&authority.issue("127.0.0.1")).await else {
        return;
    };
    let upstream = Upstream::ok();
    let by_tls = |named: &Authority| {
        let url = format!(
            "postgres://hookstile@{}/postgres?sslrootcert=ca.pem&sslmode=verify-full",
            postgres.address()
        );
        shared_store_setup(Route::to(&upstream), &url).file("ca.pem", named.pem())
    };
    let gateway = Gateway::start(by_tls(&authority)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let plain = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
        where application_name = 'hookstile' and not ssl";
    assert_eq!(postgres.sql(plain), "0");
    let (code, output) = Gateway::refuses(by_tls(&stranger)).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("certificate"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn required_tls_rejects_plain_database() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let url = format!(
        "postgres://hookstile@{}/postgres?sslrootcert=ca.pem&sslmode=verify-full",
        postgres.address()
    );
    let (code, output) = Gateway::refuses(
        shared_store_setup(Route::to(&upstream), &url).file("ca.pem", authority.pem()),
    )
    .await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("TLS"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_database_host_is_skipped() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    let (down, upstream) = (ClosedPort::new(), Upstream::ok());
    let hosts = format!("{},{}", down.address(), postgres.address());
    let gateway = Gateway::start(shared_store_setup(
        Route::to(&upstream),
        &Postgres::url_at(hosts),
    ))
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    postgres.crash().await;
    postgres.restart().await;
    let again = async { while gateway.send(Event::new("evt_2")).await.status != 200 {} };
    within("the gateway reconnects", again).await;
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
}

/// Returns the remaining keepalive timers of this port's connections.
fn keepalives(port: u16) -> Vec<Duration> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let of = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_open = fields[1].ends_with(&of) && fields[3] == "01";
            let ticks =
                u64::from_str_radix(fields[5].strip_prefix("02:").filter(|_| is_open)?, 16).ok()?;
            Some(Duration::from_millis(ticks * 10))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_probes_silent_gateways() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [_gateway] = replicas(&Route::to(&upstream), &postgres).await;
    // A session that is just being opened has not set its own yet.
    eventually("every connection is probed within 10 s", async || {
        let soonest = keepalives(postgres.address().port());
        !soonest.is_empty()
            && soonest
                .iter()
                .all(|pause| *pause <= Duration::from_secs(10))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooler_that_keeps_sessions_works() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let Some(pooler) = Pooler::start(&postgres, "session").await else {
        return;
    };
    let upstream = Upstream::ok();
    let setup = shared_store_setup(Route::to(&upstream), &Postgres::url_at(pooler.address()));
    let gateway = Gateway::start(setup).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
    assert!(
        !gateway.output().contains("\"error\""),
        "{}",
        gateway.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooler_that_mixes_sessions_is_refused() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    for mode in ["transaction", "statement"] {
        let Some(pooler) = Pooler::start(&postgres, mode).await else {
            return;
        };
        let upstream = Upstream::ok();
        let url = Postgres::url_at(pooler.address());
        let setup = shared_store_setup(Route::to(&upstream), &url);
        let (code, output) = Gateway::refuses(setup).await;
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains("pool_mode=session"), "{mode}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_of_the_schema_needs_no_other_right() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres.sql(
        "create role owner_of_schema login; create schema hookstile authorization owner_of_schema;
         revoke create on database postgres from public",
    );
    let upstream = Upstream::ok();
    let url = format!(
        "postgres://owner_of_schema@{}/postgres?sslmode=disable",
        postgres.address()
    );
    let gateway = Gateway::start(shared_store_setup(Route::to(&upstream), &url)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

//! `hookstile store check` on a PostgreSQL that gateways use.

use serde_json::Value;

use crate::harness::command::{Run, command, finish};
use crate::harness::*;
use crate::replicas::{replicas, send_together};

async fn check(gateway: &Gateway, postgres: &Postgres, options: &[&str]) -> Run {
    let mut command = command();
    command
        .current_dir(gateway.directory())
        .env("DATABASE_URL", postgres.url())
        .args(["store", "check", "-c"])
        .arg(gateway.config())
        .args(options);
    finish(command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_store_is_found_sound() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let queued = Route::to(&upstream).with("delivery", "queue");
    let [one, two] = replicas(&queued, &postgres).await;
    let checking = async {
        for _ in 0..3 {
            let found = check(&one, &postgres, &["--json"]).await;
            let found = found.assert(0).json();
            assert_eq!(found["success"], true, "{found}");
            assert_eq!(found["gateways"], 2, "{found}");
        }
    };
    let sending = async |gateway: &Gateway, prefix: &str| {
        for round in 0.. {
            send_together(gateway, &format!("{prefix}_{round}"), 5, (202, "queued")).await;
        }
    };
    tokio::select! {
        () = checking => {}
        () = sending(&one, "one") => {}
        () = sending(&two, "two") => {}
    }
    let left = "select count(*) from hookstile.deliveries where state = 'pending'";
    eventually("all are delivered", async || postgres.sql(left) == "0").await;
    let found = check(&one, &postgres, &[]).await;
    assert!(found.assert(0).stdout.ends_with("ok\n"), "{}", found.stdout);
    assert!(found.stdout.contains("2 gateways running"));
    assert!(found.stdout.contains("hooks"), "{}", found.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_rows_are_found() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::replying([Reply::status(500)]);
    let [mut gateway] = replicas(&Route::to(&upstream), &postgres).await;
    for number in 1..=3 {
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.assert(500, "upstream_rejected");
    }
    gateway.stop().await;
    check(&gateway, &postgres, &[]).await.assert(0);
    let found = async |break_it: &str, code: &str, named: &str, mend_it: &str| {
        postgres.sql(break_it);
        let found = check(&gateway, &postgres, &["--json"]).await;
        let found = found.assert(1).json();
        assert_eq!(found["code"], "store_damaged", "{found}");
        let problems = found["problems"].as_array().expect("a list").clone();
        let told = |problem: &Value| {
            problem["code"] == code
                && problem["detail"]
                    .as_str()
                    .is_some_and(|d| d.contains(named))
        };
        assert!(problems.iter().any(told), "{break_it}: {found}");
        postgres.sql(mend_it);
    };
    let payload = "create table kept as select * from hookstile.payloads where delivery = 1;
        delete from hookstile.payloads where delivery = 1";
    let back = "insert into hookstile.payloads select * from kept; drop table kept";
    found(payload, "missing_payload", "del_1 (failed)", back).await;
    let stray = "insert into hookstile.payloads values (77, '', '')";
    let removed = "delete from hookstile.payloads where delivery = 77";
    found(stray, "stray_payload", "del_77", removed).await;
    let shorter = "update hookstile.payloads set body = substr(body, 2) where delivery = 2";
    let longer = "update hookstile.payloads set body = 'x' || body where delivery = 2";
    found(shorter, "payload_size", "del_2", longer).await;
    let state =
        |state: &str| format!("update hookstile.deliveries set state = '{state}' where id = 3");
    found(
        &state("gone"),
        "damaged_delivery",
        "del_3",
        &state("failed"),
    )
    .await;
    found(
        &state("pending"),
        "wrong_count",
        "route hooks",
        &state("failed"),
    )
    .await;
    let number = |number: u64| format!("select setval('hookstile.delivery_numbers', {number})");
    found(&number(1), "wrong_number", "del_3", &number(9)).await;
    let webhook = "insert into hookstile.webhooks values ('mine', 'no JSON')";
    let none = "delete from hookstile.webhooks";
    found(webhook, "damaged_webhook", "mine", none).await;
    let clock = |by: &str| format!("update hookstile.store set uptime_ms = {by} uptime_ms");
    found(&clock("-1 -"), "damaged_header", "the row", &clock("-1 -")).await;
    check(&gateway, &postgres, &[]).await.assert(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_without_a_store_stays_empty() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let [mut gateway] = replicas(&Route::to(&upstream), &postgres).await;
    gateway.stop().await;
    postgres.sql("update hookstile.store set version = 99");
    let later = check(&gateway, &postgres, &[]).await;
    assert!(
        later.assert(1).stderr.contains("tables 99"),
        "{}",
        later.stderr
    );
    postgres.sql("drop schema hookstile cascade");
    let found = check(&gateway, &postgres, &["--json"]).await;
    assert_eq!(found.assert(1).json()["code"], "unreadable_store");
    assert_eq!(postgres.sql("select to_regnamespace('hookstile')"), "");
}

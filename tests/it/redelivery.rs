//! Bulk redelivery in the background: it goes on without its caller and after a restart, and runs once.

use serde_json::{Value, json};

use crate::harness::command::run_cli;
use crate::harness::process::Process;
use crate::harness::*;
use crate::replicas::replicas;

const REDELIVER: &str = "/deliveries/redeliver";

/// Starts a database with two gateways, at which three events have failed. The upstream accepts the
/// next ones.
async fn start_with_failed_events() -> Option<(Postgres, Upstream, [Gateway; 2])> {
    let postgres = Postgres::start().await?;
    let upstream = Upstream::replying([vec![Reply::status(500); 3], vec![Reply::ok()]].concat());
    let gateways = replicas(&Route::to(&upstream), &postgres).await;
    for number in 1..=3 {
        let event = Event::new(&format!("evt_{number}"));
        gateways[0]
            .send(event)
            .await
            .assert(500, "upstream_rejected");
    }
    Some((postgres, upstream, gateways))
}

/// Keeps all gateways from changing deliveries.
async fn lock_deliveries(postgres: &Postgres) -> Process {
    let lock = "begin; lock table hookstile.deliveries in exclusive mode";
    postgres.hold_transaction_with(lock).await
}

fn unlock(postgres: &Postgres, lock: Process) {
    drop(lock);
    // The server does not notice by itself.
    postgres
        .sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'");
}

async fn last(gateway: &Gateway) -> Value {
    gateway.api(REDELIVER).await["redelivery"].clone()
}

fn has_counts(redelivery: &Value, running: bool, matched: u64, accepted: u64) -> bool {
    redelivery["running"] == running
        && redelivery["matched"] == matched
        && redelivery["accepted"] == accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivery_passes_to_another_gateway() {
    let Some((postgres, upstream, [mut one, two])) = start_with_failed_events().await else {
        return;
    };
    assert_eq!(last(&two).await, Value::Null);
    let lock = lock_deliveries(&postgres).await;
    let body = json!({"status": "failed", "per_second": 1_000});
    let answer = one.admin_post(REDELIVER, &body).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert!(has_counts(&answer, true, 3, 0), "{answer}");
    assert!(has_counts(&last(&two).await, true, 3, 0));
    // The same again, at another gateway.
    let again = two.admin_post(REDELIVER, &body).await;
    assert_eq!(again.status, 409, "{}", again.text());
    assert!(
        again.text().contains("redelivery_under_way"),
        "{}",
        again.text()
    );
    one.kill().await;
    unlock(&postgres, lock);
    // The lease of the one that was killed ends at once.
    postgres.sql("update hookstile.store set uptime_ms = uptime_ms + 15000");
    upstream.wait_for_requests(6).await;
    eventually("the redelivery has ended", async || {
        has_counts(&last(&two).await, false, 3, 3)
    })
    .await;
    // They are attempted at the same time, so in any order.
    let mut again = upstream.event_ids().split_off(3);
    again.sort_unstable();
    assert_eq!(again, ["evt_1", "evt_2", "evt_3"]);
    assert_eq!(last(&two).await["per_second"], 1_000.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivery_is_cancelled_at_another_gateway() {
    let Some((postgres, upstream, [one, two])) = start_with_failed_events().await else {
        return;
    };
    let cancel = async |gateway: &Gateway| {
        let address = gateway.admin_address();
        let request = Request::new("DELETE", REDELIVER).set("Host", &address.to_string());
        Client::connect(address).await.send(request).await
    };
    let none = cancel(&two).await;
    assert_eq!(none.status, 409, "{}", none.text());
    assert!(none.text().contains("\"no_redelivery_under_way\""));
    let lock = lock_deliveries(&postgres).await;
    let begun = one
        .admin_post(REDELIVER, &json!({"status": "failed"}))
        .await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    eventually("the redelivery is interrupted", async || {
        one.output().contains("bulk redelivery interrupted")
    })
    .await;
    let done = run_cli(&two, "events redeliver --cancel").await;
    assert_eq!(done.assert(0).stdout, "cancelled after 0 of 3 events\n");
    assert!(has_counts(&last(&one).await, false, 3, 0));
    unlock(&postgres, lock);
    eventually("the gateway that ran it knows", async || {
        one.output().contains("bulk redelivery cancelled")
    })
    .await;
    assert!(two.output().contains("cancel_redelivery"), "it is audited");
    // Another one may begin. A batch that was being written may be delivered as well.
    let again = one
        .admin_post(REDELIVER, &json!({"status": "failed"}))
        .await;
    assert_eq!(again.status, 202, "{}", again.text());
    upstream.wait_for_requests(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cli_waits_for_a_slow_redelivery() {
    let Some((postgres, upstream, [one, _two])) = start_with_failed_events().await else {
        return;
    };
    let lock = lock_deliveries(&postgres).await;
    let unlocked = async {
        // The gateway has tried in vain.
        eventually("the redelivery is interrupted", async || {
            one.output().contains("bulk redelivery interrupted")
        })
        .await;
        unlock(&postgres, lock);
    };
    let (done, ()) = tokio::join!(run_cli(&one, "events redeliver --status failed"), unlocked);
    assert_eq!(
        done.assert(0).stdout,
        "3 of 3 events will be delivered again\n"
    );
    assert!(done.stderr.contains("in the background"), "{}", done.stderr);
    upstream.wait_for_requests(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivery_continues_after_restart() {
    let upstream = Upstream::replying([vec![Reply::status(500); 3], vec![Reply::ok()]].concat());
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    for number in 1..=3 {
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.assert(500, "upstream_rejected");
    }
    let first = json!({"ids": ["del_1"]});
    assert_eq!(gateway.admin_post(REDELIVER, &first).await.status, 202);
    upstream.wait_for_requests(4).await;
    gateway.stop().await;
    // As if it had been killed after the first of three, before it saved that.
    let store = rusqlite::Connection::open(gateway.databases().remove(0)).expect("the store");
    let interrupted = "UPDATE redelivery SET running = 1, document = json_set(document,
        '$.query.ids', json('[]'), '$.query.filter.state', 'failed', '$.newest', 3,
        '$.selected', 3, '$.done', 0, '$.position', 0, '$.report.matched', 3,
        '$.report.accepted', 0)";
    assert_eq!(store.execute(interrupted, []).expect("a row"), 1);
    drop(store);
    gateway.restart().await;
    upstream.wait_for_requests(6).await;
    eventually("the redelivery has ended", async || {
        has_counts(&last(&gateway).await, false, 3, 3)
    })
    .await;
    assert_eq!(upstream.event_ids()[3..], ["evt_1", "evt_2", "evt_3"]);
}

//! Changes of the tables while gateways run: the one that comes next, made up, and those of before.

use serde_json::json;

use crate::harness::*;
use crate::replicas::{replicas, send_together, shared_store_setup};

/// A change as the next version could make it: it adds, and removes nothing that this version uses.
const NEXT_VERSION: &str = "
    alter table hookstile.deliveries add column upstream text, add column order_key bytea;
    alter table hookstile.ledger add column kind smallint not null default 0;
    alter table hookstile.payloads add column codec smallint not null default 0;
    alter table hookstile.route_counts add column held bigint not null default 0;
    alter table hookstile.store add column next text;
    create table hookstile.next (id bigint primary key);
    create index deliveries_ordered on hookstile.deliveries (route, order_key, id);
    update hookstile.store set version = version + 1";

/// The tables as the first version made them, before columns and tables were added.
const FIRST_VERSION: &str = "
    alter table hookstile.deliveries drop column identity;
    alter table hookstile.ledger drop column route;
    alter table hookstile.store drop column incarnation, drop column timeline;
    drop table hookstile.gateways, hookstile.route_settings, hookstile.incidents,
        hookstile.creations, hookstile.redelivery";

/// Waits until every event was delivered, and asserts that each was sent once.
async fn assert_sent_once(postgres: &Postgres, upstream: &Upstream, count: usize) {
    let left = "select count(*) from hookstile.deliveries where state <> 'success'";
    eventually("all are delivered", async || {
        upstream.count() >= count && postgres.sql(left) == "0"
    })
    .await;
    let sent = upstream.event_ids();
    let distinct: std::collections::HashSet<_> = sent.iter().collect();
    assert_eq!((sent.len(), distinct.len()), (count, count));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_works_on_tables_of_the_next_version() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let queued = Route::to(&upstream).with("delivery", "queue");
    let [one, two] = replicas(&queued, &postgres).await;
    let sending = async |gateway: &Gateway, prefix: &str| {
        for round in 0..5 {
            send_together(gateway, &format!("{prefix}_{round}"), 10, (202, "queued")).await;
        }
    };
    let changing = async {
        upstream.wait_for_requests(10).await;
        postgres.sql(NEXT_VERSION);
    };
    tokio::join!(sending(&one, "one"), sending(&two, "two"), changing);
    // The new version writes rows beside those of the old one, and the old one keeps what they say.
    postgres.sql("update hookstile.deliveries set upstream = 'a', order_key = 'b'");
    let sent = async |id: &str| two.send(Event::new(id)).await.outcome().to_owned();
    assert_eq!(sent("one_0_0").await, "duplicate");
    send_together(&one, "after", 10, (202, "queued")).await;
    assert_sent_once(&postgres, &upstream, 110).await;
    let kept = "select count(*) from hookstile.deliveries where upstream = 'a' and order_key = 'b'";
    assert_eq!(postgres.sql(kept), "100");
    for gateway in [&one, &two] {
        let output = gateway.output();
        assert!(
            !output.contains("operation of the store failed"),
            "{output}"
        );
    }
    // One of this version cannot start any more.
    let setup = shared_store_setup(queued, &postgres.url());
    let (code, output) = Gateway::refuses(setup).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("later version of hookstile"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_take_over_the_first_tables() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let upstream = Upstream::ok();
    let queued = Route::to(&upstream).with("delivery", "queue");
    let [mut old] = replicas(&queued, &postgres).await;
    send_together(&old, "before", 5, (202, "queued")).await;
    upstream.wait_for_requests(5).await;
    let paused = old.admin_post("/webhooks/wh_hooks/pause", &json!({})).await;
    assert_eq!(paused.status, 200);
    for id in ["waits", "leased"] {
        old.send(Event::new(id)).await.assert(202, "queued");
    }
    old.stop().await;
    postgres.sql(FIRST_VERSION);
    // A gateway of the first version, which goes on, is delivering one.
    let lease = "update hookstile.deliveries set begun = true, lease_owner = 42,
        lease_ends_ms = 100000000 where event_id = 'leased'";
    postgres.sql(lease);
    let setup = shared_store_setup(queued, &postgres.url());
    let mut gateways = [Gateway::launch(setup.clone()), Gateway::launch(setup)];
    for gateway in &mut gateways {
        gateway.wait_until_up().await.expect("it starts");
    }
    let resume = "/webhooks/wh_hooks/resume";
    let resumed = gateways[0].admin_post(resume, &json!({})).await;
    assert_eq!(resumed.status, 200);
    upstream.wait_for_requests(6).await;
    for gateway in &gateways {
        gateway
            .send(Event::new("before_0"))
            .await
            .assert_problem(409, "duplicate");
    }
    // The old one, which knows no identity, records its attempt.
    let recorded = "update hookstile.deliveries set state = 'success', due_ms = null,
        queued_ms = null, ended_ms = 0, lease_owner = null, lease_ends_ms = null where event_id = 'leased'
        returning identity is null";
    assert_eq!(postgres.sql(recorded), "t");
    send_together(&gateways[1], "after", 5, (202, "queued")).await;
    assert_sent_once(&postgres, &upstream, 11).await;
}

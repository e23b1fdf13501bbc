//! Idle senders: a route without a verified event for longer than `expect_every` is logged once,
//! and once more when an event is verified again.

use serde_json::json;

use crate::harness::command::run_cli;
use crate::harness::*;

/// Counts the log lines of this level that contain the text.
fn count_log_lines(gateway: &Gateway, level: &str, text: &str) -> usize {
    gateway
        .lines()
        .iter()
        .filter(|line| {
            line["level"] == level
                && line["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(text))
        })
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_is_idle_until_an_event_verifies() {
    let upstream = Upstream::ok();
    let watched = Route::to(&upstream).with("expect_every", "2s");
    let gateway = Gateway::start(Setup::new([
        watched,
        Route::to(&upstream).named("unwatched"),
    ]))
    .await;
    gateway
        .wait_for_metric("route_silent", &[("route", "hooks")], 1.0)
        .await;
    // Only a verified event counts, so this one does not.
    gateway
        .send(Event::new("evt_0").forged())
        .await
        .assert(401, "invalid_signature");
    let metrics = gateway.metrics().await;
    metrics.assert_value("route_silent", &[("route", "hooks")], 1.0);
    metrics.assert_value("route_silent", &[("route", "unwatched")], 0.0);
    let webhook = gateway.api("/webhooks/wh_hooks").await["webhook"].clone();
    assert_eq!(
        (&webhook["silent"], &webhook["expect_every_seconds"]),
        (&json!(true), &json!(2.0)),
        "{webhook}"
    );
    let other = gateway.api("/webhooks/wh_unwatched").await["webhook"].clone();
    assert_eq!(
        (&other["silent"], other.get("expect_every_seconds")),
        (&json!(false), None),
        "{other}"
    );
    let shown = run_cli(&gateway, "status").await.stdout;
    assert!(
        shown.contains("WARNING  hooks: no event was verified for more than 2 s"),
        "{shown}"
    );
    assert!(!shown.contains("unwatched: no event"), "{shown}");

    eventually("the idle sender is logged", async || {
        count_log_lines(&gateway, "warn", "expect_every") > 0
    })
    .await;
    assert_eq!(
        count_log_lines(&gateway, "warn", "expect_every"),
        1,
        "logged once, however often the status is read"
    );

    let mut number = 0;
    eventually("an event is verified", async || {
        number += 1;
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
        gateway
            .metrics()
            .await
            .find("route_silent", &[("route", "hooks")])
            == Some(0.0)
    })
    .await;
    eventually("the log has both lines", async || {
        count_log_lines(&gateway, "info", "verified again") > 0
    })
    .await;
    gateway
        .wait_for_metric("route_silent", &[("route", "hooks")], 1.0)
        .await;
    eventually("the idle sender is logged again", async || {
        count_log_lines(&gateway, "warn", "expect_every") >= 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sender_is_logged() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("expect_every", "100ms")).await;
    eventually("the idle sender is logged", async || {
        count_log_lines(&gateway, "warn", "expect_every") > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_changes_limit_and_keeps_last_event_time() {
    let upstream = Upstream::ok();
    let expecting = |every: &str| Setup::from(Route::to(&upstream).with("expect_every", every));
    let gateway = Gateway::start(expecting("100ms")).await;
    let silent = [("route", "hooks")];
    gateway.wait_for_metric("route_silent", &silent, 1.0).await;
    gateway.rewrite(expecting("1h"));
    assert_eq!(gateway.admin_post("/reload", &json!({})).await.status, 200);
    gateway
        .metrics()
        .await
        .assert_value("route_silent", &silent, 0.0);
    gateway.rewrite(expecting("50ms"));
    assert_eq!(gateway.admin_post("/reload", &json!({})).await.status, 200);
    gateway
        .metrics()
        .await
        .assert_value("route_silent", &silent, 1.0);
    gateway.rewrite(Route::to(&upstream));
    assert_eq!(gateway.admin_post("/reload", &json!({})).await.status, 200);
    gateway
        .metrics()
        .await
        .assert_value("route_silent", &silent, 0.0);
    gateway.rewrite(expecting("0s"));
    assert_eq!(gateway.admin_post("/reload", &json!({})).await.status, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_do_not_hide_an_idle_sender() {
    let upstream = Upstream::ok();
    let failing = Upstream::replying([Reply::status(500)]);
    let watched = |upstream: &Upstream| {
        Route::to(upstream)
            .with("expect_every", "2s")
            .with("events", "[t, user.created]")
    };
    let gateway = Gateway::start(Setup::new([
        watched(&upstream),
        watched(&failing).named("failing"),
        watched(&upstream).named("ignoring"),
    ]))
    .await;
    let delivered = Event::typed("evt_1", "user.created");
    let ignored = Event::typed("evt_2", "user.ignored");
    for route in ["hooks", "failing", "ignoring"] {
        eventually(format!("{route} is silent"), async || {
            gateway.send(delivered.clone()).await;
            let failed = delivered.post().at("/webhooks/failing");
            gateway.send(failed).await.assert(500, "upstream_rejected");
            let ignored = ignored.post().at("/webhooks/ignoring");
            gateway.send(ignored).await.assert(200, "ignored");
            let metrics = gateway.metrics().await;
            metrics.find("route_silent", &[("route", route)]) == Some(1.0)
        })
        .await;
    }
    // A new event ends the silence, also one that is ignored or fails.
    for (number, route) in ["vpn-enterprise", "failing", "ignoring"].iter().enumerate() {
        let event = Event::typed(
            &format!("evt_new_{number}"),
            match *route {
                "ignoring" => "user.ignored",
                _ => "user.created",
            },
        );
        gateway
            .send(event.post().at(&format!("/webhooks/{route}")))
            .await;
    }
    let metrics = gateway.metrics().await;
    for route in ["hooks", "failing", "ignoring"] {
        metrics.assert_value("route_silent", &[("route", route)], 0.0);
    }
}

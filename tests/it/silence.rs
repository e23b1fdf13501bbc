//! A route that hears nothing for longer than it should says so, once, and again when that is over.

use serde_json::json;

use crate::harness::command::beside;
use crate::harness::*;

/// How many lines of the log say so, at this level.
fn told(gateway: &Gateway, level: &str, text: &str) -> usize {
    let says = |line: &serde_json::Value| {
        line["level"] == level
            && line["message"]
                .as_str()
                .is_some_and(|message| message.contains(text))
    };
    gateway.lines().iter().filter(|line| says(line)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_hears_nothing_for_longer_than_it_should_is_silent_until_an_event_is_verified()
{
    let upstream = Upstream::ok();
    let watched = Route::to(&upstream).with("expect_every", "2s");
    let gateway = Gateway::start(Setup::new([
        watched,
        Route::to(&upstream).named("unwatched"),
    ]))
    .await;
    gateway
        .metric_reaches("route_silent", &[("route", "hooks")], 1.0)
        .await;
    // Whoever sends something else is not heard.
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
    let shown = beside(&gateway, "status").await.stdout;
    assert!(
        shown.contains("hooks: SILENT: no event verified for more than 2s"),
        "{shown}"
    );
    assert!(!shown.contains("unwatched: SILENT"), "{shown}");

    eventually("the log has it", async || {
        told(&gateway, "warn", "expect_every") > 0
    })
    .await;
    assert_eq!(
        told(&gateway, "warn", "expect_every"),
        1,
        "once, however often it was asked"
    );

    let mut number = 0;
    eventually("it is heard", async || {
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
    eventually("the log has both", async || {
        told(&gateway, "info", "verified again") > 0
    })
    .await;
    gateway
        .metric_reaches("route_silent", &[("route", "hooks")], 1.0)
        .await;
    eventually("it is told anew", async || {
        told(&gateway, "warn", "expect_every") >= 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_of_a_silence_that_nobody_asks_for() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("expect_every", "100ms")).await;
    eventually("the log has it", async || {
        told(&gateway, "warn", "expect_every") > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_what_is_expected_and_not_when_a_route_was_heard() {
    let upstream = Upstream::ok();
    let expecting = |every: &str| Setup::from(Route::to(&upstream).with("expect_every", every));
    let gateway = Gateway::start(expecting("100ms")).await;
    let silent = [("route", "hooks")];
    gateway.metric_reaches("route_silent", &silent, 1.0).await;
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

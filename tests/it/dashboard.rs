//! The dashboard in a real browser: Debian's Chromium, driven by Playwright (`tests/browser`), with
//! a gateway under traffic.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::process::Process;
use crate::harness::programs::{program, tool};
use crate::harness::upstream::ClosedPort;
use crate::harness::wait::eventually_in;
use crate::harness::*;

const TOKEN: &str = "browser_it_token_2f90";
const READ_TOKEN: &str = "browser_it_read_token_7a11";
const HOSTILE: &str = r#"<script>pwned=1</script><img src=x onerror="pwned=1">"#;

/// An upstream that rejects the event three times for good, which makes it a dead letter, and then
/// accepts everything.
fn rejecting_upstream() -> Upstream {
    Upstream::replying([
        Reply::status(422),
        Reply::status(422),
        Reply::status(422),
        Reply::ok(),
    ])
}

fn setup(upstream: &Upstream, delivery: &str) -> Setup {
    let admin = r#"{address: "127.0.0.1:0", token: {env: ADMIN}, read_token: {env: READ}}"#;
    let quick = "{initial: 1ms, max_interval: 10ms}";
    let route = Route::to(upstream)
        .with("delivery", delivery)
        .with("retry", quick)
        .with("retain", "{payloads: all}");
    Setup::from(route)
        .with("admin", admin)
        .env("ADMIN", TOKEN)
        .env("READ", READ_TOKEN)
}

/// Starts a gateway that has a dead letter of this event and a rejected request.
async fn gateway_with_dead_letter(upstream: &Upstream, event: Event) -> Gateway {
    let gateway = Gateway::start(setup(upstream, "queue")).await;
    gateway
        .send(event.forged().set("User-Agent", HOSTILE))
        .await
        .assert(401, "invalid_signature");
    gateway.send(event).await.assert(202, "queued");
    gateway
        .wait_for_metric(
            "queue_events",
            &[("route", "hooks"), ("state", "dead")],
            1.0,
        )
        .await;
    gateway
}

/// Starts a scenario of `tests/browser`; returns `None` without a browser.
fn browse(gateway: &Gateway, scenario: &str, token: &str, data: Value) -> Option<Process> {
    let modules = std::env::var_os("HOOKSTILE_NODE_MODULES").map(PathBuf::from);
    let installed = modules.filter(|modules| modules.join("playwright-core").is_dir());
    tool(
        "HOOKSTILE_NODE_MODULES with playwright-core",
        installed,
        "the dashboard",
    )?;
    let node = tool("node", program("HOOKSTILE_NODE", "node"), "the dashboard")?;
    let chromium = tool(
        "chromium",
        program("HOOKSTILE_CHROMIUM", "chromium"),
        "the dashboard",
    )?;
    let mut arguments = data;
    arguments["base"] = json!(format!("http://{}", gateway.admin_address()));
    arguments["token"] = json!(token);
    arguments["route"] = json!("hooks");
    arguments["delivery"] = json!("del_1");
    let mut command = Command::new(node);
    command
        .args(["drive.mjs", scenario, &arguments.to_string()])
        .env("HOOKSTILE_CHROMIUM", chromium);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser"));
    Some(Process::spawn(&mut command))
}

async fn assert_browser_succeeds(browser: Option<Process>) {
    let Some(browser) = browser else { return };
    // It opens all pages in each colour scheme and size.
    let limit = Duration::from_secs(120);
    let ended = eventually_in(limit, "the browser exits", async || {
        browser.exit().is_some()
    });
    ended.await;
    assert!(
        browser.exit().is_some_and(|status| status.success()),
        "{}",
        browser.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_opens_requested_page_until_logout() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream, "queue")).await;
    let Some(browser) = browse(&gateway, "login", TOKEN, json!({})) else {
        return;
    };
    assert_browser_succeeds(Some(browser)).await;
    let logins = gateway
        .lines()
        .into_iter()
        .filter(|line| line["operation"] == "log_in");
    let outcomes: Vec<_> = logins.map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["unauthorized", "done"]);
    assert!(!gateway.output().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_readable_without_javascript() {
    let upstream = rejecting_upstream();
    let gateway = gateway_with_dead_letter(&upstream, Event::new("evt_1")).await;
    let steps = [
        "received",
        "verified",
        "no duplicate",
        "attempt 1",
        "attempt 2",
        "attempt 3",
        "dead letter",
    ];
    assert_browser_succeeds(browse(
        &gateway,
        "reading",
        TOKEN,
        json!({"event": "evt_1", "steps": steps}),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_buttons_work() {
    let upstream = rejecting_upstream();
    let gateway = gateway_with_dead_letter(&upstream, Event::new("evt_1")).await;
    assert_browser_succeeds(browse(&gateway, "acting", TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_page_redelivers_its_event() {
    let upstream = rejecting_upstream();
    let gateway = gateway_with_dead_letter(&upstream, Event::new("evt_1")).await;
    assert_browser_succeeds(browse(&gateway, "redelivering", TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_token_sees_no_buttons() {
    let upstream = rejecting_upstream();
    let gateway = gateway_with_dead_letter(&upstream, Event::new("evt_1")).await;
    assert_browser_succeeds(browse(&gateway, "readOnly", READ_TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_is_shown_inert() {
    let upstream = rejecting_upstream();
    let data = json!({"html": "</pre><script>pwned=1</script>"});
    let event = Event::raw(json!({"id": HOSTILE, "type": HOSTILE, "data": data}).to_string());
    let gateway = gateway_with_dead_letter(&upstream, event).await;
    let data =
        json!({"event": HOSTILE, "userAgent": HOSTILE, "body": "</pre><script>pwned=1</script>"});
    assert_browser_succeeds(browse(&gateway, "hostile", TOKEN, data)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_page_updates_itself() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream, "queue")).await;
    gateway
        .send(Event::new("evt_before"))
        .await
        .assert(202, "queued");
    let Some(browser) = browse(&gateway, "updating", TOKEN, json!({"event": "evt_after"})) else {
        return;
    };
    browser.wait_for_output("watching").await;
    gateway
        .send(Event::new("evt_after"))
        .await
        .assert(202, "queued");
    assert_browser_succeeds(Some(browser)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyboard_reaches_every_page() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream, "queue")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    assert_browser_succeeds(browse(&gateway, "keys", TOKEN, json!({"event": "evt_1"}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_says_first_what_senders_get() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream, "proxy")).await;
    assert_browser_succeeds(browse(&gateway, "pausing", TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chosen_events_are_redelivered() {
    let replies = [vec![Reply::status(422); 9], vec![Reply::ok()]].concat();
    let upstream = Upstream::replying(replies);
    let gateway = Gateway::start(setup(&upstream, "queue")).await;
    for number in 1..=3 {
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(202, "queued");
    }
    let dead = [("route", "hooks"), ("state", "dead")];
    gateway.wait_for_metric("queue_events", &dead, 3.0).await;
    assert_browser_succeeds(browse(&gateway, "choosing", TOKEN, json!({"count": 3}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_find_events() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream, "proxy")).await;
    for id in ["evt_a1", "evt_a2", "evt_b1"] {
        gateway.send(Event::new(id)).await.assert(200, "delivered");
    }
    gateway
        .send(Event::new("evt_c1").forged())
        .await
        .assert(401, "invalid_signature");
    assert_browser_succeeds(browse(&gateway, "filtering", TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_are_local_with_utc_on_hover() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream, "proxy")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    assert_browser_succeeds(browse(&gateway, "times", TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rejections_fit_a_phone() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream, "proxy")).await;
    let agent = "Mozilla/5.0 (compatible; SomeScanner/2.1; +https://scanner.example.com/about)";
    for number in 0..15 {
        let event = Event::new(&format!("evt_{number}"));
        for request in [
            event.forged(),
            event.post().without("X-VPN-Signature"),
            event.post().set("X-VPN-Signature", "sha256=short"),
            Event::raw(r#"{"type": "user.created"}"#).post(),
            Event::raw("no JSON").post(),
            Request::post(b"{}").at(&format!("/wp-content/plugins/akismet/{number}/readme.txt")),
        ] {
            gateway.send(request.set("User-Agent", agent)).await;
        }
    }
    assert_browser_succeeds(browse(&gateway, "crowded", TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_names_fit_every_window() {
    let upstream = rejecting_upstream();
    let admin = r#"{address: "127.0.0.1:0", token: {env: ADMIN}}"#;
    let (long, closed) = (
        "github-deployments-of-the-production-cluster",
        ClosedPort::new(),
    );
    let of_long = format!("/webhooks/{long}");
    let routes = [
        Route::to(&upstream)
            .with("enforce", "false")
            .with("capture", "{}"),
        Route::to(&upstream).named(long).with("delivery", "queue"),
        Route::to_url(&closed.url()).named("closed"),
    ];
    let gateway = Gateway::start(Setup::new(routes).with("admin", admin).env("ADMIN", TOKEN)).await;
    let agent = "Mozilla/5.0 (compatible; SomeScanner/2.1; +https://scanner.example.com/about)";
    for number in 0..4 {
        let id = format!("order-2026-{number:06}-with-a-rather-long-identifier-from-the-shop");
        let event = Event::typed(&id, "order.fulfillment.partially_completed");
        let unknown = format!("/{}", "x".repeat(200));
        for path in [PATH, &of_long, "/webhooks/closed", &unknown] {
            gateway.send(event.post().at(path)).await;
            let forged = event.forged().at(path);
            gateway.send(forged.set("User-Agent", agent)).await;
        }
    }
    let data = json!({"long": long});
    assert_browser_succeeds(browse(&gateway, "widths", TOKEN, data)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_fit_phones_and_are_accessible() {
    let upstream = rejecting_upstream();
    let gateway = gateway_with_dead_letter(&upstream, Event::new("evt_1")).await;
    assert_browser_succeeds(browse(&gateway, "everywhere", TOKEN, json!({}))).await;
}

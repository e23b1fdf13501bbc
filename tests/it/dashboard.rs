//! The dashboard in a real browser: Debian's Chromium, driven by Playwright (`tests/browser`), at a gateway under traffic.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::patience::eventually;
use crate::harness::process::Process;
use crate::harness::programs::{program, tool};
use crate::harness::*;

const TOKEN: &str = "browser_it_token_2f90";
const READ_TOKEN: &str = "browser_it_read_token_7a11";
const HOSTILE: &str = r#"<script>pwned=1</script><img src=x onerror="pwned=1">"#;

/// What becomes a dead letter: refused for good, three times. Then all is well.
fn refusing() -> Upstream {
    Upstream::replying([
        Reply::status(404),
        Reply::status(404),
        Reply::status(404),
        Reply::ok(),
    ])
}

fn setup(upstream: &Upstream) -> Setup {
    let admin = r#"{address: "127.0.0.1:0", token: {env: ADMIN}, read_token: {env: READ}}"#;
    let quick = "{initial: 1ms, max_interval: 10ms}";
    let route = Route::to(upstream)
        .with("delivery", "queue")
        .with("retry", quick)
        .with("retain", "{payloads: all}");
    Setup::from(route)
        .with("admin", admin)
        .env("ADMIN", TOKEN)
        .env("READ", READ_TOKEN)
}

/// A gateway with a dead letter of this event, and a request that was turned away.
async fn with_a_dead_letter(upstream: &Upstream, event: Event) -> Gateway {
    let gateway = Gateway::start(setup(upstream)).await;
    gateway
        .send(event.forged().set("User-Agent", HOSTILE))
        .await
        .assert(401, "invalid_signature");
    gateway.send(event).await.assert(202, "queued");
    gateway
        .metric_reaches(
            "queue_events",
            &[("route", "hooks"), ("state", "dead")],
            1.0,
        )
        .await;
    gateway
}

/// Begins a scenario of `tests/browser`; `None` where there is no browser.
fn browse(gateway: &Gateway, scenario: &str, token: &str, known: Value) -> Option<Process> {
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
    let mut given = known;
    given["base"] = json!(format!("http://{}", gateway.admin()));
    given["token"] = json!(token);
    given["route"] = json!("hooks");
    given["delivery"] = json!("del_1");
    let mut command = Command::new(node);
    command
        .args(["drive.mjs", scenario, &given.to_string()])
        .env("HOOKSTILE_CHROMIUM", chromium);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser"));
    Some(Process::spawn(&mut command))
}

async fn succeeds(browser: Option<Process>) {
    let Some(browser) = browser else { return };
    let ended = eventually("the browser is done", async || browser.exit().is_some());
    ended.await;
    assert!(
        browser.exit().is_some_and(|status| status.success()),
        "{}",
        browser.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_opens_what_was_wanted_and_its_end_closes_it() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let Some(browser) = browse(&gateway, "login", TOKEN, json!({})) else {
        return;
    };
    succeeds(Some(browser)).await;
    let logins = gateway
        .lines()
        .into_iter()
        .filter(|line| line["operation"] == "log_in");
    let outcomes: Vec<_> = logins.map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["unauthorized", "done"]);
    assert!(!gateway.output().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_javascript_everything_can_be_read() {
    let upstream = refusing();
    let gateway = with_a_dead_letter(&upstream, Event::new("evt_1")).await;
    let steps = [
        "received",
        "verified",
        "claimed in the ledger",
        "attempt 1",
        "attempt 2",
        "attempt 3",
        "dead letter",
    ];
    succeeds(browse(
        &gateway,
        "reading",
        TOKEN,
        json!({"event": "evt_1", "steps": steps}),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_buttons_of_a_route_do_what_they_say() {
    let upstream = refusing();
    let gateway = with_a_dead_letter(&upstream, Event::new("evt_1")).await;
    succeeds(browse(&gateway, "acting", TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_event_is_delivered_again_from_its_page() {
    let upstream = refusing();
    let gateway = with_a_dead_letter(&upstream, Event::new("evt_1")).await;
    succeeds(browse(&gateway, "redelivering", TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_look_sees_no_button() {
    let upstream = refusing();
    let gateway = with_a_dead_letter(&upstream, Event::new("evt_1")).await;
    succeeds(browse(&gateway, "looking", READ_TOKEN, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_payload_holds_is_shown_and_does_nothing() {
    let upstream = refusing();
    let data = json!({"html": "</pre><script>pwned=1</script>"});
    let event = Event::raw(json!({"id": HOSTILE, "type": HOSTILE, "data": data}).to_string());
    let gateway = with_a_dead_letter(&upstream, event).await;
    let known =
        json!({"event": HOSTILE, "userAgent": HOSTILE, "body": "</pre><script>pwned=1</script>"});
    succeeds(browse(&gateway, "hostile", TOKEN, known)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_open_shows_what_comes() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    gateway
        .send(Event::new("evt_before"))
        .await
        .assert(202, "queued");
    let Some(browser) = browse(&gateway, "living", TOKEN, json!({"event": "evt_after"})) else {
        return;
    };
    browser.says("watching").await;
    gateway
        .send(Event::new("evt_after"))
        .await
        .assert(202, "queued");
    succeeds(Some(browser)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_lead_through_the_pages() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    succeeds(browse(&gateway, "keys", TOKEN, json!({"event": "evt_1"}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_fit_a_phone_follow_the_dark_and_are_open_to_all() {
    let upstream = refusing();
    let gateway = with_a_dead_letter(&upstream, Event::new("evt_1")).await;
    succeeds(browse(&gateway, "everywhere", TOKEN, json!({}))).await;
}

//! The problems of a gateway in trouble: worst first, one line for one incident, the same list
//! everywhere.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::harness::command::run_cli;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

/// Retries within the time of a test.
const RETRY: &str = "{initial: 50ms, max_interval: 100ms, horizon: 1h}";

async fn problems(gateway: &Gateway) -> Vec<Value> {
    let document = gateway.api("/problems").await;
    assert_eq!(document["success"], true, "{document}");
    document["problems"].as_array().expect("a list").clone()
}

/// Waits until the problems have these codes, and returns them.
async fn wait_for(gateway: &Gateway, codes: &[&str]) -> Vec<Value> {
    let mut found = Vec::new();
    eventually(format!("the problems are {codes:?}"), async || {
        found = problems(gateway).await;
        found.iter().map(|problem| &problem["code"]).eq(codes)
    })
    .await;
    found
}

/// Counts the log lines of level `warn` with this message.
fn count_warnings(gateway: &Gateway, message: &str) -> usize {
    let lines = gateway.lines();
    let found = lines
        .iter()
        .filter(|line| line["level"] == "warn" && line["message"] == message);
    found.count()
}

fn text(problem: &Value, member: &str) -> String {
    problem[member].as_str().expect("a text").to_owned()
}

async fn send_forged(gateway: &Gateway, count: usize) {
    for number in 0..count {
        gateway
            .send(Event::new(&format!("evt_forged_{number}")).forged())
            .await
            .assert(401, "invalid_signature");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_upstream_is_one_problem() {
    let closed = ClosedPort::new();
    let route = Route::to_url(&closed.url())
        .with("delivery", "queue")
        .with("retry", RETRY);
    let gateway = Gateway::start(route).await;
    assert_eq!(problems(&gateway).await, [Value::Null; 0]);
    for number in 0..4 {
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.assert(202, "queued");
    }
    let problem = wait_for(&gateway, &["upstream_failing"]).await.remove(0);
    assert_eq!(
        (&problem["route"], &problem["severity"], &problem["share"]),
        (&json!("hooks"), &json!("critical"), &json!(1.0)),
        "{problem}"
    );
    let at_risk = &problem["at_risk"];
    assert_eq!(at_risk["events"], 4, "{problem}");
    assert!(at_risk["oldest_age_seconds"].is_u64(), "{problem}");
    assert!(at_risk["gives_up_at"].is_string(), "{problem}");
    assert!(problem["since"].is_string(), "{problem}");
    let summary = text(&problem, "summary");
    assert!(summary.starts_with(&closed.url()), "{summary}");
    for part in ["4 events wait", "last success never", "the horizon"] {
        assert!(summary.contains(part), "{summary}");
    }
    assert_eq!(
        problem["link"],
        "/webhooks/wh_hooks/deliveries?status=pending"
    );
    let shown = run_cli(&gateway, "problems").await;
    assert_eq!(shown.assert(1).stdout.lines().count(), 2);
    for command in ["problems", "status"] {
        let stdout = run_cli(&gateway, command).await.stdout;
        assert!(
            stdout.contains(&format!("CRITICAL hooks: {}", closed.url())),
            "{stdout}"
        );
    }
    let failing = "the route's upstream fails";
    eventually("the outage is logged", async || {
        count_warnings(&gateway, failing) > 0
    })
    .await;

    let _upstream = closed.open([Reply::ok()]);
    wait_for(&gateway, &[]).await;
    let back = "the route's upstream accepts events again";
    eventually("the recovery is logged", async || {
        count_warnings(&gateway, back) > 0
    })
    .await;
    assert_eq!(
        [failing, back].map(|message| count_warnings(&gateway, message)),
        [1, 1],
        "once, however many attempts"
    );
    let shown = run_cli(&gateway, "problems").await;
    assert_eq!(shown.assert(0).stdout, "no problems\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_disk_is_a_problem() {
    let Some(strace) = Strace::new("pread64") else {
        return;
    };
    let closed = ClosedPort::new();
    let route = Route::to_url(&closed.url())
        .with("delivery", "queue")
        .with("retry", RETRY);
    let gateway = Gateway::start(Setup::from(route).stopping_at_once()).await;
    for number in 0..5 {
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.assert(202, "queued");
    }
    let failing = wait_for(&gateway, &["upstream_failing"]).await.remove(0);
    assert_eq!(failing["at_risk"]["events"], 5);
    let strace = strace.injecting("pread64", "delay_enter=60000000");
    if !strace.attach(&gateway).await {
        return;
    }
    let mut found = Vec::new();
    eventually("the store is a problem", async || {
        let asked = Instant::now();
        found = problems(&gateway).await;
        assert!(asked.elapsed() < Duration::from_secs(3), "{found:?}");
        found[0]["code"] == "store_unavailable"
    })
    .await;
    // It has what the store said before.
    assert_eq!(found[1]["code"], "upstream_failing");
    assert!(found[1]["at_risk"]["oldest_age_seconds"].is_number());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn total_rejection_comes_first() {
    let (flaky, upstream) = (
        Upstream::deciding(|request, attempt| {
            let is_flaky = request
                .header("Hookstile-Event-Id")
                .is_some_and(|id| id.ends_with(['0', '4', '8']));
            if attempt == 1 && is_flaky {
                Reply::status(502)
            } else {
                Reply::ok()
            }
        }),
        Upstream::ok(),
    );
    let retried = Route::to(&flaky)
        .named("retried")
        .with("delivery", "queue")
        .with("retry", RETRY);
    let rejecting = Route::to(&upstream).with("expect_every", "1s");
    let gateway = Gateway::start(Setup::new([retried, rejecting])).await;
    gateway
        .send(Event::new("evt_0"))
        .await
        .assert(200, "delivered");
    for number in 0..20 {
        let event = Event::new(&format!("evt_{number}"));
        let event = event.post().at("/webhooks/retried");
        gateway.send(event).await.assert(202, "queued");
    }
    send_forged(&gateway, 12).await;
    flaky.wait_for_requests(26).await;
    // Nothing verifies for longer than expected, which is no second line.
    gateway
        .wait_for_metric("route_silent", &[("route", "hooks")], 1.0)
        .await;
    let codes = ["requests_rejected", "upstream_failing"];
    let found = wait_for(&gateway, &codes).await;
    let routes: Vec<_> = found
        .iter()
        .map(|problem| (&problem["route"], &problem["severity"]))
        .collect();
    assert_eq!(
        routes,
        [
            (&json!("hooks"), &json!("critical")),
            (&json!("retried"), &json!("notice"))
        ]
    );
    let summary = text(&found[0], "summary");
    for part in ["invalid_signature/mismatch", "since"] {
        assert!(summary.contains(part), "{summary}");
    }
    assert!(found[0]["at_risk"]["gives_up_at"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_configuration_is_critical() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream));
    let gateway = Gateway::start(setup.clone()).await;
    gateway.rewrite_text(&setup.yaml().replace("vpn-enterprise\n", "vpn-enterprize\n"));
    let problem = wait_for(&gateway, &["configuration_refused"])
        .await
        .remove(0);
    assert_eq!(
        (&problem["route"], &problem["severity"]),
        (&Value::Null, &json!("critical"))
    );
    let summary = text(&problem, "summary");
    assert!(summary.contains("hookstile.yaml:"), "{summary}");
    assert!(summary.contains("the next start will fail"), "{summary}");
    let status = run_cli(&gateway, "status").await;
    assert!(status.assert(0).stdout.contains(&summary));
    let query = json!({"query": "{ problems { code severity summary atRisk { events } } }"});
    let answer = gateway.admin_post("/graphql", &query).await;
    assert!(
        answer.text().contains("configuration_refused"),
        "{}",
        answer.text()
    );
    gateway.rewrite(setup.clone());
    wait_for(&gateway, &[]).await;
    // A start would fail without the file, too.
    std::fs::remove_file(gateway.config()).unwrap();
    let problem = wait_for(&gateway, &["configuration_refused"])
        .await
        .remove(0);
    assert!(text(&problem, "summary").contains("cannot be read"));
    gateway.rewrite(setup);
    wait_for(&gateway, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letter_is_logged_as_warning() {
    let upstream = Upstream::replying([Reply::status(422)]);
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("retry", RETRY);
    let gateway = Gateway::start(route).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    gateway
        .wait_for_metric("queue_events", &[("state", "dead")], 1.0)
        .await;
    let attempts: Vec<_> = gateway
        .lines()
        .into_iter()
        .filter(|line| line["message"] == "attempt")
        .map(|line| (line["level"].clone(), line["outcome"].clone()))
        .collect();
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    assert_eq!(attempts[0], (json!("info"), json!("retry")));
    assert_eq!(attempts[2], (json!("warn"), json!("dead_letter")));
    let problem = wait_for(&gateway, &["upstream_failing"]).await.remove(0);
    let summary = text(&problem, "summary");
    assert!(summary.contains("1 event was dead-lettered"), "{summary}");
}

async fn set_paused(gateway: &Gateway, action: &str) {
    let path = format!("/webhooks/wh_hooks/{action}");
    let response = gateway.admin_post(&path, &json!({})).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

/// Returns when the first attempt at the oldest event began.
async fn first_attempt(gateway: &Gateway) -> Timestamp {
    let listed = gateway.api("/deliveries").await;
    let oldest = listed["deliveries"].as_array().and_then(|list| list.last());
    let id = text(oldest.expect("a delivery"), "id");
    let path = format!("/deliveries/{id}");
    let attempt = &gateway.api(&path).await["delivery"]["attempts"][0];
    text(attempt, "at").parse().expect("a time")
}

/// Waits for the log line that says why a problem is no longer listed.
async fn wait_for_end(gateway: &Gateway, code: &str, reason: &str) {
    eventually(format!("{code} is over: {reason}"), async || {
        gateway.lines().iter().any(|line| {
            line["message"] == "a problem of the route is no longer listed"
                && (&line["problem"], &line["reason"]) == (&json!(code), &json!(reason))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_is_no_recovery() {
    let closed = ClosedPort::new();
    let route = Route::to_url(&closed.url())
        .with("delivery", "queue")
        .with("retry", RETRY);
    let gateway = Gateway::start(route).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    let failing = wait_for(&gateway, &["upstream_failing"]).await.remove(0);
    set_paused(&gateway, "pause").await;
    let paused = wait_for(&gateway, &["route_paused"]).await.remove(0);
    let summary = text(&paused, "summary");
    for part in ["1 event waits", "refuses connections"] {
        assert!(summary.contains(part), "{summary}");
    }
    wait_for_end(&gateway, "upstream_failing", "paused").await;
    let back = "the route's upstream accepts events again";
    assert_eq!(count_warnings(&gateway, back), 0);
    set_paused(&gateway, "resume").await;
    let again = wait_for(&gateway, &["upstream_failing"]).await.remove(0);
    assert_eq!(again["since"], failing["since"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_is_no_recovery() {
    let (closed, upstream) = (ClosedPort::new(), Upstream::ok());
    let failing = Route::to_url(&closed.url()).named("failing");
    let other = Route::to(&upstream);
    let gateway = Gateway::start(Setup::new([failing, other.clone()])).await;
    for number in 0..6 {
        let event = Event::new(&format!("evt_{number}"));
        gateway
            .send(event.post().at("/webhooks/failing"))
            .await
            .assert(502, "upstream_unreachable");
    }
    wait_for(&gateway, &["upstream_failing"]).await;
    gateway.rewrite(Setup::new([other]));
    wait_for(&gateway, &[]).await;
    wait_for_end(&gateway, "upstream_failing", "route_removed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_keeps_what_is_known() {
    let closed = ClosedPort::new();
    let route = Route::to_url(&closed.url());
    let gateway = Gateway::start(route.clone()).await;
    // Two events, one of them sent again and again by its provider.
    for id in ["evt_1", "evt_2", "evt_2", "evt_2", "evt_2", "evt_2"] {
        gateway
            .send(Event::new(id))
            .await
            .assert(502, "upstream_unreachable");
    }
    let before = wait_for(&gateway, &["upstream_failing"]).await.remove(0);
    assert!(text(&before, "summary").contains("refuses connections"));
    assert_eq!(before["at_risk"]["events"], 2, "{before}");
    let first = first_attempt(&gateway).await;
    let since = text(&before, "since").parse::<Timestamp>().expect("a time");
    assert_eq!(since.as_millisecond(), first.as_millisecond());
    gateway.reload(route.with("budget", "8s")).await;
    let mut after = problems(&gateway).await.remove(0);
    // Only its age moves.
    after["at_risk"]["oldest_age_seconds"] = before["at_risk"]["oldest_age_seconds"].clone();
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_proxy_route_is_at_risk() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    set_paused(&gateway, "pause").await;
    let problem = wait_for(&gateway, &["route_paused"]).await.remove(0);
    assert_eq!(problem["severity"], "notice");
    for number in 0..4 {
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert_problem(503, "inactive");
    }
    let problem = wait_for(&gateway, &["route_paused"]).await.remove(0);
    assert_eq!(problem["severity"], "warning", "{problem}");
    assert_eq!(problem["at_risk"]["events"], 4, "{problem}");
    let gives_up = problem["at_risk"]["gives_up_at"].clone();
    assert!(gives_up.is_string(), "{problem}");
    let summary = text(&problem, "summary");
    assert!(summary.contains("senders get 503, 4 requests"), "{summary}");
    assert_eq!(
        problems(&gateway).await[0]["at_risk"]["gives_up_at"],
        gives_up
    );
    set_paused(&gateway, "resume").await;
    wait_for(&gateway, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_requests_page_nobody() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    send_forged(&gateway, 5).await;
    let problem = wait_for(&gateway, &["requests_rejected"]).await.remove(0);
    assert_eq!(problem["severity"], "notice", "{problem}");
    assert_eq!(problem["at_risk"]["events"], 0, "{problem}");
    run_cli(&gateway, "problems").await.assert(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_with_wrong_secret_is_critical() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream));
    let mut gateway = Gateway::start(setup.clone()).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.stop().await;
    gateway
        .restart_with(setup.env("WEBHOOK_SECRET", "whsec_it_another_51b3aa"))
        .await;
    for number in 0..12 {
        gateway
            .send(Event::new(&format!("evt_later_{number}")))
            .await
            .assert(401, "invalid_signature");
    }
    let problem = wait_for(&gateway, &["requests_rejected"]).await.remove(0);
    assert_eq!(problem["severity"], "critical", "{problem}");
    let summary = text(&problem, "summary");
    assert!(
        summary.contains("nothing was verified since the start"),
        "{summary}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_refusal_is_one_problem() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream));
    let gateway = Gateway::start(setup.clone()).await;
    let refused = async |yaml: String, part: &str| {
        gateway.rewrite_text(&yaml);
        let mut found = Value::Null;
        eventually(
            format!("the configuration is refused: {part}"),
            async || {
                found = problems(&gateway)
                    .await
                    .into_iter()
                    .next()
                    .unwrap_or_default();
                found["summary"]
                    .as_str()
                    .is_some_and(|text| text.contains(part))
            },
        )
        .await;
        found
    };
    let yaml = setup.yaml();
    let first = refused(
        yaml.replace("vpn-enterprise\n", "vpn-enterprize\n"),
        "unknown provider",
    )
    .await;
    let second = refused(yaml.replace("upstream:", "upstraem:"), "upstraem").await;
    assert_eq!(second["since"], first["since"]);
    assert!(
        text(&second, "summary").contains("for another reason"),
        "{second}"
    );
    assert!(
        !text(&first, "summary").contains("for another reason"),
        "{first}"
    );
}

//! Metrics: what a route can count exists from the start, everything counts correctly, and no request
//! can add a series.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::process::Process;
use crate::harness::programs::{program, tool};
use crate::harness::*;

const OUTCOMES: [&str; 19] = [
    "delivered",
    "upstream_rejected",
    "duplicate",
    "in_flight",
    "payload_mismatch",
    "ignored",
    "invalid_signature",
    "invalid_event",
    "malformed_request",
    "forbidden_address",
    "unknown_route",
    "method_not_allowed",
    "body_timeout",
    "body_too_large",
    "headers_too_large",
    "rate_limited",
    "upstream_unreachable",
    "overloaded",
    "budget_exceeded",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn possible_outcomes_start_at_zero() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream),
        Route::to(&upstream).named("second"),
    ]))
    .await;
    let metrics = gateway.metrics().await;
    for route in ["hooks", "second"] {
        // The outcomes of requests with a known route; the rest is counted under `route=""`.
        for outcome in OUTCOMES
            .iter()
            .filter(|outcome| !["unknown_route", "headers_too_large"].contains(outcome))
            .filter(|outcome| !["ignored", "forbidden_address"].contains(outcome))
        {
            metrics.assert_value(
                "requests_total",
                &[("route", route), ("outcome", outcome)],
                0.0,
            );
        }
        for result in ["ok", "missing", "malformed", "mismatch", "stale"] {
            metrics.assert_value(
                "signature_checks_total",
                &[("route", route), ("result", result)],
                0.0,
            );
        }
        metrics.assert_value(
            "signature_checks_total",
            &[("route", route), ("result", "ok"), ("secret", "current")],
            0.0,
        );
        for result in ["new", "duplicate", "in_flight", "payload_mismatch", "error"] {
            metrics.assert_value(
                "ledger_checks_total",
                &[("route", route), ("result", result)],
                0.0,
            );
        }
        for result in [
            "2xx",
            "3xx",
            "4xx",
            "5xx",
            "connect_error",
            "timeout",
            "broken",
        ] {
            metrics.assert_value(
                "upstream_requests_total",
                &[("route", route), ("result", result)],
                0.0,
            );
        }
        for missing in [
            "request_duration_seconds_count",
            "request_body_bytes_count",
            "upstream_duration_seconds_count",
            "responses_total",
            "queue_events",
        ] {
            assert_eq!(
                metrics.find(missing, &[("route", route)]),
                None,
                "{missing}"
            );
        }
        metrics.assert_value("last_verified_timestamp_seconds", &[("route", route)], 0.0);
    }
    for outcome in [
        "unknown_route",
        "malformed_request",
        "headers_too_large",
        "body_timeout",
    ] {
        metrics.assert_value(
            "requests_total",
            &[("route", ""), ("outcome", outcome)],
            0.0,
        );
    }
    for gauge in [
        "requests_in_flight",
        "connections",
        "body_bytes_in_flight",
        "ledger_entries",
        "draining",
    ] {
        metrics.assert_value(gauge, &[], 0.0);
    }
    metrics.assert_value("config_last_reload_successful", &[], 1.0);
    metrics.assert_value("build_info", &[], 1.0);
    assert!(
        metrics
            .names()
            .iter()
            .any(|name| name.contains("process_resident_memory_bytes"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_route_has_at_most_40_series() {
    let upstream = Upstream::ok();
    let modes = ["proxy", "queue", "spill"];
    let secrets = "[{env: WEBHOOK_SECRET, name: current}, {env: WEBHOOK_SECRET_OLD, name: old}]";
    let routes = modes.map(|mode| {
        let route = Route::to(&upstream).named(mode).with("delivery", mode);
        route.with("secrets", secrets)
    });
    let gateway = Gateway::start(Setup::new(routes)).await;
    let metrics = gateway.metrics().await;
    for mode in modes {
        let label = format!("route=\"{mode}\"");
        let names = metrics.names();
        let series = names.iter().filter(|name| name.contains(&label)).count();
        assert!((20..=40).contains(&series), "{mode}: {series}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_checks_start_at_zero() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .with("events", "[user.*]")
        .with("allow_from", "[127.0.0.1]")
        .with("delivery", "queue");
    let gateway = Gateway::start(route).await;
    let metrics = gateway.metrics().await;
    for outcome in ["ignored", "forbidden_address", "queued"] {
        metrics.assert_value(
            "requests_total",
            &[("route", "hooks"), ("outcome", outcome)],
            0.0,
        );
    }
    for series in [
        "queue_events",
        "queue_dead_lettered_total",
        "queue_attempts_total",
    ] {
        metrics.assert_value(series, &[("route", "hooks")], 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_compressed_if_asked() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = Client::connect(gateway.admin_address()).await;
    let request = Request::new("GET", "/metrics").header("Accept-Encoding", "gzip;q=1.0, identity");
    let response = client.send(request).await;
    response.assert_header("Content-Encoding", "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*response.body)
        .read_to_string(&mut text)
        .expect("gzip");
    assert!(text.contains("hookstile_requests_total{"), "{text}");
    let refused = Request::new("GET", "/metrics").header("Accept-Encoding", "gzip;q=0");
    assert_eq!(client.send(refused).await.header("Content-Encoding"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histogram_buckets_are_the_documented() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .wait_for_metric("request_duration_seconds_count", &[], 1.0)
        .await;
    let metrics = gateway.metrics().await;
    let time = [
        "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5",
        "7.5", "9", "9.5", "10", "12.5", "30", "+Inf",
    ];
    for name in [
        "request_duration_seconds_bucket",
        "upstream_duration_seconds_bucket",
    ] {
        for le in time {
            metrics.assert_at_least(name, &[("route", "hooks"), ("le", le)], 0.0);
        }
    }
    for le in ["256", "16777216", "+Inf"] {
        metrics.assert_value(
            "request_body_bytes_bucket",
            &[("route", "hooks"), ("le", le)],
            1.0,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_result_is_counted_once() {
    let upstream = Upstream::replying([Reply::ok(), Reply::status(500), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream).with("events", "[user.created]")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(500, "upstream_rejected");
    gateway
        .send(Event::new("evt_3").forged())
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Event::new("evt_3").post().without("X-VPN-Signature"))
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(
            Event::new("evt_3")
                .post()
                .set("X-VPN-Signature", "sha256=zz"),
        )
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Event::raw("{}"))
        .await
        .assert(400, "invalid_event");
    gateway
        .send(Event::typed("evt_4", "other"))
        .await
        .assert(200, "ignored");
    gateway
        .send(Event::new("evt_5").post().at("/elsewhere"))
        .await
        .assert(404, "unknown_route");
    gateway.wait_for_metric("requests_total", &[], 9.0).await;
    gateway
        .wait_for_metric("request_duration_seconds_count", &[("route", "hooks")], 8.0)
        .await;
    let metrics = gateway.metrics().await;
    let counted = [
        ("delivered", 1.0),
        ("duplicate", 1.0),
        ("upstream_rejected", 1.0),
        ("invalid_signature", 3.0),
        ("invalid_event", 1.0),
        ("ignored", 1.0),
    ];
    for (outcome, count) in counted {
        metrics.assert_value(
            "requests_total",
            &[("route", "hooks"), ("outcome", outcome)],
            count,
        );
    }
    metrics.assert_value("requests_total", &[("route", "hooks")], 8.0);
    metrics.assert_value(
        "requests_total",
        &[("route", ""), ("outcome", "unknown_route")],
        1.0,
    );
    for (code, count) in [
        ("200", 2.0),
        ("409", 1.0),
        ("500", 1.0),
        ("401", 3.0),
        ("400", 1.0),
    ] {
        metrics.assert_value(
            "responses_total",
            &[("route", "hooks"), ("code", code)],
            count,
        );
    }
    for (result, count) in [
        ("ok", 5.0),
        ("mismatch", 1.0),
        ("missing", 1.0),
        ("malformed", 1.0),
        ("stale", 0.0),
    ] {
        metrics.assert_value(
            "signature_checks_total",
            &[("route", "hooks"), ("result", result)],
            count,
        );
    }
    for (result, count) in [("new", 2.0), ("duplicate", 1.0), ("error", 0.0)] {
        metrics.assert_value(
            "ledger_checks_total",
            &[("route", "hooks"), ("result", result)],
            count,
        );
    }
    for (result, count) in [("2xx", 1.0), ("5xx", 1.0), ("broken", 0.0)] {
        metrics.assert_value(
            "upstream_requests_total",
            &[("route", "hooks"), ("result", result)],
            count,
        );
    }
    metrics.assert_value(
        "upstream_duration_seconds_count",
        &[("route", "hooks")],
        2.0,
    );
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64();
    let verified = metrics.value("last_verified_timestamp_seconds", &[("route", "hooks")]);
    assert!((now - verified).abs() < 100.0, "{verified} is now, {now}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gauges_rise_and_fall() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate)]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut clients = Vec::new();
    for number in 0..3 {
        let mut client = gateway.connect().await;
        client
            .write(&Event::new(&format!("evt_{number}")).post().bytes())
            .await;
        clients.push(client);
    }
    upstream.wait_for_requests(3).await;
    gateway
        .wait_for_metric("requests_in_flight", &[], 3.0)
        .await;
    gateway.wait_for_metric("connections", &[], 3.0).await;
    gate.open();
    for client in &mut clients {
        client.read_response().await.assert(200, "delivered");
    }
    gateway
        .wait_for_metric("requests_in_flight", &[], 0.0)
        .await;
    drop(clients);
    gateway.wait_for_metric("connections", &[], 0.0).await;
    gateway
        .wait_for_metric("body_bytes_in_flight", &[], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_add_no_series() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream),
        Route::to(&upstream).named("other"),
    ]))
    .await;
    let names = |metrics: &Metrics| {
        metrics
            .names()
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let before = names(&gateway.metrics().await);
    let total = std::env::var("HOOKSTILE_HOSTILE")
        .ok()
        .and_then(|n| n.parse().ok());
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let total: u32 = total.unwrap_or(if ci { 100_000 } else { 20_000 });
    let senders = 4;
    let tasks: Vec<_> = (0..senders)
        .map(|sender| {
            tokio::spawn(send_hostile(
                gateway.public_address(),
                sender,
                total / senders,
            ))
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic in a sender");
    }
    gateway
        .wait_for_metric("requests_total", &[], f64::from(total))
        .await;
    assert_eq!(
        names(&gateway.metrics().await),
        before,
        "the series are unchanged"
    );
    upstream.assert_untouched();
}

/// Sends requests whose names a careless metric, log or table would keep, over a kept connection.
async fn send_hostile(to: std::net::SocketAddr, sender: u32, count: u32) {
    let mut client = Client::connect(to).await;
    let methods = ["POST", "GET", "BREW", "PROPFIND", "X"];
    for number in 0..count {
        let path = match number % 4 {
            0 => format!("/{sender}-{number}"),
            1 => format!("{PATH}/{sender}/{number}"),
            2 => format!("{PATH}-{sender}-{number}?route={number}"),
            _ => format!("/%22%7D{number}%2f{sender}"),
        };
        let request = Request::new(methods[number as usize % 5], &path)
            .set("Host", &format!("host-{sender}-{number}.example.com"));
        let response = client
            .send(
                request
                    .header("Content-Length", "0")
                    .header("Hookstile-Route", "forged"),
            )
            .await;
        assert_eq!(response.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_senders_add_no_series() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let names = |metrics: &Metrics| {
        metrics
            .names()
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let mut client = gateway.connect().await;
    client
        .send(Event::new("evt_first"))
        .await
        .assert(200, "delivered");
    gateway.wait_for_metric("requests_total", &[], 1.0).await;
    let before = names(&gateway.metrics().await);
    for number in 0..200 {
        let event = Event::typed(&format!("evt_{number}"), &format!("type.{number}"));
        client
            .send(
                event
                    .post()
                    .header("User-Agent", &format!("agent/{number}")),
            )
            .await
            .assert(200, "delivered");
    }
    gateway.wait_for_metric("requests_total", &[], 201.0).await;
    assert_eq!(names(&gateway.metrics().await), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_upstream_status_is_counted() {
    let upstream = Upstream::replying([Reply::status(299), Reply::status(418), Reply::status(599)]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for number in 0..3 {
        gateway.send(Event::new(&format!("evt_{number}"))).await;
    }
    gateway
        .wait_for_metric("responses_total", &[("route", "hooks")], 3.0)
        .await;
    let metrics = gateway.metrics().await;
    for result in ["2xx", "4xx", "5xx"] {
        metrics.assert_value(
            "upstream_requests_total",
            &[("route", "hooks"), ("result", result)],
            1.0,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_accepts_metrics() {
    let found = program("HOOKSTILE_PROMTOOL", "promtool");
    let Some(promtool) = tool("promtool", found, "the check of the metrics' text") else {
        return;
    };
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_2").forged())
        .await
        .assert(401, "invalid_signature");
    let text = gateway.directory().join("metrics.txt");
    std::fs::write(&text, gateway.metrics().await.text).expect("a writable folder");
    let input = std::fs::File::open(&text).expect("just written");
    let check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(input)
        .stderr(Stdio::piped())
        .output()
        .expect("promtool runs");
    let output = String::from_utf8_lossy(&check.stderr).into_owned()
        + &String::from_utf8_lossy(&check.stdout);
    assert!(
        check.status.success() && output.trim().is_empty(),
        "promtool: {output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_scrapes_metrics() {
    let found = program("HOOKSTILE_PROMETHEUS", "prometheus");
    let Some(prometheus) = tool("prometheus", found, "the scrape by a real Prometheus") else {
        return;
    };
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let folder = gateway.directory();
    let targets = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs: [{{job_name: hookstile, static_configs: [{{targets: [\"{}\"]}}]}}]\n",
        gateway.admin_address()
    );
    std::fs::write(folder.join("prometheus.yml"), targets).expect("a writable folder");
    // Prometheus does not report its port, so the test gives it one that was just free.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let mut command = Command::new(prometheus);
    command
        .current_dir(folder)
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]);
    let process = Process::spawn(command.arg(format!("--web.listen-address={port}")));
    process
        .wait_for_output("Server is ready to receive web requests")
        .await;
    let value = async |query: &str| {
        let request = Request::new("GET", &format!("/api/v1/query?query={query}"));
        let response: serde_json::Value =
            serde_json::from_slice(&Client::connect(port).await.send(request).await.body).ok()?;
        response["data"]["result"][0]["value"][1]
            .as_str()
            .map(str::to_owned)
    };
    eventually("Prometheus has scraped", async || {
        value("up").await.as_deref() == Some("1")
    })
    .await;
    let delivered = "hookstile_requests_total%7Boutcome%3D%22delivered%22%2Croute%3D%22hooks%22%7D";
    eventually("Prometheus has the count", async || {
        value(delivered).await.as_deref() == Some("1")
    })
    .await;
    assert_eq!(value("hookstile_build_info").await.as_deref(), Some("1"));
}

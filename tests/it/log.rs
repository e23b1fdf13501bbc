//! The log: one line for each request, and nothing in any line that must stay private.

use serde_json::{Value, json};

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_logs_one_line() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::typed("evt_1", "user.created"))
        .await
        .assert(200, "delivered");
    let line = gateway
        .wait_for_request_log(json!({"event_id": "evt_1"}))
        .await;
    let expected = [
        ("route", "hooks"),
        ("outcome", "delivered"),
        ("event_type", "user.created"),
        ("secret", "current"),
        ("message", "request"),
        ("level", "info"),
    ];
    for (member, value) in expected {
        assert_eq!(line[member], value, "{line}");
    }
    assert_eq!(
        (&line["status"], &line["upstream_status"], &line["attempt"]),
        (&json!(200), &json!(200), &json!(1)),
        "{line}"
    );
    assert_eq!(
        line["body_bytes"],
        json!(Event::new("evt_1").body.len()),
        "{line}"
    );
    assert!(
        line["duration_ms"].as_f64().is_some_and(|ms| ms >= 0.0),
        "{line}"
    );
    assert!(
        line["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.1")),
        "{line}"
    );
    assert!(
        line["time"].as_str().is_some_and(|time| time.contains('T')),
        "{line}"
    );
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(409, "duplicate");
    gateway
        .wait_for_request_log(json!({"event_id": "evt_1", "outcome": "duplicate", "status": 409}))
        .await;
    assert_eq!(gateway.access_lines().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_request_logs_its_reason() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let event = Event::new("evt_1");
    gateway
        .send(event.forged())
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(event.post().without("X-VPN-Signature"))
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(event.post().at("/elsewhere"))
        .await
        .assert(404, "unknown_route");
    let line = gateway
        .wait_for_request_log(json!({"outcome": "invalid_signature", "reason": "mismatch", "route": "hooks", "status": 401}))
        .await;
    assert!(
        line.get("event_id").is_none(),
        "an unverified ID is not logged: {line}"
    );
    gateway
        .wait_for_request_log(json!({"outcome": "invalid_signature", "reason": "missing"}))
        .await;
    gateway
        .wait_for_request_log(json!({"outcome": "unknown_route", "status": 404}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn level_and_format_change_on_reload() {
    let upstream = Upstream::ok();
    let setup = |log: &str| Setup::from(Route::to(&upstream)).with("log", log);
    let gateway = Gateway::start(setup("{level: info}")).await;
    let event = Event::new("evt_1");
    gateway.send(event.forged()).await;
    let rejected = json!({"reason": "mismatch"});
    let line = gateway.wait_for_request_log(rejected).await;
    assert!(line.get("secrets_tried").is_none(), "{line}");

    gateway.rewrite(setup("{level: debug}"));
    gateway.signal("HUP");
    let reloaded = "configuration reloaded";
    eventually("the log says so", async || {
        gateway.output().contains(reloaded)
    })
    .await;
    gateway.send(event.forged()).await;
    gateway
        .wait_for_request_log(json!({"reason": "mismatch", "secrets_tried": "current"}))
        .await;
    gateway.send(event.post()).await.assert(200, "delivered");
    let line = gateway
        .wait_for_request_log(json!({"outcome": "delivered"}))
        .await;
    assert!(line.get("secrets_tried").is_none(), "{line}");

    gateway.rewrite(setup("{level: error, format: pretty}"));
    let reloaded = gateway.admin_post("/reload", &json!({})).await;
    assert_eq!(reloaded.status, 200);
    gateway.send(event.post().at("/elsewhere")).await;
    gateway.rewrite_text("routes: [");
    gateway.signal("HUP");
    eventually("errors are text", async || {
        gateway
            .output()
            .contains(" error configuration not reloaded")
    })
    .await;
    // Lines are written in order.
    assert!(!gateway.output().contains("unknown_route"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_line_contains_sender_trace() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = Event::new("evt_1")
        .post()
        .header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"));
    gateway.send(request).await.assert(200, "delivered");
    assert_eq!(
        gateway
            .wait_for_request_log(json!({"event_id": "evt_1"}))
            .await["trace_id"],
        trace
    );
}

/// Makes the gateway log valid, invalid, broken and failing requests that all carry canaries;
/// returns the canaries that must never appear.
async fn send_canaries(gateway: &Gateway) -> Vec<String> {
    let event = Event::raw(r#"{"id":"evt_1","type":"t","data":"canary-in-the-body"}"#);
    let signature = hmac_hex(SECRET, &event.body);
    let wrong = hmac_hex("wrong", &event.body);
    let private = |request: Request| request.header("Authorization", "Bearer canary-in-a-header");
    gateway.send(private(event.post())).await;
    gateway.send(private(event.post())).await;
    gateway.send(private(event.forged())).await;
    gateway
        .send(private(event.post().at("/webhooks/dead")))
        .await;
    gateway
        .send(private(
            event.post().at("/elsewhere?token=canary-in-the-query"),
        ))
        .await;
    gateway.send(private(event.post().method("PUT"))).await;
    gateway
        .send(private(event.post().header("Transfer-Encoding", "chunked")))
        .await;
    gateway
        .send(Event::raw("canary-in-the-body, no JSON"))
        .await;
    gateway.connect_h2().await.send(private(event.post())).await;
    let broken = [
        &b"POST /webhooks/vpn-enterprise HTTP/1.1\r\nX-VPN-Signature: "[..],
        signature.as_bytes(),
        b"\r\nbroken canary-in-a-header\r\n\r\n",
    ];
    gateway.connect().await.send_raw(&broken.concat()).await;
    let mut gone = gateway.connect().await;
    gone.write(&event.post().bytes()[..200]).await;
    gone.reset();
    gateway
        .admin_get("/nowhere?token=canary-in-the-query")
        .await;
    gateway.rewrite_text(
        "routes: [{path: /x, secrets: [{value: canary-in-the-configuration}], upstrem: 1",
    );
    gateway.signal("HUP");
    gateway
        .wait_for_metric("config_last_reload_successful", &[], 0.0)
        .await;
    let canaries = [
        SECRET,
        OLD_SECRET,
        &signature,
        &wrong,
        "canary-in-the-body",
        "canary-in-a-header",
        "canary-in-the-query",
        "canary-in-the-configuration",
    ];
    canaries.map(str::to_owned).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_contains_no_secret_signature_or_body() {
    for format in ["json", "pretty"] {
        let upstream = Upstream::ok();
        let closed = upstream::ClosedPort::new();
        let routes = [
            Route::to(&upstream).with(
                "secrets",
                "[{env: WEBHOOK_SECRET, name: current}, {env: WEBHOOK_SECRET_OLD, name: old}]",
            ),
            Route::to_url(&closed.url()).named("dead"),
        ];
        let setup = Setup::new(routes).with("shutdown", "{drain: 100ms, grace: 1s}");
        let gateway = Gateway::start(
            setup
                .with("log", &format!("{{format: {format}, level: trace}}"))
                .env("RUST_LOG", "trace")
                .env("RUST_BACKTRACE", "1"),
        )
        .await;
        let canaries = send_canaries(&gateway).await;
        let metrics = gateway.metrics().await.text;
        gateway.signal("TERM");
        gateway.wait_for_exit().await;
        let output = gateway.output();
        assert!(output.contains("evt_1"), "the log is not empty: {output}");
        for canary in canaries {
            let leak = output.lines().find(|line| line.contains(&canary));
            assert!(leak.is_none(), "{format}: {canary} in the log: {leak:?}");
            assert!(!metrics.contains(&canary), "{canary} in the metrics");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_escapes_control_characters() {
    for format in ["json", "pretty"] {
        let upstream = Upstream::ok();
        let setup = Setup::from(Route::to(&upstream))
            .with("log", &format!("{{format: {format}, level: trace}}"));
        let gateway = Gateway::start(setup).await;
        let nasty = "a\u{202e}b\u{2028}c\u{9b}31m";
        gateway.send(Event::typed("evt_nasty", nasty)).await;
        gateway
            .send(
                Event::new("evt_1")
                    .post()
                    .at("/x%0a%1b[31m{\"level\":\"error\"}"),
            )
            .await;
        for bytes in [
            &b"POST /x HTTP/1.1\r\nX-\x1b[31m: 1\r\n\r\n"[..],
            b"\x1b[2J\x07\x08 / HTTP/1.1\r\n\r\n",
            b"POST /\x1b[31m HTTP/1.1\r\nHost: h\r\n\r\n",
            b"POST /x HTTP/1.1\r\nHost: h\x1b[31m\r\n\r\n",
        ] {
            gateway.connect().await.send_raw(bytes).await;
        }
        gateway
            .send(
                Event::new("evt_2")
                    .post()
                    .header("traceparent", "00-\u{b}-1-1")
                    .set("Host", "hooks.test"),
            )
            .await;
        gateway
            .send(Event::new("evt_last"))
            .await
            .assert(200, "delivered");
        eventually("the last request is logged", async || {
            gateway.output().contains("evt_last")
        })
        .await;
        for (number, line) in gateway.output().split('\n').enumerate() {
            assert!(
                !line.chars().any(|c: char| {
                    c.is_control()
                        || ('\u{202a}'..='\u{202e}').contains(&c)
                        || ('\u{2066}'..='\u{2069}').contains(&c)
                }),
                "{format}, line {number}: {line:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejection_logs_are_sampled_and_counted() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    let total = 1000;
    for number in 0..total {
        client
            .send(Event::new(&format!("evt_{number}")).forged())
            .await
            .assert(401, "invalid_signature");
    }
    // Another reason and a valid request are not suppressed with them.
    client
        .send(Event::new("evt_x").post().without("X-VPN-Signature"))
        .await
        .assert(401, "invalid_signature");
    client
        .send(Event::new("evt_good"))
        .await
        .assert(200, "delivered");
    gateway
        .wait_for_request_log(json!({"outcome": "invalid_signature", "reason": "missing"}))
        .await;
    gateway
        .wait_for_request_log(json!({"event_id": "evt_good", "outcome": "delivered"}))
        .await;
    let lines = gateway
        .access_lines()
        .iter()
        .filter(|line| line["reason"] == "mismatch")
        .count();
    assert!(
        (1..total / 4).contains(&lines),
        "{lines} lines for {total} rejections"
    );
    // A later line carries the count; one more rejection now and then triggers that line.
    eventually("the count is logged", async || {
        client.send(Event::new("evt_more").forged()).await;
        gateway
            .lines()
            .iter()
            .any(|line| suppressed_count(line) >= (total / 4) as u64)
    })
    .await;
}

/// Returns how many similar lines were suppressed before this one.
fn suppressed_count(line: &Value) -> u64 {
    ["suppressed", "left_out", "omitted", "skipped", "dropped"]
        .iter()
        .filter_map(|name| line[name].as_u64())
        .max()
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_always_logged() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    for number in 0..300 {
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    eventually("every delivery is logged", async || {
        gateway.access_lines().len() == 300
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn library_lines_are_bounded_and_hold_no_path() {
    for format in ["json", "pretty"] {
        let setup = Setup::from(Route::to(&Upstream::ok()))
            .with("log", &format!("{{format: {format}, level: trace}}"))
            .env("RUST_BACKTRACE", "1");
        let gateway = Gateway::start(setup).await;
        let start = std::time::Instant::now();
        for number in 0..300 {
            let mut client = gateway.connect().await;
            client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            match number % 3 {
                0 => client.reset(),
                1 => {
                    client.write(&b"garbage!".repeat(20)).await;
                    client.reset();
                }
                _ => drop(client),
            }
        }
        eventually("the suppressed lines are counted", async || {
            gateway.output().contains("library log lines suppressed")
        })
        .await;
        let output = gateway.output();
        let lines = output
            .lines()
            .filter(|line| line.contains("handshake"))
            .count();
        let most = 3 * (start.elapsed().as_secs() + 2);
        let lines = u64::try_from(lines).expect("a small number");
        assert!((1..=most).contains(&lines), "{lines} lines");
        for text in [".cargo", "registry/src", "rustc/", ".rs"] {
            assert!(!output.contains(text), "{text}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_path_or_method_is_logged() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let long = format!("/{}", "a".repeat(1000));
    for path in ["/webhooks/wrong?token=canary", "/%e2%80%ae", &long] {
        let request = Event::new("evt_1").post().at(path);
        gateway.send(request).await.assert(404, "unknown_route");
    }
    let wrong = json!({"outcome": "unknown_route", "path": "/webhooks/wrong"});
    gateway.wait_for_request_log(wrong).await;
    gateway
        .wait_for_request_log(json!({"path": &long[..256]}))
        .await;
    let request = Event::new("evt_1").post().method("PUT");
    gateway
        .send(request)
        .await
        .assert(405, "method_not_allowed");
    let line = gateway.wait_for_request_log(json!({"method": "PUT"})).await;
    assert_eq!(line.get("path"), None, "{line}");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    let line = gateway
        .wait_for_request_log(json!({"event_id": "evt_2"}))
        .await;
    assert_eq!(
        (line.get("path"), line.get("method")),
        (None, None),
        "{line}"
    );
    let output = gateway.output();
    assert!(!output.contains("canary"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untrusted_proxy_is_logged_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway.send(Event::new("evt_0")).await;
    for id in ["evt_1", "evt_2"] {
        let request = Event::new(id)
            .post()
            .header("X-Forwarded-For", "203.0.113.9");
        gateway.send(request).await.assert(200, "delivered");
    }
    gateway
        .wait_for_request_log(json!({"event_id": "evt_2"}))
        .await;
    let told = gateway.lines().into_iter().filter(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("X-Forwarded-For")
            && line["level"] == "warn"
            && line["peer"] == "127.0.0.1"
    });
    assert_eq!(told.count(), 1, "{}", gateway.output());

    let trusted = Setup::from(Route::to(&upstream)).with("trusted_proxies", "[127.0.0.1]");
    let gateway = Gateway::start(trusted).await;
    let request = Event::new("evt_1")
        .post()
        .header("X-Forwarded-For", "203.0.113.9");
    gateway.send(request).await.assert(200, "delivered");
    gateway
        .wait_for_request_log(json!({"event_id": "evt_1"}))
        .await;
    assert!(
        !gateway.output().contains("X-Forwarded-For"),
        "{}",
        gateway.output()
    );
}

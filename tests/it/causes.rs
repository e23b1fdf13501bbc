//! The cause of each attempt that did not succeed, the address that was tried, and the upstream's
//! response: in the record, the log, the metrics, GraphQL, the command line and the dashboard.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::harness::command::run_cli;
use crate::harness::tls::{Authority, Issued};
use crate::harness::upstream::{ClosedPort, NeverAccepts};
use crate::harness::*;

/// Returns an upstream that a route trusts by the certificate in `ca.crt`.
fn trusted(url: &str) -> String {
    format!("{{url: \"{url}\", ca: ca.crt}}")
}

/// Returns the one delivery of an event, with its attempts.
async fn delivery(gateway: &Gateway, event: &str) -> Value {
    let list = gateway.api(&format!("/deliveries?event_id={event}")).await;
    let id = list["deliveries"][0]["id"].as_str().expect("a delivery");
    gateway.api(&format!("/deliveries/{id}")).await["delivery"].clone()
}

/// Sends an event to a route, whose attempt must fail with this cause, at this address.
async fn check(gateway: &Gateway, route: &str, cause: &str, address: Option<SocketAddr>) {
    let path = format!("/webhooks/{route}");
    check_at(gateway, &path, route, cause, address).await;
}

async fn check_at(
    gateway: &Gateway,
    path: &str,
    route: &str,
    cause: &str,
    address: Option<SocketAddr>,
) {
    let event = format!("evt_{route}");
    let request = Event::new(&event).post().at(path);
    let response = gateway.send(request).await;
    assert!(response.status >= 500, "{route}: {}", response.status);
    let line = gateway
        .wait_for_request_log(json!({"event_id": event, "level": "info"}))
        .await;
    let address = address.map(|address| address.to_string());
    let found = delivery(gateway, &event).await;
    let attempt = &found["attempts"][0];
    for shown in [&line, attempt] {
        assert_eq!(shown["cause"], cause, "{route}: {shown}");
        assert_eq!(
            shown["address"].as_str(),
            address.as_deref(),
            "{route}: {shown}"
        );
    }
    assert_eq!(found["cause"], cause, "{found}");
    assert_eq!(attempt["error"].is_null(), cause == "status", "{attempt}");
    gateway.metrics().await.assert_value(
        "upstream_failures_total",
        &[("route", route), ("cause", cause)],
        1.0,
    );
}

fn failing(name: &str, url: &str) -> Route {
    Route::to_url(url).named(name).with("budget", "2s")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_failures_have_causes() {
    let names = NameServer::start().await;
    names.set("absent.test.", Answer::Absent { ttl: 60 });
    names.set("failure.test.", Answer::Failure);
    names.set("silent.test.", Answer::Silence);
    let (closed, full) = (ClosedPort::new(), NeverAccepts::new().await);
    let refusing = closed.address();
    // One address cannot be reached, the other refuses.
    let nowhere = Ipv4Addr::BROADCAST;
    let both = [IpAddr::from(nowhere), refusing.ip()];
    names.set(
        "both.test.",
        Answer::Addresses {
            addresses: both.into(),
            ttl: 60,
        },
    );
    let in_300ms = format!("{{url: \"{}\", connect_timeout: 300ms}}", full.url());
    let by_name = |name: &str| format!("http://{name}.test.:{}/", refusing.port());
    let gateway = Gateway::start(
        Setup::new([
            failing("refused", &closed.url()),
            failing("both", &by_name("both")),
            failing("unreachable", &format!("http://{nowhere}:9/")),
            failing("full", &in_300ms),
            failing("budget", &full.url()).with("budget", "1s"),
            failing("absent", &by_name("absent")),
            failing("failure", &by_name("failure")),
            failing("silent", &by_name("silent")).with("budget", "1s"),
        ])
        .env("HOOKSTILE_NAMESERVER", &names.address().to_string()),
    )
    .await;
    let full_at = full.address();
    for (route, cause, address) in [
        ("refused", "refused", Some(refusing)),
        ("both", "refused", Some(refusing)),
        ("unreachable", "unreachable", Some((nowhere, 9).into())),
        ("full", "connect_timeout", Some(full_at)),
        ("budget", "connect_timeout", Some(full_at)),
        ("absent", "no_such_host", None),
        ("failure", "dns_timeout", None),
        ("silent", "dns_timeout", None),
    ] {
        check(&gateway, route, cause, address).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_failures_have_causes() {
    let (authority, other) = (Authority::new(), Authority::new());
    let local = "127.0.0.1";
    let shown = |issued: Issued| Upstream::tls(issued.identity(), [Reply::ok()]);
    let upstreams = [
        ("tls_expired", shown(authority.issue_expired(local))),
        ("tls_wrong_name", shown(authority.issue("app.test"))),
        ("tls_untrusted", shown(other.issue(local))),
    ];
    let routes: Vec<_> = upstreams
        .iter()
        .map(|(cause, upstream)| {
            let url = upstream.url().replace("http:", "https:");
            failing(&cause.replace('_', "-"), &trusted(&url))
        })
        .collect();
    let self_signed = shown(Issued::self_signed(&[local], "a receiver"));
    let untrusted = failing("self-signed", &trusted(&self_signed.url()));
    let plain = TcpListener::bind((local, 0)).await.expect("a free port");
    let plain_at = plain.local_addr().expect("an address");
    let handshake = failing("plain", &format!("https://{plain_at}/"));
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let routes = [routes, vec![untrusted, handshake]].concat();
    let gateway = Gateway::start(Setup::new(routes).file("ca.crt", authority.pem())).await;
    for (cause, upstream) in &upstreams {
        let route = cause.replace('_', "-");
        check(&gateway, &route, cause, Some(upstream.address())).await;
    }
    let address = Some(self_signed.address());
    check(&gateway, "self-signed", "tls_untrusted", address).await;
    check(&gateway, "plain", "tls_handshake", Some(plain_at)).await;
    answering.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_failures_have_causes() {
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "x".repeat(3 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(300));
    let upstreams = [
        ("status", "status", Reply::status(503)),
        ("reset", "reset", Reply::disconnect()),
        (
            "cut",
            "reset",
            Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab").then_close(),
        ),
        ("other", "broken_response", Reply::raw("SSH-2.0-x\r\n")),
        (
            "chunk",
            "broken_response",
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        ),
        ("silent", "response_timeout", Reply::hang()),
        ("large", "response_too_large", Reply::raw(large)),
        ("many", "response_too_large", Reply::raw(many)),
    ]
    .map(|(route, cause, reply)| (route, cause, Upstream::replying([reply])));
    let routes: Vec<_> = upstreams
        .iter()
        .map(|(route, _, upstream)| failing(route, &upstream.url()))
        .collect();
    let gateway = Gateway::start(Setup::new(routes)).await;
    for (route, cause, upstream) in &upstreams {
        check(&gateway, route, cause, Some(upstream.address())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_address_has_its_cause() {
    let names = NameServer::start().await;
    names.set(
        "meta.test.",
        Answer::address(Ipv4Addr::new(169, 254, 169, 254), 60),
    );
    let upstream = Upstream::ok();
    let setup = Setup::new([Route::to(&upstream)]);
    let setup = setup.env("HOOKSTILE_NAMESERVER", &names.address().to_string());
    let gateway = Gateway::start(setup).await;
    let path = "/webhooks/meta";
    let webhook = json!({
        "url": "http://meta.test.:80/", "secret": SECRET, "events": ["*"], "path": path,
        "provider": "vpn-enterprise",
    });
    let made = gateway.admin_post("/webhooks", &webhook).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made: Value = serde_json::from_slice(&made.body).expect("JSON");
    let id = made["webhook"]["id"].as_str().expect("an ID");
    let route = id.strip_prefix("wh_").expect("a prefix");
    check_at(&gateway, path, route, "address_not_allowed", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_connection_names_the_new_failure() {
    let upstream = Upstream::replying([Reply::ok(), Reply::disconnect()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert_problem(502, "upstream_unreachable");
    let attempt = delivery(&gateway, "evt_2").await["attempts"][0].clone();
    assert_eq!(attempt["cause"], "reset");
    assert_eq!(attempt["address"], upstream.address().to_string());
    let succeeded = delivery(&gateway, "evt_1").await;
    assert_eq!(succeeded["cause"], Value::Null);
}

/// Waits until an event has this many attempts and returns its delivery.
async fn attempted(gateway: &Gateway, event: &str, count: u64) -> Value {
    eventually("the attempts are recorded", async || {
        delivery(gateway, event).await["attempt_count"].as_u64() >= Some(count)
    })
    .await;
    delivery(gateway, event).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_event_keeps_cause_and_response() {
    let upstream = Upstream::deciding(|_, attempt| {
        let body = format!("{{\"error\":\"no such plan {attempt}\"}}");
        Reply::full(
            if attempt < 8 { 500 } else { 200 },
            "Content-Type: application/json\r\n",
            body.as_bytes(),
        )
    });
    let route = Route::to(&upstream).with("delivery", "queue");
    let route = route.with("retry", "{initial: 20ms, max_interval: 1s}");
    let kept = route
        .clone()
        .named("kept")
        .with("retain", "{payloads: all}");
    let gateway = Gateway::start(Setup::new([route, kept])).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    let request = Event::new("evt_2").post().at("/webhooks/kept");
    gateway.send(request).await.assert(202, "queued");
    let bodies = |delivery: &Value| -> Vec<Value> {
        let attempts = delivery["attempts"].as_array().expect("attempts").clone();
        attempts
            .iter()
            .map(|attempt| attempt["response"]["body"].clone())
            .collect()
    };
    let kept = attempted(&gateway, "evt_2", 8).await;
    assert_eq!(
        kept["attempts"][0]["response"],
        json!({
            "status": 500, "content_type": "application/json",
            "body": "{\"error\":\"no such plan 1\"}", "body_bytes": 26,
        })
    );
    let shown: Vec<_> = bodies(&kept).iter().map(|body| !body.is_null()).collect();
    assert_eq!(shown, [true, false, false, false, false, true, true, false]);
    assert_eq!(kept["attempts"][7]["response"], Value::Null);
    // A delivered event keeps neither its payload nor the bodies of responses.
    let delivered = attempted(&gateway, "evt_1", 8).await;
    assert_eq!(delivered["payload_kept"], false);
    assert!(bodies(&delivered).iter().all(Value::is_null), "{delivered}");
    assert_eq!(
        delivered["attempts"][0]["response"]["content_type"],
        "application/json"
    );
    let attempts = gateway
        .lines()
        .into_iter()
        .filter(|line| line["message"] == "attempt");
    let failed: Vec<_> = attempts.filter(|line| line["outcome"] == "retry").collect();
    assert_eq!(failed.len(), 14);
    for line in failed {
        assert_eq!(line["cause"], "status", "{line}");
        assert_eq!(line["address"], upstream.address().to_string(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_follows_retain_and_is_masked() {
    let upstream = Upstream::deciding(|request, _| {
        let echo = String::from_utf8_lossy(&request.head).into_owned();
        let body = format!("{echo}\n\"password\": \"hunter2\"\n{}", "é".repeat(5000));
        Reply::full(500, "Content-Type: text/plain\r\n", body.as_bytes())
    });
    let route = Route::to(&upstream).with("headers", "{Authorization: Bearer route-credential-1}");
    let none = route
        .clone()
        .named("none")
        .with("retain", "{payloads: none}");
    let gateway = Gateway::start(Setup::new([route, none])).await;
    let event = Event::new("evt_1");
    gateway
        .send(event.clone())
        .await
        .assert(500, "upstream_rejected");
    let request = Event::new("evt_2").post().at("/webhooks/none");
    gateway.send(request).await.assert(500, "upstream_rejected");
    let kept = delivery(&gateway, "evt_1").await["attempts"][0]["response"].clone();
    let body = kept["body"].as_str().expect("a body");
    assert!(body.len() <= 4096 && body.ends_with('é'), "{body}");
    assert!(kept["body_bytes"].as_u64() > Some(10_000));
    assert!(body.contains("Hookstile-Event-Id: evt_1"), "{body}");
    let signature = sign(SECRET, &event.body);
    for secret in [
        "route-credential-1",
        "hunter2",
        signature.as_str(),
        &signature[7..],
    ] {
        assert!(!body.contains(secret), "{secret}: {body}");
        let stored = gateway.databases().iter().any(|file| {
            let bytes = std::fs::read(file).expect("a readable file");
            let text = format!("\\\"password\\\": \\\"{secret}");
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        });
        assert!(!stored, "{secret} is stored");
    }
    let unkept = delivery(&gateway, "evt_2").await["attempts"][0]["response"].clone();
    assert_eq!(
        (&unkept["status"], &unkept["content_type"], &unkept["body"]),
        (&json!(500), &json!("text/plain"), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_surface_shows_cause_and_response() {
    let body = "<b>plan & price</b>\u{1b}[2J";
    let upstream = Upstream::replying([Reply::full(
        422,
        "Content-Type: text/html\r\n",
        body.as_bytes(),
    )]);
    let closed = ClosedPort::new();
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream),
        Route::to_url(&closed.url()).named("closed"),
    ]))
    .await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(422, "upstream_rejected");
    let request = Event::new("evt_2").post().at("/webhooks/closed");
    gateway
        .send(request)
        .await
        .assert_problem(502, "upstream_unreachable");
    let address = closed.address().to_string();

    let shown = run_cli(&gateway, "events show del_1").await;
    let shown = &shown.assert(0).stdout;
    assert!(
        shown.contains("plan & price") && !shown.contains('\u{1b}'),
        "{shown}"
    );
    assert!(
        shown.contains("response to attempt 1: 422, text/html"),
        "{shown}"
    );
    let shown = run_cli(&gateway, "events show del_2").await;
    let shown = &shown.assert(0).stdout;
    for part in ["refused", &address, "the upstream refuses connections"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let document = run_cli(&gateway, "events show del_2 --json").await.json();
    assert_eq!(document["delivery"]["attempts"][0]["cause"], "refused");
    let listed = run_cli(&gateway, "events list").await;
    assert!(listed.stdout.contains("  refused"), "{}", listed.stdout);

    let query = "{ delivery(id: \"del_1\") { cause attempts { cause address
        response { status contentType body bodyBytes } } } }";
    let response = gateway
        .admin_post("/graphql", &json!({"query": query}))
        .await;
    let found: Value = serde_json::from_slice(&response.body).expect("JSON");
    let attempt = &found["data"]["delivery"]["attempts"][0];
    assert_eq!(attempt["cause"], "status", "{found}");
    assert_eq!(
        attempt["response"]["body"],
        "<b>plan & price</b>\u{fffd}[2J"
    );

    let page = gateway.admin_get("/ui/events/del_1").await.text();
    assert!(page.contains("plan &#38; price"), "{page}");
    let page = gateway.admin_get("/ui/events/del_2").await.text();
    for part in ["refused", &address, "the upstream refuses connections"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debug_log_explains_waits_and_addresses() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let setup = Setup::new([Route::to(&upstream)]).with("log", "{level: debug}");
    let gateway = Gateway::start(setup).await;
    let mut first = gateway.connect().await;
    first.write(&Event::new("evt_1").post().bytes()).await;
    upstream.wait_for_requests(1).await;
    let mut second = gateway.connect().await;
    second.write(&Event::new("evt_1").post().bytes()).await;
    let waits = "waiting for a copy of the event that is being delivered";
    let logged = |message: &'static str| {
        let lines = gateway.lines();
        lines
            .into_iter()
            .find(move |line| line["message"] == message)
    };
    eventually("the copy waits", async || logged(waits).is_some()).await;
    gate.open();
    eventually("the copy is answered", async || {
        gateway.access_lines().len() == 2
    })
    .await;
    let chosen = logged("connected to upstream").expect("a line");
    assert_eq!(chosen["address"], upstream.address().to_string());
    assert_eq!(logged(waits).expect("a line")["route"], "hooks");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    eventually("the idle connection is logged", async || {
        logged("idle connection to upstream chosen").is_some()
    })
    .await;
}

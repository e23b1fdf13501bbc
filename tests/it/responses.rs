//! The table in docs/answers.md, row by row: status, outcome, problem document, event ID.

use crate::harness::upstream::ClosedPort;
use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_forwards_upstream_response() {
    let lines =
        "X-App: receiver\r\nContent-Type: text/plain\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n";
    let upstream = Upstream::replying([Reply::full(201, lines, b"made it\r\n")]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let response = gateway.send(Event::new("evt_1")).await;
    response.assert(201, "delivered").assert_event_id("evt_1");
    response
        .assert_header("X-App", "receiver")
        .assert_header("Content-Type", "text/plain");
    assert_eq!(response.headers.all("Set-Cookie"), ["a=1", "b=2"]);
    assert_eq!(response.body, b"made it\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_covers_every_2xx() {
    let replies = [
        Reply::status(200),
        Reply::status(202),
        Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        Reply::status(299),
    ];
    let upstream = Upstream::replying(replies);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    for (number, status) in [200, 202, 204, 299].into_iter().enumerate() {
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(status, "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_response_framing_is_forwarded() {
    let large = "x".repeat(300_000);
    let replies = [
        Reply::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        ),
        Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end").then_close(),
        Reply::raw("HTTP/1.0 200 OK\r\n\r\nold style").then_close(),
        Reply::full(200, "", large.as_bytes()),
        Reply::full(200, "", b""),
    ];
    let upstream = Upstream::replying(replies);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    for (number, body) in ["abcdefg", "until the end", "old style", &large, ""]
        .into_iter()
        .enumerate()
    {
        let response = client.send(Event::new(&format!("evt_{number}"))).await;
        assert_eq!(
            response.assert(200, "delivered").text().len(),
            body.len(),
            "answer {number}"
        );
        assert!(response.text() == body, "answer {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_cannot_set_gateway_headers() {
    let lines = "Hookstile-Outcome: duplicate\r\nHookstile-Event-Id: forged\r\nKeep-Alive: timeout=99\r\nConnection: X-Hop\r\nX-Hop: 1\r\n";
    let upstream = Upstream::replying([Reply::full(200, lines, b"OK")]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let response = gateway.send(Event::new("evt_1")).await;
    response.assert(200, "delivered").assert_event_id("evt_1");
    assert!(
        !response.headers.has("X-Hop") && response.header("Keep-Alive") != Some("timeout=99"),
        "{response:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_rejected_keeps_harmless_statuses() {
    let forwarded = [
        (400, 400),
        (401, 401),
        (404, 404),
        (409, 409),
        (422, 422),
        (429, 429),
        (500, 500),
        (503, 503),
        (599, 599),
    ];
    let hidden = [
        (410, 502),
        (301, 502),
        (302, 502),
        (304, 502),
        (307, 502),
        (308, 502),
        (101, 502),
    ];
    for (upstream_status, status) in forwarded.into_iter().chain(hidden) {
        let lines = if upstream_status < 400 {
            "Location: http://127.0.0.1:1/\r\n"
        } else {
            "Retry-After: 7\r\n"
        };
        let upstream =
            Upstream::replying([Reply::full(upstream_status, lines, b"no").then_close()]);
        let gateway = Gateway::start(Route::to(&upstream)).await;
        let response = gateway.send(Event::new("evt_1")).await;
        assert_eq!(
            (response.status, response.outcome()),
            (status, "upstream_rejected"),
            "upstream {upstream_status}"
        );
        response.assert_event_id("evt_1");
        if status == upstream_status {
            assert_eq!(
                (response.text(), response.header("Retry-After")),
                ("no".to_owned(), Some("7"))
            );
        }
        assert!(
            !response.headers.has("Location"),
            "a redirect is not forwarded to the provider: {response:?}"
        );
        assert_eq!(
            upstream.count(),
            1,
            "a response {upstream_status} is not retried here"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_response_is_not_final() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
    let upstream = Upstream::replying([Reply::raw(early)]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_status_follows_on_duplicate() {
    let upstream = Upstream::ok();
    let reject = Route::to(&upstream).named("reject");
    let acknowledge = Route::to(&upstream)
        .named("acknowledge")
        .with("replay", "{on_duplicate: acknowledge}");
    let gateway = Gateway::start(Setup::new([reject, acknowledge])).await;
    let event = Event::new("evt_1");
    for (path, status) in [("/webhooks/reject", 409), ("/webhooks/acknowledge", 200)] {
        gateway
            .send(event.post().at(path))
            .await
            .assert(200, "delivered");
        let again = gateway.send(event.post().at(path)).await;
        again.assert(status, "duplicate").assert_event_id("evt_1");
        if status == 409 {
            again.assert_problem(409, "duplicate");
        }
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_mismatch_is_counted_apart() {
    let upstream = Upstream::ok();
    let reject = Route::to(&upstream).named("reject");
    let acknowledge = Route::to(&upstream)
        .named("acknowledge")
        .with("replay", "{on_duplicate: acknowledge}");
    let gateway = Gateway::start(Setup::new([reject, acknowledge])).await;
    for (name, status) in [("reject", 409), ("acknowledge", 200)] {
        let path = format!("/webhooks/{name}");
        gateway
            .send(Event::typed("evt_1", "user.created").post().at(&path))
            .await
            .assert(200, "delivered");
        let changed = gateway
            .send(Event::typed("evt_1", "user.deleted").post().at(&path))
            .await;
        changed
            .assert(status, "payload_mismatch")
            .assert_event_id("evt_1");
        gateway
            .wait_for_metric(
                "requests_total",
                &[("route", name), ("outcome", "payload_mismatch")],
                1.0,
            )
            .await;
        let metrics = gateway.metrics().await;
        metrics.assert_value(
            "ledger_checks_total",
            &[("route", name), ("result", "payload_mismatch")],
            1.0,
        );
        metrics.assert_value(
            "ledger_checks_total",
            &[("route", name), ("result", "duplicate")],
            0.0,
        );
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_gateway_error_is_problem_json() {
    let upstream = Upstream::ok();
    let closed = ClosedPort::new();
    let hooks = Route::to(&upstream).with("max_body", "2KiB");
    let fenced = Route::to(&upstream)
        .named("fenced")
        .with("allow_from", "[203.0.113.0/24]");
    let dead = Route::to_url(&closed.url()).named("dead");
    let gateway = Gateway::start(Setup::new([hooks, fenced, dead])).await;
    let event = Event::new("evt_1");
    let cases = [
        (401, "invalid_signature", event.forged()),
        (400, "invalid_event", Event::raw("{}").post()),
        (
            400,
            "malformed_request",
            event.post().header("Transfer-Encoding", "chunked"),
        ),
        (
            403,
            "forbidden_address",
            event.post().at("/webhooks/fenced"),
        ),
        (404, "unknown_route", event.post().at("/elsewhere")),
        (405, "method_not_allowed", event.post().method("DELETE")),
        (413, "body_too_large", Event::sized("evt_1", 4096).post()),
        (
            431,
            "headers_too_large",
            event.post().header("X-Large", &"x".repeat(40_000)),
        ),
        (
            502,
            "upstream_unreachable",
            event.post().at("/webhooks/dead"),
        ),
    ];
    for (status, code, request) in cases {
        gateway.send(request).await.assert_problem(status, code);
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_id_header_is_set_once_known() {
    let upstream = Upstream::ok();
    let closed = ClosedPort::new();
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream).with("events", "[user.created]"),
        Route::to_url(&closed.url()).named("dead"),
    ]))
    .await;
    let event = Event::new("evt_1");
    gateway
        .send(event.post().at("/webhooks/dead"))
        .await
        .assert(502, "upstream_unreachable")
        .assert_event_id("evt_1");
    gateway
        .send(Event::typed("evt_2", "other").post())
        .await
        .assert(200, "ignored")
        .assert_event_id("evt_2");
    for request in [
        event.forged(),
        event.post().at("/elsewhere"),
        event.post().method("PUT"),
        Event::raw("{}").post(),
    ] {
        let response = gateway.send(request).await;
        assert!(!response.headers.has("Hookstile-Event-Id"), "{response:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn method_not_allowed_lists_allowed_methods() {
    let upstream = Upstream::ok();
    let both = Route::to(&upstream)
        .named("both")
        .with("methods", "[POST, PUT]");
    let gateway = Gateway::start(Setup::new([Route::to(&upstream), both])).await;
    let event = Event::new("evt_1");
    for method in [
        "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW", "post",
    ] {
        let response = gateway.send(event.post().method(method)).await;
        response
            .assert(405, "method_not_allowed")
            .assert_header("Allow", "POST");
    }
    upstream.assert_untouched();
    let refused = gateway
        .send(event.post().at("/webhooks/both").method("DELETE"))
        .await;
    let allowed: Vec<&str> = refused
        .assert(405, "method_not_allowed")
        .header("Allow")
        .expect("Allow")
        .split(", ")
        .collect();
    assert_eq!(allowed, ["POST", "PUT"]);
    gateway
        .send(event.post().at("/webhooks/both").method("PUT"))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.last().method, "PUT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_host_must_match() {
    let upstream = Upstream::ok();
    let other = Upstream::ok();
    let named = Route::to(&upstream).with("host", "hooks.example.com");
    let another = Route::to(&other)
        .with("host", "other.example.com")
        .with("name", "other");
    let gateway = Gateway::start(Setup::new([named, another])).await;
    let to = |id: &str, host: &str| Event::new(id).post().set("Host", host);
    for host in [
        "hooks.test",
        "hooks.example.com..",
        "hooks.example.com.evil.test",
        "evil.hooks.example.com",
        "127.0.0.1",
        "[::1]:80",
    ] {
        gateway
            .send(to("evt_1", host))
            .await
            .assert(404, "unknown_route");
    }
    upstream.assert_untouched();
    let absolute =
        |host: &str| to("evt_1", "hooks.example.com").at(&format!("http://{host}{PATH}"));
    gateway
        .send(absolute("other.example.com"))
        .await
        .assert(400, "malformed_request");
    gateway
        .send(to("evt_1", "hooks.example.com"))
        .await
        .assert(200, "delivered");
    gateway
        .send(to("evt_2", "HOOKS.Example.com:8080"))
        .await
        .assert(200, "delivered");
    gateway
        .send(to("evt_3", "other.example.com"))
        .await
        .assert(200, "delivered");
    assert_eq!(
        (upstream.event_ids(), other.event_ids()),
        (vec!["evt_1".into(), "evt_2".into()], vec!["evt_3".into()])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_are_the_same_over_h2c() {
    let upstream = Upstream::replying([Reply::ok(), Reply::status(500)]);
    let gateway = Gateway::start(Route::to(&upstream).with("max_body", "2KiB")).await;
    let mut client = gateway.connect_h2().await;
    let event = Event::new("evt_1");
    client
        .send(event.clone())
        .await
        .assert(200, "delivered")
        .assert_event_id("evt_1")
        .assert_header("X-App", "fake");
    client
        .send(event.clone())
        .await
        .assert_problem(409, "duplicate");
    client
        .send(event.forged())
        .await
        .assert_problem(401, "invalid_signature");
    client
        .send(Event::raw("{}"))
        .await
        .assert_problem(400, "invalid_event");
    client
        .send(event.post().at("/elsewhere"))
        .await
        .assert_problem(404, "unknown_route");
    client
        .send(event.post().method("PUT"))
        .await
        .assert_problem(405, "method_not_allowed")
        .assert_header("Allow", "POST");
    client
        .send(Event::new("evt_2"))
        .await
        .assert(500, "upstream_rejected");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_listener_serves_no_admin_path() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for path in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/",
        "/webhooks",
        "/graphql",
    ] {
        gateway
            .send(Request::new("GET", path))
            .await
            .assert(404, "unknown_route");
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(gateway.admin_get(path).await.status, 200, "{path}");
    }
}

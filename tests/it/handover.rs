//! What the upstream gets to see, and over which connections.

use serde_json::json;

use crate::harness::tls::Authority;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn method_target_and_end_to_end_headers_reach_the_upstream() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let event = Event::new("evt_1");
    let signature = sign(SECRET, &event.body);
    let request = event
        .post()
        .set("Content-Type", "application/json; charset=utf-8")
        .header("User-Agent", "VPN-Enterprise-Webhooks/1.0")
        .header("Accept", "*/*")
        .header("X-Twice", "one")
        .header("X-Twice", "two")
        .header("X-Empty", "")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
    gateway.send(request).await.assert(200, "delivered");
    let received = upstream.last();
    assert_eq!(
        (received.method.as_str(), received.target.as_str()),
        ("POST", "/receiver")
    );
    assert_eq!(received.body, event.body);
    received.assert_header("X-VPN-Signature", &signature);
    received.assert_header("Content-Type", "application/json; charset=utf-8");
    received.assert_header("User-Agent", "VPN-Enterprise-Webhooks/1.0");
    received.assert_header("Accept", "*/*");
    received.assert_header("X-Empty", "");
    received.assert_header("Content-Length", &event.body.len().to_string());
    assert!(
        received
            .header("traceparent")
            .is_some_and(|value| value.contains("0af7651916cd43dd8448eb211c80319c"))
    );
    assert_eq!(received.headers.all("X-Twice"), ["one", "two"]);
    assert_eq!(received.headers.all("Host").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_is_told_about_the_event() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::typed("evt_1", "vpn.connected"))
        .await
        .assert(200, "delivered");
    let received = upstream.last();
    received.assert_header("Hookstile-Event-Id", "evt_1");
    received.assert_header("Hookstile-Event-Type", "vpn.connected");
    received.assert_header("Hookstile-Route", "hooks");
    received.assert_header("Hookstile-Attempt", "1");
    received.assert_header("Idempotency-Key", "evt_1");
    received.assert_no_header("Hookstile-Possible-Duplicate");
    let at = received
        .header("Hookstile-Received-At")
        .expect("a time")
        .as_bytes();
    assert!(
        at.len() >= 20 && at[4] == b'-' && at[10] == b'T' && at[13] == b':' && at.ends_with(b"Z"),
        "RFC 3339: {at:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_own_idempotency_key_is_kept() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(
            Event::new("evt_1")
                .post()
                .header("Idempotency-Key", "theirs"),
        )
        .await
        .assert(200, "delivered");
    upstream.last().assert_header("Idempotency-Key", "theirs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spoofed_gateway_headers_are_dropped_in_every_spelling() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let spoofed = |id: &str| {
        Event::new(id)
            .post()
            .header("Hookstile-Event-Id", "spoofed")
            .header("hookstile-attempt", "99")
            .header("HOOKSTILE-ROUTE", "spoofed")
            .header("Hookstile-Possible-Duplicate", "true")
            .header("Hookstile-Verified", "spoofed")
            .header("Hookstile-", "spoofed")
    };
    gateway
        .send(spoofed("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .connect_h2()
        .await
        .send(spoofed("evt_2"))
        .await
        .assert(200, "delivered");
    for (received, id) in upstream.requests().iter().zip(["evt_1", "evt_2"]) {
        received.assert_header("Hookstile-Event-Id", id);
        received.assert_header("Hookstile-Attempt", "1");
        received.assert_header("Hookstile-Route", "hooks");
        received.assert_no_header("Hookstile-Possible-Duplicate");
        received.assert_no_header("Hookstile-Verified");
        assert!(!String::from_utf8_lossy(&received.head).contains("spoofed"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spoofed_gateway_headers_with_underscores_never_arrive() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for name in [
        "Hookstile_Event_Id",
        "Hookstile_Possible_Duplicate",
        "hookstile_verified",
        "Hookstile-Event_Id",
    ] {
        gateway
            .send(Event::new(name).post().header(name, "spoofed"))
            .await
            .assert(200, "delivered");
        let received = upstream.last();
        received.assert_header("Hookstile-Event-Id", name);
        received.assert_no_header("Hookstile-Possible-Duplicate");
        assert!(
            !String::from_utf8_lossy(&received.head).contains("spoofed"),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop_headers_end_here() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let request = Event::new("evt_1")
        .post()
        .header("Connection", "keep-alive, TE, Upgrade")
        .header("Keep-Alive", "timeout=5")
        .header("TE", "trailers")
        .header("Trailer", "X-Later")
        .header("Proxy-Authorization", "Basic Zm9vOmJhcg==")
        .header("Proxy-Connection", "keep-alive")
        .header("Upgrade", "websocket");
    gateway.send(request).await.assert(200, "delivered");
    let received = upstream.last();
    for name in [
        "Keep-Alive",
        "TE",
        "Trailer",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Upgrade",
    ] {
        received.assert_no_header(name);
    }
    assert!(
        received
            .headers
            .all("Connection")
            .iter()
            .all(|value| value.eq_ignore_ascii_case("keep-alive"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_named_by_connection_ends_here() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let named = "keep-alive, X-Hop, x-other ,Hookstile-Event-Id";
    let request = Event::new("evt_1")
        .post()
        .header("Connection", named)
        .header("X-Hop", "1")
        .header("X-Other", "2");
    gateway
        .send(request.header("X-Kept", "3"))
        .await
        .assert(200, "delivered");
    let received = upstream.last();
    received.assert_no_header("X-Hop");
    received.assert_no_header("X-Other");
    received.assert_header("X-Kept", "3");
    received.assert_header("Hookstile-Event-Id", "evt_1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sender_is_named_in_the_forwarded_headers() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1").post().set("Host", "hooks.example.com"))
        .await
        .assert(200, "delivered");
    let received = upstream.last();
    received.assert_header("X-Forwarded-For", "127.0.0.1");
    received.assert_header("X-Forwarded-Proto", "http");
    received.assert_header("X-Forwarded-Host", "hooks.example.com");
    gateway
        .connect_h2()
        .await
        .send(Event::new("evt_2").post().set("Host", "h2.example.com"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Forwarded-Host", "h2.example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_headers_of_a_stranger_are_not_believed() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let request = Event::new("evt_1")
        .post()
        .header("X-Forwarded-For", "198.51.100.9")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "spoofed.example.com");
    gateway.send(request).await.assert(200, "delivered");
    let received = upstream.last();
    received.assert_header("X-Forwarded-For", "127.0.0.1");
    received.assert_header("X-Forwarded-Proto", "http");
    received.assert_header("X-Forwarded-Host", "hooks.test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_the_route_are_added() {
    let upstream = Upstream::ok();
    let headers = "{X-Custom-Header: your-value, Authorization: Bearer for-the-receiver}";
    let gateway = Gateway::start(Route::to(&upstream).with("headers", headers)).await;
    gateway
        .send(
            Event::new("evt_1")
                .post()
                .header("X-Custom-Header", "theirs"),
        )
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Custom-Header", "your-value");
    upstream
        .last()
        .assert_header("Authorization", "Bearer for-the-receiver");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_query_goes_along_only_where_the_route_says_so() {
    let upstream = Upstream::ok();
    let plain = Route::to(&upstream).named("plain");
    let query = Route::to(&upstream)
        .named("query")
        .with("forward_query", "true");
    let own = Route::to_url(&format!("{}?own=1", upstream.url()))
        .named("own")
        .with("forward_query", "true");
    let gateway = Gateway::start(Setup::new([plain, query, own])).await;
    let cases = [
        ("/webhooks/plain?a=1&b=%20", "/receiver"),
        ("/webhooks/query?a=1&b=%20", "/receiver?a=1&b=%20"),
        ("/webhooks/query", "/receiver"),
        ("/webhooks/own?a=1", "/receiver?own=1&a=1"),
    ];
    for (number, (target, forwarded)) in cases.into_iter().enumerate() {
        gateway
            .send(Event::new(&format!("evt_{number}")).post().at(target))
            .await
            .assert(200, "delivered");
        assert_eq!(upstream.last().target, forwarded, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_the_upstream_are_reused() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for number in 0..20 {
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    assert_eq!((upstream.count(), upstream.connections()), (20, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_broke_or_was_not_read_to_its_end_is_not_reused() {
    let unread = "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno and more than was declared";
    let upstream = Upstream::replying([Reply::raw(unread), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(500, "upstream_rejected");
    let answer = gateway.send(Event::new("evt_2")).await;
    answer.assert(200, "delivered");
    assert_eq!(answer.text(), "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooled_connection_closed_by_the_upstream_does_not_surface() {
    // The receiver closes after every answer without having said so, as a restarting one does.
    let upstream = Upstream::replying([Reply::ok().then_close()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    for number in 0..40 {
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    assert_eq!(
        upstream.event_ids().len(),
        40,
        "each event once: {:?}",
        upstream.event_ids()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooled_connection_that_dies_with_the_request_on_it_is_tried_once_more_and_marked() {
    let upstream = Upstream::replying([Reply::ok(), Reply::cut(), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    let [_, first, again] = &upstream.requests()[..] else {
        panic!("three requests: {:?}", upstream.event_ids())
    };
    first.assert_no_header("Hookstile-Possible-Duplicate");
    again.assert_header("Hookstile-Possible-Duplicate", "true");
    again.assert_header("Hookstile-Event-Id", "evt_2");
    again.assert_header("Idempotency-Key", "evt_2");
    assert_eq!((first.connection, again.connection), (0, 1));
    assert_eq!(first.body, again.body);
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_event_survives_a_dead_pooled_connection_whole() {
    let upstream = Upstream::replying([Reply::ok(), Reply::cut(), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let large = Event::sized("evt_2", 1 << 20);
    gateway
        .send(large.post().chunked(10_000))
        .await
        .assert(200, "delivered");
    assert!(
        upstream.last().body == large.body,
        "the second try carries the whole body"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_death_is_the_end_of_it() {
    let upstream = Upstream::replying([Reply::ok(), Reply::cut()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert_problem(502, "upstream_unreachable");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_connection_that_dies_with_the_request_on_it_is_not_tried_again() {
    let upstream = Upstream::replying([Reply::cut(), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(502, "upstream_unreachable");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooled_connection_that_dies_within_its_answer_is_not_tried_again() {
    let partial = Reply::raw("HTTP/1.1 200 OK\r\nContent-Le").then_close();
    let upstream = Upstream::replying([Reply::ok(), partial, Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert_problem(502, "upstream_unreachable");
    gateway
        .send(Event::new("evt_3"))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_http_is_a_502() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        let upstream = Upstream::replying([Reply::raw(garbage).then_close()]);
        let gateway = Gateway::start(Route::to(&upstream)).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert_problem(502, "upstream_unreachable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_a_502_and_other_routes_do_not_notice() {
    let upstream = Upstream::ok();
    let closed = ClosedPort::new();
    let gateway = Gateway::start(Setup::new([
        Route::to_url(&closed.url()).named("dead"),
        Route::to(&upstream),
    ]))
    .await;
    gateway
        .send(Event::new("evt_1").post().at("/webhooks/dead"))
        .await
        .assert_problem(502, "upstream_unreachable");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway
        .logged(json!({"route": "dead", "outcome": "upstream_unreachable", "status": 502}))
        .await;
    gateway.metrics().await.assert_value(
        "upstream_requests_total",
        &[("route", "hooks"), ("result", "2xx")],
        1.0,
    );
    assert!(
        gateway.metrics().await.value(
            "upstream_requests_total",
            &[("route", "dead"), ("result", "connect_error")]
        ) >= 1.0
    );
}

/// A route to a receiver behind TLS, under this name, trusting this authority (or the system's only).
async fn gateway_to_tls(upstream: &Upstream, name: &str, ca: Option<&Authority>) -> Gateway {
    let url = format!("https://{name}:{}/receiver", upstream.address().port());
    let target = match ca {
        Some(_) => format!("{{url: \"{url}\", ca: ca.pem}}"),
        None => format!("\"{url}\""),
    };
    let setup = Setup::from(Route::to_url(&target));
    Gateway::start(setup.file("ca.pem", ca.map_or("", Authority::pem))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_upstream_is_served_when_the_configured_authority_vouches_for_it() {
    let authority = Authority::new();
    for name in ["localhost", "127.0.0.1"] {
        let upstream = Upstream::tls(authority.identity(name), [Reply::ok()]);
        let gateway = gateway_to_tls(&upstream, name, Some(&authority)).await;
        let event = Event::sized("evt_1", 100_000);
        gateway.send(event.clone()).await.assert(200, "delivered");
        assert!(upstream.last().body == event.body);
        gateway
            .send(Event::new("evt_2"))
            .await
            .assert(200, "delivered");
        assert_eq!(
            (upstream.count(), upstream.connections()),
            (2, 1),
            "{name}: TLS connections are reused too"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_upstream_of_another_authority_is_sent_nothing() {
    let upstream = Upstream::tls(Authority::new().identity("localhost"), [Reply::ok()]);
    let gateway = gateway_to_tls(&upstream, "localhost", Some(&Authority::new())).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(502, "upstream_unreachable");
    assert_eq!((upstream.count(), upstream.bytes()), (0, 0));
    eventually("the handshake fails at the upstream too", async || {
        upstream.failed_handshakes() >= 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_upstream_of_another_name_is_sent_nothing() {
    let authority = Authority::new();
    for (shown, asked) in [
        ("receiver.example.com", "localhost"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.1"),
    ] {
        let upstream = Upstream::tls(authority.identity(shown), [Reply::ok()]);
        let gateway = gateway_to_tls(&upstream, asked, Some(&authority)).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert_problem(502, "upstream_unreachable");
        assert_eq!(
            (upstream.count(), upstream.bytes()),
            (0, 0),
            "{shown} for {asked}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_is_not_trusted_unless_configured() {
    let upstream = Upstream::tls(Authority::new().identity("localhost"), [Reply::ok()]);
    let gateway = gateway_to_tls(&upstream, "localhost", None).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(502, "upstream_unreachable");
    assert_eq!((upstream.count(), upstream.bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_route_never_falls_back_to_cleartext() {
    let upstream = Upstream::ok();
    let url = format!("https://127.0.0.1:{}/receiver", upstream.address().port());
    let gateway = Gateway::start(
        Route::to_url(&url)
            .with("budget", "3s")
            .with("budget_margin", "500ms"),
    )
    .await;
    let answer = gateway.send(Event::new("evt_1")).await;
    assert!([502, 504].contains(&answer.status), "{answer:?}");
    assert_eq!(upstream.count(), 0);
}

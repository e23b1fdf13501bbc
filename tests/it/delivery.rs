//! Delivery to the upstream: the request it receives, and the connections it is sent over.

use serde_json::json;

use crate::harness::tls::Authority;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_line_and_headers_reach_upstream() {
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
async fn upstream_receives_event_headers() {
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
async fn provider_idempotency_key_is_kept() {
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
async fn spoofed_gateway_headers_are_dropped() {
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
async fn spoofed_underscore_headers_are_dropped() {
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

/// Headers that only a trusted proxy or the gateway may set.
const DESCRIBE_CLIENT: [&str; 12] = [
    "Forwarded",
    "X-Real-IP",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Anything",
    "X-Original-URL",
    "X-Rewrite-URL",
    "True-Client-IP",
    "Proxy",
];

/// Returns a genuine event with these headers in several spellings each, all saying `spoofed`.
fn spoofing(id: &str, names: &[&str]) -> Request {
    let mut request = Event::new(id).post();
    for name in names {
        for separator in ["-", "_", ".", "~"] {
            request = request.header(&name.replace('-', separator), "spoofed");
        }
    }
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookalike_headers_never_reach_the_upstream() {
    let upstream = Upstream::ok();
    let headers = "{X-Tenant: ours, X_Internal_Token: ours}";
    let route = |name: &str| Route::to(&upstream).named(name).with("headers", headers);
    let gateway = Gateway::start(Setup::new([
        route("hooks"),
        route("queued").with("delivery", "queue"),
        route("trial").with("enforce", "false"),
    ]))
    .await;
    let own = ["X-Tenant", "X-Internal-Token", "Hookstile-Event-Id"];
    let mut http2 = gateway.connect_h2().await;
    for (number, names) in [&DESCRIBE_CLIENT[..6], &DESCRIBE_CLIENT[6..], &own]
        .into_iter()
        .enumerate()
    {
        let request = |name: &str| {
            let id = format!("evt_{name}_{number}");
            spoofing(&id, names)
                .header("Idempotency_Key", "spoofed")
                .header("Keep.Alive", "spoofed")
                .at(&format!("/webhooks/{name}"))
        };
        gateway
            .send(request("hooks"))
            .await
            .assert(200, "delivered");
        let unsigned = request("trial").without("X-VPN-Signature");
        http2.send(unsigned).await.assert(200, "delivered");
        gateway.send(request("queued")).await.assert(202, "queued");
        upstream.wait_for_requests(3 * (number + 1)).await;
    }
    for received in upstream.requests() {
        let head = String::from_utf8_lossy(&received.head).into_owned();
        assert!(!head.contains("spoofed"), "{head}");
        received.assert_header("X-Tenant", "ours");
        received.assert_header("X-Forwarded-For", "127.0.0.1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_proxy_describes_the_client_by_exact_names() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("trusted_proxies", "[127.0.0.1/32]");
    let gateway = Gateway::start(setup).await;
    let passing = [
        "Forwarded",
        "X-Real-IP",
        "X-Forwarded-Port",
        "X-Original-URL",
    ];
    let mut request = Event::new("evt_1").post();
    for name in passing {
        request = request
            .header(name, "the proxy's")
            .header(&name.replace('-', "_"), "spoofed");
    }
    request = request
        .without("Forwarded")
        .header("Forwarded", "the proxy's")
        .header("X_Forwarded_For", "spoofed");
    gateway.send(request).await.assert(200, "delivered");
    let received = upstream.last();
    for name in passing {
        received.assert_header(name, "the proxy's");
    }
    assert!(!String::from_utf8_lossy(&received.head).contains("spoofed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop_headers_are_removed() {
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
async fn connection_listed_header_is_removed() {
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
async fn forwarded_headers_name_the_sender() {
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
async fn untrusted_forwarded_headers_are_dropped() {
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
async fn route_headers_are_added() {
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
async fn query_is_forwarded_only_if_configured() {
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
async fn upstream_connections_are_reused() {
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
async fn broken_or_unread_connection_is_not_reused() {
    let unread = "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno and more than was declared";
    let upstream = Upstream::replying([Reply::raw(unread), Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(500, "upstream_rejected");
    let response = gateway.send(Event::new("evt_2")).await;
    response.assert(200, "delivered");
    assert_eq!(response.text(), "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_pooled_connection_is_invisible() {
    // The receiver closes after every response without announcing it, as a restarting one does.
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
        "each event arrives once: {:?}",
        upstream.event_ids()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_pooled_connection_is_retried_once() {
    let upstream = Upstream::replying([Reply::ok(), Reply::disconnect(), Reply::ok()]);
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
async fn large_event_survives_dead_pooled_connection() {
    let upstream = Upstream::replying([Reply::ok(), Reply::disconnect(), Reply::ok()]);
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
        "the second attempt carries the whole body"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_connection_failure_is_final() {
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
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_2", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_new_connection_is_not_retried() {
    let upstream = Upstream::replying([Reply::disconnect(), Reply::ok()]);
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
async fn partial_response_is_not_retried() {
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
async fn non_http_response_is_502() {
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
async fn refused_connection_is_502_on_its_route_only() {
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
        .wait_for_request_log(
            json!({"route": "dead", "outcome": "upstream_unreachable", "status": 502}),
        )
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

/// Starts a gateway with a route to a TLS upstream of this name, trusting this authority, or only
/// the system's if there is none.
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
async fn https_upstream_with_trusted_authority_is_used() {
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
async fn https_upstream_with_wrong_authority_gets_nothing() {
    let upstream = Upstream::tls(Authority::new().identity("localhost"), [Reply::ok()]);
    let gateway = gateway_to_tls(&upstream, "localhost", Some(&Authority::new())).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(502, "upstream_unreachable");
    assert_eq!((upstream.count(), upstream.bytes()), (0, 0));
    eventually("the upstream counts the failed handshake", async || {
        upstream.failed_handshakes() >= 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_upstream_with_wrong_name_gets_nothing() {
    let authority = Authority::new();
    for (shown, requested) in [
        ("receiver.example.com", "localhost"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.1"),
    ] {
        let upstream = Upstream::tls(authority.identity(shown), [Reply::ok()]);
        let gateway = gateway_to_tls(&upstream, requested, Some(&authority)).await;
        gateway
            .send(Event::new("evt_1"))
            .await
            .assert_problem(502, "upstream_unreachable");
        assert_eq!(
            (upstream.count(), upstream.bytes()),
            (0, 0),
            "{shown} for {requested}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_authority_must_be_configured() {
    let upstream = Upstream::tls(Authority::new().identity("localhost"), [Reply::ok()]);
    let gateway = gateway_to_tls(&upstream, "localhost", None).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(502, "upstream_unreachable");
    assert_eq!((upstream.count(), upstream.bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_route_never_uses_cleartext() {
    let upstream = Upstream::ok();
    let url = format!("https://127.0.0.1:{}/receiver", upstream.address().port());
    let gateway = Gateway::start(
        Route::to_url(&url)
            .with("budget", "3s")
            .with("budget_margin", "500ms"),
    )
    .await;
    let response = gateway.send(Event::new("evt_1")).await;
    assert!([502, 504].contains(&response.status), "{response:?}");
    assert_eq!(upstream.count(), 0);
}

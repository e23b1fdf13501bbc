//! Admission: rate limits, allow-lists, trusted proxies, and limits on concurrency, memory and
//! connections. They apply before the upstream is contacted.

use serde_json::json;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excess_rate_gets_429_and_is_not_forwarded() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("rate_limit", "{per_second: 1, burst: 3}");
    let gateway = Gateway::start(route).await;
    let mut outcomes = Vec::new();
    for number in 0..10 {
        let response = gateway.send(Event::new(&format!("evt_{number}"))).await;
        if response.status == 429 {
            response
                .assert_problem(429, "rate_limited")
                .assert_retry_after();
        }
        outcomes.push(response.outcome().to_owned());
    }
    let delivered = outcomes
        .iter()
        .filter(|outcome| *outcome == "delivered")
        .count();
    let limited = outcomes
        .iter()
        .filter(|outcome| *outcome == "rate_limited")
        .count();
    assert_eq!(
        outcomes[..3],
        ["delivered"; 3],
        "the burst is admitted: {outcomes:?}"
    );
    assert!(limited >= 1 && delivered + limited == 10, "{outcomes:?}");
    assert_eq!(upstream.count(), delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limited_event_passes_later() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Route::to(&upstream).with("rate_limit", "{per_second: 2, burst: 1}")).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    eventually("the next event is admitted", async || {
        gateway.send(Event::new("evt_2")).await.outcome() == "delivered"
    })
    .await;
    upstream.last().assert_header("Hookstile-Attempt", "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_is_per_route() {
    let upstream = Upstream::ok();
    let slow = Route::to(&upstream)
        .named("slow")
        .with("rate_limit", "{per_second: 1, burst: 1}");
    let gateway = Gateway::start(Setup::new([slow, Route::to(&upstream)])).await;
    for number in 0..10 {
        gateway
            .send(
                Event::new(&format!("evt_s{number}"))
                    .post()
                    .at("/webhooks/slow"),
            )
            .await;
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
}

/// Returns requests that cost a route's senders nothing, each by its name: unsigned and forged
/// events, and copies of an event that was delivered.
fn worthless_requests(delivered: &Event) -> [(&'static str, Request); 4] {
    let event = Event::new("evt_forged");
    [
        ("unsigned", event.post().without("X-VPN-Signature")),
        ("malformed", event.post().set("X-VPN-Signature", "sha256=0")),
        ("forged", event.forged()),
        ("copy", delivered.post()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_without_secret_costs_senders_no_rate() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .with("rate_limit", "{per_second: 1, burst: 3}")
        .with("events", "[user.*]");
    let gateway = Gateway::start(route).await;
    let delivered = Event::typed("evt_0", "user.created");
    gateway
        .send(delivered.clone())
        .await
        .assert(200, "delivered");
    let mut http2 = gateway.connect_h2().await;
    for _ in 0..20 {
        for (kind, request) in worthless_requests(&delivered) {
            let statuses = [
                gateway.send(request.clone()).await.status,
                http2.send(request).await.status,
            ];
            assert!(
                statuses.iter().all(|status| [401, 409].contains(status)),
                "{kind}"
            );
        }
        gateway
            .send(Event::typed("evt_ignored", "vpn.connected"))
            .await
            .assert(200, "ignored");
    }
    for id in ["evt_1", "evt_2"] {
        gateway
            .send(Event::typed(id, "user.created"))
            .await
            .assert(200, "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_counts_forwarded_unverified_requests() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .with("enforce", "false")
        .with("rate_limit", "{per_second: 1, burst: 3}");
    let gateway = Gateway::start(route).await;
    let mut limited = 0;
    for number in 0..10 {
        let response = gateway
            .send(Event::new(&format!("evt_{number}")).forged())
            .await;
        limited += usize::from(response.outcome() == "rate_limited");
    }
    assert!(limited >= 1);
    assert_eq!(upstream.count(), 10 - limited);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unverified_limit_spares_genuine_senders() {
    let upstream = Upstream::ok();
    let limit = "{per_second: 1, burst: 3}";
    let route = Route::to(&upstream).with("unverified_rate_limit", limit);
    let gateway = Gateway::start(route).await;
    let mut flood = gateway.connect().await;
    let mut outcomes = Vec::new();
    for number in 0..30 {
        let event = Event::new("evt_forged");
        let request = match number % 3 {
            0 => event.forged(),
            1 => event.post().without("X-VPN-Signature"),
            _ => event.post().set("X-VPN-Signature", "sha256=0"),
        };
        let response = flood.send(request).await;
        if response.status == 429 {
            response
                .assert_problem(429, "rate_limited")
                .assert_retry_after();
        }
        outcomes.push(response.outcome().to_owned());
        // The genuine sender has the same address.
        gateway
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
    }
    assert_eq!(outcomes[..3], ["invalid_signature"; 3]);
    assert!(outcomes[3..].contains(&"rate_limited".to_owned()));
    let mut other = Client::connect_from([127, 0, 0, 2].into(), gateway.public_address()).await;
    other
        .send(Event::new("evt_forged").forged())
        .await
        .assert(401, "invalid_signature");
    gateway
        .wait_for_request_log(json!({"outcome": "rate_limited", "reason": "unverified"}))
        .await;
    let metrics = gateway.metrics().await;
    for (result, count) in [("mismatch", 11.0), ("missing", 10.0), ("malformed", 10.0)] {
        metrics.assert_value("signature_checks_total", &[("result", result)], count);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unverified_limit_counts_the_forwarded_client() {
    let upstream = Upstream::ok();
    let limit = "{per_second: 1, burst: 2}";
    let route = Route::to(&upstream).with("unverified_rate_limit", limit);
    let gateway =
        Gateway::start(Setup::from(route).with("trusted_proxies", "[127.0.0.1/32]")).await;
    let from = |client: &str| {
        let request = Event::new("evt_1").forged();
        gateway.send(request.header("X-Forwarded-For", client))
    };
    let mut statuses = Vec::new();
    for number in 0..20 {
        // One IPv6 site has all addresses of its /64.
        statuses.push(from(&format!("2001:db8::{number:x}")).await.status);
    }
    assert_eq!(statuses[..2], [401; 2]);
    assert!(statuses.contains(&429), "{statuses:?}");
    from("2001:db8:0:1::1")
        .await
        .assert(401, "invalid_signature");
    from("203.0.113.7").await.assert(401, "invalid_signature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allow_list_admits_listed_addresses_only() {
    let upstream = Upstream::ok();
    let listed = Route::to(&upstream)
        .named("listed")
        .with("allow_from", "[203.0.113.0/24, 127.0.0.0/8]");
    let fenced = Route::to(&upstream)
        .named("fenced")
        .with("allow_from", "[203.0.113.0/24]");
    let gateway = Gateway::start(Setup::new([listed, fenced])).await;
    let event = Event::new("evt_1");
    gateway
        .send(event.post().at("/webhooks/fenced"))
        .await
        .assert_problem(403, "forbidden_address");
    let spoofed = event
        .post()
        .at("/webhooks/fenced")
        .header("X-Forwarded-For", "203.0.113.7");
    gateway
        .send(spoofed)
        .await
        .assert_problem(403, "forbidden_address");
    upstream.assert_untouched();
    gateway
        .send(event.post().at("/webhooks/listed"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_proxy_names_client_address() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("allow_from", "[203.0.113.0/24]");
    let gateway =
        Gateway::start(Setup::from(route).with("trusted_proxies", "[127.0.0.1/32]")).await;
    let from = |id: &str, chain: &str| Event::new(id).post().header("X-Forwarded-For", chain);
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(403, "forbidden_address");
    gateway
        .send(from("evt_1", "198.51.100.9"))
        .await
        .assert(403, "forbidden_address");
    // Only the address nearest to the trusted proxy counts; the client itself supplied the rest.
    gateway
        .send(from("evt_1", "203.0.113.7, 198.51.100.9"))
        .await
        .assert(403, "forbidden_address");
    upstream.assert_untouched();
    gateway
        .send(from("evt_1", "203.0.113.7"))
        .await
        .assert(200, "delivered");
    gateway
        .send(from("evt_2", "198.51.100.9, 203.0.113.7"))
        .await
        .assert(200, "delivered");
    let peer = gateway
        .wait_for_request_log(json!({"event_id": "evt_1", "outcome": "delivered"}))
        .await["peer"]
        .to_string();
    assert!(peer.contains("203.0.113.7"), "{peer}");
    let chain = upstream.requests()[0]
        .header("X-Forwarded-For")
        .expect("set")
        .to_owned();
    assert!(chain.starts_with("203.0.113.7"), "{chain}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_proxy_is_trusted_for_addresses_only() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Setup::from(Route::to(&upstream)).with("trusted_proxies", "[127.0.0.1/32]"))
            .await;
    let request = Event::new("evt_1")
        .post()
        .header("X-Forwarded-For", "203.0.113.7");
    let request = request
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "spoofed.example.com");
    gateway.send(request).await.assert(200, "delivered");
    let received = upstream.last();
    received.assert_header("X-Forwarded-For", "203.0.113.7, 127.0.0.1");
    received.assert_header("X-Forwarded-Proto", "http");
    received.assert_header("X-Forwarded-Host", "hooks.test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_concurrency_limit_answers_503() {
    let gate = Gate::shut();
    let upstream = Upstream::replying([Reply::ok().after(&gate), Reply::ok()]);
    let narrow = Route::to(&upstream)
        .named("narrow")
        .with("concurrency", "1");
    let gateway = Gateway::start(Setup::new([narrow, Route::to(&upstream)])).await;
    let mut held = gateway.connect().await;
    held.write(&Event::new("evt_1").post().at("/webhooks/narrow").bytes())
        .await;
    upstream.wait_for_requests(1).await;
    let second = gateway
        .send(Event::new("evt_2").post().at("/webhooks/narrow"))
        .await;
    second
        .assert_problem(503, "overloaded")
        .assert_retry_after();
    gateway
        .send(Event::new("evt_3"))
        .await
        .assert(200, "delivered");
    gate.open();
    held.read_response().await.assert(200, "delivered");
    eventually("the route has capacity again", async || {
        gateway
            .send(Event::new("evt_2").post().at("/webhooks/narrow"))
            .await
            .outcome()
            == "delivered"
    })
    .await;
    assert_eq!(upstream.event_ids(), ["evt_1", "evt_3", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_limit_bounds_bodies_in_flight() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("max_body", "64KiB");
    let gateway =
        Gateway::start(Setup::from(route).with("limits", "{body_bytes_in_flight: 128KiB}")).await;
    let request = Event::sized("evt_slow", 60_000).post();
    let mut slow = gateway.connect().await;
    slow.write(&request.bytes()[..request.bytes().len() - 1])
        .await;
    gateway
        .wait_for_metric_at_least("body_bytes_in_flight", &[], 59_999.0)
        .await;
    gateway
        .send(Event::sized("evt_new", 60_000))
        .await
        .assert(200, "delivered");
    slow.read_response()
        .await
        .assert_problem(503, "overloaded")
        .assert_retry_after();
    assert_eq!(upstream.event_ids(), ["evt_new"]);
    gateway
        .send(Event::sized("evt_late", 60_000))
        .await
        .assert(200, "delivered");
    gateway
        .wait_for_metric("body_bytes_in_flight", &[], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excess_connections_do_not_disturb_others() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Setup::from(Route::to(&upstream)).with("limits", "{connections: 3}")).await;
    let mut within_limit = Vec::new();
    for number in 0..3 {
        let mut client = gateway.connect().await;
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
        within_limit.push(client);
    }
    let mut beyond = gateway.connect().await;
    let response = beyond
        .send_raw(&Event::new("evt_beyond").post().bytes())
        .await;
    assert!(
        response
            .is_none_or(|response| (response.status, response.outcome()) == (503, "overloaded"))
    );
    for (number, client) in within_limit.iter_mut().enumerate() {
        client
            .send(Event::new(&format!("evt_again_{number}")))
            .await
            .assert(200, "delivered");
    }
    assert_eq!(upstream.count(), 6);
    drop(within_limit);
    wait_until_admitted(&gateway, "evt_after").await;
}

/// Waits until a connection that carries this event is admitted.
async fn wait_until_admitted(gateway: &Gateway, event_id: &str) {
    eventually("a connection is admitted again", async || {
        let response = gateway
            .connect()
            .await
            .send_raw(&Event::new(event_id).post().bytes())
            .await;
        response.is_some_and(|response| ["delivered", "duplicate"].contains(&response.outcome()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_connection_limit_spares_others() {
    let upstream = Upstream::ok();
    let limits = "{connections_per_address: 2}";
    let gateway = Gateway::start(Setup::from(Route::to(&upstream)).with("limits", limits)).await;
    let mut first = gateway.connect().await;
    first
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let mut second = gateway.connect().await;
    second
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    // The response arrives before the client has sent anything.
    let mut beyond = gateway.connect().await;
    beyond
        .read_response()
        .await
        .assert(503, "overloaded")
        .assert_retry_after();
    beyond.wait_for_close().await;
    let labels = [("route", ""), ("outcome", "overloaded")];
    gateway
        .wait_for_metric("requests_total", &labels, 1.0)
        .await;
    let mut other = Client::connect_from([127, 0, 0, 2].into(), gateway.public_address()).await;
    other
        .send(Event::new("evt_3"))
        .await
        .assert(200, "delivered");
    first
        .send(Event::new("evt_4"))
        .await
        .assert(200, "delivered");
    drop(second);
    wait_until_admitted(&gateway, "evt_5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_proxy_has_no_address_connection_limit() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("trusted_proxies", "[127.0.0.1/32]");
    let gateway = Gateway::start(setup.with("limits", "{connections_per_address: 1}")).await;
    let mut held = Vec::new();
    for number in 0..5 {
        let mut client = gateway.connect().await;
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
        held.push(client);
    }
}

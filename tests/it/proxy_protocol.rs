//! Behind a layer-4 balancer: the sender is whom the PROXY protocol's header names, if a balancer of ours has sent it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::tls::{Authority, Trust};
use crate::harness::*;

const LISTEN: &str = r#"[{address: "127.0.0.1:0", proxy_protocol: true}]"#;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const SENDER: &str = "203.0.113.7:40000";
/// A health check of the balancer's own.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Behind a balancer at 127.0.0.1.
fn setup(route: Route) -> Setup {
    Setup::from(route)
        .with("listen", LISTEN)
        .with("trusted_proxies", "[127.0.0.1/32]")
        .stopping_at_once()
}

fn announcing(sender: &str) -> Vec<u8> {
    with_additions(sender, b"")
}

/// The header of version 2 for a connection of `sender` over TCP.
fn with_additions(sender: &str, additions: &[u8]) -> Vec<u8> {
    let sender: SocketAddr = sender.parse().expect("an address with a port");
    let (family, source, destination) = match sender.ip() {
        IpAddr::V4(ip) => (0x11, ip.octets().to_vec(), [192, 0, 2, 1].to_vec()),
        IpAddr::V6(ip) => (0x21, ip.octets().to_vec(), [0xfd; 16].to_vec()),
    };
    let ports = [sender.port().to_be_bytes(), 443_u16.to_be_bytes()].concat();
    let rest = [&source[..], &destination, &ports, additions].concat();
    let length = u16::try_from(rest.len())
        .expect("a short header")
        .to_be_bytes();
    [SIGNATURE, &[0x21, family], &length, &rest].concat()
}

async fn connect_as(gateway: &Gateway, sender: &str) -> Client {
    let mut client = gateway.connect().await;
    client.write(&announcing(sender)).await;
    client
}

async fn counted(gateway: &Gateway, result: &str, count: f64) {
    gateway
        .metric_reaches("proxy_headers_total", &[("result", result)], count)
        .await;
}

/// Waits for the line with this message.
async fn line(gateway: &Gateway, message: &str) -> Value {
    let find = || {
        gateway
            .lines()
            .into_iter()
            .find(|line| line["message"] == message)
    };
    eventually(format!("it is written: {message}"), async || {
        find().is_some()
    })
    .await;
    find().expect("just seen")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sender_is_whom_the_header_names_for_the_route_the_log_and_the_upstream() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(
        Route::to(&upstream).with("allow_from", "[203.0.113.7, 2001:db8::/32]"),
    ))
    .await;
    for (number, sender) in ["203.0.113.7", "2001:db8::7"].into_iter().enumerate() {
        let id = format!("evt_{number}");
        let mut client = connect_as(
            &gateway,
            &SocketAddr::new(sender.parse().unwrap(), 40000).to_string(),
        )
        .await;
        client.send(Event::new(&id)).await.assert(200, "delivered");
        upstream.last().assert_header("X-Forwarded-For", sender);
        assert_eq!(
            gateway.logged(json!({"event_id": id})).await["peer"],
            sender
        );
        client
            .send(Event::new(&format!("{id}_kept")))
            .await
            .assert(200, "delivered");
        upstream.last().assert_header("X-Forwarded-For", sender);
    }
    let mut stranger = connect_as(&gateway, "198.51.100.9:40000").await;
    stranger
        .send(Event::new("evt_no"))
        .await
        .assert(403, "forbidden_address");
    assert_eq!(
        gateway
            .logged(json!({"outcome": "forbidden_address"}))
            .await["peer"],
        "198.51.100.9"
    );
    assert_eq!(upstream.count(), 4);
    counted(&gateway, "ok", 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_in_one_piece_with_the_request_or_byte_by_byte_or_with_additions_is_read_to_its_end()
 {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream))).await;
    // ALPN, a checksum, and what AWS adds; and as much as there may be.
    let additions = b"\x01\0\x02h2\x03\0\x04\xde\xad\xbe\xef\xea\0\x17\x01vpce-08d2bf15fac5001c9";
    let long = vec![0; usize::from(u16::MAX) - 36];
    let headers = [
        announcing(SENDER),
        with_additions(SENDER, additions),
        with_additions("[2001:db8::7]:40000", additions),
        with_additions("[2001:db8::7]:40000", &long),
    ];
    for (number, header) in headers.into_iter().enumerate() {
        let begun = [header, Event::new(&format!("evt_{number}")).post().bytes()].concat();
        gateway
            .connect()
            .await
            .send_raw(&begun)
            .await
            .expect("an answer")
            .assert(200, "delivered");
    }
    let begun = [
        with_additions(SENDER, additions),
        Event::new("evt_slow").post().bytes(),
    ]
    .concat();
    let answer = gateway
        .connect()
        .await
        .trickle(&begun, Duration::from_millis(1))
        .await;
    answer.expect("an answer").assert(200, "delivered");
    counted(&gateway, "ok", 5.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_the_sender_over_http_2_and_within_tls_too() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let shown = authority.issue("hooks.test");
    let listen = LISTEN.replace("}]", ", tls: {certificate: tls.crt, key: tls.key}}]");
    let setup = setup(Route::to(&upstream).with("allow_from", "[203.0.113.7]"));
    let plain = Gateway::start(setup.clone()).await;
    let secured = setup
        .with("listen", &listen)
        .file("tls.crt", &shown.certificate)
        .file("tls.key", &shown.key);
    let secured = Gateway::start(secured).await;
    connect_as(&plain, SENDER)
        .await
        .h2()
        .await
        .send(Event::new("evt_h2"))
        .await
        .assert(200, "delivered");
    for protocol in ["http/1.1", "h2"] {
        let client = connect_as(&secured, SENDER).await;
        let trust = Trust::of(&authority);
        let mut client = client
            .secure(&trust, "hooks.test", &[protocol])
            .await
            .expect("a handshake");
        let event = Event::new(&format!("evt_tls_{protocol}"));
        let answer = if protocol == "h2" {
            client.h2().await.send(event).await
        } else {
            client.send(event).await
        };
        answer.assert(200, "delivered");
    }
    for seen in upstream.requests() {
        seen.assert_header("X-Forwarded-For", "203.0.113.7");
    }
    let mut broken = connect_as(&secured, SENDER).await;
    broken.write(b"GET / HTTP/1.1\r\n\r\n").await;
    broken.rest().await;
    assert_eq!(
        line(&secured, "no TLS handshake").await["peer"],
        "203.0.113.7"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_balancers_own_connections_are_served_under_its_own_address() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream))).await;
    let mut client = gateway.connect().await;
    client.write(LOCAL).await;
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Forwarded-For", "127.0.0.1");
    // What is in it all the same does not count.
    let mut with_addresses = announcing(SENDER);
    with_addresses[12] = 0x20;
    let mut client = gateway.connect().await;
    client.write(&with_addresses).await;
    client
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Forwarded-For", "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sender_says_of_itself_counts_only_if_it_is_a_trusted_proxy_as_well() {
    let upstream = Upstream::ok();
    let setup = setup(Route::to(&upstream)).with("trusted_proxies", "[127.0.0.1/32, 10.0.0.0/8]");
    let gateway = Gateway::start(setup).await;
    let told = |id: &str| {
        Event::new(id)
            .post()
            .header("X-Forwarded-For", "198.51.100.9")
    };
    connect_as(&gateway, SENDER)
        .await
        .send(told("evt_1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Forwarded-For", "203.0.113.7");
    connect_as(&gateway, "10.0.0.9:40000")
        .await
        .send(told("evt_2"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Forwarded-For", "198.51.100.9, 10.0.0.9");
    assert_eq!(
        gateway.logged(json!({"event_id": "evt_2"})).await["peer"],
        "198.51.100.9"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_begins_with_anything_else_is_closed_unanswered_counted_and_told_but_does_not_flood_the_log()
 {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream))).await;
    let event = Event::new("evt_1").post().bytes();
    let mut udp = announcing(SENDER);
    udp[13] = 0x12;
    let beginnings = [
        (event.clone(), "begins with something else"),
        (
            [
                &b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n"[..],
                &event,
            ]
            .concat(),
            "version 1",
        ),
        (vec![0x16; 64], "begins with something else"),
        ([udp, event].concat(), "no address of a sender over TCP"),
        (
            [SIGNATURE, &[0x21, 0, 0, 0]].concat(),
            "no address of a sender over TCP",
        ),
    ];
    for (begun, why) in beginnings {
        let mut client = gateway.connect().await;
        client.write(&begun).await;
        client.closed().await;
        eventually(format!("it is told: {why}"), async || {
            gateway.output().contains(why)
        })
        .await;
    }
    // Hangs up in the middle.
    let mut client = gateway.connect().await;
    client.write(&announcing(SENDER)[..20]).await;
    drop(client);
    eventually("it is told", async || {
        gateway
            .output()
            .contains("the connection ended before it did")
    })
    .await;
    for _ in 0..100 {
        let mut client = gateway.connect().await;
        client.write(b"GET / HTTP/1.1\r\n\r\n").await;
        client.closed().await;
    }
    counted(&gateway, "invalid", 106.0).await;
    let told = gateway.output().matches("no PROXY protocol header").count();
    assert!((1..60).contains(&told), "{told} lines");
    upstream.assert_untouched();
    gateway.metric_reaches("connections", &[], 0.0).await;
    connect_as(&gateway, SENDER)
        .await
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_a_trusted_proxy_may_name_a_sender_or_connect_at_all() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream))).await;
    for header in [announcing(SENDER), LOCAL.to_vec(), Vec::new()] {
        let mut client = Client::connect_from([127, 0, 0, 2].into(), gateway.data()).await;
        client
            .write(&[header, Event::new("evt_1").post().bytes()].concat())
            .await;
        client.closed().await;
    }
    counted(&gateway, "untrusted", 3.0).await;
    assert_eq!(
        line(&gateway, "no PROXY protocol header").await["peer"],
        "127.0.0.2"
    );
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_no_whole_header_in_time_loses_the_place_that_was_held_until_then() {
    let upstream = Upstream::ok();
    let limits = "{header_timeout: 1s, idle_timeout: 60s, connections: 2}";
    let gateway = Gateway::start(setup(Route::to(&upstream)).with("limits", limits)).await;
    let mut slow = gateway.connect().await;
    slow.write(&announcing(SENDER)[..27]).await;
    let mut silent = gateway.connect().await;
    gateway.metric_reaches("connections", &[], 2.0).await;
    gateway
        .connect()
        .await
        .answer()
        .await
        .assert(503, "overloaded");
    slow.closed().await;
    silent.closed().await;
    gateway.metric_reaches("connections", &[], 0.0).await;
    connect_as(&gateway, SENDER)
        .await
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let metrics = gateway.metrics().await;
    // Saying nothing is what a health check does.
    for (result, count) in [
        ("timeout", 1.0),
        ("invalid", 0.0),
        ("untrusted", 0.0),
        ("ok", 1.0),
    ] {
        metrics.assert_value("proxy_headers_total", &[("result", result)], count);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_has_its_connections_and_leaves_others_behind_the_balancer_theirs() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(setup(Route::to(&upstream)).with("limits", "{connections_per_address: 1}"))
            .await;
    let mut first = connect_as(&gateway, SENDER).await;
    first
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let mut beyond = connect_as(&gateway, "203.0.113.7:40001").await;
    beyond
        .answer()
        .await
        .assert(503, "overloaded")
        .assert_retry_after();
    beyond.closed().await;
    let mut other = connect_as(&gateway, "203.0.113.8:40000").await;
    other
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    let mut checks = Vec::new();
    for _ in 0..3 {
        let mut check = gateway.connect().await;
        check.write(LOCAL).await;
        check
            .send(Request::new("GET", "/"))
            .await
            .assert(404, "unknown_route");
        checks.push(check);
    }
    drop(first);
    eventually("there is room again", async || {
        let answer = connect_as(&gateway, SENDER)
            .await
            .send_raw(&Event::new("evt_3").post().bytes())
            .await;
        answer.is_some_and(|answer| ["delivered", "duplicate"].contains(&answer.outcome()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_counts_from_the_first_byte_of_the_request_not_of_the_header() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream).with("budget", "1s"))).await;
    let mut client = connect_as(&gateway, SENDER).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_header() {
    let setup = setup(Route::to(&Upstream::ok())).with("limits", "{header_timeout: 1h}");
    let mut gateway = Gateway::start(setup).await;
    let _silent = gateway.connect().await;
    let mut begun = gateway.connect().await;
    begun.write(&announcing(SENDER)[..27]).await;
    gateway.metric_reaches("connections", &[], 2.0).await;
    assert!(gateway.stop().await.success());
    assert!(
        !gateway.output().contains("still in flight"),
        "{}",
        gateway.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_was_not_told_of_it_takes_a_header_for_a_broken_request() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("trusted_proxies", "[127.0.0.1/32]");
    let gateway = Gateway::start(setup).await;
    let request = Event::new("evt_1").post().bytes();
    for header in [
        announcing(SENDER),
        LOCAL.to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n".to_vec(),
    ] {
        let mut client = gateway.connect().await;
        let answer = client.send_raw(&[&header[..], &request].concat()).await;
        answer.expect("an answer").assert(400, "malformed_request");
        client.closed().await;
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_event_needs_no_proxy_header() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream))).await;
    let tested = gateway
        .admin_post("/webhooks/wh_hooks/test", &json!({}))
        .await;
    assert_eq!(tested.status, 200, "{}", tested.text());
    assert!(tested.text().contains("delivered"), "{}", tested.text());
    upstream
        .last()
        .assert_header("X-Forwarded-For", "127.0.0.1");
}

//! Connections behind a layer-4 load balancer: the PROXY protocol header names the sender, if a
//! trusted proxy sent it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::tls::{Authority, Trust};
use crate::harness::*;

const LISTEN: &str = r#"[{address: "127.0.0.1:0", proxy_protocol: true}]"#;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const SENDER: &str = "203.0.113.7:40000";
/// The header of a load balancer's own health check.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Configures a load balancer at 127.0.0.1.
fn setup(route: Route) -> Setup {
    Setup::from(route)
        .with("listen", LISTEN)
        .with("trusted_proxies", "[127.0.0.1/32]")
        .stopping_at_once()
}

fn proxy_header(sender: &str) -> Vec<u8> {
    proxy_header_with(sender, b"")
}

/// Returns the version 2 header for a TCP connection from `sender`.
fn proxy_header_with(sender: &str, additions: &[u8]) -> Vec<u8> {
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
    client.write(&proxy_header(sender)).await;
    client
}

async fn wait_for_count(gateway: &Gateway, result: &str, count: f64) {
    gateway
        .wait_for_metric("proxy_headers_total", &[("result", result)], count)
        .await;
}

/// Waits for the log line with this message.
async fn wait_for_line(gateway: &Gateway, message: &str) -> Value {
    let find = || {
        gateway
            .lines()
            .into_iter()
            .find(|line| line["message"] == message)
    };
    eventually(format!("the log has {message}"), async || find().is_some()).await;
    find().expect("just seen")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_header_names_sender_everywhere() {
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
            gateway.wait_for_request_log(json!({"event_id": id})).await["peer"],
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
            .wait_for_request_log(json!({"outcome": "forbidden_address"}))
            .await["peer"],
        "198.51.100.9"
    );
    assert_eq!(upstream.count(), 4);
    wait_for_count(&gateway, "ok", 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_header_is_read_in_any_split() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream))).await;
    // ALPN, a checksum, and the AWS extension; then as many bytes as are allowed.
    let additions = b"\x01\0\x02h2\x03\0\x04\xde\xad\xbe\xef\xea\0\x17\x01vpce-08d2bf15fac5001c9";
    let long = vec![0; usize::from(u16::MAX) - 36];
    let headers = [
        proxy_header(SENDER),
        proxy_header_with(SENDER, additions),
        proxy_header_with("[2001:db8::7]:40000", additions),
        proxy_header_with("[2001:db8::7]:40000", &long),
    ];
    for (number, header) in headers.into_iter().enumerate() {
        let bytes = [header, Event::new(&format!("evt_{number}")).post().bytes()].concat();
        gateway
            .connect()
            .await
            .send_raw(&bytes)
            .await
            .expect("an answer")
            .assert(200, "delivered");
    }
    let bytes = [
        proxy_header_with(SENDER, additions),
        Event::new("evt_slow").post().bytes(),
    ]
    .concat();
    let response = gateway
        .connect()
        .await
        .trickle(&bytes, Duration::from_millis(1))
        .await;
    response.expect("an answer").assert(200, "delivered");
    wait_for_count(&gateway, "ok", 5.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_header_works_with_http2_and_tls() {
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
        let trust = Trust::new(&authority);
        let mut client = client
            .secure(&trust, "hooks.test", &[protocol])
            .await
            .expect("a handshake");
        let event = Event::new(&format!("evt_tls_{protocol}"));
        let response = if protocol == "h2" {
            client.h2().await.send(event).await
        } else {
            client.send(event).await
        };
        response.assert(200, "delivered");
    }
    for received in upstream.requests() {
        received.assert_header("X-Forwarded-For", "203.0.113.7");
    }
    let mut broken = connect_as(&secured, SENDER).await;
    broken.write(b"GET / HTTP/1.1\r\n\r\n").await;
    broken.rest().await;
    assert_eq!(
        wait_for_line(&secured, "TLS handshake failed").await["peer"],
        "203.0.113.7"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn balancer_own_connections_use_its_address() {
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
    // Addresses in a LOCAL header are ignored.
    let mut with_addresses = proxy_header(SENDER);
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
async fn forwarded_headers_need_trusted_proxy() {
    let upstream = Upstream::ok();
    let setup = setup(Route::to(&upstream)).with("trusted_proxies", "[127.0.0.1/32, 10.0.0.0/8]");
    let gateway = Gateway::start(setup).await;
    let claiming_address = |id: &str| {
        Event::new(id)
            .post()
            .header("X-Forwarded-For", "198.51.100.9")
    };
    connect_as(&gateway, SENDER)
        .await
        .send(claiming_address("evt_1"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Forwarded-For", "203.0.113.7");
    connect_as(&gateway, "10.0.0.9:40000")
        .await
        .send(claiming_address("evt_2"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Forwarded-For", "198.51.100.9, 10.0.0.9");
    assert_eq!(
        gateway
            .wait_for_request_log(json!({"event_id": "evt_2"}))
            .await["peer"],
        "198.51.100.9"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_proxy_header_is_closed() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream))).await;
    let event = Event::new("evt_1").post().bytes();
    let mut udp = proxy_header(SENDER);
    udp[13] = 0x12;
    let beginnings = [
        (event.clone(), "does not begin with a PROXY protocol header"),
        (
            [
                &b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n"[..],
                &event,
            ]
            .concat(),
            "version 1",
        ),
        (
            vec![0x16; 64],
            "does not begin with a PROXY protocol header",
        ),
        ([udp, event].concat(), "no TCP address of a sender"),
        (
            [SIGNATURE, &[0x21, 0, 0, 0]].concat(),
            "no TCP address of a sender",
        ),
    ];
    for (bytes, why) in beginnings {
        let mut client = gateway.connect().await;
        client.write(&bytes).await;
        client.wait_for_close().await;
        eventually(format!("the log has {why}"), async || {
            gateway.output().contains(why)
        })
        .await;
    }
    // The sender hangs up in the middle of the header.
    let mut client = gateway.connect().await;
    client.write(&proxy_header(SENDER)[..20]).await;
    drop(client);
    eventually("the hang-up is logged", async || {
        gateway
            .output()
            .contains("the connection ended before the header did")
    })
    .await;
    for _ in 0..100 {
        let mut client = gateway.connect().await;
        client.write(b"GET / HTTP/1.1\r\n\r\n").await;
        client.wait_for_close().await;
    }
    wait_for_count(&gateway, "invalid", 106.0).await;
    let lines = gateway
        .output()
        .matches("no valid PROXY protocol header")
        .count();
    assert!((1..60).contains(&lines), "{lines} lines");
    upstream.assert_untouched();
    gateway.wait_for_metric("connections", &[], 0.0).await;
    connect_as(&gateway, SENDER)
        .await
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untrusted_proxy_is_rejected() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(Route::to(&upstream))).await;
    for header in [proxy_header(SENDER), LOCAL.to_vec(), Vec::new()] {
        let mut client =
            Client::connect_from([127, 0, 0, 2].into(), gateway.public_address()).await;
        client
            .write(&[header, Event::new("evt_1").post().bytes()].concat())
            .await;
        client.wait_for_close().await;
    }
    wait_for_count(&gateway, "untrusted", 3.0).await;
    assert_eq!(
        wait_for_line(&gateway, "no valid PROXY protocol header").await["peer"],
        "127.0.0.2"
    );
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_proxy_header_loses_its_connection() {
    let upstream = Upstream::ok();
    let limits = "{header_timeout: 1s, idle_timeout: 60s, connections: 2}";
    let gateway = Gateway::start(setup(Route::to(&upstream)).with("limits", limits)).await;
    let mut slow = gateway.connect().await;
    slow.write(&proxy_header(SENDER)[..27]).await;
    let mut silent = gateway.connect().await;
    gateway.wait_for_metric("connections", &[], 2.0).await;
    gateway
        .connect()
        .await
        .read_response()
        .await
        .assert(503, "overloaded");
    slow.wait_for_close().await;
    silent.wait_for_close().await;
    gateway.wait_for_metric("connections", &[], 0.0).await;
    connect_as(&gateway, SENDER)
        .await
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let metrics = gateway.metrics().await;
    // A health check sends nothing at all.
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
async fn connection_limit_counts_proxied_addresses() {
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
        .read_response()
        .await
        .assert(503, "overloaded")
        .assert_retry_after();
    beyond.wait_for_close().await;
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
    eventually("a connection is admitted again", async || {
        let response = connect_as(&gateway, SENDER)
            .await
            .send_raw(&Event::new("evt_3").post().bytes())
            .await;
        response.is_some_and(|response| ["delivered", "duplicate"].contains(&response.outcome()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budget_excludes_proxy_header() {
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
async fn stop_does_not_wait_for_proxy_header() {
    let setup = setup(Route::to(&Upstream::ok())).with("limits", "{header_timeout: 1h}");
    let mut gateway = Gateway::start(setup).await;
    let _silent = gateway.connect().await;
    let mut bytes = gateway.connect().await;
    bytes.write(&proxy_header(SENDER)[..27]).await;
    gateway.wait_for_metric("connections", &[], 2.0).await;
    assert!(gateway.stop().await.success());
    assert!(
        !gateway.output().contains("still in flight"),
        "{}",
        gateway.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unexpected_proxy_header_is_a_bad_request() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("trusted_proxies", "[127.0.0.1/32]");
    let gateway = Gateway::start(setup).await;
    let request = Event::new("evt_1").post().bytes();
    for header in [
        proxy_header(SENDER),
        LOCAL.to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n".to_vec(),
    ] {
        let mut client = gateway.connect().await;
        let response = client.send_raw(&[&header[..], &request].concat()).await;
        response
            .expect("an answer")
            .assert(400, "malformed_request");
        client.wait_for_close().await;
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

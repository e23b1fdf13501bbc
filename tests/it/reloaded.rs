//! What a reload changes besides the routes, while connections are open: limits, trusted proxies and
//! listeners. docs/upgrades.md has the table.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::sender::H2Client;
use crate::harness::tls::{Authority, Trust};
use crate::harness::*;

fn setup(upstream: &Upstream) -> Setup {
    Setup::from(Route::to(upstream))
}

/// Reloads and returns the status and the answer.
async fn try_reload(gateway: &Gateway, setup: impl Into<Setup>) -> (u16, Value) {
    let response = gateway.try_reload(setup).await;
    let document = serde_json::from_slice(&response.body).expect("JSON");
    (response.status, document)
}

/// Reloads and returns the warnings.
async fn reload(gateway: &Gateway, setup: impl Into<Setup>) -> String {
    let response = gateway.reload(setup).await;
    let document: Value = serde_json::from_slice(&response.body).expect("JSON");
    document["warnings"].to_string()
}

/// Waits until the log has `count` opened listeners of this kind, and returns the last one's address.
async fn opened(gateway: &Gateway, listener: &str, count: usize) -> SocketAddr {
    let mut last = None;
    eventually("the listener is logged", async || {
        let lines = gateway.lines().into_iter();
        let opened: Vec<_> = lines
            .filter(|line| line["message"] == "listening" && line["listener"] == listener)
            .collect();
        last = opened.last().cloned();
        opened.len() == count
    })
    .await;
    let address = last.map(|line| line["address"].clone());
    let address = address.as_ref().and_then(Value::as_str);
    let address = address.and_then(|text| text.parse().ok());
    address.expect("an address")
}

async fn delivers(client: &mut Client, id: &str) {
    client.send(Event::new(id)).await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_proxies_change() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("allow_from", "[203.0.113.0/24]");
    let gateway = Gateway::start(route.clone()).await;
    let mut client = gateway.connect().await;
    let forwarded = |id: &str| {
        let request = Event::new(id).post();
        request.header("X-Forwarded-For", "203.0.113.9")
    };
    let refused = client.send(forwarded("evt_1")).await;
    refused.assert(403, "forbidden_address");
    let trusting = Setup::from(route.clone()).with("trusted_proxies", "[127.0.0.0/8]");
    reload(&gateway, trusting).await;
    let passed = client.send(forwarded("evt_2")).await;
    passed.assert(200, "delivered");
    reload(&gateway, route).await;
    let refused = client.send(forwarded("evt_3")).await;
    refused.assert(403, "forbidden_address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_bytes_change() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let long = |id: &str, bytes| Event::new(id).post().header("X-Long", &"a".repeat(bytes));
    let mut client = gateway.connect().await;
    client
        .send(long("evt_1", 5_000))
        .await
        .assert(200, "delivered");
    let small = setup(&upstream).with("limits", "{header_bytes: 4KiB}");
    reload(&gateway, small).await;
    let refused = client.send(long("evt_2", 5_000)).await;
    refused.assert(431, "headers_too_large");
    let mut client = gateway.connect().await;
    delivers(&mut client, "evt_3").await;
    let large = setup(&upstream).with("limits", "{header_bytes: 64KiB}");
    reload(&gateway, large).await;
    // It waits for the next head with the limit before.
    delivers(&mut client, "evt_4").await;
    client
        .send(long("evt_5", 50_000))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_change() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let mut kept = gateway.connect().await;
    delivers(&mut kept, "evt_1").await;
    let short = setup(&upstream).with("limits", "{header_timeout: 300ms, idle_timeout: 200ms}");
    reload(&gateway, short).await;
    let mut slow = gateway.connect().await;
    slow.write(b"POST / HTTP/1.1\r\n").await;
    slow.read_response().await.assert(408, "body_timeout");
    // It waits with the old timeout until its next request.
    delivers(&mut kept, "evt_2").await;
    kept.wait_for_close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_limits_change() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    for limits in ["{connections: 2}", "{connections_per_address: 2}"] {
        let mut kept = Vec::new();
        for number in 0..3 {
            let mut client = gateway.connect().await;
            delivers(&mut client, &format!("evt_{limits}_{number}")).await;
            kept.push(client);
        }
        reload(&gateway, setup(&upstream).with("limits", limits)).await;
        // Those that are open stay open, and count.
        for (number, client) in kept.iter_mut().enumerate() {
            delivers(client, &format!("evt_{limits}_kept_{number}")).await;
        }
        let mut refused = gateway.connect().await;
        refused.read_response().await.assert(503, "overloaded");
        kept.truncate(1);
        eventually("there is room for one", async || {
            let client = Client::try_connect(gateway.public_address()).await;
            let Some(mut client) = client else {
                return false;
            };
            let event = Event::new(&format!("evt_{limits}_new"));
            let response = client.try_send(event).await;
            response.is_some_and(|response| response.status != 503)
        })
        .await;
        drop(kept);
        reload(&gateway, setup(&upstream)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_bytes_in_flight_change() {
    let upstream = Upstream::ok();
    let small = Route::to(&upstream).with("max_body", "16KiB");
    let gateway = Gateway::start(small.clone()).await;
    let parts = |id: &str| {
        let bytes = Event::sized(id, 15_000).post().bytes();
        let (start, rest) = bytes.split_at(bytes.len() - 10);
        (start.to_vec(), rest.to_vec())
    };
    let mut held = Vec::new();
    for number in 0..2 {
        let (mut client, (start, rest)) =
            (gateway.connect().await, parts(&format!("evt_{number}")));
        client.write(&start).await;
        held.push((client, rest));
    }
    gateway
        .wait_for_metric_at_least("body_bytes_in_flight", &[], 29_000.0)
        .await;
    let tight = Setup::from(small).with("limits", "{body_bytes_in_flight: 16KiB}");
    reload(&gateway, tight).await;
    // The reload itself cuts off none; the next bytes have to fit, beside one of the two at most.
    let (mut second, rest) = held.pop().expect("two");
    second.write(&rest).await;
    second.read_response().await.assert(200, "delivered");
    let (mut first, _) = held.pop().expect("two");
    first.read_response().await.assert(503, "overloaded");
    gateway
        .wait_for_metric("body_bytes_in_flight", &[], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloaded_limits_fit_the_open_files() {
    let upstream = Upstream::ok();
    let few_files = ["sh", "-c", "ulimit -n 1024; exec \"$@\"", "sh"];
    let few_files = Launcher::command(few_files.map(Into::into).into());
    let start = setup(&upstream).with("limits", "{connections: 100}");
    let gateway = Gateway::start(start.launched_by(few_files)).await;
    let many = setup(&upstream).with("limits", "{connections: 5000}");
    let warnings = reload(&gateway, many).await;
    assert!(
        warnings.contains("768 connections are the limit"),
        "{warnings}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_need_a_restart_are_named() {
    let (upstream, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&upstream)).await;
    let changed = setup(&new)
        .with("admin", r#"{address: "127.0.0.1:0", hosts: [ops.test]}"#)
        .with("store", "{max_ids: 5000}");
    for _ in 0..2 {
        let warnings = reload(&gateway, changed.clone()).await;
        for key in ["admin.hosts", "store.max_ids"] {
            let message = format!("a change of `{key}` takes effect after a restart");
            assert!(warnings.contains(&message), "{warnings}");
        }
        let list: Vec<Value> = serde_json::from_str(&warnings).expect("a list");
        let of_store = |warning: &&Value| warning["message"].to_string().contains("max_ids");
        let warning = list.iter().find(of_store).expect("a warning");
        let place = (&warning["line"], &warning["column"]);
        assert_eq!(place, (&json!(3), &json!(18)), "{warnings}");
        assert!(!warnings.contains("store.durability"), "{warnings}");
    }
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    assert_eq!((upstream.count(), new.count()), (0, 1));
    let warnings = reload(&gateway, setup(&upstream)).await;
    assert!(!warnings.contains("restart"), "{warnings}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_start_refuses_reload() {
    let (upstream, new) = (Upstream::ok(), Upstream::ok());
    let keys = |upstream| {
        let route = Route::to(upstream).with("secrets", "[{file: hooks.key}]");
        Setup::from(route).with("strict_start", "true")
    };
    let gateway = Gateway::start(keys(&upstream).file("hooks.key", SECRET)).await;
    std::fs::remove_file(gateway.directory().join("hooks.key")).expect("the file");
    let (status, document) = try_reload(&gateway, keys(&new)).await;
    assert_eq!(status, 422, "{document}");
    assert!(document.to_string().contains("hooks.key"), "{document}");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    assert_eq!((upstream.count(), new.count()), (1, 0));
    let tolerant = keys(&new).with("strict_start", "false");
    reload(&gateway, tolerant).await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    assert_eq!(new.count(), 1);
}

const ONE: &str = r#"[{address: "127.0.0.1:0"}]"#;
const TWO: &str = r#"[{address: "127.0.0.1:0"}, {address: "127.0.0.1:0"}]"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_under_load() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let stopping = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (address, stopping) = (gateway.public_address(), Arc::clone(&stopping));
            tokio::spawn(async move {
                let (mut client, mut sent) = (Client::connect(address).await, 0);
                while !stopping.load(Ordering::SeqCst) {
                    delivers(&mut client, &format!("evt_{sender}_{sent}")).await;
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    let mut on_added = 0;
    for round in 0..5 {
        reload(&gateway, setup(&upstream).with("listen", TWO)).await;
        let added = opened(&gateway, "data", round + 2).await;
        let mut kept = Client::connect(added).await;
        delivers(&mut kept, &format!("evt_added_{round}")).await;
        let mut h2 = H2Client::connect(added).await;
        let answer = h2.send(Event::new(&format!("evt_h2_{round}"))).await;
        answer.assert(200, "delivered");
        let (start, rest) = {
            let bytes = Event::new(&format!("evt_removed_{round}")).post().bytes();
            let (start, rest) = bytes.split_at(bytes.len() - 5);
            (start.to_vec(), rest.to_vec())
        };
        kept.write(&start).await;
        reload(&gateway, setup(&upstream).with("listen", ONE)).await;
        assert!(Client::try_connect(added).await.is_none(), "it is closed");
        kept.write(&rest).await;
        let last = kept.read_response().await;
        last.assert(200, "delivered");
        last.assert_header("connection", "close");
        kept.wait_for_close().await;
        on_added += 3;
    }
    stopping.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.expect("no request failed");
    }
    assert_eq!(upstream.count(), sent + on_added, "each event arrives once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_turned_on_and_off() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let shown = authority.issue("hooks.test");
    let start = setup(&upstream);
    let start = start.file("tls.crt", &shown.certificate);
    let gateway = Gateway::start(start.file("tls.key", &shown.key)).await;
    let (address, trust) = (gateway.public_address(), Trust::new(&authority));
    let mut plain = gateway.connect().await;
    delivers(&mut plain, "evt_1").await;
    let secure = r#"[{address: "127.0.0.1:0", tls: {certificate: tls.crt, key: tls.key}}]"#;
    reload(&gateway, setup(&upstream).with("listen", secure)).await;
    let last = plain.send(Event::new("evt_2")).await;
    last.assert(200, "delivered");
    last.assert_header("connection", "close");
    let connected = Client::connect_tls(address, &trust, "hooks.test", &[]).await;
    let mut client = connected.expect("a handshake");
    client
        .send(Event::new("evt_3"))
        .await
        .assert(200, "delivered");
    reload(&gateway, setup(&upstream)).await;
    let mut plain = gateway.connect().await;
    delivers(&mut plain, "evt_4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_protocol_is_turned_on() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let mut plain = gateway.connect().await;
    delivers(&mut plain, "evt_1").await;
    let proxied = r#"[{address: "127.0.0.1:0", proxy_protocol: true}]"#;
    let proxied = setup(&upstream).with("listen", proxied);
    reload(&gateway, proxied.with("trusted_proxies", "[127.0.0.1/32]")).await;
    let mut without = gateway.connect().await;
    assert!(without.try_send(Event::new("evt_2")).await.is_none());
    delivers(&mut plain, "evt_3").await;
    plain.wait_for_close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_in_use_refuses_reload() {
    let (upstream, new) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::start(setup(&upstream)).await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address));
    let (_taken, address) = taken.expect("an address");
    let sockets = gateway.open_sockets();
    let listen = format!(
        r#"[{{address: "127.0.0.1:0"}}, {{address: "127.0.0.1:0"}}, {{address: "{address}"}}]"#
    );
    let changed = setup(&new)
        .with("listen", &listen)
        .with("limits", "{header_bytes: 1KiB}");
    let (status, document) = try_reload(&gateway, changed).await;
    assert_eq!(
        (status, &document["code"]),
        (422, &json!("invalid_configuration")),
        "{document}"
    );
    let text = document.to_string();
    let message = format!("cannot listen on {address}");
    assert_eq!(document["problems"][0]["line"], 2, "{text}");
    assert!(
        text.contains(&message) && text.contains("another process"),
        "{text}"
    );
    let long = Event::new("evt_1")
        .post()
        .header("X-Long", &"a".repeat(5_000));
    gateway.send(long).await.assert(200, "delivered");
    assert_eq!((upstream.count(), new.count()), (1, 0));
    eventually("no socket is left", async || {
        gateway.open_sockets() <= sockets
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_listener_moves() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let before = gateway.admin_address();
    let moved = setup(&upstream).with("admin", r#"{address: "127.0.0.2:0"}"#);
    reload(&gateway, moved.clone()).await;
    let address = opened(&gateway, "admin", 2).await;
    assert!(address.ip().to_string() == "127.0.0.2", "{address}");
    eventually("the old address is closed", async || {
        Client::try_connect(before).await.is_none()
    })
    .await;
    let request = Request::new("GET", "/readyz").set("Host", &address.to_string());
    let mut client = Client::connect(address).await;
    let response = client.send_raw(&request.bytes()).await;
    assert_eq!(response.map(|response| response.status), Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wildcard_replaces_one_address_and_back() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let address = gateway.public_address();
    let mut kept = gateway.connect().await;
    delivers(&mut kept, "evt_1").await;
    for (number, ip) in ["0.0.0.0", "127.0.0.1", "[::]"].into_iter().enumerate() {
        let listen = format!(r#"[{{address: "{ip}:{}"}}]"#, address.port());
        reload(&gateway, setup(&upstream).with("listen", &listen)).await;
        delivers(&mut gateway.connect().await, &format!("evt_new_{number}")).await;
        assert!(TcpListener::bind(address).is_err(), "the port is taken");
    }
    delivers(&mut kept, "evt_2").await;
    kept.wait_for_close().await;
}

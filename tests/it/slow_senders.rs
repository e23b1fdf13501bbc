//! Slow senders by the thousand: the gateway keeps serving valid traffic, and its memory and open
//! files stay bounded.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::harness::*;

const SENDERS: u32 = 2_000;
const HEADER_BYTES: u64 = 32 << 10;
const BODIES: u64 = 4 << 20;

/// The memory bound of docs/memory.md, without the memory for event IDs and queued events.
fn memory_bound(connections: u32, header_bytes: u64, bodies: u64) -> u64 {
    (128 << 20)
        + u64::from(connections) * ((160 << 10) + 2 * header_bytes)
        + (180 << 20)
        + 2 * bodies
}

/// Returns whether a process may open the files that this needs: each connection is one file on
/// either side.
fn may_open_files(count: u32) -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("a running process");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a limit");
    let soft = line.split_whitespace().nth(3).expect("a number");
    if soft.parse().is_ok_and(|soft: u32| soft < count) {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(
            !ci,
            "{soft} open files are too few for {SENDERS} senders, \\\n             and CI=true skips nothing"
        );
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED, of open files {soft} are allowed: {SENDERS} slow senders (ulimit -n)"
        );
        return false;
    }
    true
}

/// Returns the 99th percentile.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

/// Sends valid events one after the other on a kept connection, asserts that each is delivered
/// within the budget, and returns the time each took.
async fn good_traffic(gateway: &Gateway, prefix: &str) -> Vec<Duration> {
    let mut client = gateway.connect().await;
    let mut times = Vec::new();
    for number in 0..400 {
        let start = Instant::now();
        client
            .send(Event::new(&format!("{prefix}_{number}")))
            .await
            .assert(200, "delivered");
        times.push(start.elapsed());
    }
    times
}

/// Sends a start, then a byte now and then; begins again when it is cut off.
async fn send_slowly(to: std::net::SocketAddr, start: Vec<u8>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        let Some(mut client) = Client::try_connect(to).await else {
            continue;
        };
        client.write(&start).await;
        while !over.load(Ordering::Relaxed) && client.write_some(b"a").await {
            // The sender is slow on purpose; this delay is part of the claim.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_senders_do_not_block_others() {
    if !may_open_files(2 * SENDERS + 500) {
        return;
    }
    let upstream = Upstream::ok();
    let limits = format!(
        "{{connections_per_address: 5000, header_bytes: {HEADER_BYTES}B, body_bytes_in_flight: {BODIES}B}}"
    );
    let gateway = Gateway::start(Setup::from(Route::to(&upstream)).with("limits", &limits)).await;
    let unloaded = p99(good_traffic(&gateway, "before").await);
    gateway.wait_for_metric("connections", &[], 0.0).await;
    let (sockets, memory) = (gateway.open_sockets(), gateway.resident_bytes());

    let large = Event::sized("evt_slow", 1 << 20).post();
    let kinds = [
        b"POST /webhooks/vpn-enterprise HTTP/1.1\r\nHost: hooks.test\r\nX-Un".to_vec(),
        // The head announces 1 MiB, but only some bytes follow.
        [large.head_bytes(), b"{\"id\":".to_vec()].concat(),
        [
            large.clone().chunked(1).head_bytes(),
            b"6\r\n{\"id\":\r\nfffff\r\n".to_vec(),
        ]
        .concat(),
        Vec::new(),
    ];
    let over = Arc::new(AtomicBool::new(false));
    let mut senders = JoinSet::new();
    for kind in kinds.iter().cycle().take(SENDERS as usize) {
        senders.spawn(send_slowly(
            gateway.public_address(),
            kind.clone(),
            Arc::clone(&over),
        ));
    }
    // Some senders are cut off and come back.
    gateway
        .wait_for_metric_at_least("connections", &[], f64::from(SENDERS - SENDERS / 20))
        .await;
    let loaded = p99(good_traffic(&gateway, "during").await);
    let (connections, held) = (SENDERS + 2, gateway.resident_bytes());
    let announced_held = gateway.metrics().await.value("body_bytes_in_flight", &[]);
    let _ = writeln!(
        std::io::stderr(),
        "{SENDERS} slow senders: p99 {unloaded:?} without, {loaded:?} with; resident {} KiB without, {} KiB with, {} KiB a connection",
        memory >> 10,
        held >> 10,
        (held.saturating_sub(memory) / u64::from(connections)) >> 10,
    );
    let bound = memory_bound(connections, HEADER_BYTES, BODIES);
    assert!(held < bound, "{held} bytes resident, the bound is {bound}");
    assert!(
        announced_held < 100_000.0,
        "memory follows received bytes, not announced ones: {announced_held}"
    );

    over.store(true, Ordering::Relaxed);
    senders.join_all().await;
    gateway.wait_for_metric("connections", &[], 0.0).await;
    gateway
        .wait_for_metric("requests_in_flight", &[], 0.0)
        .await;
    gateway
        .wait_for_metric("body_bytes_in_flight", &[], 0.0)
        .await;
    eventually("the gateway closes the sockets", async || {
        gateway.open_sockets() <= sockets
    })
    .await;
    gateway
        .send(Event::new("evt_after"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_head_is_held_to_limit() {
    const HEADS: usize = 300;
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{header_bytes: 8KiB}");
    let gateway = Gateway::start(setup).await;
    let before = gateway.resident_bytes();
    // Below Pingora's own limit, and without the end of the head.
    let head = [
        b"POST / HTTP/1.1\r\nHost: hooks.test\r\nX-A: ".to_vec(),
        vec![b'a'; 900_000],
    ]
    .concat();
    let mut clients = Vec::new();
    for _ in 0..HEADS {
        let mut client = gateway.connect().await;
        client
            .send_raw(&head)
            .await
            .expect("an answer")
            .assert(431, "headers_too_large");
        clients.push(client);
    }
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{HEADS} heads took {grown} bytes");
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_response_is_cut_in_budget() {
    let upstream = Upstream::replying([Reply::full(200, "", &vec![b'x'; 1_000_000])]);
    let route = Route::to(&upstream)
        .with("budget", "2s")
        .with("budget_margin", "500ms");
    let gateway = Gateway::start(route).await;
    gateway
        .send(Event::new("evt_first"))
        .await
        .assert(200, "delivered");
    let sockets = gateway.open_sockets() - upstream.open();
    let mut deaf = Vec::new();
    for _ in 0..20 {
        deaf.push(Client::connect_narrow(gateway.public_address()).await);
    }
    // The socket buffers hold one or two responses of a megabyte, but not eight.
    for round in 0..8 {
        for (number, client) in deaf.iter_mut().enumerate() {
            client
                .write(&Event::new(&format!("evt_{round}_{number}")).post().bytes())
                .await;
        }
        if round == 0 {
            upstream.wait_for_requests(21).await;
        }
        gateway
            .wait_for_metric("requests_in_flight", &[], 0.0)
            .await;
    }
    gateway.wait_for_metric("connections", &[], 0.0).await;
    eventually("the gateway closes the sockets", async || {
        gateway.open_sockets() <= sockets + upstream.open()
    })
    .await;
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomer_displaces_unfinished_http2_heads() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("max_body", "16KiB");
    let gateway =
        Gateway::start(Setup::from(route).with("limits", "{body_bytes_in_flight: 64KiB}")).await;
    let bulky = |id: &str| Event::new(id).post().header("X-Large", &"x".repeat(20_000));
    let client = gateway.connect_h2().await;
    let mut held = JoinSet::new();
    for number in 0..2 {
        let (mut client, request) = (client.clone(), bulky(&format!("evt_{number}")));
        held.spawn(async move { client.send_unfinished(request).await });
    }
    gateway
        .wait_for_metric_at_least("body_bytes_in_flight", &[], 40_000.0)
        .await;
    let mut another = gateway.connect_h2().await;
    another
        .send(bulky("evt_late"))
        .await
        .assert(200, "delivered");
    held.join_next()
        .await
        .expect("a held request")
        .expect("a response")
        .assert_problem(503, "overloaded")
        .assert_retry_after();
    assert_eq!(upstream.event_ids(), ["evt_late"]);
    held.abort_all();
    while held.join_next().await.is_some() {}
    gateway
        .wait_for_metric("body_bytes_in_flight", &[], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_requests_are_bounded_in_all() {
    const CONNECTIONS: u32 = 20;
    const STREAMS: u32 = 100;
    const UNVERIFIED: u32 = 1024;
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("budget", "30s")).await;
    gateway
        .send(Event::new("evt_before"))
        .await
        .assert(200, "delivered");
    let before = gateway.resident_bytes();
    let mut held = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let client = gateway.connect_h2().await;
        for stream in 0..STREAMS {
            let mut client = client.clone();
            let announced = Event::raw("{")
                .post()
                .unframed()
                .header("Content-Length", "1000000");
            let request = announced.header("X-Name", &format!("{connection} {stream}"));
            held.spawn(async move { client.send_unfinished(request).await });
        }
    }
    // Every request that is over the limit displaces another one.
    for _ in UNVERIFIED..CONNECTIONS * STREAMS {
        held.join_next()
            .await
            .expect("a held request")
            .expect("a response")
            .assert_problem(503, "overloaded")
            .assert_retry_after();
    }
    gateway
        .wait_for_metric("requests_in_flight", &[], f64::from(UNVERIFIED))
        .await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    for number in 0..20 {
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.assert(200, "delivered");
    }
    let mut another = gateway.connect_h2().await;
    let event = Event::new("evt_http2");
    another.send(event).await.assert(200, "delivered");
    held.abort_all();
    while held.join_next().await.is_some() {}
    gateway
        .wait_for_metric("requests_in_flight", &[], 0.0)
        .await;
    gateway
        .wait_for_metric("body_bytes_in_flight", &[], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_bodies_cannot_fill_the_memory() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("budget", "30s");
    let gateway =
        Gateway::start(Setup::from(route).with("limits", "{body_bytes_in_flight: 4MiB}")).await;
    let mut held = Vec::new();
    for number in 0..4 {
        let bytes = Event::sized(&format!("evt_{number}"), 1 << 20)
            .forged()
            .bytes();
        let mut client = gateway.connect().await;
        client.write(&bytes[..bytes.len() - 1]).await;
        held.push(client);
    }
    gateway
        .wait_for_metric_at_least("body_bytes_in_flight", &[], 2_000_000.0)
        .await;
    for number in 0..50 {
        let event = Event::sized(&format!("evt_small_{number}"), 4096);
        gateway.send(event).await.assert(200, "delivered");
    }
    let large = Event::sized("evt_large", 1 << 20);
    gateway.send(large).await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_receiver_leaves_memory_to_other_routes() {
    let gate = Gate::shut();
    let slow = Upstream::replying([Reply::ok().after(&gate)]);
    let upstream = Upstream::ok();
    let routes = vec![
        Route::to(&slow).with("budget", "30s"),
        Route::to(&upstream).named("other"),
    ];
    let gateway =
        Gateway::start(Setup::new(routes).with("limits", "{body_bytes_in_flight: 4MiB}")).await;
    let mut sent = JoinSet::new();
    for number in 0..8 {
        let mut client = gateway.connect().await;
        let event = Event::sized(&format!("evt_{number}"), 600_000);
        sent.spawn(async move { client.send(event).await });
    }
    // The route's share holds one of them; the others get 503.
    for _ in 0..7 {
        sent.join_next()
            .await
            .expect("a request")
            .expect("a response")
            .assert_problem(503, "overloaded");
    }
    for number in 0..20 {
        let size = if number % 2 == 0 { 600_000 } else { 2000 };
        let event = Event::sized(&format!("evt_other_{number}"), size);
        let request = event.post().at("/webhooks/other");
        gateway.send(request).await.assert(200, "delivered");
    }
    gate.open();
    while let Some(response) = sent.join_next().await {
        response.expect("a response").assert(200, "delivered");
    }
}

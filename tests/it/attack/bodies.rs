//! Unfinished bodies, which fill the memory for bodies. A sender that is displaced returns at once.

use std::net::SocketAddr;

use tokio::task::JoinSet;

use super::genuine::Genuine;
use super::{connections, is_full, two_routes};
use crate::harness::*;

/// Returns the memory for bodies: the default, or less in a partial run, which has fewer attackers.
fn memory_for_bodies() -> usize {
    if is_full() { 256 << 20 } else { 16 << 20 }
}

fn setup(upstream: &Upstream) -> Setup {
    let limits = format!("{{body_bytes_in_flight: {}B}}", memory_for_bodies());
    two_routes(upstream).with("limits", &limits)
}

/// Sends all of a request but its last byte, waits for the response, and begins again.
async fn hold(to: SocketAddr, request: Vec<u8>) {
    let unfinished = &request[..request.len() - 1];
    loop {
        if let Some(mut client) = Client::try_connect(to).await
            && client.write_some(unfinished).await
        {
            client.rest().await;
        }
    }
}

/// Holds this many unfinished bodies of `size` bytes while genuine senders go on, and asserts that
/// large genuine events pass, too.
async fn assert_harmless(
    attack: &str,
    senders: usize,
    size: usize,
    framed: impl Fn(Request) -> Request,
) {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(setup(&upstream)).await;
    let genuine = Genuine::start(&gateway).await;
    let mut attackers = JoinSet::new();
    for _ in 0..senders {
        let request = framed(Event::sized("evt_forged", size).forged()).bytes();
        attackers.spawn(hold(gateway.public_address(), request));
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let most = (senders * size).min(memory_for_bodies() / 8) as f64;
    gateway
        .wait_for_metric_at_least("body_bytes_in_flight", &[], 0.9 * most)
        .await;
    for number in 0..10 {
        let event = Event::sized(&format!("evt_large_{number}"), 1 << 20);
        gateway.send(event).await.assert(200, "delivered");
    }
    genuine.assert_all_delivered(attack).await;
    attackers.shutdown().await;
    gateway
        .wait_for_metric("body_bytes_in_flight", &[], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_crowd_out_nobody() {
    let senders = memory_for_bodies() >> 20;
    let attack = "unfinished bodies of 1 MiB";
    assert_harmless(attack, senders, (1 << 20) - 1, |request| request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_bodies_crowd_out_nobody() {
    let attack = "unfinished bodies of 60 KB";
    assert_harmless(attack, connections(), 60_000, |request| request).await;
}

/// Pingora's session reads chunks, the gateway's own the bodies above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_bodies_crowd_out_nobody() {
    let senders = memory_for_bodies() >> 20;
    let chunked = |request: Request| request.chunked(10_000);
    assert_harmless("unfinished chunks", senders, (1 << 20) - 1, chunked).await;
}

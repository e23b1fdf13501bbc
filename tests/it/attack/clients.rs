//! Clients that connect and do nothing useful: half a head, half a TLS handshake, nothing at all.

use super::{assert_grown_less_than, assert_harmless, hold_connections, two_routes_over_tls};
use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_disturb_nobody() {
    assert_harmless("silent clients", b"", 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_heads_disturb_nobody() {
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: a\r\nX-A: {}",
        "a".repeat(31_000)
    );
    assert_harmless("unfinished heads", head.as_bytes(), 128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_chunks_disturb_nobody() {
    let head = Event::new("evt").forged().unframed();
    let head = head.header("Transfer-Encoding", "chunked").head_bytes();
    let bytes = [head, b"1\r\nx\r\n".repeat(5000)].concat();
    assert_harmless("chunks of one byte", &bytes, 128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_disturb_nobody() {
    let bytes = Event::new("evt").forged().bytes().repeat(100);
    assert_harmless("pipelined requests", &bytes, 128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_tls_handshakes_take_little_memory() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(two_routes_over_tls(&upstream)).await;
    let before = gateway.resident_bytes();
    // A record of 16 KiB, of which all but the end arrives.
    let hello = [
        &b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"[..],
        &[0; 16_000],
    ]
    .concat();
    let _held = hold_connections(&gateway, &hello).await;
    assert_eq!(gateway.admin_get("/readyz").await.status, 200);
    assert_grown_less_than(128, &gateway, before);
}

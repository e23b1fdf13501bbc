//! Clients that connect and do nothing useful: half a head, half a TLS handshake, nothing at all.

use super::genuine::Genuine;
use super::{assert_grown_less_than, connections, two_routes};
use crate::harness::tls::Authority;
use crate::harness::*;

/// Connects as many clients as an address may have, which write `bytes` and no more, while genuine
/// senders go on. The gateway's memory must grow by less than `mib`.
async fn assert_harmless(attack: &str, bytes: &[u8], mib: u64) {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(two_routes(&upstream)).await;
    let genuine = Genuine::start(&gateway).await;
    let before = gateway.resident_bytes();
    let mut held = Vec::new();
    for _ in 0..connections() {
        let mut client = Client::connect(gateway.public_address()).await;
        client.write(bytes).await;
        held.push(client);
    }
    genuine.assert_all_delivered(attack).await;
    assert_grown_less_than(mib, &gateway, before);
}

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
    let issued = Authority::new().issue("hooks.test");
    let setup = two_routes(&upstream)
        .with(
            "listen",
            r#"[{address: "127.0.0.1:0", tls: {certificate: tls.crt, key: tls.key}}]"#,
        )
        .file("tls.crt", &issued.certificate)
        .file("tls.key", &issued.key);
    let gateway = Gateway::start(setup).await;
    let before = gateway.resident_bytes();
    // A record of 16 KiB, of which all but the end arrives.
    let hello = [
        &b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"[..],
        &[0; 16_000],
    ]
    .concat();
    let mut held = Vec::new();
    for _ in 0..connections() {
        let mut client = Client::connect(gateway.public_address()).await;
        client.write_some(&hello).await;
        held.push(client);
    }
    assert_eq!(gateway.admin_get("/readyz").await.status, 200);
    assert_grown_less_than(128, &gateway, before);
}

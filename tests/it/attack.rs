//! Attacks on the whole gateway, without a secret or with that of one route, while genuine senders
//! go on. Each takes what one address may take: all of its connections, and all streams on them.
//!
//! The tests run with a part of the clients; `make attack` runs them against the release binary
//! with all of them (`HOOKSTILE_ATTACK=full`), together with the hostile corpus. It also prints how
//! long genuine events take, before the attack and during it.

mod bodies; // unfinished bodies, which fill the memory for bodies
mod clients; // clients that connect and do nothing useful
mod floods; // failures by the thousand, and the log lines that they cause
mod genuine;
mod streams; // HTTP/2 streams and connections by the thousand

use crate::harness::tls::Authority;
use crate::harness::*;
use genuine::Genuine;

/// The connections that an attacker opens: nearly all that one address may have by default, and in
/// a partial run a tenth of it.
fn connections() -> usize {
    scaled(980)
}

/// Returns `full` in a full run, or a tenth of it.
fn scaled(full: usize) -> usize {
    if is_full() { full } else { full / 10 }
}

fn is_full() -> bool {
    std::env::var("HOOKSTILE_ATTACK").is_ok_and(|value| value == "full")
}

/// Returns a gateway with two routes, `hooks` and `other`, to this upstream.
fn two_routes(upstream: &Upstream) -> Setup {
    let route = |name| Route::to(upstream).named(name);
    Setup::new([Route::to(upstream), route("other")])
}

/// Asserts that the gateway's memory has grown by less than this many MiB.
#[track_caller]
fn assert_grown_less_than(mib: u64, gateway: &Gateway, before: u64) {
    let grown = gateway.resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < mib, "memory grew by {grown} MiB");
}

/// Returns such a gateway with a TLS listener.
fn two_routes_over_tls(upstream: &Upstream) -> Setup {
    let issued = Authority::new().issue("hooks.test");
    two_routes(upstream)
        .with(
            "listen",
            r#"[{address: "127.0.0.1:0", tls: {certificate: tls.crt, key: tls.key}}]"#,
        )
        .file("tls.crt", &issued.certificate)
        .file("tls.key", &issued.key)
}

/// Connects as many clients as an address may have. Each writes these bytes and no more.
async fn hold_connections(gateway: &Gateway, bytes: &[u8]) -> Vec<Client> {
    let mut held = Vec::new();
    for _ in 0..connections() {
        let mut client = Client::connect(gateway.public_address()).await;
        client.write(bytes).await;
        held.push(client);
    }
    held
}

/// Holds connections with these bytes while genuine senders go on. The gateway's memory must grow
/// by less than `mib`, and nothing may stay counted once the clients have left.
async fn assert_harmless(attack: &str, bytes: &[u8], mib: u64) {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(two_routes(&upstream)).await;
    let genuine = Genuine::start(&gateway).await;
    let before = gateway.resident_bytes();
    let held = hold_connections(&gateway, bytes).await;
    genuine.assert_all_delivered(attack).await;
    assert_grown_less_than(mib, &gateway, before);
    drop(held);
    gateway
        .wait_for_metric("requests_in_flight", &[], 0.0)
        .await;
    gateway
        .wait_for_metric("body_bytes_in_flight", &[], 0.0)
        .await;
}

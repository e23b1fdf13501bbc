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

use crate::harness::*;

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

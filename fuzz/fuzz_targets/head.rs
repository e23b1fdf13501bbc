//! Any bytes as a request over HTTP/1.1: what is let in, a strict reader reads alike, head and body.
//!
//! A request that fails belongs into `tests/corpus/head`, named `in` or `out`; `cargo test` replays that directory.

#![no_main]

use hookstile::gateway::Head;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/gateway/request/head/tests/strict.rs"]
mod strict;

fuzz_target!(|sent: &[u8]| {
    strict::check(sent);
});

//! HTTP/1.1 requests from any bytes: a strict parser must read every accepted request the same way,
//! head and body.
//!
//! Add a failing request to `tests/corpus/head`, named `in` or `out`; `cargo test` replays that
//! directory.

#![no_main]

use hookstile::gateway::{Arrival, Head, Place, RequestLine};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/gateway/request/head/tests/strict.rs"]
mod strict;

fuzz_target!(|sent: &[u8]| {
    strict::check(sent);
});

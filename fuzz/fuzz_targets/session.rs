//! HTTP/1.1 connections from any bytes: what the gateway's own session reads, Pingora's session must
//! read the same, head and body, up to the same byte. What Pingora reads, `head` holds to a strict
//! parser.
//!
//! Add a failing connection to `tests/corpus/head`; `cargo test` replays that directory.

#![no_main]

use hookstile::gateway::{HeadRead, PlainSession};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/gateway/session/tests/alike.rs"]
mod alike;

fuzz_target!(|sent: &[u8]| {
    // At once, and in a few pieces.
    alike::check(sent, sent.len());
    alike::check(sent, sent.len() / 3);
});

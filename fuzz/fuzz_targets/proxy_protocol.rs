//! Connections that start with any bytes: the PROXY protocol parser must not panic, and must
//! consume only the header.
//!
//! ```text
//! cargo +nightly fuzz run proxy_protocol fuzz/corpus/proxy_protocol tests/corpus/proxy_protocol
//! ```
//!
//! The first directory receives the findings. Add a failing connection to
//! `tests/corpus/proxy_protocol`, named after its expected result; `cargo test` replays that
//! directory.

#![no_main]

use hookstile::proxy_protocol;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/proxy_protocol/tests/hostile.rs"]
mod hostile;

fuzz_target!(|bytes: &[u8]| hostile::check(bytes));

//! Whatever a connection begins with, no byte is read that is not the header's, and nothing panics.
//!
//! ```text
//! cargo +nightly fuzz run proxy_protocol fuzz/corpus/proxy_protocol tests/corpus/proxy_protocol
//! ```
//!
//! The first directory takes what is found. A connection that fails belongs into `tests/corpus/proxy_protocol`, named after
//! what it should be; `cargo test` replays that directory.

#![no_main]

use hookstile::proxy_protocol;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/proxy_protocol/tests/hostile.rs"]
mod hostile;

fuzz_target!(|bytes: &[u8]| hostile::check(bytes));

//! Any bytes as headers and body of a request: nothing may panic or verify that nobody signed, and what was signed must.
//!
//! ```text
//! cargo +nightly fuzz run signature fuzz/corpus/signature tests/corpus/signature
//! ```
//!
//! The first directory takes what is found. A request that fails belongs into `tests/corpus/signature`, which
//! `cargo test` replays.

#![no_main]

use hookstile::{handshake, providers, secret, signature};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/signature/tests/hostile.rs"]
mod hostile;

fuzz_target!(|data: &[u8]| hostile::check(data));

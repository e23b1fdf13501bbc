//! Headers and bodies from any bytes: nothing may panic, an unsigned request must not verify, and a
//! signed one must.
//!
//! ```text
//! cargo +nightly fuzz run signature fuzz/corpus/signature tests/corpus/signature
//! ```
//!
//! The first directory receives the findings. Add a failing request to `tests/corpus/signature`,
//! which `cargo test` replays.

#![no_main]

use hookstile::{handshake, providers, secret, signature};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/signature/tests/hostile.rs"]
mod hostile;

fuzz_target!(|data: &[u8]| hostile::check(data));

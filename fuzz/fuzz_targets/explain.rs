//! Captured requests, signed or not: the verdict must equal the gateway's, and the explanation must
//! reveal no secret.
//!
//! Add a failing request to `tests/corpus/explain`, which `cargo test` replays.

#![no_main]

use hookstile::{explain, providers, secret, signature};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/explain/tests/agreement.rs"]
mod agreement;

fuzz_target!(|data: &[u8]| agreement::check(data));

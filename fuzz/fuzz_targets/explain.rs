//! A captured request, signed or not: it is judged as the gateway judges it, and what is said of it gives nothing away.
//!
//! A request that fails belongs into `tests/corpus/explain`, which `cargo test` replays.

#![no_main]

use hookstile::{explain, providers, secret, signature};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/explain/tests/agreement.rs"]
mod agreement;

fuzz_target!(|data: &[u8]| agreement::check(data));

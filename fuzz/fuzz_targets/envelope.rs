//! Any bytes as a verified body: the envelope must not panic, and must read what a plain model on `serde_json` reads.
//!
//! ```text
//! cargo +nightly fuzz run envelope fuzz/corpus/envelope tests/corpus/envelope -- -dict=fuzz/envelope.dict
//! ```
//!
//! The first directory takes what is found. A body that fails belongs into `tests/corpus/envelope`, named after the
//! outcome it should have; `cargo test` replays that directory.

#![no_main]

use hookstile::event;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/event/tests/agreement.rs"]
mod agreement;

fuzz_target!(|body: &[u8]| agreement::check(body));

//! Verified bodies from any bytes: the event parser must not panic, and must agree with models
//! of how receivers read JSON.
//!
//! ```text
//! cargo +nightly fuzz run envelope fuzz/corpus/envelope tests/corpus/envelope \
//!     -- -dict=fuzz/envelope.dict
//! ```
//!
//! The first directory receives the findings. Add a failing body to `tests/corpus/envelope`, named
//! after its expected outcome; `cargo test` replays that directory.

#![no_main]

use hookstile::event;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/event/tests/agreement.rs"]
mod agreement;

fuzz_target!(|body: &[u8]| agreement::check(body));

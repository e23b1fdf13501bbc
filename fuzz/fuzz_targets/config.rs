//! Configuration files from any text: checking one ends, and its report can be printed.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    match hookstile::config::check_text(source) {
        Ok(loaded) => assert!(!loaded.config.routes.is_empty()),
        Err(report) => assert!(!report.to_text(false).is_empty() && !report.to_json().to_string().is_empty()),
    }
});

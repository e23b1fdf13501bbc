//! Tells the program which commit and which target it is built from, for `--version` and the metric
//! `build_info`. Calls no other program, so that the same sources make the same bytes everywhere.

use std::path::Path;

/// The file that cargo adds to a published package. It names the commit under `sha1`.
const PACKAGED: &str = ".cargo_vcs_info.json";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HOOKSTILE_COMMIT");
    let target = std::env::var("TARGET").expect("cargo sets it");
    println!("cargo::rustc-env=HOOKSTILE_BUILD_TARGET={target}");
    println!("cargo::rustc-env=HOOKSTILE_BUILD_COMMIT={}", commit());
}

/// Returns the first 12 digits of the commit: of `HOOKSTILE_COMMIT`, which `make` sets, or of the
/// published package. A bare `cargo build` does not ask Git, which would compile all of the crate
/// again after every commit.
fn commit() -> String {
    let told = std::env::var("HOOKSTILE_COMMIT").ok();
    let told = told.filter(|commit| !commit.is_empty());
    let commit = told.or_else(|| {
        let packaged = std::fs::read_to_string(Path::new(PACKAGED)).ok()?;
        let (_, rest) = packaged.split_once(r#""sha1":"#)?;
        Some(rest.split('"').nth(1)?.to_owned())
    });
    let digits: String = commit
        .unwrap_or_default()
        .chars()
        .take_while(char::is_ascii_hexdigit)
        .take(12)
        .collect();
    if digits.is_empty() {
        "unknown".to_owned()
    } else {
        digits
    }
}

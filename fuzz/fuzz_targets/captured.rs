//! Captured requests from any bytes: parsing ends with requests, or with the number of the wrong
//! line.

#![no_main]

use hookstile::explain::{Captured, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let mut files = |name: &str| if name.len() < 8 { Ok(name.into()) } else { Err("no such file".into()) };
    let lines = text.split(|&byte| byte == b'\n').count();
    let captured = Captured::parse(text, &mut files);
    if let Ok(captured) = &captured {
        assert!(!captured.is_empty());
    }
    for error in [captured.err(), Request::parse_head(text).err()].into_iter().flatten() {
        assert!((1..=lines).contains(&error.line), "{error}");
    }
});

//! Captured requests from any bytes: parsing ends with a request, or with the number of the wrong
//! line.

#![no_main]

use hookstile::explain::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let mut files = |name: &str| if name.len() < 8 { Ok(name.into()) } else { Err("no such file".into()) };
    let lines = text.split(|&byte| byte == b'\n').count();
    for read in [Request::parse(text, &mut files), Request::parse_head(text)] {
        if let Err(error) = read {
            assert!((1..=lines).contains(&error.line), "{error}");
        }
    }
});

//! Properties of the parser for the first bytes of any connection.
//!
//! Shared by the property tests, the replay of the corpus and the fuzz target, so it uses only the
//! public interface.

use super::proxy_protocol::{BYTES_MAX, Progress, parse};

/// Panics if parsing `bytes` at once and byte by byte differ, or if the parser reads beyond the
/// header.
pub(super) fn check(bytes: &[u8]) {
    let mut begun = 0;
    let end = loop {
        let progress = parse(&bytes[..begun]);
        let Ok(Progress::Wants(more)) = progress else {
            break progress;
        };
        assert!(
            more > 0 && begun + more <= BYTES_MAX,
            "{more} more are wanted after {begun}"
        );
        for fewer in 0..more.min(bytes.len() - begun) {
            let between = parse(&bytes[..begun + fewer]);
            assert_eq!(
                between,
                Ok(Progress::Wants(more - fewer)),
                "less than was wanted says nothing"
            );
        }
        if begun + more > bytes.len() {
            return;
        }
        begun += more;
    };
    if let Ok(Progress::Read(_, follow)) = end {
        let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        assert_eq!(
            begun + follow,
            16 + length,
            "the header is as long as it says"
        );
    }
}

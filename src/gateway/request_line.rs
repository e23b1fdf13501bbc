//! The request line of an HTTP/1.1 request, byte by byte as it arrives.

/// A request line as it arrived. Pingora shows another one: it encodes what it can't read in a
/// target, a space among it, so that a target ends elsewhere for a receiver that takes it literally.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestLine {
    /// The bytes that are not visible ASCII.
    others: usize,
    /// Set at the end of the line.
    ended: bool,
}

impl RequestLine {
    /// The bytes of a plain line that are not visible ASCII: the space on each side of the target,
    /// and the CR at the end.
    const OTHERS: usize = 3;

    /// Reads on, up to the end of the line.
    pub fn read(&mut self, bytes: &[u8]) {
        if self.ended {
            return;
        }
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let line = &bytes[..end.unwrap_or(bytes.len())];
        self.others += line.iter().filter(|byte| !byte.is_ascii_graphic()).count();
        self.ended = end.is_some();
    }

    /// Returns whether the line has a space on each side of the target, and visible ASCII
    /// otherwise. That is enough for a line that Pingora has parsed.
    pub fn is_plain(&self) -> bool {
        self.ended && self.others == Self::OTHERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_line_with_other_bytes_is_not_plain() {
        for (line, is_plain) in [
            (&b"POST /w?x=a%20b HTTP/1.1\r\nHost: a b"[..], true),
            (b"POST /w?x=a b HTTP/1.1\r\n", false),
            (b"POST /w  HTTP/1.1\r\n", false),
            (b"POST  /w HTTP/1.1\r\n", false),
            (b"POST /w HTTP/1.1 \r\n", false),
            (b"POST /w?x=a\tb HTTP/1.1\r\n", false),
            (b"POST /w?x=\xc3\xa9 HTTP/1.1\r\n", false),
            (b"POST /w?x=\x7f HTTP/1.1\r\n", false),
            (b"POST /w\r HTTP/1.1\r\n", false),
            (b"POST /w HTTP/1.1\n", false),
            (b"POST /w?x=a b ", false),
        ] {
            let mut request_line = RequestLine::default();
            request_line.read(line);
            assert_eq!(request_line.is_plain(), is_plain, "{}", line.escape_ascii());
        }
    }
}

//! Oddities of a secret's text: invisible marks and characters that an editor or a web page added.
//! They belong to the key like any other character.

use zeroize::Zeroizing;

/// The byte order mark in UTF-8.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// The shortest text that is taken for UTF-16 without a byte order mark, in bytes.
const UNMARKED_MIN: usize = 8;

/// Something in a secret's text that people neither see nor mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// Two bytes for each character, as some Windows programs write files.
    Utf16,
    /// A byte order mark at the beginning.
    ByteOrderMark,
    /// Zero-width, control or formatting characters, or spaces that look like others.
    Invisible,
    /// White space at the beginning or the end.
    WhiteSpace,
}

/// Returns all that is odd about a secret's text.
pub fn oddities(text: &[u8]) -> Vec<Oddity> {
    if is_utf16(text) {
        return vec![Oddity::Utf16];
    }
    let mut oddities = Vec::new();
    let rest = text.strip_prefix(MARK);
    if rest.is_some() {
        oddities.push(Oddity::ByteOrderMark);
    }
    let rest = rest.unwrap_or(text);
    let inner = rest.trim_ascii();
    if inner.len() < rest.len() {
        oddities.push(Oddity::WhiteSpace);
    }
    if std::str::from_utf8(inner).is_ok_and(|inner| inner.contains(is_invisible)) {
        oddities.push(Oddity::Invisible);
    }
    oddities
}

/// Returns the text without all that is odd about it; `None` if nothing is, or nothing remains.
pub fn meant(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let decoded = decode_utf16(text);
    let text_8 = decoded.as_ref().map_or(text, |decoded| decoded.as_bytes());
    let kept: Zeroizing<String> = match std::str::from_utf8(text_8) {
        Ok(text) => Zeroizing::new(text.replace(is_invisible, "")),
        Err(_) => return None,
    };
    let kept = Zeroizing::new(kept.trim().as_bytes().to_vec());
    (*kept != text && !kept.is_empty()).then_some(kept)
}

fn is_utf16(text: &[u8]) -> bool {
    decode_utf16(text).is_some()
}

/// Decodes UTF-16: text with its byte order mark, or whose every other byte is zero.
fn decode_utf16(text: &[u8]) -> Option<Zeroizing<String>> {
    let is_zero = |at: usize| text.iter().skip(at).step_by(2).all(|byte| *byte == 0);
    let unmarked = text.len() >= UNMARKED_MIN;
    let little_endian = match text {
        [0xff, 0xfe, ..] => true,
        [0xfe, 0xff, ..] => false,
        _ if unmarked && is_zero(1) => true,
        _ if unmarked && is_zero(0) => false,
        _ => return None,
    };
    // The byte that is left over from a stripped newline is ignored.
    let units = text.chunks_exact(2).map(|unit| match unit {
        [first, second] if little_endian => u16::from_le_bytes([*first, *second]),
        [first, second] => u16::from_be_bytes([*first, *second]),
        _ => 0,
    });
    let mut decoded = Zeroizing::new(String::with_capacity(text.len() * 2));
    for character in char::decode_utf16(units) {
        decoded.push(character.ok()?);
    }
    Some(decoded)
}

/// Returns whether a character shows nothing, or looks like a space and is none. The space itself
/// may be part of a passphrase.
fn is_invisible(character: char) -> bool {
    let formatting = matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    );
    formatting || character.is_control() || (character.is_whitespace() && character != ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn plain_secret_has_no_oddity() {
        for text in [
            &b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"[..],
            b"correct horse battery staple",
            "g\u{e4}rtn\u{e9}r-\u{5bc6}\u{7801}-\u{1f511}".as_bytes(),
            // Keys of random bytes.
            &[0x9f, 0x00, 0xc3, 0x28, 0x07, 0xff, 0xfe, 0x80, 0x00, 0x41],
            b"",
        ] {
            assert_eq!(oddities(text), [], "{text:?}");
            assert_eq!(meant(text), None, "{text:?}");
        }
    }

    #[test]
    fn oddities_are_named_and_removed() {
        let (le, be) = (u16::to_le_bytes, u16::to_be_bytes);
        let secret = "secret-0123456789";
        let cases = [
            (
                format!("\u{feff}{secret}").into_bytes(),
                Oddity::ByteOrderMark,
            ),
            (utf16(&format!("\u{feff}{secret}\r\n"), le), Oddity::Utf16),
            (utf16(&format!("\u{feff}{secret}"), be), Oddity::Utf16),
            (utf16(secret, le), Oddity::Utf16),
            (utf16(&format!("{secret}\n"), be), Oddity::Utf16),
            ("secret-\u{200b}0123456789".into(), Oddity::Invisible),
            (format!("{secret}\u{a0}").into_bytes(), Oddity::Invisible),
            (format!("{secret}\u{2060}").into_bytes(), Oddity::Invisible),
            ("secret-\u{0}0123456789".into(), Oddity::Invisible),
            ("secret-\t0123456789".into(), Oddity::Invisible),
            (format!("{secret} ").into_bytes(), Oddity::WhiteSpace),
            (format!("{secret}\r").into_bytes(), Oddity::WhiteSpace),
            (format!("\n{secret}\n\n").into_bytes(), Oddity::WhiteSpace),
        ];
        for (text, oddity) in cases {
            assert_eq!(oddities(&text), [oddity], "{text:?}");
            assert_eq!(
                meant(&text).as_deref().map(Vec::as_slice),
                Some(secret.as_bytes()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn stripped_newline_leaves_utf16_readable() {
        let text = utf16("secret-0123456789\n", u16::to_be_bytes);
        let stripped = crate::secret::Secret::without_newline(&text);
        assert_eq!(oddities(stripped), [Oddity::Utf16]);
        assert_eq!(
            meant(stripped).as_deref().map(Vec::as_slice),
            Some(&b"secret-0123456789"[..])
        );
    }

    #[test]
    fn secret_of_nothing_visible_means_nothing() {
        assert_eq!(meant("\u{feff}\u{a0} ".as_bytes()), None);
    }
}

//! Hypotheses about the body: how its bytes may have changed between the sender and the capture.

mod json;

use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

use super::{Change, ChangeKind};
use crate::json::{Pointer, member};
use json::Style;

/// The largest decompressed body, in bytes. Larger ones are not webhooks.
const INFLATED_BYTES_MAX: u64 = 4 << 20;

/// A hypothesis about the body.
pub(super) struct BodyHypothesis {
    transform: Transform,
    how: &'static str,
    fact: &'static str,
    advice: &'static str,
}

enum Transform {
    /// A function of the bytes.
    Bytes(fn(&[u8]) -> Option<Vec<u8>>),
    /// A function of the bytes and the headers.
    WithHeaders(fn(&[u8], &HeaderMap) -> Option<Vec<u8>>),
    /// The same JSON in another style.
    Json(Style),
}

impl BodyHypothesis {
    /// Returns the body that the sender would have signed, or `None` if the hypothesis does not
    /// apply or changes nothing.
    pub(super) fn apply(&self, body: &[u8], headers: &HeaderMap) -> Option<Vec<u8>> {
        let other = match &self.transform {
            Transform::Bytes(transform) => transform(body),
            Transform::WithHeaders(transform) => transform(body, headers),
            Transform::Json(style) => style.write(body),
        };
        other.filter(|other| other != body)
    }

    /// Returns the cost of applying the hypothesis, in bytes hashed. Parsing JSON takes longer.
    pub(super) fn cost(&self, length: usize) -> usize {
        if let Transform::Json(_) = self.transform {
            length * 4
        } else {
            length
        }
    }

    pub(super) fn change(&self) -> Change {
        Change::new(ChangeKind::Body, self.how, self.advice).with_fact(self.fact)
    }
}

const REWRITTEN: &str = "the body was changed on the way: its JSON was parsed and written again";
const RE_SERIALISED: &str = "Something between the sender and the gateway parsed the JSON and \
                             wrote it again: forward and verify the raw bytes (a framework's raw \
                             body).";
const SAVED: &str = "Saving the body changed it (an editor, `echo`): save the raw bytes.";
const LINE_ENDINGS: &str = "Something converted line endings, as text modes and `git` do: save and \
                            forward the raw bytes.";

const fn bytes(
    transform: fn(&[u8]) -> Option<Vec<u8>>,
    how: &'static str,
    fact: &'static str,
    advice: &'static str,
) -> BodyHypothesis {
    BodyHypothesis {
        transform: Transform::Bytes(transform),
        how,
        fact,
        advice,
    }
}

const fn json(style: Style, how: &'static str) -> BodyHypothesis {
    BodyHypothesis {
        transform: Transform::Json(style),
        how,
        fact: REWRITTEN,
        advice: RE_SERIALISED,
    }
}

/// All hypotheses, in the order in which they are tried.
pub(super) const BODY_HYPOTHESES: &[BodyHypothesis] = &[
    bytes(
        |body| {
            body.strip_suffix(b"\n")
                .map(|body| body.strip_suffix(b"\r").unwrap_or(body).to_vec())
        },
        "if the body had no newline at its end",
        "the body was changed on the way: a newline was added at its end",
        SAVED,
    ),
    bytes(
        |body| Some([body, b"\n"].concat()),
        "if the body had a newline at its end",
        "the body was changed on the way: the newline at its end was removed",
        SAVED,
    ),
    bytes(
        |body| Some([body, b"\r\n"].concat()),
        "if the body ended with a Windows line ending",
        "the body was changed on the way: the line ending at its end was removed",
        SAVED,
    ),
    bytes(
        |body| Some(body.trim_ascii().to_vec()),
        "without the white space around the body",
        "the body was changed on the way: white space was added around it",
        SAVED,
    ),
    BodyHypothesis {
        transform: Transform::WithHeaders(|body, headers| {
            body.get(..content_length(headers)?).map(<[u8]>::to_vec)
        }),
        how: "if the body ended where `Content-Length` says",
        fact: "the body was changed on the way: bytes were added at its end",
        advice: SAVED,
    },
    bytes(
        |body| Some(replaced(body, b"\r\n", b"\n")),
        "if the body's line endings were LF",
        "the body was changed on the way: its line endings became CRLF",
        LINE_ENDINGS,
    ),
    bytes(
        |body| Some(replaced(&replaced(body, b"\r\n", b"\n"), b"\n", b"\r\n")),
        "if the body's line endings were CRLF",
        "the body was changed on the way: its line endings became LF",
        LINE_ENDINGS,
    ),
    bytes(
        |body| body.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec),
        "without the byte order mark before the body",
        "the body was changed on the way: a byte order mark was added before it",
        "An editor put a byte order mark before the body: save the raw bytes.",
    ),
    BodyHypothesis {
        transform: Transform::WithHeaders(decompress),
        how: "if the body were decompressed",
        fact: "the body was compressed after it was signed",
        advice: "The sender signs before it compresses: turn off its compression, or decompress \
                 before the gateway.",
    },
    BodyHypothesis {
        transform: Transform::WithHeaders(dechunk),
        how: "without the chunked framing in the body",
        fact: "the body holds its chunked framing",
        advice: "The capture holds the transfer coding: save the body without it.",
    },
    json(Style::compact(), "if the body's JSON were compact"),
    json(
        Style::compact().plain(),
        "if the body's JSON were compact, as JavaScript writes it",
    ),
    json(
        Style::spaced().plain(),
        "if the body's JSON had a space after commas and colons",
    ),
    json(
        Style::spaced().ascii(),
        "if the body's JSON were written as Python's `json.dumps` does",
    ),
    json(
        Style::compact().ascii(),
        "if the body's JSON were compact with `\\u` escapes",
    ),
    json(
        Style::compact().plain().sorted(),
        "if the body's JSON were compact with sorted keys",
    ),
    json(
        Style::compact().ascii().sorted(),
        "if the body's JSON were compact with sorted keys and `\\u` escapes",
    ),
    json(
        Style::spaced().ascii().sorted(),
        "if the body's JSON were written by `json.dumps` with sorted keys",
    ),
    json(
        Style::compact().ascii().slashed(),
        "if the body's JSON were written as PHP's `json_encode` does",
    ),
    json(
        Style::compact().plain().slashed(),
        "if the body's JSON were compact with `\\/` for slashes",
    ),
    json(
        Style::pretty(2).plain(),
        "if the body's JSON were indented by 2 spaces",
    ),
    json(
        Style::pretty(4).plain(),
        "if the body's JSON were indented by 4 spaces",
    ),
    json(
        Style::pretty(2).ascii(),
        "if the body's JSON were indented by 2 spaces with `\\u` escapes",
    ),
    json(
        Style::pretty(4).ascii(),
        "if the body's JSON were indented by 4 spaces with `\\u` escapes",
    ),
    bytes(
        |body| is_json(body).then(|| replaced(body, br"\/", b"/")),
        "if slashes in the body's JSON were not escaped",
        REWRITTEN,
        RE_SERIALISED,
    ),
    bytes(
        |body| is_json(body).then(|| replaced(&replaced(body, br"\/", b"/"), b"/", br"\/")),
        "if slashes in the body's JSON were escaped (`\\/`)",
        REWRITTEN,
        RE_SERIALISED,
    ),
    bytes(
        remove_signature,
        "without the member `signature` in the body",
        "the member `signature` was added to the body after it was signed",
        "The sender adds `signature` after signing: set `field: /signature` in your own \
         `signature:`.",
    ),
    bytes(
        form_payload,
        "if the form's `payload` were the body",
        "the JSON was signed, and then sent as a form",
        "The sender signs the JSON and sends it as a form: configure it to send \
         `application/json`.",
    ),
];

/// Returns the layouts that JSON commonly has, beginning with the given one. Strings and numbers
/// keep their spelling.
pub(super) fn layouts(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let styles = [
        Style::compact(),
        Style::spaced(),
        Style::pretty(2),
        Style::pretty(4),
    ];
    let written = styles.into_iter().filter_map(|style| style.write(text));
    std::iter::once(text.to_vec()).chain(written)
}

fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(json::is_valid)
}

fn replaced(body: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(&first) = rest.first() {
        if let Some(behind) = rest.strip_prefix(from) {
            replaced.extend_from_slice(to);
            rest = behind;
        } else {
            replaced.push(first);
            rest = &rest[1..];
        }
    }
    replaced
}

/// Returns the body's length according to `Content-Length`.
pub(super) fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn header_contains(headers: &HeaderMap, header: header::HeaderName, word: &str) -> bool {
    let mut values = headers
        .get_all(header)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.any(|value| value.to_ascii_lowercase().contains(word))
}

fn decompress(body: &[u8], headers: &HeaderMap) -> Option<Vec<u8>> {
    let read = |decoder: &mut dyn Read| {
        let mut inflated = Vec::new();
        decoder
            .take(INFLATED_BYTES_MAX + 1)
            .read_to_end(&mut inflated)
            .ok()?;
        (inflated.len() as u64 <= INFLATED_BYTES_MAX).then_some(inflated)
    };
    if body.starts_with(&[0x1f, 0x8b]) {
        return read(&mut MultiGzDecoder::new(body));
    }
    // `deflate` means zlib (RFC 9110 §8.4.1.2), but some senders omit its two-byte header.
    if body.first() == Some(&0x78) || header_contains(headers, header::CONTENT_ENCODING, "deflate")
    {
        return read(&mut ZlibDecoder::new(body)).or_else(|| read(&mut DeflateDecoder::new(body)));
    }
    None
}

/// Decodes the chunked transfer coding (RFC 9112 §7.1).
fn dechunk(body: &[u8], headers: &HeaderMap) -> Option<Vec<u8>> {
    if !header_contains(headers, header::TRANSFER_ENCODING, "chunked") {
        return None;
    }
    let (mut whole, mut rest) = (Vec::new(), body);
    loop {
        let line = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line])
            .ok()?
            .split(';')
            .next()?
            .trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        rest = &rest[line + 2..];
        whole.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
}

fn remove_signature(body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    let found = member(text, &"/signature".parse::<Pointer>().ok()?).ok()?;
    Some(
        [&text[..found.cut.start], &text[found.cut.end..]]
            .concat()
            .into_bytes(),
    )
}

fn form_payload(body: &[u8]) -> Option<Vec<u8>> {
    if !body.starts_with(b"payload=") && !body.windows(9).any(|window| window == b"&payload=") {
        return None;
    }
    let (_, payload) = form_urlencoded::parse(body).find(|(name, _)| name == "payload")?;
    Some(payload.into_owned().into_bytes())
}

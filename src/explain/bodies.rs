//! Hypotheses about the body: what may have become of its bytes between the sender and the capture.

mod json;

use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

use super::{Change, What};
use crate::json::{Pointer, member};
use json::Style;

/// A compressed body may become this big. What is bigger is no webhook.
const INFLATED_BYTES_MAX: u64 = 16 << 20;

/// One hypothesis.
pub(super) struct Row {
    of: Transform,
    how: &'static str,
    advice: &'static str,
}

enum Transform {
    /// Of the bytes alone.
    Bytes(fn(&[u8]) -> Option<Vec<u8>>),
    /// Of the bytes, as the headers say.
    WithHeaders(fn(&[u8], &HeaderMap) -> Option<Vec<u8>>),
    Json(Style),
}

impl Row {
    /// What the sender would have signed; `None` where the hypothesis does not apply, or makes no difference.
    pub(super) fn of(&self, body: &[u8], headers: &HeaderMap) -> Option<Vec<u8>> {
        let other = match &self.of {
            Transform::Bytes(of) => of(body),
            Transform::WithHeaders(of) => of(body, headers),
            Transform::Json(style) => style.write(body),
        };
        other.filter(|other| other != body)
    }

    /// In bytes hashed. Parsing takes longer.
    pub(super) fn cost(&self, length: usize) -> usize {
        if let Transform::Json(_) = self.of {
            length * 4
        } else {
            length
        }
    }

    pub(super) fn change(&self) -> Change {
        Change::new(What::Body, self.how, self.advice)
    }
}

const RE_SERIALISED: &str = "Something on the way parsed the JSON and wrote it anew: verify, and pass on, the bytes as \
                             they came (a framework's raw body).";
const SAVED: &str = "Saving the body changed it (an editor, `echo`): save the bytes as they came.";
const LINE_ENDS: &str = "Something converted line ends, as text modes and `git` do: save and pass on the bytes as they came.";

const fn bytes(of: fn(&[u8]) -> Option<Vec<u8>>, how: &'static str, advice: &'static str) -> Row {
    Row {
        of: Transform::Bytes(of),
        how,
        advice,
    }
}

const fn json(style: Style, how: &'static str) -> Row {
    Row {
        of: Transform::Json(style),
        how,
        advice: RE_SERIALISED,
    }
}

/// In the order in which they are tried.
pub(super) const ROWS: &[Row] = &[
    bytes(
        |body| {
            body.strip_suffix(b"\n")
                .map(|body| body.strip_suffix(b"\r").unwrap_or(body).to_vec())
        },
        "if the body had no newline at its end",
        SAVED,
    ),
    bytes(
        |body| Some([body, b"\n"].concat()),
        "if the body had a newline at its end",
        SAVED,
    ),
    bytes(
        |body| Some([body, b"\r\n"].concat()),
        "if the body had a Windows line end at its end",
        SAVED,
    ),
    bytes(
        |body| Some(body.trim_ascii().to_vec()),
        "without the white space around the body",
        SAVED,
    ),
    Row {
        of: Transform::WithHeaders(|body, headers| {
            body.get(..content_length(headers)?).map(<[u8]>::to_vec)
        }),
        how: "if the body ended where `Content-Length` says",
        advice: SAVED,
    },
    bytes(
        |body| Some(replaced(body, b"\r\n", b"\n")),
        "if the body's line ends were LF",
        LINE_ENDS,
    ),
    bytes(
        |body| Some(replaced(&replaced(body, b"\r\n", b"\n"), b"\n", b"\r\n")),
        "if the body's line ends were CRLF",
        LINE_ENDS,
    ),
    bytes(
        |body| body.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec),
        "without the byte order mark before the body",
        "An editor put a byte order mark before the body: save the bytes as they came.",
    ),
    Row {
        of: Transform::WithHeaders(inflated),
        how: "if the body were decompressed",
        advice: "The sender signs before it compresses: switch compression off there, or decompress in front of the \
                 gateway.",
    },
    Row {
        of: Transform::WithHeaders(dechunked),
        how: "without the chunked framing in the body",
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
        RE_SERIALISED,
    ),
    bytes(
        |body| is_json(body).then(|| replaced(&replaced(body, br"\/", b"/"), b"/", br"\/")),
        "if slashes in the body's JSON were escaped (`\\/`)",
        RE_SERIALISED,
    ),
    bytes(
        without_signature,
        "without the member `signature` in the body",
        "The sender adds `signature` after signing: say `field: /signature` in a `signature:` of your own.",
    ),
    bytes(
        of_form,
        "if the form's `payload` were the body",
        "The sender signs the JSON and sends it in a form: let it send `application/json`.",
    ),
];

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

/// The body's length as the request says it.
pub(super) fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn names(headers: &HeaderMap, header: header::HeaderName, word: &str) -> bool {
    let mut values = headers
        .get_all(header)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.any(|value| value.to_ascii_lowercase().contains(word))
}

fn inflated(body: &[u8], headers: &HeaderMap) -> Option<Vec<u8>> {
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
    // `deflate` means zlib (RFC 9110 §8.4.1.2), and some senders leave its two bytes out.
    if body.first() == Some(&0x78) || names(headers, header::CONTENT_ENCODING, "deflate") {
        return read(&mut ZlibDecoder::new(body)).or_else(|| read(&mut DeflateDecoder::new(body)));
    }
    None
}

/// RFC 9112 §7.1.
fn dechunked(body: &[u8], headers: &HeaderMap) -> Option<Vec<u8>> {
    if !names(headers, header::TRANSFER_ENCODING, "chunked") {
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

fn without_signature(body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    let found = member(text, &"/signature".parse::<Pointer>().ok()?).ok()?;
    Some(
        [&text[..found.cut.start], &text[found.cut.end..]]
            .concat()
            .into_bytes(),
    )
}

fn of_form(body: &[u8]) -> Option<Vec<u8>> {
    if !body.starts_with(b"payload=") && !body.windows(9).any(|window| window == b"&payload=") {
        return None;
    }
    let (_, payload) = form_urlencoded::parse(body).find(|(name, _)| name == "payload")?;
    Some(payload.into_owned().into_bytes())
}

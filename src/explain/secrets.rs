//! Hypotheses about the secret: another one, other text, or another way from its text to a key.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::{Candidate, Case, Change, What};
use crate::secret::Secret;
use crate::signature::Scheme;

/// Bytes that may be the key, and what it takes for them to be.
pub(super) struct KeyForm {
    pub secret: Arc<str>,
    pub bytes: Key,
    pub changes: Vec<Change>,
}

type Key = Zeroizing<Vec<u8>>;

/// One hypothesis: what it makes of the secret's text, if that makes a difference, and how to say so.
struct Row {
    of: fn(&[u8]) -> Option<Key>,
    how: &'static str,
    advice: &'static str,
}

/// Prefixes that senders put before secrets. Some are part of the key and some are not.
const PREFIXES: &[&[u8]] = &[b"whsec_", b"whpk_", b"pdl_ntfset_", b"shpss_", b"sk_"];

/// Another text.
const TEXTS: &[Row] = &[
    Row {
        of: |text| Some([text, b"\n"].concat().into()),
        how: "with a newline at the end of the secret",
        advice: "The sender's key ends with a newline: enter the secret there anew, without it.",
    },
    Row {
        of: |text| Some([text, b"\r\n"].concat().into()),
        how: "with a carriage return and a newline at the end of the secret",
        advice: "The sender's key ends with a Windows line end: enter the secret there anew, without it.",
    },
    Row {
        of: |text| changed(text, text.trim_ascii()),
        how: "without the white space around the secret",
        advice: "Take the white space at the secret's ends away (`printf %s`, not `echo`).",
    },
    Row {
        of: |text| changed(text, unquoted(text)),
        how: "without the quotes around the secret",
        advice: "The quotes became part of the secret: take them away.",
    },
];

/// Another way to read it.
const READINGS: &[Row] = &[
    Row {
        of: |text| Some(text.to_vec().into()),
        how: "with the secret's whole text as the key",
        advice: "The sender does not decode the secret, nor strip a prefix: describe it with `signature:` and \
                 `secret_encoding: utf8`, without `strip_prefix`.",
    },
    Row {
        of: |text| changed(text, without_prefix(text)),
        how: "with the secret's text without its prefix as the key",
        advice: "The sender leaves the secret's prefix out: give the secret without it, or say `strip_prefix`.",
    },
    Row {
        of: |text| Some([b"whsec_", text].concat().into()),
        how: "with `whsec_` before the secret",
        advice: "The prefix `whsec_` is part of the key: copy the secret whole, as the sender shows it.",
    },
    Row {
        of: |text| base64(without_prefix(text)),
        how: "with the secret decoded from base64",
        advice: "The sender's key is what the secret's base64 stands for: say `secret_encoding: base64`.",
    },
    Row {
        of: |text| hex::decode(without_prefix(text)).ok().map(Zeroizing::new),
        how: "with the secret decoded from hex",
        advice: "The sender's key is what the secret's hex digits stand for: say `secret_encoding: hex`.",
    },
];

/// All forms of all candidates, each key once for its secret, with at most two changes.
pub(super) fn forms(case: &Case<'_>, scheme: &Scheme) -> Vec<KeyForm> {
    let mut forms: Vec<KeyForm> = Vec::new();
    for candidate in case.candidates {
        let other: Vec<_> = candidate.other(case).into_iter().collect();
        let text = candidate.named.secret.expose();
        let mut own: Vec<KeyForm> = Vec::new();
        let mut add = |bytes: Option<Key>, rows: &[&Row]| {
            let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
                return;
            };
            if own.iter().any(|form| form.bytes == bytes) || other.len() + rows.len() > 2 {
                return;
            }
            let changes = rows
                .iter()
                .map(|row| Change::new(What::Secret, row.how, row.advice));
            let changes = other.iter().cloned().chain(changes).collect();
            own.push(KeyForm {
                secret: Arc::clone(&candidate.named.name),
                bytes,
                changes,
            });
        };
        add(as_configured(scheme, text), &[]);
        for row in TEXTS {
            add(
                (row.of)(text).and_then(|text| as_configured(scheme, &text)),
                &[row],
            );
        }
        for row in READINGS {
            add((row.of)(text), &[row]);
        }
        for changed in TEXTS {
            let Some(text) = (changed.of)(text) else {
                continue;
            };
            for row in READINGS {
                add((row.of)(&text), &[changed, row]);
            }
        }
        forms.append(&mut own);
    }
    forms.sort_by_key(|form| form.changes.len());
    forms
}

impl Candidate {
    /// What it takes for this one to be in use at all.
    fn other(&self, case: &Case<'_>) -> Option<Change> {
        let name = &self.named.name;
        match self.named.expires {
            _ if !self.configured => Some(Change::new(
                What::Secret,
                format!("with the secret `{name}` instead"),
                format!(
                    "Add `{name}` to the route's `secrets`, or let the sender use the one that is there."
                ),
            )),
            Some(end) if end <= case.now => Some(Change::new(
                What::Secret,
                format!("with the secret `{name}` instead, which expired at {end:.0}"),
                format!(
                    "The sender still signs with `{name}`: finish the rotation there, or move its `expires`."
                ),
            )),
            _ => None,
        }
    }
}

fn as_configured(scheme: &Scheme, text: &[u8]) -> Option<Key> {
    let secret = Secret::new(text).ok()?;
    scheme.key_bytes(&secret).ok()
}

fn changed(text: &[u8], other: &[u8]) -> Option<Key> {
    (text != other).then(|| other.to_vec().into())
}

fn without_prefix(text: &[u8]) -> &[u8] {
    PREFIXES
        .iter()
        .find_map(|prefix| text.strip_prefix(*prefix))
        .unwrap_or(text)
}

fn unquoted(text: &[u8]) -> &[u8] {
    let within = |quote: &[u8]| text.strip_prefix(quote)?.strip_suffix(quote);
    within(b"\"").or_else(|| within(b"'")).unwrap_or(text)
}

/// In either alphabet, padded or not.
pub(super) fn base64(text: &[u8]) -> Option<Key> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const ENGINES: [GeneralPurpose; 2] = [
        GeneralPurpose::new(&alphabet::STANDARD, LENIENT),
        GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT),
    ];
    ENGINES
        .iter()
        .find_map(|engine| engine.decode(text).ok())
        .map(Zeroizing::new)
}

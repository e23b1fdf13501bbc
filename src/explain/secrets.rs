//! Hypotheses about the secret: a different one, a different text, or a different decoding.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use jiff::SignedDuration;
use zeroize::Zeroizing;

use super::{Candidate, Case, Change, ChangeKind};
use crate::secret::{self, Oddity, Secret};
use crate::signature::Scheme;

/// A possible key, with the changes that it implies.
pub(super) struct KeyForm {
    pub secret: Arc<str>,
    pub bytes: Key,
    pub changes: Vec<Change>,
}

type Key = Zeroizing<Vec<u8>>;

/// A hypothesis about the secret. `transform` returns `None` if it changes nothing.
struct SecretHypothesis {
    transform: fn(&[u8]) -> Option<Key>,
    how: &'static str,
    advice: &'static str,
}

/// Prefixes of providers' secrets. Some are part of the key, some are not.
const PREFIXES: &[&[u8]] = &[b"whsec_", b"whpk_", b"pdl_ntfset_", b"shpss_", b"sk_"];

/// Hypotheses that the secret has a different text.
const TEXTS: &[SecretHypothesis] = &[
    SecretHypothesis {
        transform: |text| Some([text, b"\n"].concat().into()),
        how: "with a newline at the end of the secret",
        advice: "The sender's key ends with a newline: enter the secret there again, without it.",
    },
    SecretHypothesis {
        transform: |text| Some([text, b"\r\n"].concat().into()),
        how: "with a carriage return and a newline at the end of the secret",
        advice: "The sender's key ends with a Windows line ending: enter the secret there again, \
                 without it.",
    },
    SecretHypothesis {
        transform: |text| changed(text, text.trim_ascii()),
        how: "without the white space around the secret",
        advice: "Remove the white space around the secret (write it with `printf %s`, not `echo`).",
    },
    SecretHypothesis {
        transform: |text| meant(text, &[Oddity::Utf16]),
        how: "with the secret read as UTF-16",
        advice: "The secret was saved as UTF-16: save it as UTF-8 without a byte order mark.",
    },
    SecretHypothesis {
        transform: |text| meant(text, &[Oddity::ByteOrderMark]),
        how: "without the byte order mark before the secret",
        advice: "Save the secret as UTF-8 without a byte order mark.",
    },
    SecretHypothesis {
        transform: |text| meant(text, &[Oddity::Invisible]),
        how: "without the invisible characters in the secret",
        advice: "The secret has characters that show nothing, such as a zero-width or no-break \
                 space: copy it again, as plain text.",
    },
    SecretHypothesis {
        transform: |text| changed(text, strip_quotes(text)),
        how: "without the quotes around the secret",
        advice: "The quotes became part of the secret: remove them.",
    },
];

/// Hypotheses that the secret is decoded differently.
const READINGS: &[SecretHypothesis] = &[
    SecretHypothesis {
        transform: |text| Some(text.to_vec().into()),
        how: "with the secret's whole text as the key",
        advice: "The sender neither decodes the secret nor strips its prefix: set \
                 `secret_encoding: utf8` in your own `signature:`, without `strip_prefix`.",
    },
    SecretHypothesis {
        transform: |text| changed(text, strip_prefix(text)),
        how: "with the secret's text without its prefix as the key",
        advice: "The sender omits the secret's prefix: give the secret without it, or set \
                 `strip_prefix`.",
    },
    SecretHypothesis {
        transform: |text| Some([b"whsec_", text].concat().into()),
        how: "with `whsec_` before the secret",
        advice: "The prefix `whsec_` is part of the key: copy the whole secret, as the provider \
                 shows it.",
    },
    SecretHypothesis {
        transform: |text| decode_base64(strip_prefix(text)),
        how: "with the secret decoded from base64",
        advice: "The sender decodes the secret from base64: set `secret_encoding: base64`.",
    },
    SecretHypothesis {
        transform: |text| hex::decode(strip_prefix(text)).ok().map(Zeroizing::new),
        how: "with the secret decoded from hex",
        advice: "The sender decodes the secret from hex: set `secret_encoding: hex`.",
    },
];

/// Returns the possible keys of all candidates with at most two changes, without duplicates for one
/// secret.
pub(super) fn key_forms(case: &Case<'_>, scheme: &Scheme) -> Vec<KeyForm> {
    let mut forms: Vec<KeyForm> = Vec::new();
    for candidate in case.candidates {
        let other: Vec<_> = candidate.change_to_use(case).into_iter().collect();
        let text = candidate.named.secret.expose();
        let mut own: Vec<KeyForm> = Vec::new();
        let mut add = |bytes: Option<Key>, hypotheses: &[&SecretHypothesis]| {
            let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
                return;
            };
            if own.iter().any(|form| form.bytes == bytes) || other.len() + hypotheses.len() > 2 {
                return;
            }
            let changes = hypotheses.iter().map(|hypothesis| {
                Change::new(ChangeKind::Secret, hypothesis.how, hypothesis.advice)
            });
            let changes = other.iter().cloned().chain(changes).collect();
            own.push(KeyForm {
                secret: Arc::clone(&candidate.named.name),
                bytes,
                changes,
            });
        };
        add(configured_key(scheme, text), &[]);
        for hypothesis in TEXTS {
            add(
                (hypothesis.transform)(text).and_then(|text| configured_key(scheme, &text)),
                &[hypothesis],
            );
        }
        for hypothesis in READINGS {
            add((hypothesis.transform)(text), &[hypothesis]);
        }
        for changed in TEXTS {
            let Some(text) = (changed.transform)(text) else {
                continue;
            };
            for hypothesis in READINGS {
                add((hypothesis.transform)(&text), &[changed, hypothesis]);
            }
        }
        forms.append(&mut own);
    }
    forms.sort_by_key(|form| form.changes.len());
    forms
}

impl Candidate {
    /// Returns the change that makes the gateway use this secret, if it does not use it.
    fn change_to_use(&self, case: &Case<'_>) -> Option<Change> {
        let name = &self.named.name;
        match self.named.expires {
            _ if !self.configured => Some(
                Change::new(
                    ChangeKind::Secret,
                    format!("with the secret `{name}` instead"),
                    format!(
                        "Add `{name}` to the route's `secrets`, or configure the sender to use \
                         the route's secret."
                    ),
                )
                .with_fact(format!("it is signed with the secret `{name}`")),
            ),
            Some(end) if end <= case.now => Some(
                Change::new(
                    ChangeKind::Secret,
                    format!("with the secret `{name}` instead, which expired at {end:.0}"),
                    format!(
                        "The sender still signs with `{name}`: finish the rotation there, or \
                         extend its `expires`."
                    ),
                )
                .with_fact(format!(
                    "it is signed with the secret `{name}`, which expired {} (at {end:.0})",
                    describe_age(case.now.duration_since(end))
                )),
            ),
            _ => None,
        }
    }
}

/// Describes how long ago something was, in words.
fn describe_age(age: SignedDuration) -> String {
    match (age.as_mins(), age.as_hours()) {
        (..2, _) => "just now".into(),
        (minutes, ..2) => format!("{minutes} minutes ago"),
        (_, hours @ ..24) => format!("{hours} hours ago"),
        (_, ..48) => "yesterday".into(),
        (_, hours) => format!("{} days ago", hours / 24),
    }
}

fn configured_key(scheme: &Scheme, text: &[u8]) -> Option<Key> {
    let secret = Secret::new(text).ok()?;
    scheme.key_bytes(&secret).ok()
}

/// Returns the text without all that is odd about it, if it has one of these oddities.
fn meant(text: &[u8], any: &[Oddity]) -> Option<Key> {
    let found = secret::oddities(text);
    found
        .iter()
        .any(|oddity| any.contains(oddity))
        .then(|| secret::meant(text))
        .flatten()
}

fn changed(text: &[u8], other: &[u8]) -> Option<Key> {
    (text != other).then(|| other.to_vec().into())
}

fn strip_prefix(text: &[u8]) -> &[u8] {
    PREFIXES
        .iter()
        .find_map(|prefix| text.strip_prefix(*prefix))
        .unwrap_or(text)
}

fn strip_quotes(text: &[u8]) -> &[u8] {
    let within = |quote: &[u8]| text.strip_prefix(quote)?.strip_suffix(quote);
    within(b"\"").or_else(|| within(b"'")).unwrap_or(text)
}

/// Decodes base64 in either alphabet, with or without padding.
pub(super) fn decode_base64(text: &[u8]) -> Option<Key> {
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

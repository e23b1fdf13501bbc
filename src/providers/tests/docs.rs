//! `docs/providers.md`, written from the presets; a test holds the file to it.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::event::{IdSource, Source};
use crate::handshake::ChallengeReply;
use crate::providers::{PRESETS, Preset, PresetHandshake};
use crate::route::OnDuplicate;
use crate::secret::Secret;
use crate::signature::{
    Algorithm, Encoding, Header, KeyEncoding, Scheme, SignatureLocation, TimeUnit,
    TimestampLocation, presets,
};

const INTRODUCTION: &str = "\
# Providers

A preset knows how its provider signs, where the event's ID and type stand, how long the provider waits, and what it makes of
an answer. `provider: NAME` takes all of that; each key of the route that is given goes before it. A sender that is not here
is [described](#a-scheme-of-your-own) with `signature:` and `event:`.

This page is made from the code. Each preset is held to a signature that its provider published, or that its own SDK made or
took (`tests/sdk`); the SDKs that sign are also run as clients against the gateway in the tests. Four are held to something
else: VPN Enterprise and OrbVPN to their documents and OpenSSL, Meta to GitHub's SDK (the form is the same), GitLab to that of
Standard Webhooks (so is its).

";

const BEHIND_THE_TABLE: &str = "\
*Waits* is how long the provider waits for an answer (`budget`), *duplicate* the answer to an event that was handed over before
(`replay.on_duplicate`), *tries* how long an event may come again; `replay.window` must be longer (96h is the default).
A signed time is checked when the event arrives. One that was stored (`queue`, `spill`) may be delivered hours later, under the
headers that it came with: an application that checks signatures itself must then leave the time out of it.

`+ digest`: the ID stands in no signed byte, so the ledger goes by the body's digest, too, and a replay under another ID is a
duplicate all the same. *digest* alone: the provider has no ID, and the same body is the same event.

";

const IN_THE_BODY: &str = "\
## A signature in the body

OrbVPN's events may carry their own signature, as a member of the JSON body:

```json
SIGNED
```

The signature covers the body without that member: cut out byte for byte, with the comma that joined it. A member that is not
the object's first goes with the comma before it, up to the end of its value; the first goes up to the next member's name. All
else, white space too, stays as it was sent:

```json
PLAIN
```

HMAC-SHA256 of these bytes under the secret `SECRET`, in hex, is the signature:

```sh
printf '%s' 'PLAIN' |
  openssl dgst -sha256 -hmac SECRET
# TAG
```

In the header form the same body is sent as it is, with `X-Signature: sha256=TAG`.
`hookstile sign --provider orbvpn --in-body` puts a signature into a body, without `--in-body` it prints the header.

Refused with 401, since two receivers could read them differently: the member twice, also under a name that differs in case
only; its name or value written with escapes; a value that is no string; a body that is not one strict JSON text. The event
reaches your application as it was sent, the signature in it. When the header is there, it alone counts.

A scheme of your own does the same with `signature: {field: /signature}`; `canonical: json` is for senders that sign compact
JSON and send it otherwise: what is left is hashed without the white space between its tokens, nothing else is changed.

";

const OF_YOUR_OWN: &str = "\
## A scheme of your own

```yaml
signature:
  header: X-Own-Signature           # `X-Own-Signature: t=1700000000,v1=5257a869…`
  fields: {signature: v1, timestamp: t}
  algorithm: hmac-sha256            # hmac-sha1, hmac-sha512, ed25519
  encoding: hex                     # base64
  signed: \"{timestamp}.{body}\"
  timestamp: {tolerance: 5m}
event: {id: /id, type: /type}
```

All keys are in [configuration.md](configuration.md). A signature that is there several times is looked at up to sixteen times;
a header that is there twice is refused. A signed time further from now than the tolerance, before or after, is refused like a
wrong signature; the metric `signature_checks_total` says `stale`, which is a clock that is off, or a replay.
`{id}` stands for the header that `event.id` names: an ID that is signed there needs no digest beside it.

";

const SECRET: &str = "whsec_example";
const EXAMPLE: &str =
    r#"{"id":"evt_1","type":"payment.completed","timestamp":"2026-01-15T10:30:00Z"}"#;

/// The page as Markdown.
fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str(
        "| `provider:` | signature | signed | event ID | event type | waits | duplicate | `max_body` | tries |\n",
    );
    page.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for preset in PRESETS {
        page.push_str(&row(preset));
    }
    let _ = write!(page, "\n{BEHIND_THE_TABLE}");
    for preset in PRESETS {
        page.push_str(&section(preset));
    }
    page.push_str(&in_the_body());
    page.push_str(OF_YOUR_OWN);
    page.push_str("## Event types\n\nWhat `hookstile check` knows of `events:`; other providers' types are not known, and not checked.\n");
    for preset in PRESETS
        .iter()
        .filter(|preset| !preset.defaults.event_types.is_empty())
    {
        let types: Vec<_> = preset
            .defaults
            .event_types
            .iter()
            .map(|kind| format!("`{kind}`"))
            .collect();
        let _ = write!(page, "\n**{}**: {}\n", preset.title, types.join(", "));
    }
    page
}

fn row(preset: &Preset) -> String {
    let (scheme, habits) = ((preset.scheme)(), &preset.defaults);
    let envelope = (habits.envelope)();
    let id = match &envelope.id {
        IdSource::Pointer(pointer) => format!("`{pointer}`"),
        IdSource::Header(header) if scheme.signs_header(header) => format!("`{header}`, signed"),
        IdSource::Header(header) => format!("`{header}` + digest"),
        IdSource::BodyDigest => "digest".into(),
    };
    let kind = match &envelope.event_type {
        Source::Pointer(pointer) => format!("`{pointer}`"),
        Source::Header(header) => format!("`{header}`"),
    };
    let on_duplicate = match habits.on_duplicate {
        OnDuplicate::Reject => 409,
        OnDuplicate::Acknowledge => 200,
    };
    let tries = habits.retry_horizon.map_or_else(|| "?".into(), written);
    format!(
        "| [`{}`](#{}) | {} | `{}` | {id} | {kind} | {} | {on_duplicate} | {}MiB | {tries} |\n",
        preset.name,
        preset.title.to_lowercase().replace(' ', "-"),
        places(&scheme),
        scheme.signed,
        written(habits.budget),
        habits.max_body >> 20,
    )
}

fn places(scheme: &Scheme) -> String {
    let name = |place: &SignatureLocation| match place {
        SignatureLocation::Header(Header { spelling, .. }) => format!("`{spelling}`"),
        SignatureLocation::Fields(fields) => format!("`{}`", fields.header.spelling),
        SignatureLocation::Body(in_body) => format!("body, `{}`", in_body.pointer),
    };
    scheme
        .places
        .iter()
        .map(name)
        .collect::<Vec<_>>()
        .join(" or ")
}

fn section(preset: &Preset) -> String {
    let scheme = (preset.scheme)();
    let mut section = format!("## {}\n\n", preset.title);
    let kinds: Vec<_> = scheme
        .kinds
        .iter()
        .map(|kind| format!("{}, {}", algorithm(kind.algorithm), key(kind)))
        .collect();
    let _ = writeln!(section, "* **Algorithm**: {}.", kinds.join("; or "));
    let _ = writeln!(section, "* **Sent**: {}.", sent(&scheme));
    if let Some(time) = &scheme.time {
        let unit = match time.unit {
            TimeUnit::Seconds => "Unix seconds",
            TimeUnit::Milliseconds => "Unix milliseconds",
            TimeUnit::Rfc3339 => "RFC 3339",
        };
        let place = match &time.place {
            TimestampLocation::Header(header) => format!("`{}`", header.spelling),
            TimestampLocation::Field(field) => format!("the field `{field}`"),
        };
        let _ = writeln!(
            section,
            "* **Time**: {place}, {unit}; at most {} from now, before or after.",
            written(time.tolerance)
        );
    }
    if let Some(handshake) = handshake(preset.handshake) {
        let _ = writeln!(section, "* **Handshake**: {handshake}");
    }
    if !preset.notes.is_empty() {
        let _ = write!(section, "\n{}\n", preset.notes);
    }
    section.push('\n');
    section
}

fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HmacSha1 => "HMAC-SHA1",
        Algorithm::HmacSha256 => "HMAC-SHA256",
        Algorithm::HmacSha512 => "HMAC-SHA512",
        Algorithm::Ed25519 => "Ed25519",
    }
}

fn key(kind: &crate::signature::SignatureFormat) -> String {
    let what = if kind.algorithm == Algorithm::Ed25519 {
        "the secret is the public key"
    } else {
        "the key is the secret"
    };
    let form = match kind.key.encoding {
        KeyEncoding::Utf8 => "'s text",
        KeyEncoding::Base64 => ", decoded from base64",
        KeyEncoding::Hex => ", decoded from hex",
    };
    let stripped = match &*kind.key.prefix {
        "" => String::new(),
        prefix => format!(" without `{prefix}`"),
    };
    format!("{what}{form}{stripped}")
}

/// What a signature of it looks like.
fn sent(scheme: &Scheme) -> String {
    let mut kinds = Vec::new();
    for kind in &scheme.kinds {
        let forms: Vec<_> = kind
            .encodings
            .iter()
            .map(|encoding| match encoding {
                Encoding::Hex => "hex",
                Encoding::Base64 => "base64",
            })
            .collect();
        let signature = format!("{}<{}>", kind.prefix, forms.join(" or "));
        kinds.push(match &scheme.places[0] {
            SignatureLocation::Fields(fields) => {
                format!("`{}{}{signature}`", kind.field, fields.assign)
            }
            SignatureLocation::Header(_) | SignatureLocation::Body(_) => format!("`{signature}`"),
        });
    }
    let separated = match &scheme.places[0] {
        SignatureLocation::Fields(fields) if fields.separator == ' ' => ", spaces between several",
        SignatureLocation::Fields(fields) if fields.separator == ';' => ", `;` between fields",
        SignatureLocation::Fields(_) => ", `,` between fields",
        SignatureLocation::Header(_) | SignatureLocation::Body(_) => "",
    };
    format!("{}{separated}", kinds.join(" and "))
}

fn handshake(asks: PresetHandshake) -> Option<String> {
    match asks {
        PresetHandshake::Never => None,
        PresetHandshake::Query => Some(
            "a GET with `hub.mode`, `hub.challenge` and `hub.verify_token` is answered with the challenge, if the token is the \
             route's `challenge.verify_token`. It is not signed, so it is never forwarded."
                .into(),
        ),
        PresetHandshake::Signed(question) => {
            let question = question();
            let reply = match &question.reply {
                ChallengeReply::Echo(pointer) => format!("with what stands at `{pointer}`, as text"),
                ChallengeReply::Proof(pointer) => format!("with what stands at `{pointer}`, and its HMAC under the secret"),
                ChallengeReply::NoContent => "with 204".into(),
            };
            Some(format!(
                "a signed body whose `{}` is `{}` is answered {reply}; with `challenge: forward` your application answers it, \
                 as an event of type `{}`.",
                question.pointer, question.value, question.event_type
            ))
        }
    }
}

fn in_the_body() -> String {
    let secret = Secret::new(SECRET).unwrap();
    let signed = presets::orbvpn().sign_in_body(&secret, EXAMPLE).unwrap();
    let headers = presets::orbvpn()
        .sign(&secret, EXAMPLE.as_bytes(), Timestamp::UNIX_EPOCH, None)
        .unwrap();
    let tag = headers
        .iter()
        .next()
        .unwrap()
        .1
        .strip_prefix("sha256=")
        .unwrap();
    assert!(signed.contains(tag), "both forms are of the same bytes");
    IN_THE_BODY
        .replace("SIGNED", &signed)
        .replace("PLAIN", EXAMPLE)
        .replace("SECRET", SECRET)
        .replace("TAG", tag)
}

/// As a configuration has it.
fn written(duration: Duration) -> String {
    format!("{:#}", SignedDuration::try_from(duration).unwrap()).replace(' ', "")
}

#[test]
fn the_page_is_current() {
    let (path, page) = (
        concat!(env!("CARGO_MANIFEST_DIR"), "/docs/providers.md"),
        reference(),
    );
    if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/providers.md is not current; `HOOKSTILE_REGENERATE=1 cargo test --lib` writes it anew"
    );
}

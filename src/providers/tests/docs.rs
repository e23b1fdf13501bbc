//! The generator of `docs/providers.md` from the presets, and the test that the file is current.

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

A preset has a provider's signature scheme, the location of the event's ID and type, the time that
the provider waits, and the response that it expects. `provider: NAME` selects one; a key of the
route overrides the preset's value. Describe any other sender with `signature:` and `event:`, as
[below](#a-scheme-of-your-own).

This page is generated from the code. Each preset is tested with a signature that its provider
published, or that its SDK made or accepted (`tests/sdk`). The SDKs that sign also run as clients
against the gateway. Four presets are tested differently: VPN Enterprise and OrbVPN with their
documents and OpenSSL, Meta with GitHub's SDK (the format is the same), and GitLab with the SDK of
Standard Webhooks (likewise).

";

const LEGEND: &str = "\
*Waits* is the time that the provider waits for a response (`budget`). *Duplicate* is the response
to an event that was already delivered (`replay.on_duplicate`). *Retries for* is the time over which
the provider retries an event; `replay.window` must be longer (the default is 96h).

A signed time is checked when the event arrives. A stored event (`queue`, `spill`) may be delivered
hours later with its original headers. An application that verifies signatures itself must then
ignore the signed time.

`+ type + digest`: the ID is not signed, so the ledger knows an event by ID, type and body; a replay
under another ID is delivered with a mark, at most 16 times. *digest* alone: the provider sends no
ID, and the same body with the same signed time is the same event.
[Identity](semantics.md#identity) has all rules.

";

const IN_THE_BODY: &str = "\
## A signature in the body

OrbVPN's events may carry their signature as a member of the JSON body:

```json
SIGNED
```

The signature covers the body without that member, which is cut out byte for byte with its comma.
For the object's first member, the cut extends to the next member's name. For any other, it extends
from the comma before it to the end of its value. Everything else, white space too, stays as sent:

```json
PLAIN
```

The signature is the HMAC-SHA256 of these bytes under the secret `SECRET`, in hex:

```sh
printf '%s' 'PLAIN' |
  openssl dgst -sha256 -hmac SECRET
```

```text
SHA2-256(stdin)= TAG
```

With a header instead, the same body is sent unchanged, with `X-Signature: sha256=TAG`.
`hookstile sign --provider orbvpn --in-body` adds the signature to a body; without `--in-body` it
prints the header.

These are refused with 401, since two receivers could read them differently:

* the member twice, also under a name that differs in case only,
* its name or value written with escapes,
* a value that is not a string,
* a body that is not one JSON text.

The event reaches your application as sent, with the signature in it. If the header is present, only
the header counts.

A scheme of your own does the same with `signature: {field: /signature}`. `canonical: json` is for
senders that sign compact JSON and send it in another layout: the rest of the body is then hashed
without white space between its tokens. Nothing else changes.

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

All keys are in [configuration.md](configuration.md). At most sixteen signatures of one header are
checked; a repeated header is refused. A signed time beyond the tolerance, in the past or in the
future, is refused like a wrong signature. The metric `signature_checks_total` then counts `stale`: a
wrong clock, or a replay. `{id}` is the header that `event.id` names; a signed ID needs no digest.

";

const SECRET: &str = "whsec_example";
const EXAMPLE: &str =
    r#"{"id":"evt_1","type":"payment.completed","timestamp":"2026-01-15T10:30:00Z"}"#;

/// Renders the page as Markdown.
fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str(
        "| `provider:` | signature | signed | event ID | event type | waits | duplicate \
         | `max_body` | retries for |\n",
    );
    page.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for preset in PRESETS {
        page.push_str(&row(preset));
    }
    let _ = write!(page, "\n{LEGEND}");
    for preset in PRESETS {
        page.push_str(&section(preset));
    }
    page.push_str(&in_the_body());
    page.push_str(OF_YOUR_OWN);
    page.push_str(
        "## Event types\n\n`hookstile check` compares `events:` with these lists. It does not check \
         the types of other providers.\n",
    );
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
    let (scheme, defaults) = ((preset.scheme)(), &preset.defaults);
    let envelope = (defaults.envelope)();
    let id = match &envelope.id {
        IdSource::Pointer(pointer) => format!("`{pointer}`"),
        IdSource::Header(header) if scheme.signs_header(header) => format!("`{header}`, signed"),
        IdSource::Header(header) => format!("`{header}` + type + digest"),
        IdSource::Joined(pointers) => pointers
            .iter()
            .map(|pointer| format!("`{pointer}`"))
            .collect::<Vec<_>>()
            .join(" + "),
        IdSource::BodyDigest => "digest".into(),
        IdSource::Nothing => "none".into(),
    };
    let kind = match &envelope.event_type {
        Source::Pointer(pointer) => format!("`{pointer}`"),
        Source::Header(header) => format!("`{header}`"),
    };
    let on_duplicate = match defaults.on_duplicate {
        OnDuplicate::Reject => 409,
        OnDuplicate::Acknowledge => 200,
    };
    let tries = defaults
        .retry_horizon
        .map_or_else(|| "?".into(), format_duration);
    format!(
        "| [`{}`](#{}) | {} | `{}` | {id} | {kind} | {} | {on_duplicate} | {}MiB | {tries} |\n",
        preset.name,
        preset.title.to_lowercase().replace(' ', "-"),
        places(&scheme),
        scheme.signed,
        format_duration(defaults.budget),
        defaults.max_body >> 20,
    )
}

fn places(scheme: &Scheme) -> String {
    let name = |place: &SignatureLocation| match place {
        SignatureLocation::Header(Header { spelling, .. }) => format!("`{spelling}`"),
        SignatureLocation::Fields(fields) => format!("`{}`", fields.header.spelling),
        SignatureLocation::Body(in_body) => format!("body, `{}`", in_body.pointer),
    };
    scheme
        .locations
        .iter()
        .map(name)
        .collect::<Vec<_>>()
        .join(" or ")
}

fn section(preset: &Preset) -> String {
    let scheme = (preset.scheme)();
    let mut section = format!("## {}\n\n", preset.title);
    let kinds: Vec<_> = scheme
        .formats
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
        let place = match &time.location {
            TimestampLocation::Header(header) => format!("`{}`", header.spelling),
            TimestampLocation::Field(field) => format!("the field `{field}`"),
        };
        let _ = writeln!(
            section,
            "* **Time**: {place}, {unit}; within {} of now, before or after.",
            format_duration(time.tolerance)
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

/// Renders an example of the scheme's signature.
fn sent(scheme: &Scheme) -> String {
    let mut kinds = Vec::new();
    for kind in &scheme.formats {
        let forms: Vec<_> = kind
            .encodings
            .iter()
            .map(|encoding| match encoding {
                Encoding::Hex => "hex",
                Encoding::Base64 => "base64",
            })
            .collect();
        let signature = format!("{}<{}>", kind.prefix, forms.join(" or "));
        kinds.push(match &scheme.locations[0] {
            SignatureLocation::Fields(fields) => {
                format!("`{}{}{signature}`", kind.field, fields.assign)
            }
            SignatureLocation::Header(_) | SignatureLocation::Body(_) => format!("`{signature}`"),
        });
    }
    let separated = match &scheme.locations[0] {
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
            "a GET with `hub.mode`, `hub.challenge` and `hub.verify_token` gets the challenge back, if \
             the token is the route's `challenge.verify_token`. It is not signed, so it is never \
             forwarded."
                .into(),
        ),
        PresetHandshake::Signed(challenge) => {
            let challenge = challenge();
            let reply = match &challenge.reply {
                ChallengeReply::Echo(pointer) => format!("with the value at `{pointer}`, as text"),
                ChallengeReply::Proof(pointer) => {
                    format!("with the value at `{pointer}` and its HMAC under the secret")
                }
                ChallengeReply::NoContent => "with 204".into(),
            };
            Some(format!(
                "a signed body whose `{}` is `{}` is answered {reply}. With `challenge: forward`, your \
                 application answers it, as an event of type `{}`.",
                challenge.pointer, challenge.value, challenge.event_type
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

/// Formats a duration as the configuration does.
fn format_duration(duration: Duration) -> String {
    format!("{:#}", SignedDuration::try_from(duration).unwrap()).replace(' ', "")
}

#[test]
fn providers_page_is_current() {
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

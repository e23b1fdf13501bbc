mod agreement;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::event::{IdNames, IdSource, MissingParts, Source};
use crate::json::Pointer;
use crate::secret::Secret;
use crate::signature::{
    Algorithm, Content, Encoding, Header, KeyEncoding, SignatureLocation, presets,
};
use crate::{explain, providers, secret, signature};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZg==";
const OLD: &str = "canary-old-4711";
const URL: &str = "https://hooks.example.com/in";
const BODY: &str =
    r#"{"id": "evt_1", "type": "user.created", "name": "José", "path": "a/b", "n": 1.0}"#;

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn request(headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request {
    let mut request = Request {
        target: None,
        headers: HeaderMap::new(),
        body: body.into(),
    };
    for (name, value) in headers {
        request.headers.append(
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    request
}

/// Returns the request of a sender with this scheme and secret.
fn signed_at(scheme: &Scheme, secret: &str, body: &str, at: Timestamp) -> Request {
    let signed = scheme
        .sign(
            &Secret::new(secret).unwrap(),
            body.as_bytes(),
            at,
            Some("msg_1"),
        )
        .unwrap();
    Request {
        target: None,
        headers: signed.to_headers(),
        body: body.to_owned().into(),
    }
}

fn signed(scheme: &Scheme, secret: &str, body: &str) -> Request {
    signed_at(scheme, secret, body, now())
}

fn candidate(name: &str, secret: &str) -> Candidate {
    let named = NamedSecret {
        name: name.into(),
        secret: Secret::new(secret).unwrap(),
        expires: None,
    };
    Candidate {
        named,
        configured: true,
    }
}

fn verify_with(
    scheme: &Scheme,
    request: &Request,
    candidates: &[Candidate],
    limits: Limits,
) -> Verdict {
    let pointer = |text: &str| text.parse::<Pointer>().unwrap();
    let envelope = EnvelopeSpec {
        id: IdSource::Pointer(pointer("/id")),
        id_names: IdNames::Event,
        event_type: Source::Pointer(pointer("/type")),
        missing: MissingParts::default(),
        timestamp: None,
    };
    let others = [
        ("github", presets::github()),
        ("slack", presets::slack()),
        ("orbvpn", presets::orbvpn()),
    ];
    let case = Case {
        request,
        scheme,
        candidates,
        envelope: &envelope,
        handshake: None,
        others: &others,
        url: Some(URL),
        now: now(),
        limits,
    };
    case.verify()
}

#[test]
fn missing_signature_is_no_fault_of_secrets() {
    let github = presets::github();
    let other = signed(&presets::slack(), OLD, BODY);
    let own = request(&[("X-Acme-Signature", "abc"), ("X-Trace", "1")], BODY);
    let bare = request(&[], BODY);
    for (request, note, first) in [
        (
            other,
            "`x-slack-signature`, in which `slack` signs",
            "`slack`",
        ),
        (own, "`x-acme-signature`, which may be", "a secret is set"),
        (bare, "", "a secret is set"),
    ] {
        let diagnosis = diagnose(&github, &request, &[candidate("current", SECRET)]);
        assert_eq!(diagnosis.failure, SignatureError::Missing);
        let notes = diagnosis.notes.join("\n");
        assert!(notes.contains(note), "{notes}");
        assert_eq!(notes.is_empty(), note.is_empty(), "{notes}");
        let advice = diagnosis.advice.join("\n");
        assert!(advice.contains(first), "{advice}");
        assert!(!advice.contains("Copy the secret"), "{advice}");
    }
    let wrong = signed(&github, OLD, BODY);
    let diagnosis = diagnose(&github, &wrong, &[candidate("current", SECRET)]);
    assert!(diagnosis.notes.is_empty(), "{:?}", diagnosis.notes);
    assert!(diagnosis.advice[0].starts_with("Copy the secret"));
    let in_body = diagnose(
        &presets::orbvpn(),
        &request(&[], BODY),
        &[candidate("current", SECRET)],
    );
    assert!(in_body.advice[0].contains("a secret is set"), "{in_body:?}");
}

fn diagnose(scheme: &Scheme, request: &Request, candidates: &[Candidate]) -> Diagnosis {
    match verify_with(scheme, request, candidates, Limits::default()) {
        Verdict::NotGenuine(diagnosis) => diagnosis,
        genuine @ Verdict::Genuine { .. } => panic!("{genuine:?}"),
    }
}

/// Returns a changed copy of the gateway's scheme, for a sender that signs differently.
fn other(scheme: &Scheme, change: impl FnOnce(&mut Scheme)) -> Scheme {
    let mut other = scheme.clone();
    change(&mut other);
    other
}

/// The kind of each expected change, with a part of its text.
type ExpectedChanges = &'static [(ChangeKind, &'static str)];

/// A request that fails, with what its first explanation must say.
struct FailingRequest {
    scheme: Scheme,
    request: Request,
    candidates: Vec<Candidate>,
    expected: ExpectedChanges,
}

fn failing(scheme: &Scheme, request: Request, says: ExpectedChanges) -> FailingRequest {
    FailingRequest {
        scheme: scheme.clone(),
        request,
        candidates: vec![candidate("current", SECRET)],
        expected: says,
    }
}

fn with(failing: FailingRequest, candidates: Vec<Candidate>) -> FailingRequest {
    FailingRequest {
        candidates,
        ..failing
    }
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn secret_cases() -> Vec<FailingRequest> {
    let github = presets::github();
    let standard = presets::standard_webhooks();
    let key = |encoding| other(&github, |scheme| scheme.formats[0].key.encoding = encoding);
    let stripped = |encoding| {
        other(&key(encoding), |scheme| {
            scheme.formats[0].key.prefix = "whsec_".into();
        })
    };
    let expired = |mut candidate: Candidate| {
        candidate.named.expires = Some(now() - SignedDuration::from_hours(1));
        candidate
    };
    let by = |secret: &str| signed(&github, secret, BODY);
    let given = |says, signer: &str, given: &str| {
        with(
            failing(&github, by(signer), says),
            vec![candidate("current", given)],
        )
    };
    vec![
        given(
            &[(ChangeKind::Secret, "newline at the end")],
            &format!("{OLD}\n"),
            OLD,
        ),
        given(
            &[(ChangeKind::Secret, "carriage return")],
            &format!("{OLD}\r\n"),
            OLD,
        ),
        given(
            &[(ChangeKind::Secret, "white space around")],
            OLD,
            &format!(" {OLD}\t"),
        ),
        given(
            &[(ChangeKind::Secret, "byte order mark before")],
            OLD,
            &format!("\u{feff}{OLD}"),
        ),
        given(
            &[(ChangeKind::Secret, "read as UTF-16")],
            OLD,
            &OLD.chars().flat_map(|c| [c, '\0']).collect::<String>(),
        ),
        given(
            &[(ChangeKind::Secret, "invisible characters")],
            OLD,
            "canary\u{200b}-old-4711\u{a0}",
        ),
        given(
            &[(ChangeKind::Secret, "without the quotes")],
            OLD,
            &format!("\"{OLD}\""),
        ),
        given(
            &[(ChangeKind::Secret, "without its prefix")],
            OLD,
            &format!("whsec_{OLD}"),
        ),
        given(
            &[(ChangeKind::Secret, "`whsec_` before")],
            &format!("whsec_{OLD}"),
            OLD,
        ),
        failing(
            &github,
            signed(&stripped(KeyEncoding::Base64), SECRET, BODY),
            &[(ChangeKind::Secret, "decoded from base64")],
        ),
        failing(
            &standard,
            {
                let whole = other(&standard, |scheme| {
                    scheme.formats[0].key.encoding = KeyEncoding::Utf8;
                    scheme.formats[0].key.prefix = "".into();
                });
                signed(&whole, SECRET, BODY)
            },
            &[(ChangeKind::Secret, "whole text")],
        ),
        with(
            failing(
                &github,
                signed(&key(KeyEncoding::Hex), "00ff10", BODY),
                &[(ChangeKind::Secret, "decoded from hex")],
            ),
            vec![candidate("current", "00ff10")],
        ),
        with(
            failing(
                &github,
                by(OLD),
                &[(ChangeKind::Secret, "`old` instead, which expired")],
            ),
            vec![candidate("current", SECRET), expired(candidate("old", OLD))],
        ),
        with(
            failing(&github, by(OLD), &[(ChangeKind::Secret, "`old` instead")]),
            vec![
                candidate("current", SECRET),
                Candidate {
                    configured: false,
                    ..candidate("old", OLD)
                },
            ],
        ),
        with(
            failing(
                &github,
                by(&format!("{OLD}\n")),
                &[
                    (ChangeKind::Secret, "`old` instead"),
                    (ChangeKind::Secret, "newline at the end"),
                ],
            ),
            vec![
                candidate("current", SECRET),
                Candidate {
                    configured: false,
                    ..candidate("old", OLD)
                },
            ],
        ),
    ]
}

fn signature_cases() -> Vec<FailingRequest> {
    let (linear, github, stripe) = (presets::linear(), presets::github(), presets::stripe());
    let hex = signed(&linear, SECRET, BODY).headers["linear-signature"]
        .to_str()
        .unwrap()
        .to_owned();
    let tag = hex::decode(&hex).unwrap();
    let bearing = |value: &str| request(&[("Linear-Signature", value)], BODY);
    let by = |algorithm| other(&github, |scheme| scheme.formats[0].algorithm = algorithm);
    let bare = |request: Request, prefix: &str| {
        let text = request.headers["x-hub-signature-256"]
            .to_str()
            .unwrap()
            .replace("sha256=", prefix);
        self::request(&[("X-Hub-Signature-256", &text)], BODY)
    };
    let field = other(&stripe, |scheme| scheme.formats[0].field = "v0".into());
    vec![
        failing(
            &linear,
            bearing(&STANDARD.encode(&tag)),
            &[(ChangeKind::Signature, "read as base64")],
        ),
        failing(
            &linear,
            bearing(&URL_SAFE_NO_PAD.encode(&tag)),
            &[(ChangeKind::Signature, "URL-safe or unpadded")],
        ),
        failing(
            &linear,
            bearing(&STANDARD.encode(&hex)),
            &[(ChangeKind::Signature, "base64 of hex digits")],
        ),
        failing(
            &linear,
            bearing(&format!("v1={hex}")),
            &[(ChangeKind::Signature, "`v1=` were the signature's prefix")],
        ),
        failing(
            &linear,
            bearing(&format!("SHA256={hex}")),
            &[(ChangeKind::Signature, "`SHA256=`")],
        ),
        failing(
            &linear,
            bearing(&format!("\"{hex}\"")),
            &[(ChangeKind::Signature, "without the quotes")],
        ),
        failing(
            &linear,
            bearing(&format!("t=1700000000,v1={hex}")),
            &[(ChangeKind::Signature, "field `v1`")],
        ),
        failing(
            &linear,
            request(
                &[
                    ("Linear-Signature", &hex),
                    ("Linear-Signature", &"0".repeat(64)),
                ],
                BODY,
            ),
            &[(
                ChangeKind::Signature,
                "were there once, with its value number 1",
            )],
        ),
        failing(
            &linear,
            request(&[("X-Acme-Signature", &hex)], BODY),
            &[(ChangeKind::Signature, "from `x-acme-signature`")],
        ),
        failing(
            &other(&linear, |scheme| {
                scheme.formats[0].encodings = vec![Encoding::Base64];
            }),
            bearing(&hex),
            &[(ChangeKind::Signature, "read as hex")],
        ),
        failing(
            &stripe,
            signed(&field, SECRET, BODY),
            &[(ChangeKind::Signature, "field `v0` of `stripe-signature`")],
        ),
        failing(
            &github,
            bare(signed(&by(Algorithm::HmacSha1), SECRET, BODY), "sha1="),
            &[(ChangeKind::Algorithm, "were hmac-sha1")],
        ),
        failing(
            &github,
            bare(signed(&by(Algorithm::HmacSha512), SECRET, BODY), "sha512="),
            &[(ChangeKind::Algorithm, "were hmac-sha512")],
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn content_cases() -> Vec<FailingRequest> {
    let (github, slack, stripe, square) = (
        presets::github(),
        presets::slack(),
        presets::stripe(),
        presets::square(),
    );
    let content = |scheme: &Scheme, text: &str| {
        let id = Header::from_static("X-Request-Id");
        other(scheme, |scheme| {
            scheme.signed = Content::parse(text, Some(&id)).unwrap();
        })
    };
    let clocked = |scheme: &Scheme| other(scheme, |scheme| scheme.time = presets::slack().time);
    let mut all: Vec<_> = [
        (
            "{timestamp}.{body}",
            &[(
                ChangeKind::Content,
                "`{timestamp}.{body}` were the signed content",
            )],
        ),
        (
            "{timestamp}{body}",
            &[(
                ChangeKind::Content,
                "`{timestamp}{body}` were the signed content",
            )],
        ),
        (
            "{timestamp}:{body}",
            &[(
                ChangeKind::Content,
                "`{timestamp}:{body}` were the signed content",
            )],
        ),
        (
            "{body}",
            &[(ChangeKind::Content, "`{body}` were the signed content")],
        ),
    ]
    .into_iter()
    .map(|(text, says)| failing(&slack, signed(&content(&slack, text), SECRET, BODY), says))
    .collect();
    let with_url = |scheme: &Scheme, url: &str| {
        other(scheme, |scheme| {
            scheme.signed = square.signed.clone().with_url(url);
        })
    };
    let in_body = presets::orbvpn()
        .sign_in_body(&Secret::new(SECRET).unwrap(), r#"{"id":"evt_1"}"#)
        .unwrap();
    all.extend([
        failing(
            &github,
            signed(
                &content(&clocked(&github), "{timestamp}.{body}"),
                SECRET,
                BODY,
            ),
            &[(
                ChangeKind::Content,
                "`{timestamp}.{body}` were the signed content with the time from \
                 `x-slack-request-timestamp`",
            )],
        ),
        failing(
            &github,
            signed(
                &content(&clocked(&github), "{id}.{timestamp}.{body}"),
                SECRET,
                BODY,
            ),
            &[(ChangeKind::Content, "and the event ID from `x-request-id`")],
        ),
        failing(
            &github,
            signed(&with_url(&github, URL), SECRET, BODY),
            &[(ChangeKind::Content, "`{url}{body}` were the signed content")],
        ),
        failing(
            &with_url(&square, URL),
            signed(
                &with_url(&square, "https://hooks.example.com/in/"),
                SECRET,
                BODY,
            ),
            &[(
                ChangeKind::Content,
                "the URL `https://hooks.example.com/in/`",
            )],
        ),
        failing(
            &stripe,
            signed(&content(&stripe, "{timestamp}:{body}"), SECRET, BODY),
            &[(ChangeKind::Content, "`{timestamp}:{body}`")],
        ),
        failing(
            &slack,
            {
                let mut request = signed(&slack, SECRET, BODY);
                let time = request.headers.remove("x-slack-request-timestamp").unwrap();
                request.headers.insert("x-sent-timestamp", time);
                request
            },
            &[(ChangeKind::Content, "the time from `x-sent-timestamp`")],
        ),
        failing(
            &presets::linear(),
            signed(&github, SECRET, BODY),
            &[(ChangeKind::Scheme, "as `github` signs")],
        ),
        failing(
            &github,
            signed(&slack, SECRET, BODY),
            &[(ChangeKind::Scheme, "as `slack` signs")],
        ),
        failing(
            &github,
            request(&[], in_body),
            &[(ChangeKind::Scheme, "as `orbvpn` signs")],
        ),
    ]);
    all
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn body_cases() -> Vec<FailingRequest> {
    let github = presets::github();
    let arrived = |signed_body: &str, arrived: &[u8]| Request {
        body: arrived.to_vec().into(),
        ..signed(&github, SECRET, signed_body)
    };
    let python = BODY.replace('é', "\\u00e9");
    let compact = crate::json::compact(BODY);
    let php = compact.replace('é', "\\u00e9").replace('/', "\\/");
    let gzipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, BODY.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let deflated = {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, BODY.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", BODY)
        .finish();
    let marked = BODY.replacen('{', "{\"signature\": \"abc\", ", 1);
    let cases: Vec<(&str, Vec<u8>, ExpectedChanges)> = vec![
        (
            BODY,
            format!("{BODY}\n").into(),
            &[(ChangeKind::Body, "no newline at its end")],
        ),
        (
            BODY,
            format!("{BODY}\r\n").into(),
            &[(ChangeKind::Body, "no newline at its end")],
        ),
        (
            "x\n",
            "x".into(),
            &[(ChangeKind::Body, "had a newline at its end")],
        ),
        (
            "x\r\n",
            "x".into(),
            &[(ChangeKind::Body, "ended with a Windows line ending")],
        ),
        (
            "x y",
            "  x y \n\n".into(),
            &[(ChangeKind::Body, "white space around")],
        ),
        (
            "a\nb\nc",
            "a\r\nb\r\nc".into(),
            &[(ChangeKind::Body, "line endings were LF")],
        ),
        (
            "a\r\nb\r\nc",
            "a\nb\nc".into(),
            &[(ChangeKind::Body, "line endings were CRLF")],
        ),
        (
            BODY,
            format!("\u{feff}{BODY}").into(),
            &[(ChangeKind::Body, "byte order mark")],
        ),
        (BODY, gzipped, &[(ChangeKind::Body, "decompressed")]),
        (BODY, deflated, &[(ChangeKind::Body, "decompressed")]),
        (&compact, BODY.into(), &[(ChangeKind::Body, "compact")]),
        (
            r#"{"a":"é"}"#,
            r#"{ "a" : "\u00e9" }"#.into(),
            &[(ChangeKind::Body, "as JavaScript writes it")],
        ),
        (
            BODY,
            compact.clone().into(),
            &[(ChangeKind::Body, "a space after commas and colons")],
        ),
        (
            &python,
            compact.clone().into(),
            &[(ChangeKind::Body, "json.dumps")],
        ),
        (&php, BODY.into(), &[(ChangeKind::Body, "json_encode")]),
        (
            r#"{"a":1,"b":2}"#,
            r#"{"b": 2, "a": 1}"#.into(),
            &[(ChangeKind::Body, "sorted keys")],
        ),
        (
            r#"{"a": 1, "b": 2}"#,
            r#"{"b":2,"a":1}"#.into(),
            &[(ChangeKind::Body, "`json.dumps` with sorted keys")],
        ),
        (
            "{\n  \"a\": [\n    1\n  ]\n}",
            r#"{"a":[1]}"#.into(),
            &[(ChangeKind::Body, "indented by 2")],
        ),
        (
            "{\n    \"a\": [\n        1\n    ]\n}",
            r#"{"a":[1]}"#.into(),
            &[(ChangeKind::Body, "indented by 4")],
        ),
        (
            r#"{ "a": "b/c"}"#,
            r#"{ "a": "b\/c"}"#.into(),
            &[(ChangeKind::Body, "were not escaped")],
        ),
        (
            r#"{ "a": "b\/c"}"#,
            r#"{ "a": "b/c"}"#.into(),
            &[(ChangeKind::Body, "were escaped")],
        ),
        (
            BODY,
            marked.into(),
            &[(ChangeKind::Body, "without the member `signature`")],
        ),
        (BODY, form.into(), &[(ChangeKind::Body, "form's `payload`")]),
        (
            r#"{"a":1}"#,
            "{\"a\": 1}\n".into(),
            &[(ChangeKind::Body, "compact")],
        ),
        (
            "{\"a\": 1}\n",
            r#"{"a":1}"#.into(),
            &[
                (ChangeKind::Body, "newline at its end"),
                (ChangeKind::Body, "space after commas"),
            ],
        ),
    ];
    let mut all: Vec<_> = cases
        .into_iter()
        .map(|(signed, body, says)| failing(&github, arrived(signed, &body), says))
        .collect();
    let mut chunked = arrived("wiki", b"2\r\nwi\r\n2;x=y\r\nki\r\n0\r\n\r\n");
    chunked
        .headers
        .insert("transfer-encoding", HeaderValue::from_static("chunked"));
    all.push(failing(
        &github,
        chunked,
        &[(ChangeKind::Body, "chunked framing")],
    ));
    let mut longer = arrived("wiki", b"wiki; and more");
    longer
        .headers
        .insert("content-length", HeaderValue::from_static("4"));
    all.push(failing(
        &github,
        longer,
        &[(ChangeKind::Body, "`Content-Length`")],
    ));
    all
}

fn clock_cases() -> Vec<FailingRequest> {
    let slack = presets::slack();
    let off = |seconds| {
        signed_at(
            &slack,
            SECRET,
            BODY,
            now() + SignedDuration::from_secs(seconds),
        )
    };
    let milliseconds = other(&slack, |scheme| {
        let time = scheme.time.as_mut().unwrap();
        time.unit = crate::signature::TimeUnit::Milliseconds;
    });
    vec![
        failing(
            &slack,
            off(-400),
            &[(ChangeKind::Clock, "400 s (6m 40s) in the past")],
        ),
        failing(
            &slack,
            off(301),
            &[(ChangeKind::Clock, "301 s (5m 1s) in the future")],
        ),
        failing(
            &slack,
            signed(&milliseconds, SECRET, BODY),
            &[(ChangeKind::Clock, "Unix milliseconds")],
        ),
        with(
            failing(
                &slack,
                signed_at(&slack, OLD, BODY, now() - SignedDuration::from_secs(1000)),
                &[
                    (ChangeKind::Secret, "`old` instead"),
                    (ChangeKind::Clock, "1000 s"),
                ],
            ),
            vec![
                candidate("current", SECRET),
                Candidate {
                    configured: false,
                    ..candidate("old", OLD)
                },
            ],
        ),
    ]
}

fn assert_explained(all: Vec<FailingRequest>) {
    for (
        number,
        FailingRequest {
            scheme,
            request,
            candidates,
            expected: says,
        },
    ) in all.into_iter().enumerate()
    {
        let diagnosis = diagnose(&scheme, &request, &candidates);
        let first = diagnosis
            .explanations
            .first()
            .unwrap_or_else(|| panic!("{number}: {says:?}: {diagnosis:#?}"));
        assert_eq!(
            first.changes.len(),
            says.len(),
            "{number}: {says:?}: {diagnosis:#?}"
        );
        for (what, words) in says {
            let said = |change: &Change| change.kind == *what && change.how.contains(words);
            assert!(
                first.changes.iter().any(said),
                "{number}: {says:?}: {diagnosis:#?}"
            );
        }
    }
}

#[test]
fn wrong_secrets_are_explained() {
    assert_explained(secret_cases());
}

#[test]
fn differently_written_signatures_are_explained() {
    assert_explained(signature_cases());
}

#[test]
fn different_signed_content_is_explained() {
    assert_explained(content_cases());
}

#[test]
fn changed_bodies_are_explained() {
    assert_explained(body_cases());
}

#[test]
fn wrong_times_are_explained() {
    assert_explained(clock_cases());
}

#[test]
fn finding_names_the_header() {
    let (github, slack) = (presets::github(), presets::slack());
    let hub = |value: &str| request(&[("X-Hub-Signature-256", value)], BODY);
    let twice = request(
        &[("X-Hub-Signature-256", "a"), ("X-Hub-Signature-256", "b")],
        BODY,
    );
    let timeless = {
        let mut request = signed(&slack, SECRET, BODY);
        request.headers.remove("x-slack-request-timestamp");
        request
    };
    let cases = [
        (
            &github,
            request(&[], "{"),
            SignatureError::Missing,
            "the header X-Hub-Signature-256 is missing",
        ),
        (
            &github,
            hub(""),
            SignatureError::Missing,
            "X-Hub-Signature-256 is empty",
        ),
        (
            &github,
            hub("sha256="),
            SignatureError::Missing,
            "holds no signature",
        ),
        (
            &github,
            twice,
            SignatureError::Malformed,
            "is there 2 times",
        ),
        (
            &github,
            hub("sha1=0123"),
            SignatureError::Malformed,
            "begins with the prefix `sha1=`, but the scheme has `sha256=`",
        ),
        (
            &github,
            hub("sha256=0123"),
            SignatureError::Malformed,
            "holds 4 hex digits, but hmac-sha256 has 64",
        ),
        (
            &github,
            hub("sha256=xyz"),
            SignatureError::Malformed,
            "not hex (3 characters)",
        ),
        (
            &github,
            signed(&github, OLD, BODY),
            SignatureError::Mismatch,
            "X-Hub-Signature-256 is well formed",
        ),
        (
            &slack,
            timeless,
            SignatureError::Missing,
            "the header X-Slack-Request-Timestamp is missing",
        ),
        (
            &slack,
            signed_at(&slack, SECRET, BODY, Timestamp::UNIX_EPOCH),
            SignatureError::Stale,
            "1700000000 s (472222h 13m 20s) in the past; 300 s are allowed",
        ),
    ];
    for (scheme, request, failure, found) in cases {
        let diagnosis = diagnose(scheme, &request, &[candidate("current", SECRET)]);
        assert_eq!(diagnosis.failure, failure, "{found}");
        assert!(
            diagnosis.found.contains(found),
            "{found}: {}",
            diagnosis.found
        );
    }
}

#[test]
fn genuine_request_names_secret_and_event() {
    let (github, secrets) = (
        presets::github(),
        [candidate("current", SECRET), candidate("old", OLD)],
    );
    let judged = |body| {
        verify_with(
            &github,
            &signed(&github, OLD, body),
            &secrets,
            Limits::default(),
        )
    };
    let content = GenuineContent::Event {
        id: Some("evt_1".into()),
        event_type: "user.created".into(),
    };
    assert_eq!(
        judged(BODY),
        Verdict::Genuine {
            secret: "old".into(),
            content
        }
    );
    let content = GenuineContent::Invalid(EnvelopeError::IdMissing);
    assert_eq!(
        judged("{}"),
        Verdict::Genuine {
            secret: "old".into(),
            content
        }
    );
}

#[test]
fn unknown_secret_has_no_explanation() {
    for scheme in [
        presets::github(),
        presets::slack(),
        presets::stripe(),
        presets::standard_webhooks(),
    ] {
        let request = signed(&scheme, "whsec_b3RoZXIgc2VjcmV0", BODY);
        let diagnosis = diagnose(&scheme, &request, &[candidate("current", SECRET)]);
        assert_eq!(diagnosis.explanations, []);
        assert!(
            diagnosis.tried > 100 && !diagnosis.cut_short,
            "{diagnosis:?}"
        );
    }
}

#[test]
fn search_stops_at_its_limits() {
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(16 << 20));
    let scheme = presets::github();
    let (request, secrets) = (signed(&scheme, OLD, &body), [candidate("current", SECRET)]);
    for limits in [
        Limits {
            bytes: 64 << 20,
            ..Limits::default()
        },
        Limits {
            tries: 3,
            ..Limits::default()
        },
    ] {
        let Verdict::NotGenuine(diagnosis) = verify_with(&scheme, &request, &secrets, limits)
        else {
            panic!("genuine")
        };
        assert!(
            (1..=3).contains(&diagnosis.tried) && diagnosis.cut_short,
            "{diagnosis:?}"
        );
        assert_eq!(diagnosis.explanations, []);
    }
    assert_eq!(Limits::default().bytes, 512 << 20);
}

#[test]
fn diagnosis_holds_no_secret_and_no_signature() {
    let all = [
        secret_cases(),
        signature_cases(),
        content_cases(),
        body_cases(),
        clock_cases(),
    ];
    for FailingRequest {
        scheme,
        request,
        candidates,
        ..
    } in all.into_iter().flatten()
    {
        let said = format!("{:?}", diagnose(&scheme, &request, &candidates));
        for Candidate { named, .. } in &candidates {
            let secret = String::from_utf8(named.secret.expose().to_vec()).unwrap();
            let bare = secret.trim().trim_matches('"').trim_start_matches("whsec_");
            for form in [
                bare.to_owned(),
                STANDARD.encode(bare),
                URL_SAFE_NO_PAD.encode(bare),
                hex::encode(bare),
            ] {
                assert!(!said.contains(&form), "{said}");
            }
        }
        // No signature is shorter than SHA-1's in base64, and no word is that long.
        let is_digit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '=');
        let longest = said.split(|c| !is_digit(c)).map(str::len).max();
        assert!(longest < Some(27), "{said}");
    }
}

#[test]
fn chosen_names_are_bounded() {
    let linear = presets::linear();
    let hex = signed(&linear, SECRET, BODY).headers["linear-signature"].clone();
    let hex = hex.to_str().unwrap();
    let long = "call-4711-and-say-your-password";
    let field = |name: &str| {
        let value = format!("timestamp=1,{name}={hex}");
        request(&[("Linear-Signature", &value)], BODY)
    };
    let header = |name: &str| request(&[(&format!("x-signature{name}"), hex)], BODY);
    let timed = |name: &str| {
        let mut timed = signed(&presets::slack(), SECRET, BODY);
        let time = timed.headers.remove("x-slack-request-timestamp").unwrap();
        let name = format!("timestamp{name}").parse::<HeaderName>().unwrap();
        timed.headers.insert(name, time);
        timed
    };
    let url = other(&presets::square(), |scheme| {
        scheme.signed = presets::square().signed.with_url("https://h/4711?t=4711");
    });
    let mut targeted = signed(&url, SECRET, BODY);
    targeted.target = Some("/4711?t=4711".into());
    targeted
        .headers
        .insert("host", HeaderValue::from_static("h"));
    let cases = [
        (
            linear.clone(),
            field(long),
            "a name of 31 characters of `linear-",
        ),
        (
            linear.clone(),
            field("4711!"),
            "a name of 5 characters of `linear-",
        ),
        (
            linear.clone(),
            header(long),
            "a header with a name of 42 characters",
        ),
        (
            linear,
            header("|4711"),
            "a header with a name of 16 characters",
        ),
        (
            presets::slack(),
            timed(long),
            "a header with a name of 40 characters",
        ),
        (
            presets::square().clone(),
            targeted,
            "`https://` and the request's host and target",
        ),
    ];
    for (scheme, request, described) in cases {
        let diagnosis = diagnose(&scheme, &request, &[candidate("current", SECRET)]);
        let said = format!("{diagnosis:?} {}", diagnosis.sentence().text);
        assert!(said.contains(described), "{described}: {said}");
        assert!(!said.contains("4711"), "{said}");
    }
}

#[test]
fn signature_in_the_body_is_explained() {
    let scheme = presets::orbvpn();
    assert!(matches!(
        scheme.locations.last(),
        Some(SignatureLocation::Body(_))
    ));
    let body = scheme
        .sign_in_body(&Secret::new(OLD).unwrap(), r#"{"id":"evt_1","type":"a"}"#)
        .unwrap();
    let secrets = [
        candidate("current", SECRET),
        Candidate {
            configured: false,
            ..candidate("old", OLD)
        },
    ];
    let diagnosis = diagnose(&scheme, &request(&[], body), &secrets);
    assert_eq!(diagnosis.failure, SignatureError::Mismatch);
    assert!(
        diagnosis.found.contains("the body's /signature"),
        "{}",
        diagnosis.found
    );
    assert!(
        diagnosis.explanations[0].changes[0]
            .how
            .contains("`old` instead"),
        "{diagnosis:?}"
    );
}

#[test]
fn corpus_verdicts_agree_with_the_gateway() {
    let requests: Vec<_> = ["explain", "found/explain"]
        .into_iter()
        .flat_map(|folder| crate::corpus::files(folder).into_values())
        .collect();
    assert!(requests.len() >= 16, "the corpus was found");
    for request in requests {
        agreement::check(&request);
    }
}

proptest! {
    #[test]
    fn every_explanation_has_a_change(
        values in proptest::collection::vec(
            r#"(t=|v1=|v1,|sha256=|[ ;,"]|1700000000|[0-9a-f]{64}|[ -~]){0,6}"#,
            6,
        ),
        body in r#"([{}\[\]",:]|"signature":|"a"|\\u00e9|\\n|\r\n|payload=|%7b|\PC){0,12}"#,
        target in proptest::option::of(r"\PC{0,12}"),
    ) {
        let names = [
            "stripe-signature",
            "x-hub-signature-256",
            "x-slack-request-timestamp",
            "x-signature",
            "host",
            "x-id",
        ];
        let mut request = request(&[], body);
        request.target = target;
        for (name, value) in names.iter().zip(&values) {
            request.headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let secrets = [candidate("current", SECRET)];
        let limits = Limits { tries: 300, ..Limits::default() };
        for scheme in [
            presets::github(),
            presets::stripe(),
            presets::slack(),
            presets::orbvpn(),
            presets::discord(),
        ] {
            let verdict = verify_with(&scheme, &request, &secrets, limits);
            if let Verdict::NotGenuine(diagnosis) = verdict {
                for explanation in &diagnosis.explanations {
                    prop_assert!(!explanation.changes.is_empty());
                }
            }
        }
    }
}

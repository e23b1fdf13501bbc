mod agreement;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::event::{IdSource, Source};
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

/// What a sender with this scheme and secret sends.
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

fn judge_with(
    scheme: &Scheme,
    request: &Request,
    candidates: &[Candidate],
    limits: Limits,
) -> Verdict {
    let pointer = |text: &str| text.parse::<Pointer>().unwrap();
    let envelope = EnvelopeSpec {
        id: IdSource::Pointer(pointer("/id")),
        event_type: Source::Pointer(pointer("/type")),
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
        asks: None,
        others: &others,
        url: Some(URL),
        now: now(),
        limits,
    };
    case.judge()
}

fn judge(scheme: &Scheme, request: &Request, candidates: &[Candidate]) -> Diagnosis {
    match judge_with(scheme, request, candidates, Limits::default()) {
        Verdict::NotGenuine(diagnosis) => diagnosis,
        genuine @ Verdict::Genuine { .. } => panic!("{genuine:?}"),
    }
}

/// Signed with another scheme than the gateway's: `change` makes the one of the other.
fn other(scheme: &Scheme, change: impl FnOnce(&mut Scheme)) -> Scheme {
    let mut other = scheme.clone();
    change(&mut other);
    other
}

/// What a change is about, and words of it.
type Says = &'static [(What, &'static str)];

/// One way in which a request fails, and what the first explanation must say.
struct Failing {
    scheme: Scheme,
    request: Request,
    candidates: Vec<Candidate>,
    says: Says,
}

fn failing(scheme: &Scheme, request: Request, says: Says) -> Failing {
    Failing {
        scheme: scheme.clone(),
        request,
        candidates: vec![candidate("current", SECRET)],
        says,
    }
}

fn with(failing: Failing, candidates: Vec<Candidate>) -> Failing {
    Failing {
        candidates,
        ..failing
    }
}

fn of_secrets() -> Vec<Failing> {
    let github = presets::github();
    let standard = presets::standard_webhooks();
    let key = |encoding| other(&github, |scheme| scheme.kinds[0].key.encoding = encoding);
    let stripped = |encoding| {
        other(&key(encoding), |scheme| {
            scheme.kinds[0].key.prefix = "whsec_".into()
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
            &[(What::Secret, "newline at the end")],
            &format!("{OLD}\n"),
            OLD,
        ),
        given(
            &[(What::Secret, "carriage return")],
            &format!("{OLD}\r\n"),
            OLD,
        ),
        given(
            &[(What::Secret, "white space around")],
            OLD,
            &format!(" {OLD}\t"),
        ),
        given(
            &[(What::Secret, "without the quotes")],
            OLD,
            &format!("\"{OLD}\""),
        ),
        given(
            &[(What::Secret, "without its prefix")],
            OLD,
            &format!("whsec_{OLD}"),
        ),
        given(
            &[(What::Secret, "`whsec_` before")],
            &format!("whsec_{OLD}"),
            OLD,
        ),
        failing(
            &github,
            signed(&stripped(KeyEncoding::Base64), SECRET, BODY),
            &[(What::Secret, "decoded from base64")],
        ),
        failing(
            &standard,
            {
                let whole = other(&standard, |scheme| {
                    scheme.kinds[0].key.encoding = KeyEncoding::Utf8;
                    scheme.kinds[0].key.prefix = "".into();
                });
                signed(&whole, SECRET, BODY)
            },
            &[(What::Secret, "whole text")],
        ),
        with(
            failing(
                &github,
                signed(&key(KeyEncoding::Hex), "00ff10", BODY),
                &[(What::Secret, "decoded from hex")],
            ),
            vec![candidate("current", "00ff10")],
        ),
        with(
            failing(
                &github,
                by(OLD),
                &[(What::Secret, "`old` instead, which expired")],
            ),
            vec![candidate("current", SECRET), expired(candidate("old", OLD))],
        ),
        with(
            failing(&github, by(OLD), &[(What::Secret, "`old` instead")]),
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
                    (What::Secret, "`old` instead"),
                    (What::Secret, "newline at the end"),
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

fn of_signatures() -> Vec<Failing> {
    let (linear, github, stripe) = (presets::linear(), presets::github(), presets::stripe());
    let hex = signed(&linear, SECRET, BODY).headers["linear-signature"]
        .to_str()
        .unwrap()
        .to_owned();
    let tag = hex::decode(&hex).unwrap();
    let bearing = |value: &str| request(&[("Linear-Signature", value)], BODY);
    let by = |algorithm| other(&github, |scheme| scheme.kinds[0].algorithm = algorithm);
    let bare = |request: Request, prefix: &str| {
        let text = request.headers["x-hub-signature-256"]
            .to_str()
            .unwrap()
            .replace("sha256=", prefix);
        self::request(&[("X-Hub-Signature-256", &text)], BODY)
    };
    let field = other(&stripe, |scheme| scheme.kinds[0].field = "v0".into());
    vec![
        failing(
            &linear,
            bearing(&STANDARD.encode(&tag)),
            &[(What::Signature, "read as base64")],
        ),
        failing(
            &linear,
            bearing(&URL_SAFE_NO_PAD.encode(&tag)),
            &[(What::Signature, "URL-safe or unpadded")],
        ),
        failing(
            &linear,
            bearing(&STANDARD.encode(&hex)),
            &[(What::Signature, "base64 of hex digits")],
        ),
        failing(
            &linear,
            bearing(&format!("v1={hex}")),
            &[(What::Signature, "`v1=` were the signature's prefix")],
        ),
        failing(
            &linear,
            bearing(&format!("SHA256={hex}")),
            &[(What::Signature, "`SHA256=`")],
        ),
        failing(
            &linear,
            bearing(&format!("\"{hex}\"")),
            &[(What::Signature, "without the quotes")],
        ),
        failing(
            &linear,
            bearing(&format!("t=1700000000,v1={hex}")),
            &[(What::Signature, "field `v1`")],
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
            &[(What::Signature, "stood there once, with its value number 1")],
        ),
        failing(
            &linear,
            request(&[("X-Acme-Signature", &hex)], BODY),
            &[(What::Signature, "from `x-acme-signature`")],
        ),
        failing(
            &other(&linear, |scheme| {
                scheme.kinds[0].encodings = vec![Encoding::Base64]
            }),
            bearing(&hex),
            &[(What::Signature, "read as hex")],
        ),
        failing(
            &stripe,
            signed(&field, SECRET, BODY),
            &[(What::Signature, "field `v0` of `stripe-signature`")],
        ),
        failing(
            &github,
            bare(signed(&by(Algorithm::HmacSha1), SECRET, BODY), "sha1="),
            &[(What::Algorithm, "were hmac-sha1")],
        ),
        failing(
            &github,
            bare(signed(&by(Algorithm::HmacSha512), SECRET, BODY), "sha512="),
            &[(What::Algorithm, "were hmac-sha512")],
        ),
    ]
}

fn of_contents() -> Vec<Failing> {
    let (github, slack, stripe, square) = (
        presets::github(),
        presets::slack(),
        presets::stripe(),
        presets::square(),
    );
    let content = |scheme: &Scheme, text: &str| {
        let id = Header::from_static("X-Request-Id");
        other(scheme, |scheme| {
            scheme.signed = Content::parse(text, Some(&id)).unwrap()
        })
    };
    let clocked = |scheme: &Scheme| other(scheme, |scheme| scheme.time = presets::slack().time);
    let mut all: Vec<_> = [
        (
            "{timestamp}.{body}",
            &[(What::Content, "`{timestamp}.{body}` were what is signed")],
        ),
        (
            "{timestamp}{body}",
            &[(What::Content, "`{timestamp}{body}` were what is signed")],
        ),
        (
            "{timestamp}:{body}",
            &[(What::Content, "`{timestamp}:{body}` were what is signed")],
        ),
        ("{body}", &[(What::Content, "`{body}` were what is signed")]),
    ]
    .into_iter()
    .map(|(text, says)| failing(&slack, signed(&content(&slack, text), SECRET, BODY), says))
    .collect();
    all.extend([
        failing(
            &github,
            signed(&content(&clocked(&github), "{timestamp}.{body}"), SECRET, BODY),
            &[(
                What::Content,
                "`{timestamp}.{body}` were what is signed with the time from `x-slack-request-timestamp`",
            )],
        ),
        failing(
            &github,
            signed(&content(&clocked(&github), "{id}.{timestamp}.{body}"), SECRET, BODY),
            &[(What::Content, "and the event ID from `x-request-id`")],
        ),
        failing(
            &github,
            signed(&other(&github, |scheme| scheme.signed = square.signed.clone().with_url(URL)), SECRET, BODY),
            &[(What::Content, "`{url}{body}` were what is signed")],
        ),
        failing(
            &other(&square, |scheme| scheme.signed = scheme.signed.clone().with_url(URL)),
            signed(
                &other(&square, |scheme| scheme.signed = scheme.signed.clone().with_url("https://hooks.example.com/in/")),
                SECRET,
                BODY,
            ),
            &[(What::Content, "the URL `https://hooks.example.com/in/`")],
        ),
        failing(
            &stripe,
            signed(&content(&stripe, "{timestamp}:{body}"), SECRET, BODY),
            &[(What::Content, "`{timestamp}:{body}`")],
        ),
        failing(
            &slack,
            {
                let mut request = signed(&slack, SECRET, BODY);
                let time = request.headers.remove("x-slack-request-timestamp").unwrap();
                request.headers.insert("x-sent-timestamp", time);
                request
            },
            &[(What::Content, "the time from `x-sent-timestamp`")],
        ),
        failing(&presets::linear(), signed(&github, SECRET, BODY), &[(What::Scheme, "as `github` signs")]),
        failing(&github, signed(&slack, SECRET, BODY), &[(What::Scheme, "as `slack` signs")]),
        failing(
            &github,
            request(&[], presets::orbvpn().sign_in_body(&Secret::new(SECRET).unwrap(), r#"{"id":"evt_1"}"#).unwrap()),
            &[(What::Scheme, "as `orbvpn` signs")],
        ),
    ]);
    all
}

fn of_bodies() -> Vec<Failing> {
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
    let cases: Vec<(&str, Vec<u8>, Says)> = vec![
        (
            BODY,
            format!("{BODY}\n").into(),
            &[(What::Body, "no newline at its end")],
        ),
        (
            BODY,
            format!("{BODY}\r\n").into(),
            &[(What::Body, "no newline at its end")],
        ),
        (
            "x\n",
            "x".into(),
            &[(What::Body, "had a newline at its end")],
        ),
        (
            "x\r\n",
            "x".into(),
            &[(What::Body, "had a Windows line end")],
        ),
        (
            "x y",
            "  x y \n\n".into(),
            &[(What::Body, "white space around")],
        ),
        (
            "a\nb\nc",
            "a\r\nb\r\nc".into(),
            &[(What::Body, "line ends were LF")],
        ),
        (
            "a\r\nb\r\nc",
            "a\nb\nc".into(),
            &[(What::Body, "line ends were CRLF")],
        ),
        (
            BODY,
            format!("\u{feff}{BODY}").into(),
            &[(What::Body, "byte order mark")],
        ),
        (BODY, gzipped, &[(What::Body, "decompressed")]),
        (BODY, deflated, &[(What::Body, "decompressed")]),
        (&compact, BODY.into(), &[(What::Body, "compact")]),
        (
            r#"{"a":"é"}"#,
            r#"{ "a" : "\u00e9" }"#.into(),
            &[(What::Body, "as JavaScript writes it")],
        ),
        (
            BODY,
            compact.clone().into(),
            &[(What::Body, "a space after commas and colons")],
        ),
        (
            &python,
            compact.clone().into(),
            &[(What::Body, "json.dumps")],
        ),
        (&php, BODY.into(), &[(What::Body, "json_encode")]),
        (
            r#"{"a":1,"b":2}"#,
            r#"{"b": 2, "a": 1}"#.into(),
            &[(What::Body, "sorted keys")],
        ),
        (
            r#"{"a": 1, "b": 2}"#,
            r#"{"b":2,"a":1}"#.into(),
            &[(What::Body, "`json.dumps` with sorted keys")],
        ),
        (
            "{\n  \"a\": [\n    1\n  ]\n}",
            r#"{"a":[1]}"#.into(),
            &[(What::Body, "indented by 2")],
        ),
        (
            "{\n    \"a\": [\n        1\n    ]\n}",
            r#"{"a":[1]}"#.into(),
            &[(What::Body, "indented by 4")],
        ),
        (
            r#"{ "a": "b/c"}"#,
            r#"{ "a": "b\/c"}"#.into(),
            &[(What::Body, "were not escaped")],
        ),
        (
            r#"{ "a": "b\/c"}"#,
            r#"{ "a": "b/c"}"#.into(),
            &[(What::Body, "were escaped")],
        ),
        (
            BODY,
            marked.into(),
            &[(What::Body, "without the member `signature`")],
        ),
        (BODY, form.into(), &[(What::Body, "form's `payload`")]),
        (
            r#"{"a":1}"#,
            "{\"a\": 1}\n".into(),
            &[(What::Body, "compact")],
        ),
        (
            "{\"a\": 1}\n",
            r#"{"a":1}"#.into(),
            &[
                (What::Body, "newline at its end"),
                (What::Body, "space after commas"),
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
        &[(What::Body, "chunked framing")],
    ));
    let mut longer = arrived("wiki", b"wiki; and more");
    longer
        .headers
        .insert("content-length", HeaderValue::from_static("4"));
    all.push(failing(
        &github,
        longer,
        &[(What::Body, "`Content-Length`")],
    ));
    all
}

fn of_clocks() -> Vec<Failing> {
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
            &[(What::Clock, "400 s (6m 40s) in the past")],
        ),
        failing(
            &slack,
            off(301),
            &[(What::Clock, "301 s (5m 1s) in the future")],
        ),
        failing(
            &slack,
            signed(&milliseconds, SECRET, BODY),
            &[(What::Clock, "Unix milliseconds")],
        ),
        with(
            failing(
                &slack,
                signed_at(&slack, OLD, BODY, now() - SignedDuration::from_secs(1000)),
                &[(What::Secret, "`old` instead"), (What::Clock, "1000 s")],
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

fn assert_explained(all: Vec<Failing>) {
    for (
        number,
        Failing {
            scheme,
            request,
            candidates,
            says,
        },
    ) in all.into_iter().enumerate()
    {
        let diagnosis = judge(&scheme, &request, &candidates);
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
            let said = |change: &Change| change.what == *what && change.how.contains(words);
            assert!(
                first.changes.iter().any(said),
                "{number}: {says:?}: {diagnosis:#?}"
            );
        }
    }
}

#[test]
fn a_secret_that_is_another_or_read_otherwise_is_named_first() {
    assert_explained(of_secrets());
}

#[test]
fn a_signature_that_is_written_otherwise_is_named_first() {
    assert_explained(of_signatures());
}

#[test]
fn a_content_that_is_put_together_otherwise_is_named_first() {
    assert_explained(of_contents());
}

#[test]
fn a_body_that_was_changed_is_named_first() {
    assert_explained(of_bodies());
}

#[test]
fn a_time_that_is_off_is_named_first() {
    assert_explained(of_clocks());
}

#[test]
fn what_the_gateway_finds_is_said_with_its_header() {
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
            "the header X-Hub-Signature-256 is not there",
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
            "begins with the prefix `sha1=`, and the scheme has `sha256=`",
        ),
        (
            &github,
            hub("sha256=0123"),
            SignatureError::Malformed,
            "holds 4 hex digits, and hmac-sha256 has 64",
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
            "the header X-Slack-Request-Timestamp is not there",
        ),
        (
            &slack,
            signed_at(&slack, SECRET, BODY, Timestamp::UNIX_EPOCH),
            SignatureError::Stale,
            "1700000000 s (472222h 13m 20s) in the past; 300 s are allowed",
        ),
    ];
    for (scheme, request, failure, found) in cases {
        let diagnosis = judge(scheme, &request, &[candidate("current", SECRET)]);
        assert_eq!(diagnosis.failure, failure, "{found}");
        assert!(
            diagnosis.found.contains(found),
            "{found}: {}",
            diagnosis.found
        );
    }
}

#[test]
fn a_genuine_request_is_told_with_its_secret_and_its_event() {
    let (github, secrets) = (
        presets::github(),
        [candidate("current", SECRET), candidate("old", OLD)],
    );
    let judged = |body| {
        judge_with(
            &github,
            &signed(&github, OLD, body),
            &secrets,
            Limits::default(),
        )
    };
    let content = GenuineContent::Event {
        id: Some("evt_1".into()),
        kind: "user.created".into(),
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
fn a_wrong_secret_has_no_explanation() {
    for scheme in [
        presets::github(),
        presets::slack(),
        presets::stripe(),
        presets::standard_webhooks(),
    ] {
        let request = signed(&scheme, "whsec_b3RoZXIgc2VjcmV0", BODY);
        let diagnosis = judge(&scheme, &request, &[candidate("current", SECRET)]);
        assert_eq!(diagnosis.explanations, []);
        assert!(
            diagnosis.tried > 100 && !diagnosis.cut_short,
            "{diagnosis:?}"
        );
    }
}

#[test]
fn the_search_ends_at_its_limits_whatever_the_body_s_size() {
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
        let Verdict::NotGenuine(diagnosis) = judge_with(&scheme, &request, &secrets, limits) else {
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
fn nothing_that_is_said_holds_a_secret_or_a_computed_signature() {
    let all = [
        of_secrets(),
        of_signatures(),
        of_contents(),
        of_bodies(),
        of_clocks(),
    ];
    for Failing {
        scheme,
        request,
        candidates,
        ..
    } in all.into_iter().flatten()
    {
        let said = format!("{:?}", judge(&scheme, &request, &candidates));
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
fn a_signature_in_the_body_is_explained_as_well() {
    let scheme = presets::orbvpn();
    assert!(matches!(
        scheme.places.last(),
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
    let diagnosis = judge(&scheme, &request(&[], body), &secrets);
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
fn every_request_of_the_corpus_is_judged_as_the_gateway_judges_it() {
    let requests: Vec<_> = ["explain", "found/explain"]
        .into_iter()
        .flat_map(|folder| crate::corpus::of(folder).into_values())
        .collect();
    assert!(requests.len() >= 16, "the corpus was found");
    for request in requests {
        agreement::check(&request);
    }
}

proptest! {
    #[test]
    fn whatever_a_request_holds_it_is_judged_and_every_explanation_has_a_change(
        values in proptest::collection::vec(r#"(t=|v1=|v1,|sha256=|[ ;,"]|1700000000|[0-9a-f]{64}|[ -~]){0,6}"#, 6),
        body in r#"([{}\[\]",:]|"signature":|"a"|\\u00e9|\\n|\r\n|payload=|%7b|\PC){0,12}"#,
        target in proptest::option::of(r"\PC{0,12}"),
    ) {
        let names = ["stripe-signature", "x-hub-signature-256", "x-slack-request-timestamp", "x-signature", "host", "x-id"];
        let mut request = request(&[], body);
        request.target = target;
        for (name, value) in names.iter().zip(&values) {
            request.headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        for scheme in [presets::github(), presets::stripe(), presets::slack(), presets::orbvpn(), presets::discord()] {
            let limits = Limits { tries: 300, ..Limits::default() };
            if let Verdict::NotGenuine(diagnosis) = judge_with(&scheme, &request, &[candidate("current", SECRET)], limits) {
                prop_assert!(diagnosis.explanations.iter().all(|explanation| !explanation.changes.is_empty()));
            }
        }
    }
}

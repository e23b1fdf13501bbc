//! Checks that a captured request gets the same verdict as from the gateway, within the limits, and
//! that the result holds neither a secret nor a signature that was not in the request.
//!
//! The corpus test and the fuzz target share this file, so it uses only the public interface.

use bytes::Bytes;
use jiff::Timestamp;

use super::explain::{Candidate, Captured, Case, Limits, Request, Verdict};
use super::providers::{PRESETS, Preset};
use super::secret::Secret;
use super::signature::{NamedSecret, Scheme, Verifier};

/// Valid as base64 and as hex, so that it is a key for every scheme.
const CURRENT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OLD: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const URL: &str = "https://hooks.example.com/";
const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    tries: 300,
};

/// Changes of a body between the sender and the capture.
const BODY_CHANGES: [fn(&str) -> String; 5] = [
    |body| body.to_owned(),
    |body| format!("{body}\n"),
    |body| body.replace('\n', "\r\n"),
    |body| body.replace(' ', ""),
    |body| body.replace('/', "\\/"),
];

/// Checks one input. Its first byte selects the gateway's preset, the second the sender's, the
/// third the secret, and the fourth the change of the body after signing. The captured request
/// follows; the headers of the signature are added after its own.
pub(super) fn check(data: &[u8]) {
    let [gateways, senders, secret, spoilt, captured @ ..] = data else {
        return;
    };
    let mut files = |name: &str| {
        if name.len() < 8 {
            Ok(name.into())
        } else {
            Err("no such file".into())
        }
    };
    let Some(captured) = Captured::parse(captured, &mut files)
        .ok()
        .and_then(|captured| captured.into_iter().next())
    else {
        return;
    };
    let mut request = captured.request;
    let now = Timestamp::from_second(1_760_000_000).expect("a time");
    let preset = preset(*gateways);
    let scheme = scheme(preset);
    let secret = [CURRENT, OLD][usize::from(*secret) % 2];
    sign(
        &mut request,
        &self::scheme(self::preset(*senders)),
        secret,
        now,
    );
    if let Ok(body) = std::str::from_utf8(&request.body) {
        request.body = BODY_CHANGES[usize::from(*spoilt) % BODY_CHANGES.len()](body).into();
    }

    let candidate = |name: &str, text, configured| {
        let named = NamedSecret {
            name: name.into(),
            secret: Secret::new(text).expect("not empty"),
            expires: None,
        };
        Candidate { named, configured }
    };
    let candidates = [
        candidate("current", CURRENT, true),
        candidate("old", OLD, false),
    ];
    let others: Vec<_> = PRESETS
        .iter()
        .map(|preset| (preset.name, self::scheme(preset)))
        .collect();
    let handshake = preset.handshake.challenge();
    let case = Case {
        request: &request,
        scheme: &scheme,
        candidates: &candidates,
        envelope: &(preset.defaults.envelope)(),
        handshake: handshake.as_ref(),
        others: &others,
        url: Some(URL),
        now,
        limits: LIMITS,
    };
    let verdict = case.verify();

    let key = candidates[0]
        .named
        .for_scheme(&scheme)
        .expect("a key for every scheme");
    let verifier = Verifier::new(scheme.clone(), vec![key], false);
    let mut verification = verifier.start(&request.headers, now);
    verification.update(request.body.clone());
    match (&verdict, verification.finish()) {
        (Verdict::Genuine { .. }, Ok(_)) => {}
        (Verdict::NotGenuine(diagnosis), Err(failure)) => {
            assert_eq!(diagnosis.failure, failure);
            assert!(diagnosis.tried <= LIMITS.tries);
            assert!(
                diagnosis
                    .explanations
                    .iter()
                    .all(|explanation| !explanation.changes.is_empty()),
                "{diagnosis:?}"
            );
        }
        (verdict, verification) => panic!("{verdict:?}, but {verification:?}"),
    }
    assert_reveals_nothing(&format!("{verdict:?}"), &request, &scheme, now);
    if let Verdict::NotGenuine(diagnosis) = &verdict {
        let sentence = diagnosis.sentence();
        assert_eq!(
            sentence.advice.is_some(),
            !diagnosis.explanations.is_empty()
        );
        assert!(!sentence.text.is_empty());
        assert_reveals_nothing(&sentence.text, &request, &scheme, now);
    }
}

fn preset(choice: u8) -> &'static Preset {
    &PRESETS[usize::from(choice) % PRESETS.len()]
}

fn scheme(preset: &Preset) -> Scheme {
    let scheme = (preset.scheme)();
    Scheme {
        signed: scheme.signed.clone().with_url(URL),
        ..scheme
    }
}

/// Signs the request in a header, or in the body, if the scheme allows either.
fn sign(request: &mut Request, scheme: &Scheme, secret: &str, now: Timestamp) {
    let secret = Secret::new(secret).expect("not empty");
    if let Ok(signed) = scheme.sign(&secret, &request.body, now, Some("msg_1")) {
        for (name, value) in &signed.to_headers() {
            request.headers.append(name, value.clone());
        }
    } else if let Some(signed) = std::str::from_utf8(&request.body)
        .ok()
        .and_then(|body| scheme.sign_in_body(&secret, body).ok())
    {
        request.body = Bytes::from(signed);
    }
}

/// Asserts that a result reveals neither a secret nor the correct signature of the body, which
/// would let an attacker send that body.
fn assert_reveals_nothing(said: &str, request: &Request, scheme: &Scheme, now: Timestamp) {
    let sent = format!("{request:?}");
    for text in [CURRENT, OLD] {
        assert!(!said.contains(text) || sent.contains(text), "{said}");
        let secret = Secret::new(text).expect("not empty");
        let Ok(signed) = scheme.sign(&secret, &request.body, now, Some("msg_1")) else {
            continue;
        };
        let Some((_, signature)) = signed.iter().last() else {
            continue;
        };
        let tag = signature
            .rsplit(['=', ','])
            .find(|part| part.len() > 20)
            .unwrap_or(signature);
        assert!(!said.contains(tag) || sent.contains(tag), "{said}");
    }
}

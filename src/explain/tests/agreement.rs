//! A request in any of the captured forms, genuine in part or not at all: it is judged as the gateway judges it, within
//! the limits, and what is said holds neither a secret nor a signature that nobody sent.
//!
//! Shared by the replay of the corpus and the fuzz target, and so speaks only to the public interface.

use bytes::Bytes;
use jiff::Timestamp;

use super::explain::{Candidate, Case, Limits, Request, Verdict};
use super::providers::{PRESETS, Preset};
use super::secret::Secret;
use super::signature::{NamedSecret, Scheme, Verifier};

/// Base64 and hex at once, so that both are keys for every scheme.
const CURRENT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OLD: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const URL: &str = "https://hooks.example.com/";
const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    tries: 300,
};

/// What becomes of a body between the sender and the capture.
const SPOILT: [fn(&str) -> String; 5] = [
    |body| body.to_owned(),
    |body| format!("{body}\n"),
    |body| body.replace('\n', "\r\n"),
    |body| body.replace(' ', ""),
    |body| body.replace('/', "\\/"),
];

/// The first byte is the preset that the gateway has, the second the one that the request is signed by, with the secret
/// of the third; the fourth is what becomes of the body then. After them comes the captured request, whose headers stand
/// before those of the signature.
pub fn check(data: &[u8]) {
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
    let Ok(mut request) = Request::parse(captured, &mut files) else {
        return;
    };
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
        request.body = SPOILT[usize::from(*spoilt) % SPOILT.len()](body).into();
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
    let asks = preset.handshake.challenge();
    let case = Case {
        request: &request,
        scheme: &scheme,
        candidates: &candidates,
        envelope: &(preset.defaults.envelope)(),
        asks: asks.as_ref(),
        others: &others,
        url: Some(URL),
        now,
        limits: LIMITS,
    };
    let verdict = case.judge();

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
        (verdict, judged) => panic!("{verdict:?}, but {judged:?}"),
    }
    assert_tells_nothing(&format!("{verdict:?}"), &request, &scheme, now);
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

/// Signs as a sender does, in a header or in the body, where that can be done.
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

/// The right signature of a body is a secret too: whoever has it can send that body.
fn assert_tells_nothing(said: &str, request: &Request, scheme: &Scheme, now: Timestamp) {
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

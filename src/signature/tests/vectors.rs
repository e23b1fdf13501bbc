//! Test vectors that the providers published, or that their SDKs made and confirmed (`tests/sdk`).

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::*;
use crate::providers::{self, PRESETS, PresetHandshake};

#[derive(Deserialize)]
struct Vector {
    preset: String,
    secret: String,
    headers: BTreeMap<String, String>,
    body: String,
    /// The Unix time in seconds at which the signature is fresh.
    at: i64,
    public_url: Option<String>,
}

fn vectors() -> Vec<Vector> {
    let files = [
        include_str!("../../../tests/sdk/published.json"),
        include_str!("../../../tests/sdk/vectors.json"),
    ];
    files
        .into_iter()
        .flat_map(|text| serde_json::from_str::<Vec<Vector>>(text).unwrap())
        .collect()
}

impl Vector {
    fn verifier(&self) -> Verifier {
        let mut scheme = (providers::find(&self.preset).unwrap().scheme)();
        if let Some(url) = &self.public_url {
            scheme.signed = scheme.signed.with_url(url);
        }
        verifier_for(scheme, self.secret.as_bytes())
    }

    fn headers(&self) -> HeaderMap {
        let parsed = self
            .headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>(), HeaderValue::from_str(value)));
        parsed
            .map(|(name, value)| (name.unwrap(), value.unwrap()))
            .collect()
    }

    fn verify(&self, body: &str, at: i64) -> Result<Verified, SignatureError> {
        let verifier = self.verifier();
        let mut verification = verifier.start(&self.headers(), Timestamp::from_second(at).unwrap());
        verification.update(Bytes::copy_from_slice(body.as_bytes()));
        verification.finish()
    }
}

#[test]
fn vectors_verify_unchanged_only() {
    for vector in vectors() {
        let Vector { preset, body, .. } = &vector;
        assert!(vector.verify(body, vector.at).is_ok(), "{preset}: {body}");
        assert_eq!(
            vector.verify(&format!("{body} "), vector.at).unwrap_err(),
            SignatureError::Mismatch,
            "{preset}"
        );
    }
}

#[test]
fn vectors_are_stale_beyond_the_tolerance() {
    let timed = || {
        vectors().into_iter().filter(|vector| {
            (providers::find(&vector.preset).unwrap().scheme)()
                .time
                .is_some()
        })
    };
    assert!(timed().count() > 5);
    for vector in timed() {
        for (off, fresh) in [(-301, false), (-300, true), (300, true), (301, false)] {
            let outcome = vector
                .verify(&vector.body, vector.at + off)
                .map_err(|failure| failure.label());
            assert_eq!(
                outcome.is_ok(),
                fresh,
                "{} {off} s off: {outcome:?}",
                vector.preset
            );
            assert!(
                fresh || outcome.unwrap_err() == "stale",
                "{}",
                vector.preset
            );
        }
    }
}

#[test]
fn sdk_vectors_are_events_or_handshakes() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../../tests/sdk/vectors.json")).unwrap();
    for vector in vectors {
        let preset = providers::find(&vector.preset).unwrap();
        let verified = vector.verify(&vector.body, vector.at).unwrap();
        let event = (preset.defaults.envelope)().parse(verified.body(), &vector.headers());
        let asks = matches!(preset.handshake, PresetHandshake::Signed(question) if question().is_handshake(&verified));
        assert!(event.is_ok() || asks, "{}: {event:?}", vector.preset);
    }
}

#[test]
fn every_public_preset_has_a_foreign_vector() {
    let vectors = vectors();
    for preset in PRESETS
        .iter()
        .filter(|preset| !["vpn-enterprise", "orbvpn"].contains(&preset.name))
    {
        assert!(
            vectors.iter().any(|vector| vector.preset == preset.name),
            "{}",
            preset.name
        );
    }
}

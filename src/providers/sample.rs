//! Sample events: ID, type and time where a provider's envelope has them, and little else.

use http::HeaderName;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Preset;
use crate::event::{EnvelopeSpec, IdSource, Source};
use crate::json::Pointer;
use crate::signature::Scheme;

/// A sample event before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The headers, except those that signing adds.
    pub headers: Vec<(HeaderName, String)>,
    pub body: Vec<u8>,
}

/// Makes an event of this type, ID and time for the envelope of `preset`. The same arguments give
/// the same bytes; another ID gives another body, also for providers without IDs.
pub fn sample(preset: &Preset, kind: &str, id: &str, at: Timestamp) -> Sample {
    let scheme = (preset.scheme)();
    let sample = sample_for_scheme(&(preset.defaults.envelope)(), &scheme, kind, id, at);
    sample.expect("every preset's pointers lead through objects")
}

/// Makes an event as [`sample`] does, for any envelope and scheme. `None` as
/// [`sample_for_envelope`].
pub fn sample_for_scheme(
    envelope: &EnvelopeSpec,
    scheme: &Scheme,
    kind: &str,
    id: &str,
    at: Timestamp,
) -> Option<Sample> {
    let data = json!({ "made_up_by": "hookstile", "reference": id, "made_at": format!("{at:.3}") });
    let is_signed = |header: &HeaderName| scheme.signs_header(header);
    sample_for_envelope(envelope, &is_signed, kind, id, at, data)
}

/// Makes an event for any envelope. `is_signed` returns whether signing adds a header. `None` if the
/// envelope's pointers exclude each other, since one leads through another.
pub fn sample_for_envelope(
    envelope: &EnvelopeSpec,
    is_signed: &dyn Fn(&HeaderName) -> bool,
    kind: &str,
    id: &str,
    at: Timestamp,
    data: Value,
) -> Option<Sample> {
    let at = format!("{at:.3}");
    let (mut headers, mut body) = (Vec::new(), json!({}));
    match &envelope.id {
        IdSource::Pointer(pointer) => insert_at(&mut body, pointer, id)?,
        IdSource::Header(name) if is_signed(name) => {}
        IdSource::Header(name) => headers.push((name.clone(), id.to_owned())),
        IdSource::Joined(pointers) => {
            for pointer in pointers {
                insert_at(&mut body, pointer, id)?;
            }
        }
        IdSource::BodyDigest | IdSource::Nothing => {}
    }
    let time = envelope
        .timestamp
        .as_ref()
        .map(|time| (&time.source, at.as_str()));
    for (source, text) in [Some((&envelope.event_type, kind)), time]
        .into_iter()
        .flatten()
    {
        match source {
            Source::Pointer(pointer) => insert_at(&mut body, pointer, text)?,
            Source::Header(name) => headers.push((name.clone(), text.to_owned())),
        }
    }
    // A member that the envelope reads takes precedence.
    body.as_object_mut()?.entry("data").or_insert(data);
    if !matches!(envelope.id, IdSource::Pointer(_) | IdSource::Joined(_)) {
        // An event without an ID in its body may be identified by the body, which must be unique.
        body.as_object_mut()?
            .entry("made_up")
            .or_insert_with(|| json!({ "id": id, "at": at }));
    }
    Some(Sample {
        headers,
        body: body.to_string().into_bytes(),
    })
}

fn insert_at(body: &mut Value, pointer: &Pointer, text: &str) -> Option<()> {
    let mut place = body;
    for step in pointer.keys() {
        if place.is_null() {
            *place = json!({});
        }
        place = place.as_object_mut()?.entry(step).or_insert(Value::Null);
    }
    // An existing value must not be overwritten.
    place.is_null().then(|| *place = text.into())
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;
    use crate::event::{Event, EventId};
    use crate::providers::{PRESETS, PresetHandshake};
    use crate::secret::Secret;
    use crate::signature::{Algorithm, NamedSecret, Verifier};

    /// Returns the sender's secret, and the receiver's.
    fn secrets(preset: &Preset) -> [Secret; 2] {
        if (preset.scheme)().formats[0].algorithm == Algorithm::Ed25519 {
            let public = Ed25519KeyPair::from_seed_unchecked(&[7; 32])
                .unwrap()
                .public_key()
                .as_ref()
                .to_vec();
            return [hex::encode([7; 32]), hex::encode(public)]
                .map(|key| Secret::new(key).unwrap());
        }
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"; 2].map(|key| Secret::new(key).unwrap())
    }

    /// Signs a sample and parses it as its receiver does.
    fn received(preset: &Preset, kind: &str, id: &str, at: Timestamp) -> Event {
        let mut scheme = (preset.scheme)();
        scheme.signed = scheme.signed.with_url("https://hooks.test/square");
        let [sender, receiver] = secrets(preset);
        let Sample {
            headers: unsigned,
            body,
        } = sample(preset, kind, id, at);
        let mut headers = scheme
            .sign(&sender, &body, at, Some(id))
            .unwrap()
            .to_headers();
        for (name, value) in unsigned {
            assert!(
                !headers.contains_key(&name),
                "{}: {name} is written once",
                preset.name
            );
            headers.insert(name, value.try_into().unwrap());
        }
        let key = NamedSecret {
            name: "test".into(),
            secret: receiver,
            expires: None,
        }
        .for_scheme(&scheme)
        .unwrap();
        let verifier = Verifier::new(scheme, vec![key], false);
        let mut verification = verifier.start(&headers, at);
        verification.update(body.into());
        let genuine = verification
            .finish()
            .unwrap_or_else(|failure| panic!("{}: {failure:?}", preset.name));
        (preset.defaults.envelope)()
            .parse(genuine.body(), &headers)
            .unwrap()
    }

    #[test]
    fn sample_of_every_provider_verifies_and_parses() {
        let at: Timestamp = "2026-01-15T10:30:00Z".parse().unwrap();
        for preset in PRESETS {
            for kind in [preset.example_type, "another.type"] {
                let event = received(preset, kind, "evt_1", at);
                let id = match (preset.defaults.envelope)().id {
                    IdSource::BodyDigest | IdSource::Nothing => None,
                    IdSource::Pointer(_) | IdSource::Header(_) => {
                        Some(EventId::Text("evt_1".into()))
                    }
                    IdSource::Joined(pointers) => Some(EventId::Text(
                        vec!["evt_1"; pointers.len()].join("|").into(),
                    )),
                };
                assert_eq!(
                    (event.id, &*event.event_type),
                    (id, kind),
                    "{}",
                    preset.name
                );
                assert_eq!(event.timestamp.unwrap_or(at), at, "{}", preset.name);
            }
        }
    }

    #[test]
    fn sample_with_another_id_is_another_event() {
        let at = Timestamp::UNIX_EPOCH;
        for preset in PRESETS {
            let [one, same, other] =
                ["a", "a", "b"].map(|id| sample(preset, preset.example_type, id, at));
            assert_eq!(one, same);
            assert_ne!(one.body, other.body, "{}", preset.name);
            if let PresetHandshake::Signed(question) = preset.handshake {
                let body: Value = serde_json::from_slice(&one.body).unwrap();
                let said = body.pointer(&question().pointer.to_string());
                assert_ne!(said, Some(&question().value.into()), "{}", preset.name);
            }
        }
    }
}

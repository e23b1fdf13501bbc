//! Whether a request is genuine, and which event it is: as the gateway would say, for one provider and one secret.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;

use crate::cli::admin::Failure;
use crate::cli::input::SecretArgs;
use crate::event::{EnvelopeError, EnvelopeSpec, Event};
use crate::handshake::{Challenge, HandshakeResponse};
use crate::providers;
use crate::signature::{self, NamedSecret, Verifier};

pub(super) struct Judge {
    verifier: Verifier,
    envelope: EnvelopeSpec,
    question: Option<Challenge>,
}

/// What became of a request.
pub(super) struct Verdict {
    /// The name of the secret, if it is genuine.
    pub(super) verified: Result<Arc<str>, signature::SignatureError>,
    /// Only of what is genuine and no handshake.
    pub(super) event: Option<Result<Event, EnvelopeError>>,
    /// The answer, if it is a handshake.
    pub(super) handshake: Option<HandshakeResponse>,
}

impl Judge {
    pub(super) fn of(
        provider: &str,
        secret: &SecretArgs,
        url: Option<&str>,
    ) -> Result<Self, Failure> {
        let preset =
            providers::find(provider).ok_or_else(|| Failure::Usage("no such provider".into()))?;
        let mut scheme = (preset.scheme)();
        if let Some(url) = url {
            scheme.signed = scheme.signed.with_url(url);
        }
        if scheme.signed.needs_url() {
            let problem = format!(
                "{} signs the URL that was entered there: give it with --url",
                preset.title
            );
            return Err(Failure::Usage(problem));
        }
        let name = secret.place().into();
        let secret = NamedSecret {
            name,
            secret: secret.read().map_err(Failure::Failed)?,
            expires: None,
        };
        let key = secret
            .for_scheme(&scheme)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let verifier = Verifier::new(scheme, vec![key], false);
        Ok(Self {
            verifier,
            envelope: (preset.defaults.envelope)(),
            question: preset.handshake.challenge(),
        })
    }

    pub(super) fn verdict(&self, headers: &HeaderMap, body: &Bytes, now: Timestamp) -> Verdict {
        let mut verification = self.verifier.start(headers, now);
        verification.update(body.clone());
        let genuine = match verification.finish() {
            Ok(genuine) => genuine,
            Err(failure) => {
                return Verdict {
                    verified: Err(failure),
                    event: None,
                    handshake: None,
                };
            }
        };
        let handshake = self
            .question
            .as_ref()
            .and_then(|question| question.reply(&genuine, &self.verifier));
        let event = handshake
            .is_none()
            .then(|| self.envelope.parse(genuine.body(), headers));
        Verdict {
            verified: Ok(Arc::clone(genuine.secret())),
            event,
            handshake,
        }
    }
}

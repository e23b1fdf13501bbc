//! Verifies a request and parses its event as the gateway would, for one provider and one secret.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;

use crate::cli::admin::CommandError;
use crate::cli::input::SecretArgs;
use crate::event::{EnvelopeError, EnvelopeSpec, Event};
use crate::handshake::{Challenge, HandshakeResponse};
use crate::providers;
use crate::signature::{self, NamedSecret, Verifier};

/// A verifier for one provider and one secret.
pub(super) struct RequestVerifier {
    verifier: Verifier,
    envelope: EnvelopeSpec,
    handshake: Option<Challenge>,
}

/// The result of verifying a request.
pub(super) struct VerificationResult {
    /// The name of the secret that verified the request.
    pub(super) verified: Result<Arc<str>, signature::SignatureError>,
    /// The event; `None` if the request is not genuine, or a handshake.
    pub(super) event: Option<Result<Event, EnvelopeError>>,
    /// The response, if the request is a handshake.
    pub(super) handshake: Option<HandshakeResponse>,
}

impl RequestVerifier {
    pub(super) fn new(
        provider: &str,
        secret: &SecretArgs,
        url: Option<&str>,
    ) -> Result<Self, CommandError> {
        let preset = providers::find(provider)
            .ok_or_else(|| CommandError::Usage("unknown provider".into()))?;
        let mut scheme = (preset.scheme)();
        if let Some(url) = url {
            scheme.signed = scheme.signed.with_url(url);
        }
        if scheme.signed.needs_url() {
            let problem = format!(
                "{} signs the URL of the endpoint: give it with --url",
                preset.title
            );
            return Err(CommandError::Usage(problem));
        }
        let name = secret.source_name().into();
        let secret = NamedSecret {
            name,
            secret: secret.read().map_err(CommandError::Failed)?,
            expires: None,
        };
        let key = secret
            .for_scheme(&scheme)
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        let verifier = Verifier::new(scheme, vec![key], false);
        Ok(Self {
            verifier,
            envelope: (preset.defaults.envelope)(),
            handshake: preset.handshake.challenge(),
        })
    }

    pub(super) fn verify(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        now: Timestamp,
    ) -> VerificationResult {
        let mut verification = self.verifier.start(headers, now);
        verification.update(body.clone());
        let genuine = match verification.finish() {
            Ok(genuine) => genuine,
            Err(failure) => {
                return VerificationResult {
                    verified: Err(failure),
                    event: None,
                    handshake: None,
                };
            }
        };
        let handshake = self
            .handshake
            .as_ref()
            .and_then(|challenge| challenge.reply(&genuine, &self.verifier));
        let event = handshake
            .is_none()
            .then(|| self.envelope.parse(genuine.body(), headers));
        VerificationResult {
            verified: Ok(Arc::clone(genuine.secret())),
            event,
            handshake,
        }
    }
}

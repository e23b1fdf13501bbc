//! The providers that send webhooks: preset names and defaults.
//!
//! Their signature schemes are in `signature::presets`. Lists of event types are in files of their
//! own, with their sources.

mod catalogue;
pub mod orbvpn;
mod sample;
pub mod vpn_enterprise;

use std::sync::LazyLock;
use std::time::Duration;

use http::StatusCode;

use crate::event::EnvelopeSpec;
use crate::handshake::Challenge;
use crate::route::OnDuplicate;
use crate::signature::Scheme;

pub use catalogue::{PRESETS, UNKNOWN_SENDER};
pub use sample::{Sample, sample, sample_for_envelope, sample_for_scheme};

/// A provider that a route can name.
pub struct Preset {
    /// The name for `provider:`.
    pub name: &'static str,
    /// The name in messages.
    pub title: &'static str,
    pub scheme: fn() -> Scheme,
    pub defaults: SenderDefaults,
    pub handshake: PresetHandshake,
    /// An event type for examples and test events.
    pub example_type: &'static str,
    /// Further advice for an operator, in Markdown.
    pub notes: &'static str,
}

/// A sender's behaviour, from which a route's defaults come.
pub struct SenderDefaults {
    pub envelope: fn() -> EnvelopeSpec,
    /// The time that it waits for a response.
    pub budget: Duration,
    pub on_duplicate: OnDuplicate,
    /// Bytes of the largest body that it sends.
    pub max_body: usize,
    /// The status that tells it that an event is stored: 202, or 200.
    pub accept_status: StatusCode,
    /// The time over which it retries an event; `None` if unknown.
    pub retry_horizon: Option<Duration>,
    /// All its event types; empty if unknown.
    pub event_types: &'static [&'static str],
}

/// A provider's handshake, before it sends events.
#[derive(Clone, Copy)]
pub enum PresetHandshake {
    Never,
    /// A signed body.
    Signed(fn() -> Challenge),
    /// A GET with a token (Meta).
    Query,
}

impl PresetHandshake {
    /// Returns the challenge of a signed handshake.
    pub fn challenge(self) -> Option<Challenge> {
        match self {
            Self::Signed(challenge) => Some(challenge()),
            Self::Never | Self::Query => None,
        }
    }
}

/// Returns the schemes of all presets, each with the name of the first preset that has it.
pub fn schemes() -> &'static [(&'static str, Scheme)] {
    static SCHEMES: LazyLock<Vec<(&str, Scheme)>> = LazyLock::new(|| {
        let mut schemes: Vec<(&str, Scheme)> = Vec::new();
        for preset in PRESETS {
            let scheme = (preset.scheme)();
            if !schemes.iter().any(|(_, known)| *known == scheme) {
                schemes.push((preset.name, scheme));
            }
        }
        schemes
    });
    &SCHEMES
}

/// Finds the preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

#[cfg(test)]
mod tests;

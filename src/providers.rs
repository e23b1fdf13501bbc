//! What is known of the systems that send webhooks, besides how they sign (that is `signature::presets`).
//!
//! Owns the presets' names and their defaults. Event catalogues are in files of their own, with their sources.

mod catalogue;
pub mod orbvpn;
mod sample;
pub mod vpn_enterprise;

use std::time::Duration;

use crate::event::EnvelopeSpec;
use crate::handshake::Challenge;
use crate::route::OnDuplicate;
use crate::signature::Scheme;

pub use catalogue::{PRESETS, UNKNOWN_SENDER};
pub use sample::{Sample, sample, sample_for_envelope};

/// A provider that a route can name.
pub struct Preset {
    /// What `provider:` says.
    pub name: &'static str,
    /// What a message calls it.
    pub title: &'static str,
    pub scheme: fn() -> Scheme,
    pub defaults: SenderDefaults,
    pub handshake: PresetHandshake,
    /// An event type of it, for examples and test events.
    pub example_type: &'static str,
    /// What an operator should know besides, in Markdown.
    pub notes: &'static str,
}

/// How a sender behaves: a route's defaults come from here.
pub struct SenderDefaults {
    pub envelope: fn() -> EnvelopeSpec,
    /// How long it waits for an answer.
    pub budget: Duration,
    pub on_duplicate: OnDuplicate,
    /// Bytes of the biggest body it may send.
    pub max_body: usize,
    /// For how long it sends an event again by itself; `None` when that is not known.
    pub retry_horizon: Option<Duration>,
    /// All its event types; empty when they are not known.
    pub event_types: &'static [&'static str],
}

/// How a provider asks whether an endpoint is there, before it sends events.
#[derive(Clone, Copy)]
pub enum PresetHandshake {
    Never,
    /// With a signed body.
    Signed(fn() -> Challenge),
    /// With a GET and a token (Meta).
    Query,
}

impl PresetHandshake {
    /// The signed question, where there is one.
    pub fn challenge(self) -> Option<Challenge> {
        match self {
            Self::Signed(question) => Some(question()),
            Self::Never | Self::Query => None,
        }
    }
}

/// The preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

#[cfg(test)]
mod tests;

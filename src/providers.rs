//! What is known of the systems that send webhooks, besides how they sign (that is `signature::presets`).
//!
//! Owns the presets' names and their defaults. Event catalogues are in files of their own, with their sources.

pub mod orbvpn;
pub mod vpn_enterprise;

use std::time::Duration;

use crate::event::{EnvelopeSpec, IdSource, Pointer, Source};
use crate::route::OnDuplicate;
use crate::signature::{Scheme, presets};

/// A provider that a route can name.
pub struct Preset {
    /// What `provider:` says.
    pub name: &'static str,
    /// What a message calls it.
    pub title: &'static str,
    /// The signature's header as the provider's documentation spells it.
    pub signature_header: &'static str,
    pub scheme: fn() -> Scheme,
    pub habits: Habits,
}

/// How a sender behaves: a route's defaults come from here.
pub struct Habits {
    pub envelope: fn() -> EnvelopeSpec,
    /// How long it waits for an answer.
    pub budget: Duration,
    pub on_duplicate: OnDuplicate,
    /// Bytes of the biggest body it may send.
    pub max_body: usize,
    /// For how long it sends an event again; `None` when that is not known.
    pub retry_horizon: Option<Duration>,
    /// All its event types; empty when they are not known.
    pub event_types: &'static [&'static str],
}

const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// The providers that this version knows.
pub const PRESETS: &[Preset] = &[Preset {
    name: "vpn-enterprise",
    title: "VPN Enterprise",
    signature_header: "X-VPN-Signature",
    scheme: presets::vpn_enterprise,
    habits: Habits {
        envelope: id_and_type_in_body,
        budget: Duration::from_secs(10),
        on_duplicate: OnDuplicate::Reject,
        max_body: MIB,
        retry_horizon: Some(HOUR.saturating_mul(72)),
        event_types: vpn_enterprise::EVENT_TYPES,
    },
}];

/// What is taken for granted of a sender with a scheme of the user's own.
pub const UNKNOWN_SENDER: Habits = Habits {
    envelope: id_and_type_in_body,
    budget: Duration::from_secs(10),
    on_duplicate: OnDuplicate::Reject,
    max_body: MIB,
    retry_horizon: None,
    event_types: &[],
};

/// The preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

fn id_and_type_in_body() -> EnvelopeSpec {
    let pointer = |text: &str| text.parse::<Pointer>().expect("`/id` and `/type` are JSON pointers");
    EnvelopeSpec { id: IdSource::Pointer(pointer("/id")), kind: Source::Pointer(pointer("/type")), timestamp: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_preset_is_found_by_its_name_and_has_an_envelope() {
        for preset in PRESETS {
            assert_eq!(find(preset.name).map(|found| found.title), Some(preset.title));
            assert!((preset.habits.envelope)().timestamp.is_none());
        }
        assert!(find("VPN-Enterprise").is_none());
    }

    #[test]
    fn catalogues_list_each_type_once() {
        for (catalogue, length) in [(vpn_enterprise::EVENT_TYPES, 16), (orbvpn::EVENT_TYPES, 80)] {
            assert_eq!(catalogue.len(), length);
            assert_eq!(catalogue.iter().collect::<BTreeSet<_>>().len(), length);
        }
    }
}

mod docs;

use std::collections::BTreeSet;

use super::*;

#[test]
fn every_preset_is_found_by_name() {
    for preset in PRESETS {
        assert_eq!(
            find(preset.name).map(|found| found.title),
            Some(preset.title)
        );
        assert!(
            preset.defaults.budget > Duration::from_secs(1),
            "{}",
            preset.name
        );
    }
    assert!(find("VPN-Enterprise").is_none());
}

#[test]
fn catalogues_list_each_type_once() {
    for (catalogue, length) in [(vpn_enterprise::EVENT_TYPES, 16), (orbvpn::EVENT_TYPES, 81)] {
        assert_eq!(catalogue.len(), length);
        assert_eq!(catalogue.iter().collect::<BTreeSet<_>>().len(), length);
    }
}

#[test]
fn example_type_is_in_the_catalogue() {
    for preset in PRESETS
        .iter()
        .filter(|preset| !preset.defaults.event_types.is_empty())
    {
        assert!(
            preset.defaults.event_types.contains(&preset.example_type),
            "{}",
            preset.name
        );
    }
}

//! The versions of webhooks made over the API, by which a client changes only what it has read.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The length of a version in bytes.
const VERSION_BYTES: usize = 16;

/// A webhook's version: another one after each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version([u8; VERSION_BYTES]);

/// The key with which the versions of one store are computed. Every gateway on that store has the
/// same. Without a key, a reader could find a short secret from the version of its definition.
pub(super) struct VersionKey(Hmac<Sha256>);

/// The versions that a condition names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VersionSet {
    /// Any version, also of a route of the file, which has none.
    Any,
    Listed(Vec<String>),
}

/// The versions that a webhook must have, or must not have, for a request to be carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Precondition {
    pub is_one_of: Option<VersionSet>,
    pub is_none_of: Option<VersionSet>,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl VersionKey {
    /// Derives the key from the store's own `key`.
    pub(super) fn new(key: [u8; 16]) -> Self {
        let mut mac = Hmac::new_from_slice(&key)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(b"webhook version:");
        Self(mac)
    }

    /// Returns the version of a webhook whose stored definition is `stored`. That has the time of its
    /// last change, so a webhook that is changed back has a new version.
    pub(super) fn version(&self, name: &str, stored: &str) -> Version {
        // A name has no NUL.
        let mac = self.0.clone().chain_update(name).chain_update([0]);
        let digest: [u8; 32] = mac.chain_update(stored).finalize().into_bytes().into();
        let mut version = [0; VERSION_BYTES];
        version.copy_from_slice(&digest[..VERSION_BYTES]);
        Version(version)
    }
}

impl VersionSet {
    fn contains(&self, version: Option<Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(listed) => {
                version.is_some_and(|version| listed.contains(&version.to_string()))
            }
        }
    }
}

impl Precondition {
    /// Builds the condition that a webhook has this version; or none.
    pub(crate) fn version(version: Option<String>) -> Self {
        Self {
            is_one_of: version.map(|version| VersionSet::Listed(vec![version])),
            is_none_of: None,
        }
    }

    /// Returns whether `is_one_of` allows a route with this version; a route of the file has none.
    pub(crate) fn allows(&self, version: Option<Version>) -> bool {
        self.is_one_of
            .as_ref()
            .is_none_or(|set| set.contains(version))
    }

    /// Returns whether `is_none_of` excludes a route with this version.
    pub(crate) fn excludes(&self, version: Option<Version>) -> bool {
        self.is_none_of
            .as_ref()
            .is_some_and(|set| set.contains(version))
    }

    /// Returns whether a route with this version may be changed.
    pub(super) fn holds(&self, version: Option<Version>) -> bool {
        self.allows(version) && !self.excludes(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(versions: &[Version]) -> VersionSet {
        VersionSet::Listed(versions.iter().map(Version::to_string).collect())
    }

    #[test]
    fn version_depends_on_key_name_and_definition() {
        let key = VersionKey::new([1; 16]);
        let version = key.version("a", "{}");
        assert_eq!(version, VersionKey::new([1; 16]).version("a", "{}"));
        for other in [
            key.version("b", "{}"),
            key.version("a", "{} "),
            key.version("a{", "}"),
            VersionKey::new([2; 16]).version("a", "{}"),
        ] {
            assert_ne!(version, other);
        }
        assert_eq!(version.to_string().len(), 32);
    }

    #[test]
    fn precondition_compares_versions() {
        let key = VersionKey::new([1; 16]);
        let [one, two] = ["1", "2"].map(|text| key.version("a", text));
        let holds = |is_one_of, is_none_of, version| {
            let precondition = Precondition {
                is_one_of,
                is_none_of,
            };
            precondition.holds(version)
        };
        assert!(holds(None, None, Some(one)) && holds(None, None, None));
        let must_be = |set, version| holds(Some(set), None, version);
        assert!(must_be(listed(&[two, one]), Some(one)));
        for (set, version) in [
            (listed(&[two]), Some(one)),
            (listed(&[]), Some(one)),
            (listed(&[one]), None),
        ] {
            assert!(!must_be(set, version));
        }
        assert!(must_be(VersionSet::Any, Some(one)) && must_be(VersionSet::Any, None));
        let must_not_be = |set, version| holds(None, Some(set), version);
        assert!(must_not_be(listed(&[two]), Some(one)));
        assert!(!must_not_be(VersionSet::Any, Some(one)) && !must_not_be(VersionSet::Any, None));
        assert!(!holds(
            Some(VersionSet::Any),
            Some(listed(&[one])),
            Some(one)
        ));
    }
}

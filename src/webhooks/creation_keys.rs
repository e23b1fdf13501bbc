//! The keys under which webhooks are being created at this gateway.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::WebhookError;

/// The keys of the creations in flight. There are no more than requests of operators.
#[derive(Debug, Default)]
pub(super) struct KeysInFlight(Mutex<HashSet<Box<str>>>);

/// A creation in flight. Its end releases the key.
#[derive(Debug)]
pub(super) struct KeyInFlight<'k> {
    keys: &'k KeysInFlight,
    key: &'k str,
}

impl KeysInFlight {
    /// Begins a creation.
    ///
    /// # Errors
    /// When another one with this key is in flight.
    pub(super) fn enter<'k>(&'k self, key: &'k str) -> Result<KeyInFlight<'k>, WebhookError> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.insert(key.into()) {
            Ok(KeyInFlight { keys: self, key })
        } else {
            Err(WebhookError::KeyInFlight)
        }
    }
}

impl Drop for KeyInFlight<'_> {
    fn drop(&mut self) {
        let keys = &self.keys.0;
        keys.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_in_flight_is_refused_until_it_ends() {
        let keys = KeysInFlight::default();
        let first = keys.enter("a").unwrap();
        assert_eq!(keys.enter("a").err(), Some(WebhookError::KeyInFlight));
        let _other = keys.enter("b").unwrap();
        drop(first);
        assert!(keys.enter("a").is_ok());
    }
}

//! The keys whose change takes effect after a restart, with the values that a reload compares.

use sha2::{Digest as _, Sha256};

use crate::config::de::Field;
use crate::config::diagnostics::Place;
use crate::config::{Admin, RestartKey, raw};
use crate::{notifications, store};

/// Returns all of them, whether the file has them or not.
pub(super) fn restart_keys(
    file: &raw::File,
    admin: &Admin,
    store: &store::Settings,
    notify: Option<&notifications::Settings>,
) -> Vec<RestartKey> {
    let (no_admin, no_store) = (raw::Admin::default(), raw::Store::default());
    let raw_admin = file.admin.value().unwrap_or(&no_admin);
    let raw_store = file.store.value().unwrap_or(&no_store);
    let (durability, max_ids, max_bytes) = match store {
        store::Settings::Embedded(store) => (store.durability, store.max_ids, store.max_bytes),
        store::Settings::Shared(store) => (store.durability, store.max_ids, store.max_bytes),
    };
    let mut keys = vec![
        key("admin.hosts", &raw_admin.hosts, admin.hosts.join(" ")),
        match store {
            store::Settings::Embedded(store) => {
                key("store", &raw_store.path, store.folder.display())
            }
            store::Settings::Shared(store) => {
                key("store", &raw_store.postgres, store.database.log_name())
            }
        },
        key(
            "store.durability",
            &raw_store.durability,
            format!("{durability:?}"),
        ),
        key("store.max_ids", &raw_store.max_ids, max_ids),
        key(
            "store.max_size",
            &raw_store.max_size,
            format!("{max_bytes:?}"),
        ),
    ];
    let notify = notify.map(|notify| {
        let secret = Sha256::digest(notify.secret.expose());
        let times = (notify.begin_after, notify.end_after);
        format!("{} {times:?} {secret:?}", notify.url)
    });
    keys.push(key("notify", &file.notify, notify.unwrap_or_default()));
    keys
}

fn key<T>(name: &'static str, field: &Field<T>, value: impl std::fmt::Display) -> RestartKey {
    RestartKey {
        name,
        value: Sha256::digest(value.to_string()).into(),
        place: Place(field.given().map(|given| given.span)),
    }
}

//! What is remembered of events: which were handed over, which wait, and what became of each.
//!
//! The ledger and the queue above ask and tell in the domain's own verbs and words (`domain`, `records`).

mod domain;
mod embedded;
mod records;
mod running;

use records::COUNTED_MAX;

pub use domain::{
    DeliveryChange, DeliveryId, DueAt, Durability, EventKey, Found, Lane, Name, Next, PAYLOAD_MAX, Payload, Payloads,
    Place, Record, Requeue, Requeued, Retain, Settings, Settlement, State, Subject, Tried,
};
pub use embedded::{OfflineStore, OpenError, Store, Underway};
pub use records::{Attempted, DeliveryView, Due, DueEvent, Filter, LISTED_BODY_MAX, Queued, RouteRecord};

/// The store can't do what it must. Nothing is forwarded without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store is full: it holds as much as `store.max_ids` or `store.max_size` allow, and forgets nothing early"
    )]
    Full,
    #[error("the store is not available: an error before this one tells why; it is being opened anew")]
    Unavailable,
}

impl StoreError {
    /// For logs: a label of a closed set. The store itself says once what is wrong.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "store_full",
            Self::Unavailable => "store_closed",
        }
    }
}

#[cfg(test)]
mod tests;

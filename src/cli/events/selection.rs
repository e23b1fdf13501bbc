//! The arguments that select deliveries.

use jiff::Timestamp;

use crate::cli::input;
use crate::store::{DeliveryFilter, DeliveryState};

/// Conditions on deliveries; a delivery must satisfy all of them.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Selection {
    /// Only deliveries of this route
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
    /// Only deliveries with this status
    #[arg(long, alias = "state", value_name = "STATUS", value_parser = input::delivery_status())]
    pub status: Option<String>,
    /// Same as --status dead
    #[arg(long, conflicts_with = "status")]
    pub dead: bool,
    /// Only deliveries of this event
    #[arg(long, value_name = "ID")]
    pub event_id: Option<String>,
    /// Only deliveries of this event type
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Only events received at this time or later: RFC 3339, or an age such as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = input::timestamp_or_ago)]
    pub since: Option<Timestamp>,
    /// Only events received before this time: RFC 3339, or an age such as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = input::timestamp_or_ago)]
    pub until: Option<Timestamp>,
}

impl Selection {
    /// Returns whether there is no condition.
    pub(super) fn is_empty(&self) -> bool {
        self.filter() == DeliveryFilter::default()
    }

    /// Returns the conditions as a filter of the store.
    pub(super) fn filter(&self) -> DeliveryFilter {
        let state = if self.dead {
            Some(DeliveryState::Dead)
        } else {
            self.status.as_deref().and_then(DeliveryState::parse)
        };
        DeliveryFilter {
            route: self.route.clone(),
            state,
            event_type: self.event_type.clone(),
            event_id: self.event_id.clone(),
            since: self.since,
            until: self.until,
            ..DeliveryFilter::default()
        }
    }
}

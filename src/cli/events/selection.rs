//! Which deliveries a command is about.

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;

use crate::cli::input;
use crate::store::{DeliveryFilter, DeliveryState};

/// Marks of deliveries; those have all of them.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Selection {
    /// Only those of this route
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
    /// Only those that stand so
    #[arg(long, value_name = "STATUS", value_parser = PossibleValuesParser::new(DeliveryState::ALL.map(DeliveryState::as_str)))]
    pub status: Option<String>,
    /// Only those of this event
    #[arg(long, value_name = "ID")]
    pub event_id: Option<String>,
    /// Only those of this event type
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Only those received then or later: RFC 3339, or how long ago, as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = input::moment_or_ago)]
    pub since: Option<Timestamp>,
    /// Only those received earlier
    #[arg(long, value_name = "TIME", value_parser = input::moment_or_ago)]
    pub until: Option<Timestamp>,
}

/// The arguments of a [`Selection`], as clap has them.
pub(super) const SELECTING: [&str; 6] = [
    "route",
    "status",
    "event_id",
    "event_type",
    "since",
    "until",
];

impl Selection {
    pub fn filter(&self) -> DeliveryFilter {
        DeliveryFilter {
            route: self.route.clone(),
            state: self.status.as_deref().and_then(DeliveryState::parse),
            event_type: self.event_type.clone(),
            event_id: self.event_id.clone(),
            since: self.since,
            until: self.until,
            ..DeliveryFilter::default()
        }
    }
}

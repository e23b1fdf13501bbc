//! Routes that are no longer configured, as JSON.

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admin::webhook_id::webhook_id;
use crate::{problems, queue};

/// A route that is no longer configured, with its stored events. They wait until it is back, or are
/// moved to another route.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct RemovedRoute {
    pub id: String,
    pub name: String,
    /// The number of events that wait.
    pub pending: u64,
    /// The number of dead letters.
    pub dead: u64,
    /// The arrival of the oldest event that waits.
    pub oldest_pending_at: Option<Timestamp>,
    /// The time at which the retry horizon of that event ends. It goes on waiting after that;
    /// `null` if no event waits, or if an earlier version removed the route.
    pub horizon_ends_at: Option<Timestamp>,
}

/// The routes that are no longer configured and have stored events, those with the most waiting
/// ones first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct RemovedRoutes {
    pub success: bool,
    pub removed_routes: Vec<RemovedRoute>,
}

/// The events that were moved to another route.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct MovedEvents {
    pub success: bool,
    /// The number of events that waited. They are due at once.
    pub pending: usize,
    /// The number of dead letters, which stay dead letters.
    pub dead: usize,
    /// The number of events that still wait, because another gateway is attempting them or they
    /// arrived meanwhile. Move again in a moment.
    pub left: usize,
}

impl From<problems::RemovedRoute> for RemovedRoute {
    fn from(removed: problems::RemovedRoute) -> Self {
        Self {
            id: webhook_id(&removed.name),
            name: removed.name.to_string(),
            pending: removed.pending,
            dead: removed.dead,
            oldest_pending_at: removed.oldest_waiting,
            horizon_ends_at: removed.horizon_ends,
        }
    }
}

impl From<queue::MovedEvents> for MovedEvents {
    fn from(moved: queue::MovedEvents) -> Self {
        Self {
            success: true,
            pending: moved.pending,
            dead: moved.dead,
            left: moved.left,
        }
    }
}

//! Requests that were turned away, as JSON. No body, no signature, and of the headers one.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::webhook_id;
use crate::activity;
use crate::admin::operations::{Turned, TurnedAway};
use crate::outcome::Code;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Rejections {
    pub success: bool,
    /// The newest first.
    pub rejections: Vec<Rejection>,
    /// How many are known.
    pub total: usize,
    pub has_more: bool,
}

/// A request that was turned away.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Rejection {
    pub at: Timestamp,
    /// `null` where no route was matched, as is `route`.
    pub webhook_id: Option<String>,
    pub route: Option<String>,
    #[schema(value_type = Code)]
    pub outcome: String,
    /// More than the outcome says.
    pub reason: Option<String>,
    pub status: u16,
    /// Empty, as is `path`, where the head could not be read.
    pub method: String,
    /// Without the query.
    pub path: String,
    #[schema(value_type = Option<String>)]
    pub peer: Option<IpAddr>,
    /// As many as were read.
    pub body_bytes: Option<usize>,
    pub trace_id: Option<String>,
    pub user_agent: Option<String>,
    /// How many like it came after it and are not listed.
    pub left_out: u64,
}

/// How many of one kind were turned away.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Rejected {
    /// `null` where no route was matched, as is `route`.
    pub webhook_id: Option<String>,
    pub route: Option<String>,
    #[schema(value_type = Code)]
    pub outcome: String,
    pub reason: Option<String>,
    pub count: u64,
    pub last_at: Timestamp,
}

impl Rejected {
    /// As in `invalid_signature/mismatch`.
    pub fn name(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}/{reason}", self.outcome),
            None => self.outcome.clone(),
        }
    }
}

impl From<TurnedAway> for Rejection {
    fn from(turned: TurnedAway) -> Self {
        let TurnedAway {
            route,
            rejection,
            left_out,
        } = turned;
        Self {
            at: rejection.at,
            webhook_id: route.as_deref().map(webhook_id),
            route: route.as_deref().map(Into::into),
            outcome: rejection.kind.code.as_str().into(),
            reason: rejection.kind.reason.map(Into::into),
            status: rejection.status,
            method: (*rejection.method).into(),
            path: (*rejection.path).into(),
            peer: rejection.peer,
            body_bytes: rejection.body_bytes,
            trace_id: rejection.trace_id.as_deref().map(Into::into),
            user_agent: rejection.user_agent.as_deref().map(Into::into),
            left_out,
        }
    }
}

impl From<Turned> for Rejections {
    fn from(turned: Turned) -> Self {
        let has_more = turned.total > turned.away.len();
        let rejections = turned.away.into_iter().map(Into::into).collect();
        Self {
            success: true,
            rejections,
            total: turned.total,
            has_more,
        }
    }
}

/// Those of one route stand together.
pub(super) fn by_route(
    rejected: Vec<(Option<Arc<str>>, Vec<activity::RejectionCount>)>,
) -> Vec<Rejected> {
    let of_route = |(route, kinds): (Option<Arc<str>>, Vec<activity::RejectionCount>)| {
        kinds.into_iter().map(move |rejected| Rejected {
            webhook_id: route.as_deref().map(webhook_id),
            route: route.as_deref().map(Into::into),
            outcome: rejected.kind.code.as_str().into(),
            reason: rejected.kind.reason.map(Into::into),
            count: rejected.count,
            last_at: rejected.last_at,
        })
    };
    rejected.into_iter().flat_map(of_route).collect()
}

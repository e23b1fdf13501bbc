//! Captured requests in GraphQL.

use async_graphql::SimpleObject;

use crate::admin::shape::captures::{Captures, CapturingWebhook, ListedCapture};

/// Captured requests, the newest first, without their headers and bodies.
#[derive(SimpleObject)]
pub(super) struct CaptureList {
    captures: Vec<ListedCapture>,
    /// The number of captured requests that are kept.
    total: usize,
    has_more: bool,
    /// The webhooks that capture requests.
    webhooks: Vec<CapturingWebhook>,
}

impl From<Captures> for CaptureList {
    fn from(list: Captures) -> Self {
        Self {
            captures: list.captures,
            total: list.total,
            has_more: list.has_more,
            webhooks: list.webhooks,
        }
    }
}

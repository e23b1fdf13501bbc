//! The page of deliveries: the newest, or those that match a search.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::page::{Page, Shared, format_exact, respond};
use crate::admin::error::ApiError;
use crate::admin::operations::Operations;
use crate::admin::parameters::delivery_filter;
use crate::admin::webhook_id::{route_of, webhook_id};
use crate::store::{DeliveryRecord, DeliveryState as Standing};

const LISTED: usize = 50;

#[derive(Template)]
#[template(path = "events.html")]
struct Events {
    page: Page,
    query: EventQuery,
    statuses: Vec<&'static str>,
    deliveries: Vec<Entry>,
    total: String,
    /// The query of the next page.
    next: Option<String>,
}

/// The search as the form shows it.
#[derive(Default)]
struct EventQuery {
    webhook_id: String,
    status: String,
    event_type: String,
    event_id: String,
}

/// A delivery in a list.
pub(super) struct Entry {
    pub id: String,
    pub route: String,
    pub event_id: String,
    pub event_type: String,
    pub status: &'static str,
    pub is_test: bool,
    pub ago: String,
    pub at: String,
    pub attempts: u32,
    /// The result of the last attempt.
    pub last: String,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    RawQuery(query): RawQuery,
) -> Response {
    respond(Events::load(&operations, page, &query.unwrap_or_default()).await)
}

impl Events {
    async fn load(operations: &Operations, page: Page, query: &str) -> Result<Self, ApiError> {
        let mut search = EventQuery::default();
        let given = form_urlencoded::parse(query.as_bytes()).into_owned();
        // A form also sends its empty fields.
        let mut pairs: Vec<_> = given
            .filter(|(_, value)| !value.trim().is_empty())
            .collect();
        for (name, value) in &mut pairs {
            *value = value.trim().to_owned();
            if name == "webhook_id" && route_of(value).is_none() {
                *value = webhook_id(value);
            }
            match name.as_str() {
                "webhook_id" => search.webhook_id = route_of(value).unwrap_or_default().to_owned(),
                "status" => search.status.clone_from(value),
                "event_type" => search.event_type.clone_from(value),
                "event_id" => search.event_id.clone_from(value),
                _ => {}
            }
        }
        pairs.extend([
            ("limit".into(), LISTED.to_string()),
            ("event_data".into(), "false".into()),
        ]);
        let found = operations
            .deliveries(delivery_filter(pairs.clone(), true)?)
            .await?;
        pairs.retain(|(name, _)| !matches!(name.as_str(), "limit" | "event_data" | "cursor"));
        let next = found.next.map(|next| {
            pairs.push(("cursor".into(), next.to_string()));
            form_urlencoded::Serializer::new(String::new())
                .extend_pairs(&pairs)
                .finish()
        });
        let total = found.total.map_or_else(
            || "more than 10\u{202f}000".into(),
            |total| super::words::count(total as u64),
        );
        let page = Page {
            search: search.event_id.clone(),
            ..page
        };
        let deliveries = found
            .deliveries
            .into_iter()
            .map(|view| list_entry(view, &page))
            .collect();
        let statuses = Standing::ALL.map(Standing::as_str).into();
        Ok(Self {
            page,
            query: search,
            statuses,
            deliveries,
            total,
            next,
        })
    }
}

pub(super) fn list_entry(view: DeliveryRecord, page: &Page) -> Entry {
    let last = view
        .attempts
        .last()
        .map(|last| match (last.status, &last.error) {
            (Some(status), _) => status.to_string(),
            (None, Some(error)) => error.clone(),
            (None, None) => "–".into(),
        });
    Entry {
        id: view.id.to_string(),
        route: view.route,
        event_id: view.event_id,
        event_type: view.event_type,
        status: view.state.as_str(),
        is_test: view.is_test,
        ago: page.ago(&view.received_at),
        at: format_exact(&view.received_at),
        attempts: view.attempt_count,
        last: last.unwrap_or_else(|| "–".into()),
    }
}

//! Deliveries: the newest as they come, or those that are looked for.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::page::{Page, Shared, exact, shown};
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
    asked: Asked,
    statuses: Vec<&'static str>,
    deliveries: Vec<Entry>,
    total: String,
    /// The query of the page after this one.
    next: Option<String>,
}

/// What is looked for, as it stands in the form.
#[derive(Default)]
struct Asked {
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
    pub tried: u32,
    /// What the last attempt came to.
    pub last: String,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    RawQuery(query): RawQuery,
) -> Response {
    shown(Events::of(&operations, page, &query.unwrap_or_default()).await)
}

impl Events {
    async fn of(operations: &Operations, page: Page, query: &str) -> Result<Self, ApiError> {
        let mut asked = Asked::default();
        let given = form_urlencoded::parse(query.as_bytes()).into_owned();
        // A form sends its empty fields, too.
        let mut pairs: Vec<_> = given
            .filter(|(_, value)| !value.trim().is_empty())
            .collect();
        for (name, value) in &mut pairs {
            *value = value.trim().to_owned();
            if name == "webhook_id" && route_of(value).is_none() {
                *value = webhook_id(value);
            }
            match name.as_str() {
                "webhook_id" => asked.webhook_id = route_of(value).unwrap_or_default().to_owned(),
                "status" => asked.status.clone_from(value),
                "event_type" => asked.event_type.clone_from(value),
                "event_id" => asked.event_id.clone_from(value),
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
            search: asked.event_id.clone(),
            ..page
        };
        let deliveries = found
            .deliveries
            .into_iter()
            .map(|view| entry(view, &page))
            .collect();
        let statuses = Standing::ALL.map(Standing::as_str).into();
        Ok(Self {
            page,
            asked,
            statuses,
            deliveries,
            total,
            next,
        })
    }
}

pub(super) fn entry(view: DeliveryRecord, page: &Page) -> Entry {
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
        at: exact(&view.received_at),
        tried: view.tried,
        last: last.unwrap_or_else(|| "–".into()),
    }
}

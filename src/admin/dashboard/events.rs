//! The page of deliveries: the newest, or those that match a search; and their redelivery.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::page::{Moment, Page, Shared, respond};
use super::words;
use crate::admin::error::ApiError;
use crate::admin::operations::Operations;
use crate::admin::operations::obstacle::Obstacle;
use crate::admin::parameters::{Pairs, delivery_query};
use crate::admin::query::{DeliveryPage, invalid};
use crate::admin::webhook_id::{route_of, webhook_id};
use crate::store::{DeliveryRecord, DeliveryState as Standing};

const LISTED: usize = 50;

/// The time ranges to choose from: the value in the form, the text, and the length in minutes.
const RANGES: [(&str, &str, i64); 5] = [
    ("15m", "last 15 minutes", 15),
    ("1h", "last hour", 60),
    ("24h", "last 24 hours", 24 * 60),
    ("7d", "last 7 days", 7 * 24 * 60),
    ("30d", "last 30 days", 30 * 24 * 60),
];

#[derive(Template)]
#[template(path = "events.html")]
struct Events {
    page: Page,
    query: EventQuery,
    /// The routes to choose from; the chosen one may be gone.
    routes: Vec<String>,
    statuses: Vec<&'static str>,
    ranges: Vec<(&'static str, &'static str)>,
    deliveries: Vec<Entry>,
    found: String,
    /// The search did not look at all deliveries.
    is_partial: bool,
    obstacles: Vec<RouteObstacle>,
    /// The query of the next page.
    next: Option<String>,
    /// The exact times as the form's fields take them, in UTC.
    since: String,
    until: String,
    /// The query for an event with exactly this ID, which no page bounds.
    exact: String,
}

/// The search as the form shows it.
#[derive(Default)]
struct EventQuery {
    route: String,
    status: String,
    event_type: String,
    search: String,
    within: String,
    since: String,
    until: String,
}

/// A delivery in a list.
pub(super) struct Entry {
    pub id: String,
    pub route: String,
    pub event_id: String,
    pub event_type: String,
    pub status: &'static str,
    pub is_test: bool,
    pub at: Moment,
    pub attempts: u32,
    /// The result of the last attempt.
    pub last: String,
    /// The event can be delivered again.
    pub payload_kept: bool,
}

/// What keeps a route's events from being delivered now.
pub(super) struct RouteObstacle {
    pub route: String,
    pub text: String,
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
        let given = form_urlencoded::parse(query.as_bytes()).into_owned();
        // A form also sends its empty fields.
        let given: Pairs = given
            .map(|(name, value)| (name, value.trim().to_owned()))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let query = EventQuery::new(&given);
        let found = operations
            .list_deliveries(delivery_query(parameters(&given, page.now)?, true)?)
            .await?;
        let next = found.next.map(|next| {
            form_urlencoded::Serializer::new(String::new())
                .extend_pairs(given.iter().filter(|(name, _)| name != "cursor"))
                .append_pair("cursor", &next.to_string())
                .finish()
        });
        let is_partial = !query.search.is_empty() && found.total.is_none();
        let page = Page {
            search: query.search.clone(),
            ..page
        };
        let mut routes = operations.route_names();
        if !query.route.is_empty() && !routes.contains(&query.route) {
            routes.push(query.route.clone());
        }
        let exact = form_urlencoded::Serializer::new(String::new())
            .append_pair("event_id", &query.search)
            .finish();
        let (since, until) = (field_time(&query.since), field_time(&query.until));
        let found_text = found_text(&found, is_partial);
        let deliveries: Vec<_> = found
            .deliveries
            .into_iter()
            .map(|view| list_entry(view, &page))
            .collect();
        Ok(Self {
            obstacles: obstacles(operations, &deliveries),
            page,
            query,
            routes,
            statuses: Standing::ALL.map(Standing::as_str).into(),
            ranges: RANGES.map(|(value, text, _)| (value, text)).into(),
            deliveries,
            found: found_text,
            is_partial,
            next,
            since,
            until,
            exact,
        })
    }
}

impl EventQuery {
    fn new(given: &Pairs) -> Self {
        let mut query = Self::default();
        for (name, value) in given {
            let field = match name.as_str() {
                "webhook_id" => {
                    route_of(value)
                        .unwrap_or(value)
                        .clone_into(&mut query.route);
                    continue;
                }
                "status" => &mut query.status,
                "event_type" => &mut query.event_type,
                "search" | "event_id" => &mut query.search,
                "within" => &mut query.within,
                "since" => &mut query.since,
                "until" => &mut query.until,
                _ => continue,
            };
            field.clone_from(value);
        }
        query
    }
}

/// Returns the parameters of the API's list for those of the page.
fn parameters(given: &Pairs, now: Timestamp) -> Result<Pairs, ApiError> {
    let mut pairs = Pairs::new();
    for (name, value) in given {
        match name.as_str() {
            "webhook_id" if route_of(value).is_none() => {
                pairs.push((name.clone(), webhook_id(value)));
            }
            "within" => pairs.push(("since".into(), range_start(value, now)?.to_string())),
            "since" | "until" => pairs.push((name.clone(), form_time(value))),
            _ => pairs.push((name.clone(), value.clone())),
        }
    }
    pairs.extend([
        ("limit".into(), LISTED.to_string()),
        ("event_data".into(), "false".into()),
    ]);
    Ok(pairs)
}

/// Returns the start of a chosen time range.
fn range_start(chosen: &str, now: Timestamp) -> Result<Timestamp, ApiError> {
    let range = RANGES.iter().find(|(value, ..)| *value == chosen);
    range
        .and_then(|(.., minutes)| now.checked_sub(SignedDuration::from_mins(*minutes)).ok())
        .ok_or_else(|| invalid("within", "15m, 1h, 24h, 7d or 30d"))
}

/// Returns a form's time as the API takes it: a browser's `datetime-local` has no zone and is UTC.
fn form_time(text: &str) -> String {
    let local: Result<DateTime, _> = text.parse();
    match local.and_then(|local| local.to_zoned(TimeZone::UTC)) {
        Ok(at) if text.parse::<Timestamp>().is_err() => at.timestamp().to_string(),
        _ => text.into(),
    }
}

/// Returns a time as a `datetime-local` field takes it, in UTC.
fn field_time(text: &str) -> String {
    let at: Result<Timestamp, _> = form_time(text).parse();
    at.map_or_else(
        |_| String::new(),
        |at| at.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
    )
}

/// Says how many deliveries were found.
fn found_text(found: &DeliveryPage, is_partial: bool) -> String {
    match found.total {
        Some(total) => {
            let total = words::counted(total as u64, "delivery", "deliveries");
            format!("{total} found.")
        }
        None if is_partial && found.deliveries.is_empty() => "None found so far.".into(),
        None if is_partial => "The newest that were found.".into(),
        None => "More than 10\u{202f}000 deliveries found.".into(),
    }
}

/// Returns the obstacles of the routes that these deliveries are on.
fn obstacles(operations: &Operations, deliveries: &[Entry]) -> Vec<RouteObstacle> {
    let mut routes: Vec<_> = deliveries
        .iter()
        .map(|entry| entry.route.as_str())
        .collect();
    routes.sort_unstable();
    routes.dedup();
    routes
        .into_iter()
        .filter_map(|route| route_obstacle(operations, route))
        .collect()
}

/// Says what keeps a route's events from being delivered now.
pub(super) fn route_obstacle(operations: &Operations, route: &str) -> Option<RouteObstacle> {
    let text = match operations.obstacle(route)? {
        Obstacle::Removed => {
            format!("{route} is not configured: its events wait until the route is back.")
        }
        Obstacle::Paused => format!("{route} is paused: its events wait until it is resumed."),
        Obstacle::Failing { attempts: 1 } => format!(
            "The upstream of {route} still fails: the only attempt of the last 5 minutes failed. \
             The events may become dead letters again."
        ),
        Obstacle::Failing { attempts } => format!(
            "The upstream of {route} still fails: all {} attempts of the last 5 minutes failed. \
             The events may become dead letters again.",
            words::count(attempts)
        ),
    };
    Some(RouteObstacle {
        route: route.into(),
        text,
    })
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
        at: page.moment(&view.received_at),
        attempts: view.attempt_count,
        last: last.unwrap_or_else(|| "–".into()),
        payload_kept: view.payload_kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_becomes_parameters_of_the_api() {
        let now = "2026-06-01T12:00:00Z".parse().unwrap();
        let given = [
            ("webhook_id", "billing"),
            ("within", "1h"),
            ("until", "2026-06-01T11:30"),
        ];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let pairs = parameters(&given.to_vec(), now).unwrap();
        let texts: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            texts,
            [
                "webhook_id=wh_billing",
                "since=2026-06-01T11:00:00Z",
                "until=2026-06-01T11:30:00Z",
                "limit=50",
                "event_data=false",
            ]
        );
        assert!(parameters(&vec![("within".into(), "2h".into())], now).is_err());
    }

    #[test]
    fn time_with_a_zone_is_kept() {
        for exact in ["2026-06-01T12:00:00Z", "2026-06-01T12:00:00+02:00", "soon"] {
            assert_eq!(form_time(exact), exact);
        }
    }
}

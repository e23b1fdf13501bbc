//! The REST API: from a request to an operation, and from what came of it to an answer.

mod recovery;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::operations::{Operations, Refused};
use super::problem::Problem;
use super::shape::{
    Deliveries, Delivery, Done, OneDelivery, OneWebhook, Rejections, Reloaded, Status, TestResult, Webhook, Webhooks,
    route_of,
};
use crate::store::{self, DeliveryId, Filter};
use crate::webhooks::Change;

pub(super) use recovery::{Matching, checked_id};

type Shared = State<Arc<Operations>>;
pub(super) type Body = Result<Bytes, BytesRejection>;
type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// A webhook's definition, or a test event's data.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;

const MOMENT: &str = "an RFC 3339 date and time, such as 2026-06-01T12:00:00Z";

pub(super) fn router(operations: Arc<Operations>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/reload", post(reload))
        .route("/webhooks", get(webhooks).post(make))
        .route("/webhooks/{id}", get(webhook).put(change).delete(remove))
        .route("/webhooks/{id}/test", post(test))
        .route("/webhooks/{id}/pause", post(|operations, id| pause(operations, id, true)))
        .route("/webhooks/{id}/resume", post(|operations, id| pause(operations, id, false)))
        .route("/webhooks/{id}/recover", post(recovery::recover))
        .route("/webhooks/{id}/forget", post(recovery::forget))
        .route("/webhooks/{id}/deliveries", get(deliveries_of_webhook))
        .route("/webhooks/{id}/rejections", get(rejections_of_webhook))
        .route("/rejections", get(rejections))
        .route("/deliveries", get(deliveries))
        .route("/deliveries/redeliver", post(recovery::redeliver))
        .route("/deliveries/{id}", get(delivery))
        .route("/deliveries/{id}/redeliver", post(redeliver))
        .fallback(|| async { Problem::UnknownPath })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(operations)
}

async fn status(State(operations): Shared) -> Response {
    json(StatusCode::OK, &Status::from(operations.overview().await))
}

async fn reload(State(operations): Shared) -> Result<Response, Problem> {
    Ok(json(StatusCode::OK, &Reloaded::from(operations.reload().await?)))
}

async fn webhooks(State(operations): Shared) -> Result<Response, Problem> {
    let webhooks: Vec<_> = operations.routes().await?.into_iter().map(Into::into).collect();
    Ok(json(StatusCode::OK, &Webhooks { success: true, total: webhooks.len(), webhooks }))
}

async fn webhook(State(operations): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
    let webhook = operations.route(route_of(&id).ok_or(Refused::NoSuchWebhook)?).await?.into();
    Ok(json(StatusCode::OK, &OneWebhook { success: true, webhook }))
}

async fn make(State(operations): Shared, body: Body) -> Result<Response, Problem> {
    let (standing, definition) = operations.make(parse(body)?).await?;
    // The only time that it is shown.
    let webhook = Webhook { secret: definition.secret().to_owned(), ..standing.into() };
    Ok(json(StatusCode::CREATED, &OneWebhook { success: true, webhook }))
}

async fn change(State(operations): Shared, Path(id): Path<String>, body: Body) -> Result<Response, Problem> {
    let change: Change = parse(body)?;
    let webhook = operations.change(route_of(&id).ok_or(Refused::NoSuchWebhook)?, change).await?.into();
    Ok(json(StatusCode::OK, &OneWebhook { success: true, webhook }))
}

async fn remove(State(operations): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
    operations.remove(route_of(&id).ok_or(Refused::NoSuchWebhook)?).await?;
    Ok(json(StatusCode::OK, &Done { success: true }))
}

async fn pause(State(operations): Shared, Path(id): Path<String>, paused: bool) -> Result<Response, Problem> {
    let webhook = operations.pause(route_of(&id).ok_or(Refused::NoSuchWebhook)?, paused).await?.into();
    Ok(json(StatusCode::OK, &OneWebhook { success: true, webhook }))
}

/// A test event.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Test {
    pub event_type: String,
    pub custom_data: Value,
}

impl Default for Test {
    fn default() -> Self {
        Self { event_type: "webhook.test".into(), custom_data: serde_json::json!({ "test": true }) }
    }
}

async fn test(State(operations): Shared, Path(id): Path<String>, body: Body) -> Result<Response, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLarge)?;
    let test = if body.is_empty() { Test::default() } else { parse(Ok(body))? };
    let route = route_of(&id).ok_or(Refused::NoSuchWebhook)?;
    let tested = operations.test(route, &test.event_type, test.custom_data).await?;
    Ok(json(StatusCode::OK, &TestResult::from(tested)))
}

pub(super) fn parse<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLarge)?;
    serde_json::from_slice(&body)
        .map_err(|error| Problem::InvalidBody(format!("The body is not as it should be: {error}.")))
}

async fn deliveries_of_webhook(
    State(operations): Shared,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let route = route_of(&id).ok_or(Refused::NoSuchWebhook)?.to_owned();
    let filter = filter(pairs(parameters)?, false)?;
    list(&operations, Filter { route: Some(route), ..filter }).await
}

async fn deliveries(State(operations): Shared, parameters: Parameters) -> Result<Response, Problem> {
    list(&operations, filter(pairs(parameters)?, true)?).await
}

async fn rejections_of_webhook(
    State(operations): Shared,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let route = route_of(&id).ok_or(Refused::NoSuchWebhook)?;
    let turned = operations.turned_away(Some(route), limit(pairs(parameters)?)?)?;
    Ok(json(StatusCode::OK, &Rejections::from(turned)))
}

async fn rejections(State(operations): Shared, parameters: Parameters) -> Result<Response, Problem> {
    let turned = operations.turned_away(None, limit(pairs(parameters)?)?)?;
    Ok(json(StatusCode::OK, &Rejections::from(turned)))
}

async fn list(operations: &Operations, filter: Filter) -> Result<Response, Problem> {
    Ok(json(StatusCode::OK, &Deliveries::from(operations.deliveries(filter).await?)))
}

async fn delivery(State(operations): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
    let delivery = Delivery::whole(operations.delivery(delivery_id(&id)?).await?);
    Ok(json(StatusCode::OK, &OneDelivery { success: true, delivery }))
}

async fn redeliver(State(operations): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
    let delivery = Delivery::whole(operations.redeliver(delivery_id(&id)?).await?);
    Ok(json(StatusCode::ACCEPTED, &OneDelivery { success: true, delivery }))
}

pub(super) fn delivery_id(text: &str) -> Result<DeliveryId, Refused> {
    text.parse().map_err(|_| Refused::NoSuchDelivery)
}

fn pairs(parameters: Parameters) -> Result<Vec<(String, String)>, Problem> {
    let Query(pairs) = parameters.map_err(|rejection| Problem::InvalidParameter(rejection.body_text()))?;
    Ok(pairs)
}

/// How many a list that takes nothing else is to hold.
fn limit(pairs: Vec<(String, String)>) -> Result<usize, Problem> {
    match pairs.iter().find(|(name, _)| name != "limit") {
        Some((name, _)) => Err(unknown_parameter(name)),
        None => Ok(filter(pairs, false)?.limit),
    }
}

fn unknown_parameter(name: &str) -> Problem {
    Problem::InvalidParameter(format!("There is no parameter `{}`.", name.escape_debug()))
}

/// What a list is to hold. `any_webhook` lets it be one of all webhooks.
pub(super) fn filter(pairs: Vec<(String, String)>, any_webhook: bool) -> Result<Filter, Problem> {
    let mut filter = Filter { limit: LIMIT_DEFAULT, with_bodies: true, ..Filter::default() };
    let mut seen: Vec<String> = Vec::new();
    for (name, value) in pairs {
        let wrong = |wanted: &str| Problem::InvalidParameter(format!("`{name}` must be {wanted}."));
        match name.as_str() {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                filter.limit = limit.ok_or_else(|| wrong("a number from 1 to 100"))?;
            }
            "cursor" => {
                let before = value.parse().map_err(|_| wrong("a `next_cursor` of an earlier answer"))?;
                filter.before = Some(before);
            }
            "status" => {
                let state = store::State::parse(&value);
                filter.state = Some(state.ok_or_else(|| wrong("one of success, failed, pending and dead"))?);
            }
            "event_type" => filter.event_type = Some(value),
            "event_id" => filter.event_id = Some(value),
            "event_data" => {
                filter.with_bodies = value.parse().map_err(|_| wrong("true or false"))?;
            }
            "since" => filter.since = Some(value.parse().map_err(|_| wrong(MOMENT))?),
            "until" => filter.until = Some(value.parse().map_err(|_| wrong(MOMENT))?),
            "webhook_id" if any_webhook => {
                filter.route = Some(route_of(&value).ok_or(Refused::NoSuchWebhook)?.to_owned());
            }
            _ => return Err(unknown_parameter(&name)),
        }
        if seen.contains(&name) {
            return Err(wrong("given once"));
        }
        seen.push(name);
    }
    match (filter.since, filter.until) {
        (Some(since), Some(until)) if since >= until => {
            Err(Problem::InvalidParameter("`since` must be before `until`.".into()))
        }
        _ => Ok(filter),
    }
}

pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        // Maps with keys that are no text, which there are none of.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Filter, String> {
        let uri = format!("http://localhost/deliveries?{query}").parse().unwrap();
        let parameters = Query::try_from_uri(&uri);
        pairs(parameters).and_then(|pairs| filter(pairs, true)).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn parameters_become_a_filter() {
        let filter = parse(
            "limit=5&cursor=del_9&status=dead&event_type=user.created&event_id=evt%201&webhook_id=wh_a&event_data=false&\
             since=2026-06-01T14:00:00%2B02:00&until=2026-06-01T12:00:00.5Z",
        );
        let expected = Filter {
            route: Some("a".into()),
            state: Some(store::State::Dead),
            event_type: Some("user.created".into()),
            event_id: Some("evt 1".into()),
            since: Some("2026-06-01T12:00:00Z".parse().unwrap()),
            until: Some("2026-06-01T12:00:00.5Z".parse().unwrap()),
            before: Some(DeliveryId(9)),
            limit: 5,
            with_bodies: false,
        };
        assert_eq!(filter, Ok(expected));
        assert_eq!(parse(""), Ok(Filter { limit: 20, with_bodies: true, ..Filter::default() }));
    }

    #[test]
    fn a_parameter_that_means_nothing_is_refused_by_name() {
        let cases = [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=ten", "limit"),
            ("limit=5&limit=6", "limit"),
            ("cursor=", "cursor"),
            ("cursor=next", "cursor"),
            ("status=Dead", "status"),
            ("event_data=yes", "event_data"),
            ("event_typ=user.created", "event_typ"),
            ("since=2026-06-01", "since"),
            ("until=2h", "until"),
            ("since=2026-06-01T12:00:00Z&until=2026-06-01T12:00:00Z", "since"),
        ];
        for (query, named) in cases {
            let problem = parse(query).unwrap_err();
            assert!(problem.contains("InvalidParameter") && problem.contains(named), "{query}: {problem}");
        }
        assert!(parse("webhook_id=billing").unwrap_err().contains("NoSuchWebhook"));
    }
}

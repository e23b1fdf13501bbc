//! Many deliveries delivered again, and events forgotten.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{Object, ObjectBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Body, RouteName, Shared, filter, json, parse};
use crate::admin::auth::Operator;
use crate::admin::operations::{Operations, Pace, Recovered, Recovery};
use crate::admin::problem::Problem;
use crate::admin::shape::{Done, Redelivered, webhook_id};
use crate::event::{EventId, TEXT_BYTES_MAX};
use crate::store;

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(redeliver_matching))
        .routes(routes!(recover))
        .routes(routes!(forget))
}

/// Which deliveries to redeliver, and how. Beside `dry_run` and `per_second`, at least one is given.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = MatchingDeliveries)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(in crate::admin) struct Matching {
    /// Of one webhook, which may be gone.
    #[schema(pattern = "^wh_")]
    pub webhook_id: Option<String>,
    /// Where they stand; `failed` and `dead` if not said.
    #[schema(value_type = Option<store::DeliveryState>)]
    pub status: Option<String>,
    /// The event's type, as a whole.
    pub event_type: Option<String>,
    /// The event's ID, as a whole.
    pub event_id: Option<String>,
    /// Whose event was received then or later.
    #[schema(format = DateTime)]
    pub since: Option<String>,
    /// Whose event was received earlier; it is later than `since`.
    #[schema(format = DateTime)]
    pub until: Option<String>,
    /// Only tells how many there are.
    #[serde(default)]
    #[schema(default = false)]
    pub dry_run: bool,
    /// So many are due each second; without it, all at once.
    #[schema(exclusive_minimum = 0, maximum = 10_000)]
    pub per_second: Option<f64>,
}

impl Matching {
    /// Held to the rules that a list's parameters are held to. It has to say something of which ones.
    pub(in crate::admin) fn check(self) -> Result<Recovery, Problem> {
        let pairs = [
            ("webhook_id", self.webhook_id),
            ("status", self.status),
            ("event_type", self.event_type),
            ("event_id", self.event_id),
            ("since", self.since),
            ("until", self.until),
        ];
        let pairs: Vec<_> = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        if pairs.is_empty() {
            return Err(Problem::InvalidBody(
                "Say which deliveries: give at least one of `webhook_id`, `status`, `event_type`, `event_id`, `since` and \
                 `until`."
                    .into(),
            ));
        }
        let filter = filter(pairs, true).map_err(|problem| match problem {
            Problem::InvalidParameter(detail) => Problem::InvalidBody(detail),
            other => other,
        })?;
        let paced = |number| {
            let wrong = || {
                format!(
                    "`per_second` must be a number above 0, {} at the most.",
                    Pace::MAX
                )
            };
            Pace::per_second(number).ok_or_else(|| Problem::InvalidBody(wrong()))
        };
        Ok(Recovery {
            filter,
            pace: self.per_second.map(paced).transpose()?,
            dry_run: self.dry_run,
        })
    }
}

/// Has all events tried again that match, the oldest first. It goes on though whoever asked hangs up.
#[utoipa::path(
    post,
    path = "/deliveries/redeliver",
    tag = "deliveries",
    request_body = Matching,
    responses(
        (status = 200, description = "A dry run: nothing was done.", body = Redelivered),
        (status = 202, description = "Those that were accepted are stored for another try.", body = Redelivered),
        (status = 404, description = "`unknown_webhook`: there is none of this ID, nor any delivery of one."),
        (status = 409, description = "`redelivery_under_way`: one such call at a time."),
        (status = 422, description = "`pace_too_slow`: the last would be due in more than three days."),
        (status = 503),
    )
)]
async fn redeliver_matching(
    State(operations): Shared,
    operator: Operator,
    body: Body,
) -> Result<Response, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLarge)?;
    let matching = if body.is_empty() {
        Matching::default()
    } else {
        parse(Ok(body))?
    };
    Ok(told(
        operations
            .redeliver_matching(operator, matching.check()?)
            .await?,
    ))
}

/// From when on to redeliver, and how.
#[derive(Deserialize, ToSchema)]
#[schema(as = DeliveriesSince)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Recover {
    /// Those whose event was received then or later.
    #[schema(format = DateTime)]
    since: String,
    /// So many are due each second; without it, all at once.
    #[schema(exclusive_minimum = 0, maximum = 10_000)]
    per_second: Option<f64>,
    /// Only tells how many there are.
    #[serde(default)]
    #[schema(default = false)]
    dry_run: bool,
}

/// Has all of a webhook's events tried again that failed or are dead and were received at `since` or later.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/recover",
    tag = "webhooks",
    request_body = Recover,
    responses(
        (status = 200, description = "A dry run: nothing was done.", body = Redelivered),
        (status = 202, description = "Those that were accepted are stored for another try.", body = Redelivered),
        (status = 409, description = "`redelivery_under_way`: one such call at a time."),
        (status = 422, description = "`pace_too_slow`: the last would be due in more than three days."),
        (status = 503),
    )
)]
async fn recover(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, Problem> {
    let Recover {
        since,
        per_second,
        dry_run,
    } = parse(body)?;
    let (webhook_id, since) = (Some(webhook_id(&route)), Some(since));
    let matching = Matching {
        webhook_id,
        since,
        dry_run,
        per_second,
        ..Matching::default()
    };
    Ok(told(operations.recover(operator, matching.check()?).await?))
}

fn told(recovered: Recovered) -> Response {
    let status = if recovered.dry_run {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    json(status, &Redelivered::from(recovered))
}

/// The event to forget.
#[derive(Deserialize, ToSchema)]
#[schema(as = EventToForget)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Forget {
    #[schema(schema_with = given_id)]
    event_id: Box<RawValue>,
}

fn given_id() -> Object {
    let text_or_number = SchemaType::from_iter([Type::String, Type::Integer]);
    let id = ObjectBuilder::new()
        .schema_type(text_or_number)
        .min_length(Some(1))
        .max_length(Some(TEXT_BYTES_MAX));
    let id = id.pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$"));
    let rules = "As the event has it: `1` and `\"1\"` are two. A text is at most 255 bytes long, an integer 40.";
    id.description(Some(rules)).build()
}

/// Lets an event pass again, as if none of its ID had come before. What is stored of it is delivered all the same.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/forget",
    tag = "webhooks",
    request_body = Forget,
    responses(
        (status = 200, body = Done),
        (status = 404, description = "Or `unknown_event`: the ledger does not know it on this route, so it passes."),
        (status = 409, description = "`in_flight`: a copy is being handed over now."),
        (status = 503),
    )
)]
async fn forget(
    State(operations): Shared,
    operator: Operator,
    RouteName(route): RouteName,
    body: Body,
) -> Result<Response, Problem> {
    let Forget { event_id } = parse(body)?;
    operations
        .forget(operator, &route, checked_id(&event_id)?)
        .await?;
    Ok(json(StatusCode::OK, &Done { success: true }))
}

/// An event's ID as it was given.
pub(in crate::admin) fn checked_id(event_id: &RawValue) -> Result<EventId, Problem> {
    EventId::from_json(event_id)
        .map_err(|error| Problem::InvalidBody(format!("`event_id` is no event's ID: {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::operations::Refused;
    use crate::store::{DeliveryFilter, DeliveryState};

    fn check(body: &str) -> Result<Recovery, Problem> {
        serde_json::from_str::<Matching>(body)
            .map_err(|error| Problem::InvalidBody(error.to_string()))?
            .check()
    }

    #[test]
    fn what_is_asked_for_becomes_a_filter_and_a_pace() {
        let body = r#"{"webhook_id":"wh_a","status":"dead","since":"2026-06-01T12:00:00Z","per_second":0.5,"dry_run":true}"#;
        let recovery = check(body).unwrap_or_else(|problem| panic!("{problem:?}"));
        assert_eq!(
            (
                recovery.filter.route.as_deref(),
                recovery.filter.state,
                recovery.filter.since
            ),
            (
                Some("a"),
                Some(DeliveryState::Dead),
                "2026-06-01T12:00:00Z".parse().ok()
            )
        );
        assert_eq!(
            (recovery.pace, recovery.dry_run),
            (Pace::per_second(0.5), true)
        );
        let plain =
            check(r#"{"event_id":"evt_1"}"#).unwrap_or_else(|problem| panic!("{problem:?}"));
        assert_eq!(
            plain.filter,
            DeliveryFilter {
                event_id: Some("evt_1".into()),
                ..plain.filter.clone()
            }
        );
        assert_eq!(
            (plain.filter.state, plain.pace, plain.dry_run),
            (None, None, false)
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let cases = [
            ("{}", "at least one of"),
            (r#"{"dry_run":true,"per_second":1}"#, "at least one of"),
            (r#"{"status":"lost"}"#, "`status`"),
            (r#"{"since":"yesterday"}"#, "`since`"),
            (
                r#"{"since":"2026-06-02T00:00:00Z","until":"2026-06-01T00:00:00Z"}"#,
                "`since`",
            ),
            (r#"{"status":"dead","per_second":0}"#, "`per_second`"),
            (r#"{"status":"dead","per_second":10000.5}"#, "`per_second`"),
            (r#"{"status":"dead","limit":5}"#, "`limit`"),
        ];
        for (body, named) in cases {
            match check(body) {
                Err(Problem::InvalidBody(detail)) => {
                    assert!(detail.contains(named), "{body}: {detail}")
                }
                other => panic!("{body}: {:?}", other.err()),
            }
        }
        assert!(matches!(
            check(r#"{"webhook_id":"a"}"#),
            Err(Problem::Refused(Refused::NoSuchWebhook))
        ));
    }

    #[test]
    fn a_text_and_a_number_are_two_ids_and_nothing_else_is_one() {
        let id = |text: &str| checked_id(&RawValue::from_string(text.into()).unwrap());
        assert_eq!(id(r#""1""#), Ok(EventId::Text("1".into())));
        assert_eq!(id("1"), Ok(EventId::Integer("1".into())));
        assert_eq!(id(r#""\u0065vt""#), Ok(EventId::Text("evt".into())));
        for wrong in ["null", "true", "1.0", "-0", "[]", r#""""#, r#""a\n""#] {
            assert!(matches!(id(wrong), Err(Problem::InvalidBody(_))), "{wrong}");
        }
    }
}

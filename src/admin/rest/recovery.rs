//! Many deliveries delivered again, and events forgotten.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Body, Shared, filter, json, parse};
use crate::admin::operations::{Operations, Pace, Recovery, Refused};
use crate::admin::problem::Problem;
use crate::admin::shape::{Done, Redelivered, route_of};
use crate::event::EventId;

/// Which deliveries to redeliver, and how.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::admin) struct Matching {
    pub webhook_id: Option<String>,
    pub status: Option<String>,
    pub event_type: Option<String>,
    pub event_id: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub dry_run: bool,
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
        let pairs: Vec<_> = pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
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
            let wrong = || format!("`per_second` must be a number above 0, {} at the most.", Pace::MAX);
            Pace::per_second(number).ok_or_else(|| Problem::InvalidBody(wrong()))
        };
        Ok(Recovery { filter, pace: self.per_second.map(paced).transpose()?, dry_run: self.dry_run })
    }
}

/// From when on to redeliver, and how.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recover {
    since: String,
    #[serde(default)]
    per_second: Option<f64>,
    #[serde(default)]
    dry_run: bool,
}

/// The event to forget: its ID as its body has it, since `1` and `"1"` are two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forget {
    event_id: Box<RawValue>,
}

pub(super) async fn redeliver(State(operations): Shared, body: Body) -> Result<Response, Problem> {
    let body = body.map_err(|_| Problem::BodyTooLarge)?;
    let matching = if body.is_empty() { Matching::default() } else { parse(Ok(body))? };
    redeliver_matching(&operations, matching).await
}

pub(super) async fn recover(
    State(operations): Shared,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let Recover { since, per_second, dry_run } = parse(body)?;
    let matching = Matching { webhook_id: Some(id), since: Some(since), per_second, dry_run, ..Matching::default() };
    redeliver_matching(&operations, matching).await
}

async fn redeliver_matching(operations: &Arc<Operations>, matching: Matching) -> Result<Response, Problem> {
    let redelivered = Redelivered::from(operations.recover(matching.check()?).await?);
    let status = if redelivered.dry_run { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(json(status, &redelivered))
}

pub(super) async fn forget(State(operations): Shared, Path(id): Path<String>, body: Body) -> Result<Response, Problem> {
    let Forget { event_id } = parse(body)?;
    operations.forget(route_of(&id).ok_or(Refused::NoSuchWebhook)?, checked_id(&event_id)?).await?;
    Ok(json(StatusCode::OK, &Done { success: true }))
}

/// An event's ID as it was given.
pub(in crate::admin) fn checked_id(event_id: &RawValue) -> Result<EventId, Problem> {
    EventId::from_json(event_id).map_err(|error| Problem::InvalidBody(format!("`event_id` is no event's ID: {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Filter, State};

    fn check(body: &str) -> Result<Recovery, Problem> {
        serde_json::from_str::<Matching>(body).map_err(|error| Problem::InvalidBody(error.to_string()))?.check()
    }

    #[test]
    fn what_is_asked_for_becomes_a_filter_and_a_pace() {
        let body =
            r#"{"webhook_id":"wh_a","status":"dead","since":"2026-06-01T12:00:00Z","per_second":0.5,"dry_run":true}"#;
        let recovery = check(body).unwrap_or_else(|problem| panic!("{problem:?}"));
        assert_eq!(
            (recovery.filter.route.as_deref(), recovery.filter.state, recovery.filter.since),
            (Some("a"), Some(State::Dead), "2026-06-01T12:00:00Z".parse().ok())
        );
        assert_eq!((recovery.pace, recovery.dry_run), (Pace::per_second(0.5), true));
        let plain = check(r#"{"event_id":"evt_1"}"#).unwrap_or_else(|problem| panic!("{problem:?}"));
        assert_eq!(plain.filter, Filter { event_id: Some("evt_1".into()), ..plain.filter.clone() });
        assert_eq!((plain.filter.state, plain.pace, plain.dry_run), (None, None, false));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let cases = [
            ("{}", "at least one of"),
            (r#"{"dry_run":true,"per_second":1}"#, "at least one of"),
            (r#"{"status":"lost"}"#, "`status`"),
            (r#"{"since":"yesterday"}"#, "`since`"),
            (r#"{"since":"2026-06-02T00:00:00Z","until":"2026-06-01T00:00:00Z"}"#, "`since`"),
            (r#"{"status":"dead","per_second":0}"#, "`per_second`"),
            (r#"{"status":"dead","per_second":10000.5}"#, "`per_second`"),
            (r#"{"status":"dead","limit":5}"#, "`limit`"),
        ];
        for (body, named) in cases {
            match check(body) {
                Err(Problem::InvalidBody(detail)) => assert!(detail.contains(named), "{body}: {detail}"),
                other => panic!("{body}: {:?}", other.err()),
            }
        }
        assert!(matches!(check(r#"{"webhook_id":"a"}"#), Err(Problem::Refused(Refused::NoSuchWebhook))));
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

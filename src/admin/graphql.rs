//! The API over GraphQL: from a query to operations, and from what came of them to an answer.
//!
//! `configureWebhook` is the call that `OrbVPN` documents; beside it is what REST has. What fails carries the code and the
//! sentence that REST would have answered with.

mod bounds;
mod delivery;
mod webhook;

use std::sync::Arc;

use async_graphql::{
    Context, EmptySubscription, Error, ErrorExtensions, ID, InputValueResult, Json, Object,
    Request, Scalar, ScalarType, Schema, SchemaBuilder, Value as ConstValue, Variables,
};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::to_raw_value;

use super::auth::{Caller, Operator};
use super::operations::{Operations, Refused};
use super::problem::Problem;
use super::rest::{
    BODY_BYTES_MAX, Body, Matching, Test, checked_id, delivery_id, filter, json, parse,
};
use super::shape::{Redelivered, TestResult, route_of};
use crate::webhooks::NewWebhook;
use bounds::bounded;
use delivery::{Delivery, DeliveryPage, DeliveryStatus};
use webhook::{Webhook, WebhookInput};

/// What tools ask to learn the schema is 15 deep; our own types are 4.
const DEPTH_MAX: usize = 16;

/// Fields, where what costs more counts for more. What tools ask to learn the schema is some 250.
const COMPLEXITY_MAX: usize = 300;

/// A list of deliveries is read from the disk.
const LIST_COSTS: usize = 30;

/// A body is read whole, however big.
const DELIVERY_COSTS: usize = 120;

/// A test event is waited for as long as the route's budget says.
const TEST_COSTS: usize = 100;

/// Redelivering many takes as long as the disk needs for all of them.
const REDELIVERING_COSTS: usize = 100;

/// The code of what is no valid query.
const INVALID_QUERY: &str = "invalid_query";

type Api = Schema<Query, Mutation, EmptySubscription>;

pub(super) fn router(operations: Arc<Operations>) -> Router {
    Router::new()
        .route("/graphql", post(answer))
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(schema().data(operations).finish())
}

fn schema() -> SchemaBuilder<Query, Mutation, EmptySubscription> {
    Schema::build(Query, Mutation, EmptySubscription)
        .limit_depth(DEPTH_MAX)
        .limit_complexity(COMPLEXITY_MAX)
}

/// A query as it is sent. One at a time: a list of them would be beside the limits.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    query: String,
    #[serde(default)]
    operation_name: Option<String>,
    #[serde(default)]
    variables: Variables,
}

async fn answer(State(api): State<Api>, caller: Caller, body: Body) -> Result<Response, Problem> {
    let Asked {
        query,
        operation_name,
        variables,
    } = parse(body)?;
    let mut request = Request::new(query).variables(variables).data(caller);
    request.operation_name = operation_name;
    let mut response = match bounded(&mut request) {
        Ok(()) => api.execute(request).await,
        Err(error) => async_graphql::Response::from_errors(vec![error]),
    };
    for error in &mut response.errors {
        // What has none comes from reading and checking the query.
        let extensions = error.extensions.get_or_insert_default();
        if extensions.get("code").is_none() {
            extensions.set("code", INVALID_QUERY);
        }
    }
    Ok(json(StatusCode::OK, &response))
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::new(problem.detail())
            .extend_with(|_, extensions| extensions.set("code", problem.code()))
    }
}

/// By hand, since `?` would make an error of anything that can be shown, without its code.
fn refused(refused: Refused) -> Error {
    Problem::from(refused).into()
}

fn operations<'c>(context: &Context<'c>) -> &'c Operations {
    context.data_unchecked::<Arc<Operations>>()
}

/// Who asks, if they may change things.
fn operator(context: &Context<'_>) -> Result<Operator, Error> {
    Ok(context.data_unchecked::<Caller>().operator("/graphql")?)
}

fn named(id: &ID) -> Result<&str, Error> {
    route_of(id).ok_or_else(|| refused(Refused::NoSuchWebhook))
}

/// An event's ID as it was given: `1` and `"1"` are two.
struct EventId(ConstValue);

/// An event's ID: a string, or an integer.
#[Scalar]
impl ScalarType for EventId {
    fn parse(value: ConstValue) -> InputValueResult<Self> {
        // What it may be is for `checked_id` to say, in the words that REST has.
        Ok(Self(value))
    }

    fn to_value(&self) -> ConstValue {
        self.0.clone()
    }
}

/// One field's answer. What fails is `null` beside its error, and takes nothing with it: in the field next to it may be
/// a secret that is shown this once.
type Answered<T> = Option<Result<T, Error>>;

async fn answered<T>(done: impl Future<Output = Result<T, Error>>) -> Answered<T> {
    Some(done.await)
}

struct Query;

#[Object]
impl Query {
    /// All routes that are served.
    #[graphql(complexity = "LIST_COSTS + child_complexity")]
    async fn webhooks(&self, context: &Context<'_>) -> Answered<Vec<Webhook>> {
        answered(async {
            let standings = operations(context).routes().await.map_err(refused)?;
            Ok(standings.into_iter().map(Into::into).collect())
        })
        .await
    }

    async fn webhook(&self, context: &Context<'_>, id: ID) -> Answered<Webhook> {
        answered(async {
            Ok(operations(context)
                .route(named(&id)?)
                .await
                .map_err(refused)?
                .into())
        })
        .await
    }

    /// Up to `limit` deliveries, from 1 to 100; 20 if not said otherwise. `since` and `until` bound when the event was
    /// received; `until` is not included.
    #[allow(clippy::too_many_arguments)]
    #[graphql(complexity = "LIST_COSTS + child_complexity")]
    async fn deliveries(
        &self,
        context: &Context<'_>,
        webhook_id: Option<ID>,
        status: Option<DeliveryStatus>,
        event_type: Option<String>,
        event_id: Option<String>,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        limit: Option<i32>,
        cursor: Option<String>,
    ) -> Answered<DeliveryPage> {
        answered(async {
            let bodies = context
                .look_ahead()
                .field("deliveries")
                .field("eventData")
                .exists();
            // As REST's parameters, and held to what these are held to.
            let pairs = [
                ("webhook_id", webhook_id.map(|id| id.0)),
                ("status", status.map(DeliveryStatus::name)),
                ("event_type", event_type),
                ("event_id", event_id),
                ("since", since.map(|at| at.to_string())),
                ("until", until.map(|at| at.to_string())),
                ("limit", limit.map(|limit| limit.to_string())),
                ("cursor", cursor),
                ("event_data", Some(bodies.to_string())),
            ];
            let pairs = pairs
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect();
            Ok(operations(context)
                .deliveries(filter(pairs, true)?)
                .await
                .map_err(refused)?
                .into())
        })
        .await
    }

    #[graphql(complexity = "DELIVERY_COSTS + child_complexity")]
    async fn delivery(&self, context: &Context<'_>, id: ID) -> Answered<Delivery> {
        answered(async {
            let id = delivery_id(&id).map_err(refused)?;
            Ok(operations(context)
                .delivery(id)
                .await
                .map_err(refused)?
                .into())
        })
        .await
    }
}

struct Mutation;

async fn pause(context: &Context<'_>, id: &ID, paused: bool) -> Answered<Webhook> {
    answered(async {
        Ok(operations(context)
            .pause(operator(context)?, named(id)?, paused)
            .await
            .map_err(refused)?
            .into())
    })
    .await
}

#[Object]
impl Mutation {
    /// Makes a webhook, or with an `id` changes that one. It is stored and served before this is answered.
    async fn configure_webhook(
        &self,
        context: &Context<'_>,
        webhook: WebhookInput,
    ) -> Answered<Webhook> {
        answered(async {
            let operator = operator(context)?;
            let (id, mut given) = webhook.split();
            if let Some(id) = id {
                return Ok(operations(context)
                    .change(operator, named(&id)?, given)
                    .await
                    .map_err(refused)?
                    .into());
            }
            given.provider.get_or_insert_with(|| "orbvpn".into());
            let (standing, definition) = operations(context)
                .make(operator, NewWebhook { given })
                .await
                .map_err(refused)?;
            // The only time that it is shown.
            Ok(Webhook::from(standing).with_secret(definition.secret()))
        })
        .await
    }

    /// Removes a webhook that was made over the API. Its stored events wait until one of its name is back.
    async fn delete_webhook(&self, context: &Context<'_>, id: ID) -> Answered<bool> {
        answered(async {
            operations(context)
                .remove(operator(context)?, named(&id)?)
                .await
                .map_err(refused)?;
            Ok(true)
        })
        .await
    }

    /// Lets a route's stored events wait, through restarts too. Also for routes of the file.
    async fn pause_webhook(&self, context: &Context<'_>, id: ID) -> Answered<Webhook> {
        pause(context, &id, true).await
    }

    /// Has them delivered again.
    async fn resume_webhook(&self, context: &Context<'_>, id: ID) -> Answered<Webhook> {
        pause(context, &id, false).await
    }

    /// Sends an event through the gateway's own front door, signed with the route's secret; `webhook.test` if not said
    /// otherwise.
    #[graphql(complexity = "TEST_COSTS + child_complexity")]
    async fn test_webhook(
        &self,
        context: &Context<'_>,
        id: ID,
        event_type: Option<String>,
        custom_data: Option<Json<Value>>,
    ) -> Answered<TestResult> {
        answered(async {
            let usual = Test::default();
            let kind = event_type.unwrap_or(usual.event_type);
            let data = custom_data.map_or(usual.custom_data, |Json(data)| data);
            Ok(operations(context)
                .test(operator(context)?, named(&id)?, &kind, data)
                .await
                .map_err(refused)?
                .into())
        })
        .await
    }

    /// Has an event tried again now.
    #[graphql(complexity = "DELIVERY_COSTS + child_complexity")]
    async fn redeliver(&self, context: &Context<'_>, id: ID) -> Answered<Delivery> {
        answered(async {
            let id = delivery_id(&id).map_err(refused)?;
            Ok(operations(context)
                .redeliver(operator(context)?, id)
                .await
                .map_err(refused)?
                .into())
        })
        .await
    }

    /// Has all events tried again that match, the oldest first: without a status, those that failed or are dead. At least
    /// one of the first six has to be given. With `perSecond`, above 0 and up to 10,000, so many are due each second; a
    /// dry run only counts.
    #[allow(clippy::too_many_arguments)]
    #[graphql(complexity = "REDELIVERING_COSTS + child_complexity")]
    async fn redeliver_matching(
        &self,
        context: &Context<'_>,
        webhook_id: Option<ID>,
        status: Option<DeliveryStatus>,
        event_type: Option<String>,
        event_id: Option<String>,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        per_second: Option<f64>,
        #[graphql(default)] dry_run: bool,
    ) -> Answered<Redelivered> {
        let matching = Matching {
            webhook_id: webhook_id.map(|id| id.0),
            status: status.map(DeliveryStatus::name),
            event_type,
            event_id,
            since: since.map(|at| at.to_string()),
            until: until.map(|at| at.to_string()),
            dry_run,
            per_second,
        };
        answered(async {
            let operator = operator(context)?;
            let redelivered = operations(context)
                .redeliver_matching(operator, matching.check()?)
                .await;
            Ok(redelivered.map_err(refused)?.into())
        })
        .await
    }

    /// Has all of a webhook's events tried again that failed or are dead and were received at `since` or later.
    #[graphql(complexity = "REDELIVERING_COSTS + child_complexity")]
    async fn recover_webhook(
        &self,
        context: &Context<'_>,
        id: ID,
        since: Timestamp,
        per_second: Option<f64>,
        #[graphql(default)] dry_run: bool,
    ) -> Answered<Redelivered> {
        let (webhook_id, since) = (Some(id.0), Some(since.to_string()));
        let matching = Matching {
            webhook_id,
            since,
            dry_run,
            per_second,
            ..Matching::default()
        };
        answered(async {
            Ok(operations(context)
                .recover(operator(context)?, matching.check()?)
                .await
                .map_err(refused)?
                .into())
        })
        .await
    }

    /// Lets an event of this ID pass again. What is stored of it waits on.
    async fn forget_event(
        &self,
        context: &Context<'_>,
        id: ID,
        event_id: EventId,
    ) -> Answered<bool> {
        answered(async {
            let operator = operator(context)?;
            let event_id = to_raw_value(&event_id.0)
                .map_err(|error| Problem::InvalidBody(error.to_string()))?;
            let (name, event_id) = (named(&id)?, checked_id(&event_id)?);
            operations(context)
                .forget(operator, name, event_id)
                .await
                .map_err(refused)?;
            Ok(true)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HOOKSTILE_REGENERATE=1 cargo test --lib graphql` renews it.
    #[test]
    fn the_schema_is_the_one_that_is_written_down() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema.graphql");
        let schema = format!(
            "# The API's GraphQL schema. Made from the code.\n\n{}\n",
            schema().finish().sdl().trim()
        );
        if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            schema,
            "HOOKSTILE_REGENERATE=1 cargo test --lib renews it"
        );
    }
}

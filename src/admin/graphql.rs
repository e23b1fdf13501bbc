//! The GraphQL API: maps queries and mutations to operations, and their results to responses.
//!
//! `configureWebhook` is the mutation that `OrbVPN` documents; the rest mirrors REST. An error
//! carries the code and the detail that REST responds with.

mod bounds;
mod captures;
mod delivery;
mod webhook;

use std::sync::Arc;

use async_graphql::{
    Context, EmptySubscription, Error, ErrorExtensions, ID, InputValueResult, Json, Object,
    Request, Scalar, ScalarType, Schema, SchemaBuilder, Value as ConstValue, Variables, to_value,
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

use super::audit::{Caller, Operator};
use super::error::{ApiError, OperationError};
use super::http::{BODY_BYTES_MAX, Body, json, parse};
use super::operations::Operations;
use super::parameters;
use super::query::{self, DeliveryQuery, DeliverySelection, IdPrefix, RedeliveryQuery, TestEvent};
use super::shape::captures::{Capture, Captures, OneCapture};
use super::shape::deliveries::{Redelivered, Redelivery};
use super::shape::gateway::Reloaded;
use super::shape::problems::{GatewayProblem, Problems};
use super::shape::removed::{MovedEvents, RemovedRoute};
use super::shape::webhooks::TestResult;
use crate::store::DeliveryFilter;
use crate::webhooks::{Change, NewWebhook, Precondition};
use bounds::check_bounds;
use captures::CaptureList;
use delivery::{Delivery, DeliveryList, DeliveryStatus};
use webhook::{Webhook, WebhookInput};

/// The deepest query. Tools that read the schema send one 15 deep; the API's own types are 4 deep.
const DEPTH_MAX: usize = 16;

/// The largest complexity: fields, weighted by what they cost. Tools that read the schema request
/// some 250 fields.
const COMPLEXITY_MAX: usize = 300;

/// The complexity of a list of deliveries, which is read from the disk.
const LIST_COST: usize = 30;

/// The complexity of one delivery or captured request, whose body is read whole, however large.
const DELIVERY_COST: usize = 120;

/// The complexity of a test event, which waits for as long as the route's budget allows.
const TEST_COST: usize = 100;

/// The complexity of a bulk redelivery, which takes as long as the disk needs.
const REDELIVERY_COST: usize = 100;

/// The complexity of a reload, which reads all files and replaces all routes.
const RELOAD_COST: usize = 100;

/// The error code of an invalid query.
const INVALID_QUERY: &str = "invalid_query";

type Api = Schema<Query, Mutation, EmptySubscription>;

pub(super) fn router(operations: Arc<Operations>) -> Router {
    Router::new()
        .route("/graphql", post(execute))
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(schema().data(operations).finish())
}

fn schema() -> SchemaBuilder<Query, Mutation, EmptySubscription> {
    Schema::build(Query, Mutation, EmptySubscription)
        .limit_depth(DEPTH_MAX)
        .limit_complexity(COMPLEXITY_MAX)
}

/// A request's body. It holds one query: a batch of queries would evade the limits.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueryBody {
    query: String,
    #[serde(default)]
    operation_name: Option<String>,
    #[serde(default)]
    variables: Variables,
}

async fn execute(State(api): State<Api>, caller: Caller, body: Body) -> Result<Response, ApiError> {
    let QueryBody {
        query,
        operation_name,
        variables,
    } = parse(body)?;
    let mut request = Request::new(query).variables(variables).data(caller);
    request.operation_name = operation_name;
    let mut response = match check_bounds(&mut request) {
        Ok(()) => api.execute(request).await,
        Err(error) => async_graphql::Response::from_errors(vec![error]),
    };
    for error in &mut response.errors {
        // Errors without a code come from parsing and validating the query.
        let extensions = error.extensions.get_or_insert_default();
        if extensions.get("code").is_none() {
            extensions.set("code", INVALID_QUERY);
        }
    }
    Ok(json(StatusCode::OK, &response))
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Self::new(error.detail()).extend_with(|_, extensions| {
            extensions.set("code", error.code());
            if let problems @ [_, ..] = error.problems()
                && let Ok(problems) = to_value(problems)
            {
                extensions.set("problems", problems);
            }
        })
    }
}

/// Converts an operation's error. `?` alone would use the conversion from any displayable type,
/// which drops the code.
fn failed(error: OperationError) -> Error {
    ApiError::from(error).into()
}

fn operations<'c>(context: &Context<'c>) -> &'c Operations {
    context.data_unchecked::<Arc<Operations>>()
}

/// Returns the caller as an operator, if it may change things.
fn operator(context: &Context<'_>) -> Result<Operator, Error> {
    Ok(context.data_unchecked::<Caller>().operator("/graphql")?)
}

fn route_name(id: &ID) -> Result<&str, Error> {
    query::route_name(id).map_err(failed)
}

/// An event ID in its JSON type: `1` and `"1"` differ.
struct EventId(ConstValue);

/// An event ID: a string, or an integer.
#[Scalar]
impl ScalarType for EventId {
    fn parse(value: ConstValue) -> InputValueResult<Self> {
        // `query::event_id` validates it, with the error that REST has.
        Ok(Self(value))
    }

    fn to_value(&self) -> ConstValue {
        self.0.clone()
    }
}

/// The result of one field. An error makes only this field `null`: the field next to it may hold a
/// secret that is shown only once.
type Nullable<T> = Option<Result<T, Error>>;

async fn field<T>(result: impl Future<Output = Result<T, Error>>) -> Nullable<T> {
    Some(result.await)
}

struct Query;

#[Object]
impl Query {
    /// Lists all active routes.
    #[graphql(complexity = "LIST_COST + child_complexity")]
    async fn webhooks(&self, context: &Context<'_>) -> Nullable<Vec<Webhook>> {
        field(async {
            let routes = operations(context).routes().await.map_err(failed)?;
            Ok(routes.into_iter().map(Into::into).collect())
        })
        .await
    }

    /// Lists the routes that are no longer configured and have stored events, up to a thousand.
    #[graphql(complexity = "LIST_COST + child_complexity")]
    async fn removed_routes(&self, context: &Context<'_>) -> Nullable<Vec<RemovedRoute>> {
        field(async {
            let removed = operations(context).removed_routes().await.map_err(failed)?;
            Ok(removed.into_iter().map(Into::into).collect())
        })
        .await
    }

    async fn webhook(&self, context: &Context<'_>, id: ID) -> Nullable<Webhook> {
        field(async {
            let route = operations(context).route(route_name(&id)?).await;
            Ok(route.map_err(failed)?.into())
        })
        .await
    }

    /// Lists up to `limit` deliveries, the newest first: from 1 to 100, by default 20. `since` and
    /// `until` bound the time at which the event was received; `until` is exclusive. `search` is
    /// the beginning of an event ID or of a delivery's ID, as in the REST API.
    #[allow(clippy::too_many_arguments)]
    #[graphql(complexity = "LIST_COST + child_complexity")]
    async fn deliveries(
        &self,
        context: &Context<'_>,
        webhook_id: Option<ID>,
        status: Option<DeliveryStatus>,
        event_type: Option<String>,
        event_id: Option<String>,
        search: Option<String>,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        limit: Option<i32>,
        cursor: Option<String>,
    ) -> Nullable<DeliveryList> {
        field(async {
            let with_bodies = context
                .look_ahead()
                .field("deliveries")
                .field("eventData")
                .exists();
            let selection = DeliverySelection {
                route: selected_route(webhook_id.as_ref())?,
                state: status.map(Into::into),
                event_type,
                event_id,
                since,
                until,
            };
            let limit = match limit {
                Some(limit) => query::limit(limit.into())?,
                None => query::LIMIT_DEFAULT,
            };
            let before = match cursor {
                Some(cursor) => Some(query::cursor(&cursor)?),
                None => None,
            };
            let filter = DeliveryFilter {
                before,
                limit,
                with_bodies,
                ..selection.into_filter()?
            };
            let search = search.as_deref().map(IdPrefix::parse);
            let page = operations(context)
                .list_deliveries(DeliveryQuery { filter, search })
                .await;
            Ok(page.map_err(failed)?.into())
        })
        .await
    }

    /// Shows the bulk redelivery that was requested last, with its progress as of at most a second
    /// ago; null if none was requested yet.
    #[graphql(complexity = "DELIVERY_COST + child_complexity")]
    async fn redelivery(&self, context: &Context<'_>) -> Nullable<Redelivery> {
        let last = operations(context).last_redelivery().await;
        let last = last.map_err(failed).transpose()?;
        Some(last.map(Into::into))
    }

    /// Lists the problems of the gateway and its routes, the worst first.
    #[graphql(complexity = "LIST_COST + child_complexity")]
    async fn problems(&self, context: &Context<'_>) -> Nullable<Vec<GatewayProblem>> {
        field(async {
            let problems = operations(context).problems().await;
            Ok(Problems::new(problems, Timestamp::now()).problems)
        })
        .await
    }

    /// Lists up to `limit` captured requests, the newest first: from 1 to 100, by default 20.
    /// `outcome` selects those with this outcome, such as `invalid_signature`.
    #[graphql(complexity = "LIST_COST + child_complexity")]
    async fn captures(
        &self,
        context: &Context<'_>,
        webhook_id: Option<ID>,
        outcome: Option<String>,
        limit: Option<i32>,
    ) -> Nullable<CaptureList> {
        field(async {
            let route = selected_route(webhook_id.as_ref())?;
            let outcome = outcome.as_deref().map(parameters::outcome).transpose()?;
            let limit = match limit {
                Some(limit) => query::limit(limit.into())?,
                None => query::LIMIT_DEFAULT,
            };
            let list = operations(context).captures(route.as_deref(), outcome, limit);
            Ok(Captures::from(list.map_err(failed)?).into())
        })
        .await
    }

    /// Returns a captured request, whole: with its signature and its body. It needs the admin
    /// token, not the one for reading, and is audited.
    #[graphql(complexity = "DELIVERY_COST + child_complexity")]
    async fn capture(&self, context: &Context<'_>, id: ID) -> Nullable<Capture> {
        field(async {
            let capture = operations(context).capture(operator(context)?, &id);
            Ok(OneCapture::from(capture.map_err(failed)?).capture)
        })
        .await
    }

    #[graphql(complexity = "DELIVERY_COST + child_complexity")]
    async fn delivery(&self, context: &Context<'_>, id: ID) -> Nullable<Delivery> {
        field(async {
            let id = query::delivery_id(&id).map_err(failed)?;
            let delivery = operations(context).delivery(id).await;
            Ok(delivery.map_err(failed)?.into())
        })
        .await
    }
}

fn selected_route(webhook_id: Option<&ID>) -> Result<Option<String>, Error> {
    let name = webhook_id.map(route_name).transpose()?;
    Ok(name.map(Into::into))
}

struct Mutation;

async fn set_paused(context: &Context<'_>, id: &ID, paused: bool) -> Nullable<Webhook> {
    field(async {
        let route = operations(context)
            .set_paused(operator(context)?, route_name(id)?, paused)
            .await;
        Ok(route.map_err(failed)?.into())
    })
    .await
}

#[Object]
impl Mutation {
    /// Creates a webhook, or changes the one with the given `id`. It is stored and active before
    /// the response is sent.
    async fn configure_webhook(
        &self,
        context: &Context<'_>,
        webhook: WebhookInput,
    ) -> Nullable<Webhook> {
        field(async {
            let operator = operator(context)?;
            let (id, version, mut given) = webhook.split();
            if let Some(id) = id {
                let (change, precondition) = (Change::Keys(given), Precondition::version(version));
                let route = operations(context)
                    .update_webhook(operator, route_name(&id)?, &change, &precondition)
                    .await;
                return Ok(route.map_err(failed)?.into());
            }
            if version.is_some() {
                let detail = "`version` is that of a webhook to change: give its `id`.";
                return Err(ApiError::InvalidBody(detail.into()).into());
            }
            given.provider.get_or_insert_with(|| "orbvpn".into());
            let created = operations(context)
                .create_webhook(operator, NewWebhook { given }, None)
                .await
                .map_err(failed)?;
            // The only response that shows the secret.
            Ok(Webhook::from(created.summary).with_secret(created.definition.secret()))
        })
        .await
    }

    /// Removes a webhook that was made over the API. Its stored events wait until a webhook of the
    /// same name exists again, or until they are moved to another route. With a `version`, it is
    /// removed only if it has that version.
    async fn delete_webhook(
        &self,
        context: &Context<'_>,
        id: ID,
        version: Option<String>,
    ) -> Nullable<bool> {
        field(async {
            let precondition = Precondition::version(version);
            operations(context)
                .delete_webhook(operator(context)?, route_name(&id)?, &precondition)
                .await
                .map_err(failed)?;
            Ok(true)
        })
        .await
    }

    /// Pauses a route, through restarts too: its stored events wait. A `proxy` route answers 503
    /// `inactive` with `Retry-After`, and a `spill` route stores every event. Routes of the file
    /// can be paused as well.
    async fn pause_webhook(&self, context: &Context<'_>, id: ID) -> Nullable<Webhook> {
        set_paused(context, &id, true).await
    }

    /// Resumes a paused route and the delivery of its stored events.
    async fn resume_webhook(&self, context: &Context<'_>, id: ID) -> Nullable<Webhook> {
        set_paused(context, &id, false).await
    }

    /// Sends a test event through the gateway, signed with the route's secret; its type is
    /// `webhook.test` by default.
    #[graphql(complexity = "TEST_COST + child_complexity")]
    async fn test_webhook(
        &self,
        context: &Context<'_>,
        id: ID,
        event_type: Option<String>,
        custom_data: Option<Json<Value>>,
    ) -> Nullable<TestResult> {
        field(async {
            let default = TestEvent::default();
            let event = TestEvent {
                event_type: event_type.unwrap_or(default.event_type),
                custom_data: custom_data.map_or(default.custom_data, |Json(data)| data),
            };
            let outcome = operations(context)
                .send_test_event(operator(context)?, route_name(&id)?, event)
                .await;
            Ok(outcome.map_err(failed)?.into())
        })
        .await
    }

    /// Delivers an event again, now.
    #[graphql(complexity = "DELIVERY_COST + child_complexity")]
    async fn redeliver(&self, context: &Context<'_>, id: ID) -> Nullable<Delivery> {
        field(async {
            let id = query::delivery_id(&id).map_err(failed)?;
            let delivery = operations(context).redeliver(operator(context)?, id).await;
            Ok(delivery.map_err(failed)?.into())
        })
        .await
    }

    /// Redelivers all matching events, the oldest first; without a status, the failed and the dead
    /// ones. At least one of the first seven arguments is required. `ids`, 1 to 100, are the only
    /// deliveries to choose from, whatever their status if none is given. `perSecond`, above 0 and
    /// up to 10,000, is the number of events that become due per second. A dry run counts them and
    /// changes nothing.
    #[allow(clippy::too_many_arguments)]
    #[graphql(complexity = "REDELIVERY_COST + child_complexity")]
    async fn redeliver_matching(
        &self,
        context: &Context<'_>,
        webhook_id: Option<ID>,
        status: Option<DeliveryStatus>,
        event_type: Option<String>,
        event_id: Option<String>,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        ids: Option<Vec<ID>>,
        per_second: Option<f64>,
        #[graphql(default)] dry_run: bool,
    ) -> Nullable<Redelivered> {
        field(async {
            let operator = operator(context)?;
            let ids = match ids {
                Some(ids) => query::chosen_ids(&ids)?,
                None => Vec::new(),
            };
            let selection = DeliverySelection {
                route: selected_route(webhook_id.as_ref())?,
                state: status.map(Into::into),
                event_type,
                event_id,
                since,
                until,
            };
            let query = RedeliveryQuery::new(selection, ids, per_second, dry_run)?;
            let report = operations(context)
                .redeliver_matching(operator, query)
                .await;
            Ok(report.map_err(failed)?.into())
        })
        .await
    }

    /// Cancels the bulk redelivery that is running, at any gateway of the store. Events that are due
    /// again by then stay so, and one batch of 64 may still follow.
    #[graphql(complexity = "REDELIVERY_COST + child_complexity")]
    async fn cancel_redelivery(&self, context: &Context<'_>) -> Nullable<Redelivery> {
        field(async {
            let operator = operator(context)?;
            let cancelled = operations(context).cancel_redelivery(operator).await;
            Ok(cancelled.map_err(failed)?.into())
        })
        .await
    }

    /// Redelivers a webhook's failed and dead deliveries whose event was received at `since` or
    /// later.
    #[graphql(complexity = "REDELIVERY_COST + child_complexity")]
    async fn recover_webhook(
        &self,
        context: &Context<'_>,
        id: ID,
        since: Timestamp,
        per_second: Option<f64>,
        #[graphql(default)] dry_run: bool,
    ) -> Nullable<Redelivered> {
        field(async {
            let operator = operator(context)?;
            let selection = DeliverySelection {
                route: selected_route(Some(&id))?,
                since: Some(since),
                ..DeliverySelection::default()
            };
            let query = RedeliveryQuery::new(selection, Vec::new(), per_second, dry_run)?;
            let report = operations(context).recover(operator, query).await;
            Ok(report.map_err(failed)?.into())
        })
        .await
    }

    /// Moves the waiting events and the dead letters of a route that is no longer configured to
    /// another route, with their IDs, payloads, attempts and records.
    #[graphql(complexity = "REDELIVERY_COST + child_complexity")]
    async fn move_events(&self, context: &Context<'_>, id: ID, to: ID) -> Nullable<MovedEvents> {
        field(async {
            let operator = operator(context)?;
            let from = route_name(&id)?;
            let to = route_name(&to).map_err(|_| failed(OperationError::UnknownTarget))?;
            let moved = operations(context).move_events(operator, from, to).await;
            Ok(moved.map_err(failed)?.into())
        })
        .await
    }

    /// Reloads the configuration file, as SIGHUP does. If it is refused, the error's extensions have
    /// its errors and warnings as `problems`, in the form that `warnings` has here.
    #[graphql(complexity = "RELOAD_COST + child_complexity")]
    async fn reload(&self, context: &Context<'_>) -> Nullable<Reloaded> {
        field(async {
            let reloaded = operations(context).reload(operator(context)?).await;
            Ok(reloaded.map_err(failed)?.into())
        })
        .await
    }

    /// Removes an event ID from the ledger, so that the event is accepted again. Its stored
    /// deliveries are kept.
    async fn forget_event(
        &self,
        context: &Context<'_>,
        id: ID,
        event_id: EventId,
    ) -> Nullable<bool> {
        field(async {
            let operator = operator(context)?;
            let event_id = to_raw_value(&event_id.0)
                .map_err(|error| ApiError::InvalidBody(error.to_string()))?;
            let (name, event_id) = (route_name(&id)?, query::event_id(&event_id)?);
            operations(context)
                .forget(operator, name, event_id)
                .await
                .map_err(failed)?;
            Ok(true)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HOOKSTILE_REGENERATE=1 cargo test --lib graphql` rewrites the file.
    #[test]
    fn schema_matches_its_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema.graphql");
        let schema = format!(
            "# The API's GraphQL schema, generated from the code.\n\n{}\n",
            schema().finish().sdl().trim()
        );
        if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            schema,
            "HOOKSTILE_REGENERATE=1 cargo test --lib rewrites it"
        );
    }
}

//! The API over GraphQL: from a query to operations, and from what came of them to an answer.
//!
//! `configureWebhook` is the call that `OrbVPN` documents; beside it is what REST has. What fails carries the code and the
//! sentence that REST would have answered with.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{
    Context, EmptySubscription, Enum, Error, ErrorExtensions, ID, InputObject, Json, Object, Request, Schema,
    SchemaBuilder, ServerError, SimpleObject, Variables,
};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::auth::{Caller, Operator};
use super::operations::{Operations, Page, Refused, Standing};
use super::problem::Problem;
use super::rest::{BODY_BYTES_MAX, Body, Matching, Test, checked_id, delivery_id, filter, json, parse};
use super::shape::{self, Attempt, Header, Redelivered, ShortStats, Stored, TestResult, route_of};
use crate::store::{self, DeliveryView};
use crate::webhooks::{Change, New};

/// What tools ask to learn the schema is 15 deep; our own types are 4.
const DEPTH_MAX: usize = 16;

/// Fields, where what costs more counts for more. What tools ask to learn the schema is some 250.
const COMPLEXITY_MAX: usize = 300;

/// A list of deliveries is read from the disk.
const LIST_COSTS: usize = 30;

/// A test event is waited for as long as the route's budget says.
const TEST_COSTS: usize = 100;

/// Redelivering many takes as long as the disk needs for all of them.
const REDELIVERING_COSTS: usize = 100;

/// Selections once all fragments are put in place, each time they are named: more than the complexity allows, and few
/// enough to be counted at once.
const SELECTIONS_MAX: usize = 2_000;

/// Opening brackets, those in texts as well: nothing is nested deeper than there are.
const BRACKETS_MAX: usize = 256;

/// Selections within selections and fragments.
const NESTING_MAX: usize = 64;

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
    Schema::build(Query, Mutation, EmptySubscription).limit_depth(DEPTH_MAX).limit_complexity(COMPLEXITY_MAX)
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
    let Asked { query, operation_name, variables } = parse(body)?;
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

/// Refuses what would take long, or too much of the stack, before it can be found out how complex it is.
fn bounded(request: &mut Request) -> Result<(), ServerError> {
    let brackets = request.query.bytes().filter(|byte| matches!(byte, b'{' | b'[' | b'('));
    if brackets.count() > BRACKETS_MAX {
        return Err(ServerError::new("Query is too complex.", None));
    }
    let document = request.parsed_query()?;
    let mut left = SELECTIONS_MAX;
    for (_, operation) in document.operations.iter() {
        if !within(&mut left, document, &operation.node.selection_set.node, NESTING_MAX) {
            return Err(ServerError::new("Query is too complex.", None));
        }
    }
    Ok(())
}

/// Takes a set's selections from what is `left`. A fragment that names itself uses it up, or gets too deep.
fn within(left: &mut usize, document: &ExecutableDocument, set: &SelectionSet, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    set.items.iter().all(|selection| {
        let Some(fewer) = left.checked_sub(1) else { return false };
        *left = fewer;
        match &selection.node {
            Selection::Field(field) => within(left, document, &field.node.selection_set.node, depth),
            Selection::InlineFragment(inline) => within(left, document, &inline.node.selection_set.node, depth),
            Selection::FragmentSpread(spread) => document
                .fragments
                .get(&spread.node.fragment_name.node)
                .is_none_or(|fragment| within(left, document, &fragment.node.selection_set.node, depth)),
        }
    })
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::new(problem.detail()).extend_with(|_, extensions| extensions.set("code", problem.code()))
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
    Ok(context.data_unchecked::<Caller>().operator()?)
}

/// As REST's parameters have it.
fn named_status(status: DeliveryStatus) -> String {
    store::State::from(status).as_str().to_owned()
}

fn named(id: &ID) -> Result<&str, Error> {
    route_of(id).ok_or_else(|| refused(Refused::NoSuchWebhook))
}

/// A route, of the file or made over the API.
#[derive(SimpleObject)]
struct Webhook {
    id: ID,
    /// The upstream's.
    url: String,
    /// Patterns of event types; `*` takes all.
    events: Vec<String>,
    active: bool,
    /// `active` or `inactive`, as REST has it.
    status: String,
    created_at: Option<Timestamp>,
    /// In the answer to `configureWebhook` that made the webhook, and nowhere else.
    secret: Option<String>,
    name: String,
    description: Option<String>,
    host: Option<String>,
    /// Where the provider is to send events to.
    path: String,
    provider: Option<String>,
    /// `proxy` or `queue`.
    delivery: String,
    /// `file` or `api`.
    source: String,
    /// When a delivery ended last.
    last_delivery: Option<Timestamp>,
    delivery_stats: ShortStats,
    queue: Stored,
}

impl From<Standing> for Webhook {
    fn from(standing: Standing) -> Self {
        let active = standing.route.active;
        let shape: shape::Webhook<ShortStats> = standing.into();
        Self {
            id: shape.id.into(),
            url: shape.url,
            events: shape.events,
            active,
            status: shape.status,
            created_at: shape.created_at,
            secret: None,
            name: shape.name,
            description: shape.description,
            host: shape.host,
            path: shape.path,
            provider: shape.provider,
            delivery: shape.delivery,
            source: shape.source,
            last_delivery: shape.last_delivery,
            delivery_stats: shape.delivery_stats,
            queue: shape.queue,
        }
    }
}

/// Where a delivery stands.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "store::State", rename_items = "lowercase")]
enum DeliveryStatus {
    /// Handed over.
    Success,
    /// Tried without success while the sender waited; the sender's retry passes.
    Failed,
    /// Stored, and to be tried.
    Pending,
    /// Stored, and given up.
    Dead,
}

/// All attempts for one event.
#[derive(SimpleObject)]
struct Delivery {
    id: ID,
    webhook_id: ID,
    event_type: String,
    event_id: String,
    received_at: Timestamp,
    /// When the last attempt began.
    delivered_at: Option<Timestamp>,
    status: DeliveryStatus,
    /// The last attempt's.
    response_status: Option<u16>,
    response_time_ms: Option<u64>,
    error: Option<String>,
    attempts: Vec<Attempt>,
    attempt_count: u32,
    /// Why it is a dead letter.
    reason: Option<String>,
    next_attempt_in_seconds: Option<u64>,
    /// Whether the upstream may have processed it although nothing says so.
    possible_duplicate: bool,
    /// Whether it can be delivered again.
    payload_kept: bool,
    /// The name of the secret that verified it. Unknown of what an earlier version took.
    verified_with: Option<String>,
    /// As they are handed over, where they are kept and a single delivery is asked for.
    headers: Option<Vec<Header>>,
    /// The body as it came: a number keeps all its digits.
    event_data: Option<Json<Box<RawValue>>>,
}

impl From<DeliveryView> for Delivery {
    fn from(view: DeliveryView) -> Self {
        let status = view.state.into();
        let shape = shape::Delivery::whole(view);
        Self {
            id: shape.id.into(),
            webhook_id: shape.webhook_id.into(),
            event_type: shape.event_type,
            event_id: shape.event_id,
            received_at: shape.received_at,
            delivered_at: shape.delivered_at,
            status,
            response_status: shape.response_status,
            response_time_ms: shape.response_time_ms,
            error: shape.error,
            attempts: shape.attempts,
            attempt_count: shape.attempt_count,
            reason: shape.reason,
            next_attempt_in_seconds: shape.next_attempt_in_seconds,
            possible_duplicate: shape.possible_duplicate,
            payload_kept: shape.payload_kept,
            verified_with: shape.verified_with,
            headers: shape.headers,
            event_data: shape.event_data.map(Json),
        }
    }
}

/// Deliveries, the newest first.
#[derive(SimpleObject)]
struct DeliveryPage {
    deliveries: Vec<Delivery>,
    /// How many there are on all pages; `null` when they are more than are counted.
    total: Option<usize>,
    has_more: bool,
    /// To be given as `cursor`, for the ones before.
    next_cursor: Option<String>,
}

impl From<Page> for DeliveryPage {
    fn from(page: Page) -> Self {
        let next_cursor = page.next.map(|next| next.to_string());
        let deliveries = page.deliveries.into_iter().map(Into::into).collect();
        Self { deliveries, total: page.total, has_more: next_cursor.is_some(), next_cursor }
    }
}

/// A webhook to be made, or with an `id` to be changed.
#[derive(InputObject)]
struct WebhookInput {
    /// Of the webhook that is to be changed. What is not given of it stays.
    id: Option<ID>,
    /// The upstream's.
    url: String,
    /// Patterns of event types; none, or `*`, take all.
    events: Vec<String>,
    /// Made if not given.
    secret: Option<String>,
    /// A new one is, if not said otherwise.
    active: Option<bool>,
    /// Added to what is handed over: names with values.
    headers: Option<Json<BTreeMap<String, String>>>,
    description: Option<String>,
    /// `/webhooks/ID` if not given.
    path: Option<String>,
    /// `orbvpn` if not given.
    provider: Option<String>,
    /// Other keys of a route, as the configuration has them.
    settings: Option<Json<Map<String, Value>>>,
}

impl WebhookInput {
    fn split(self) -> (Option<ID>, Change) {
        let change = Change {
            url: Some(self.url),
            events: Some(self.events),
            description: self.description,
            active: self.active,
            path: self.path,
            provider: self.provider,
            secret: self.secret.map(Zeroizing::new),
            headers: self.headers.map(|Json(headers)| headers),
            more: self.settings.map(|Json(settings)| settings).unwrap_or_default(),
        };
        (self.id, change)
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
        answered(async { Ok(operations(context).route(named(&id)?).await.map_err(refused)?.into()) }).await
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
            let bodies = context.look_ahead().field("deliveries").field("eventData").exists();
            // As REST's parameters, and held to what these are held to.
            let pairs = [
                ("webhook_id", webhook_id.map(|id| id.0)),
                ("status", status.map(named_status)),
                ("event_type", event_type),
                ("event_id", event_id),
                ("since", since.map(|at| at.to_string())),
                ("until", until.map(|at| at.to_string())),
                ("limit", limit.map(|limit| limit.to_string())),
                ("cursor", cursor),
                ("event_data", Some(bodies.to_string())),
            ];
            let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            Ok(operations(context).deliveries(filter(pairs, true)?).await.map_err(refused)?.into())
        })
        .await
    }

    async fn delivery(&self, context: &Context<'_>, id: ID) -> Answered<Delivery> {
        answered(async {
            let id = delivery_id(&id).map_err(refused)?;
            Ok(operations(context).delivery(id).await.map_err(refused)?.into())
        })
        .await
    }
}

struct Mutation;

async fn pause(context: &Context<'_>, id: &ID, paused: bool) -> Answered<Webhook> {
    answered(async {
        Ok(operations(context).pause(operator(context)?, named(id)?, paused).await.map_err(refused)?.into())
    })
    .await
}

#[Object]
impl Mutation {
    /// Makes a webhook, or with an `id` changes that one. It is stored and served before this is answered.
    async fn configure_webhook(&self, context: &Context<'_>, webhook: WebhookInput) -> Answered<Webhook> {
        answered(async {
            let operator = operator(context)?;
            let (id, mut given) = webhook.split();
            if let Some(id) = id {
                return Ok(operations(context).change(operator, named(&id)?, given).await.map_err(refused)?.into());
            }
            given.provider.get_or_insert_with(|| "orbvpn".into());
            let (standing, definition) = operations(context).make(operator, New { given }).await.map_err(refused)?;
            // The only time that it is shown.
            Ok(Webhook { secret: Some(definition.secret().to_owned()), ..standing.into() })
        })
        .await
    }

    /// Removes a webhook that was made over the API. Its stored events wait until one of its name is back.
    async fn delete_webhook(&self, context: &Context<'_>, id: ID) -> Answered<bool> {
        answered(async {
            operations(context).remove(operator(context)?, named(&id)?).await.map_err(refused)?;
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
            Ok(operations(context).test(operator(context)?, named(&id)?, &kind, data).await.map_err(refused)?.into())
        })
        .await
    }

    /// Has an event tried again now.
    async fn redeliver(&self, context: &Context<'_>, id: ID) -> Answered<Delivery> {
        answered(async {
            let id = delivery_id(&id).map_err(refused)?;
            Ok(operations(context).redeliver(operator(context)?, id).await.map_err(refused)?.into())
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
            status: status.map(named_status),
            event_type,
            event_id,
            since: since.map(|at| at.to_string()),
            until: until.map(|at| at.to_string()),
            dry_run,
            per_second,
        };
        answered(async {
            let operator = operator(context)?;
            let redelivered = operations(context).redeliver_matching(operator, matching.check()?).await;
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
        let matching = Matching { webhook_id, since, dry_run, per_second, ..Matching::default() };
        answered(async {
            Ok(operations(context).recover(operator(context)?, matching.check()?).await.map_err(refused)?.into())
        })
        .await
    }

    /// Lets an event of this ID pass again: a string, or an integer. What is stored of it waits on.
    async fn forget_event(&self, context: &Context<'_>, id: ID, event_id: Json<Value>) -> Answered<bool> {
        answered(async {
            let event_id = to_raw_value(&*event_id).map_err(|error| Problem::InvalidBody(error.to_string()))?;
            let (name, event_id) = (named(&id)?, checked_id(&event_id)?);
            operations(context).forget(operator(context)?, name, event_id).await.map_err(refused)?;
            Ok(true)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HOOKGATE_REGENERATE=1 cargo test --lib graphql` renews it.
    #[test]
    fn the_schema_is_the_one_that_is_written_down() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema.graphql");
        let schema = format!("# The API's GraphQL schema. Made from the code.\n\n{}\n", schema().finish().sdl().trim());
        if std::env::var_os("HOOKGATE_REGENERATE").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), schema, "HOOKGATE_REGENERATE=1 cargo test --lib renews it");
    }

    fn is_bounded(query: &str) -> Result<(), String> {
        bounded(&mut Request::new(query)).map_err(|error| error.message)
    }

    #[test]
    fn fragments_that_multiply_or_name_themselves_are_refused_before_they_are_followed() {
        let doubling = (0..40).map(|n| format!("fragment f{n} on Query {{ ...f{next} ...f{next} }}", next = n + 1));
        let doubling = doubling.collect::<Vec<_>>().join(" ");
        let doubling = format!("{{ ...f0 }} {doubling} fragment f40 on Query {{ webhooks {{ id }} }}");
        assert!(is_bounded(&doubling).is_err());
        assert!(is_bounded("{ ...f } fragment f on Query { ...f ...f }").is_err());
        assert_eq!(is_bounded("{ ...f ...f ...none } fragment f on Query { webhooks { id } }"), Ok(()));
    }

    #[test]
    fn brackets_in_brackets_are_refused_before_they_are_read() {
        for (open, between) in [("{a", ""), ("[", ""), ("{a:", ""), ("[\"]\" ", ""), ("[[", "]")] {
            let query = format!("{{ webhook(id: {}", format!("{open}{between}").repeat(10_000));
            assert_eq!(is_bounded(&query), Err("Query is too complex.".into()), "{open}");
        }
    }

    #[tokio::test]
    async fn as_many_brackets_as_may_be_are_read_without_harm() {
        for (before, open, close) in [("{ webhook(id: ", "[", "]"), ("{ webhook(id: ", "{a:", "1}"), ("", "{a", "}")] {
            let query = format!("{before}{}{}", open.repeat(200), close.repeat(200));
            let query = if before.is_empty() { query } else { format!("{query}) {{ id }} }}") };
            let mut request = Request::new(query);
            let harmless = match bounded(&mut request) {
                Ok(()) => !schema().finish().execute(request).await.errors.is_empty(),
                Err(_) => true,
            };
            assert!(harmless);
        }
    }
}

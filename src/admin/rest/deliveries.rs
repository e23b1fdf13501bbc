//! Deliveries, and the lists of them.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat};
use utoipa::{IntoParams, PartialSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Pairs, Parameters, RouteName, Shared, json, pairs, unknown_parameter};
use crate::admin::auth::Operator;
use crate::admin::operations::{Operations, Refused};
use crate::admin::problem::Problem;
use crate::admin::shape::{Deliveries, Delivery, OneDelivery, route_of};
use crate::store::{self, DeliveryFilter, DeliveryId};

const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;

const MOMENT: &str = "an RFC 3339 date and time, such as 2026-06-01T12:00:00Z";

pub(super) fn routes() -> OpenApiRouter<Arc<Operations>> {
    OpenApiRouter::default()
        .routes(routes!(deliveries))
        .routes(routes!(deliveries_of_webhook))
        .routes(routes!(delivery))
        .routes(routes!(redeliver))
}

/// Deliveries of all webhooks, those that are gone included, the newest first.
#[utoipa::path(
    get,
    path = "/deliveries",
    tag = "deliveries",
    params(OfAll),
    responses(
        (status = 200, body = Deliveries),
        (status = 404, description = "`unknown_webhook`: there is none, nor any delivery of one of this name."),
        (status = 503),
    )
)]
async fn deliveries(
    State(operations): Shared,
    parameters: Parameters,
) -> Result<Response, Problem> {
    list(&operations, filter(pairs(parameters)?, true)?).await
}

/// Deliveries of a webhook, the newest first.
#[utoipa::path(
    get,
    path = "/webhooks/{id}/deliveries",
    tag = "deliveries",
    params(OfOne),
    responses((status = 200, body = Deliveries), (status = 503))
)]
async fn deliveries_of_webhook(
    State(operations): Shared,
    RouteName(route): RouteName,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let filter = filter(pairs(parameters)?, false)?;
    list(
        &operations,
        DeliveryFilter {
            route: Some(route),
            ..filter
        },
    )
    .await
}

async fn list(operations: &Operations, filter: DeliveryFilter) -> Result<Response, Problem> {
    Ok(json(
        StatusCode::OK,
        &Deliveries::from(operations.deliveries(filter).await?),
    ))
}

/// One delivery, with its attempts.
#[utoipa::path(
    get,
    path = "/deliveries/{id}",
    tag = "deliveries",
    responses((status = 200, body = OneDelivery), (status = 503))
)]
async fn delivery(State(operations): Shared, Id(id): Id) -> Result<Response, Problem> {
    let delivery = Delivery::whole(operations.delivery(id).await?);
    Ok(json(
        StatusCode::OK,
        &OneDelivery {
            success: true,
            delivery,
        },
    ))
}

/// Has an event tried again now.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/redeliver",
    tag = "deliveries",
    responses(
        (status = 202, body = OneDelivery),
        (status = 409, description = "`in_flight`: a copy is being handed over now; or `payload_not_kept`."),
        (status = 503),
    )
)]
async fn redeliver(
    State(operations): Shared,
    operator: Operator,
    Id(id): Id,
) -> Result<Response, Problem> {
    let delivery = Delivery::whole(operations.redeliver(operator, id).await?);
    Ok(json(
        StatusCode::ACCEPTED,
        &OneDelivery {
            success: true,
            delivery,
        },
    ))
}

/// The delivery that the path names.
struct Id(DeliveryId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        // What is no text is no ID either.
        let Path(id) = id.map_err(|_| Refused::NoSuchDelivery)?;
        Ok(Self(delivery_id(&id)?))
    }
}

pub(in crate::admin) fn delivery_id(text: &str) -> Result<DeliveryId, Refused> {
    text.parse().map_err(|_| Refused::NoSuchDelivery)
}

/// What a list is to hold. `any_webhook` lets it be one of all webhooks.
pub(in crate::admin) fn filter(pairs: Pairs, any_webhook: bool) -> Result<DeliveryFilter, Problem> {
    let mut filter = DeliveryFilter {
        limit: LIMIT_DEFAULT,
        with_bodies: true,
        ..DeliveryFilter::default()
    };
    let mut seen: Vec<String> = Vec::new();
    for (name, value) in pairs {
        let wrong = |wanted: &str| Problem::InvalidParameter(format!("`{name}` must be {wanted}."));
        match name.as_str() {
            "limit" => {
                let limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=LIMIT_MAX).contains(limit));
                filter.limit = limit.ok_or_else(|| wrong("a number from 1 to 100"))?;
            }
            "cursor" => {
                let before = value
                    .parse()
                    .map_err(|_| wrong("a `next_cursor` of an earlier answer"))?;
                filter.before = Some(before);
            }
            "status" => {
                let state = store::DeliveryState::parse(&value);
                filter.state =
                    Some(state.ok_or_else(|| wrong("one of success, failed, pending and dead"))?);
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
        (Some(since), Some(until)) if since >= until => Err(Problem::InvalidParameter(
            "`since` must be before `until`.".into(),
        )),
        _ => Ok(filter),
    }
}

/// The parameters that [`filter`] takes, for the document: those of a list of all deliveries,
pub(super) enum OfAll {}

/// those of a webhook's,
pub(super) enum OfOne {}

/// and the one that any list takes.
pub(super) enum Limit {}

impl IntoParams for OfAll {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = OfOne::into_params(|| None);
        parameters.push(parameter(
            "webhook_id",
            "Of one webhook, which may be gone.",
            text().pattern(Some("^wh_")),
        ));
        parameters
    }
}

impl IntoParams for OfOne {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = Limit::into_params(|| None);
        let yes_or_no = ObjectBuilder::new()
            .schema_type(Type::Boolean)
            .default(Some(true.into()));
        parameters.extend([
            parameter(
                "cursor",
                "A `next_cursor` of an earlier answer: what comes after it.",
                text().pattern(Some("^(del_)?[0-9]{1,18}$")),
            ),
            parameter(
                "status",
                "Where they stand.",
                store::DeliveryState::schema(),
            ),
            parameter("event_type", "The event's type, as a whole.", text()),
            parameter("event_id", "The event's ID, as a whole.", text()),
            parameter("since", "Whose event was received then or later.", moment()),
            parameter(
                "until",
                "Whose event was received earlier; it is later than `since`.",
                moment(),
            ),
            parameter(
                "event_data",
                "Whether bodies of up to 64 KiB are shown.",
                yes_or_no,
            ),
        ]);
        parameters
    }
}

impl IntoParams for Limit {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(LIMIT_MAX));
        vec![parameter(
            "limit",
            "How many, at most.",
            number.default(Some(LIMIT_DEFAULT.into())),
        )]
    }
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn moment() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

fn parameter(name: &str, description: &str, schema: impl Into<RefOr<Schema>>) -> Parameter {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query);
    parameter
        .required(utoipa::openapi::Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

#[cfg(test)]
mod tests {
    use axum::extract::Query;

    use super::*;

    fn parse(query: &str) -> Result<DeliveryFilter, String> {
        let uri = format!("http://localhost/deliveries?{query}")
            .parse()
            .unwrap();
        let parameters = Query::try_from_uri(&uri);
        pairs(parameters)
            .and_then(|pairs| filter(pairs, true))
            .map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn parameters_become_a_filter() {
        let filter = parse(
            "limit=5&cursor=del_9&status=dead&event_type=user.created&event_id=evt%201&webhook_id=wh_a&event_data=false&\
             since=2026-06-01T14:00:00%2B02:00&until=2026-06-01T12:00:00.5Z",
        );
        let expected = DeliveryFilter {
            route: Some("a".into()),
            state: Some(store::DeliveryState::Dead),
            event_type: Some("user.created".into()),
            event_id: Some("evt 1".into()),
            since: Some("2026-06-01T12:00:00Z".parse().unwrap()),
            until: Some("2026-06-01T12:00:00.5Z".parse().unwrap()),
            before: Some(DeliveryId(9)),
            limit: 5,
            with_bodies: false,
        };
        assert_eq!(filter, Ok(expected));
        assert_eq!(
            parse(""),
            Ok(DeliveryFilter {
                limit: 20,
                with_bodies: true,
                ..DeliveryFilter::default()
            })
        );
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
            (
                "since=2026-06-01T12:00:00Z&until=2026-06-01T12:00:00Z",
                "since",
            ),
        ];
        for (query, named) in cases {
            let problem = parse(query).unwrap_err();
            assert!(
                problem.contains("InvalidParameter") && problem.contains(named),
                "{query}: {problem}"
            );
        }
        assert!(
            parse("webhook_id=billing")
                .unwrap_err()
                .contains("NoSuchWebhook")
        );
    }
}

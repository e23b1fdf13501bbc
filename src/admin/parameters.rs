//! Queries that arrive as text: in a query string, or in the members of a JSON body.

use jiff::Timestamp;

use super::error::ApiError;
use super::query::{self, DeliveryQuery, DeliverySelection, IdPrefix, WebhookQuery, invalid};
use crate::outcome::Code;
use crate::store::{DeliveryFilter, DeliveryState};

/// The parameters of a query string, decoded.
pub(super) type Pairs = Vec<(String, String)>;

/// Parses the parameters of a list of deliveries. `webhook_id` is one only with `any_webhook`.
pub(super) fn delivery_query(pairs: Pairs, any_webhook: bool) -> Result<DeliveryQuery, ApiError> {
    let mut selection = DeliverySelection::default();
    let (mut limit, mut before, mut with_bodies) = (query::LIMIT_DEFAULT, None, true);
    let mut search = None;
    let mut parsed: Vec<String> = Vec::new();
    for (name, value) in pairs {
        match name.as_str() {
            // A text that is no number fails as 0 does.
            "limit" => limit = query::limit(value.parse().unwrap_or(0))?,
            "cursor" => before = Some(query::cursor(&value)?),
            "status" => selection.state = Some(state(&value)?),
            "event_type" => selection.event_type = Some(value),
            "event_id" => selection.event_id = Some(value),
            "search" => search = Some(IdPrefix::parse(&value)),
            "event_data" => {
                with_bodies = value
                    .parse()
                    .map_err(|_| invalid("event_data", "true or false"))?;
            }
            "since" | "until" => {
                let at = Some(time(&name, &value)?);
                if name == "since" {
                    selection.since = at;
                } else {
                    selection.until = at;
                }
            }
            "webhook_id" if any_webhook => {
                selection.route = Some(query::route_name(&value)?.to_owned());
            }
            _ => return Err(unknown(&name)),
        }
        if parsed.contains(&name) {
            return Err(invalid(&name, "given once"));
        }
        parsed.push(name);
    }
    let filter = DeliveryFilter {
        before,
        limit,
        with_bodies,
        ..selection.into_filter()?
    };
    Ok(DeliveryQuery { filter, search })
}

/// Parses the parameters of the list of webhooks. Without any, all are listed at once.
pub(super) fn webhook_query(pairs: &Pairs) -> Result<Option<WebhookQuery>, ApiError> {
    let (mut limit, mut after) = (None, None);
    for (name, value) in pairs {
        let is_new = match name.as_str() {
            "limit" => limit
                .replace(query::limit(value.parse().unwrap_or(0))?)
                .is_none(),
            "cursor" => {
                let route = query::route_name(value)
                    .map_err(|_| invalid("cursor", "a `next_cursor` of an earlier answer"))?;
                after.replace(route.to_owned()).is_none()
            }
            _ => return Err(unknown(name)),
        };
        if !is_new {
            return Err(invalid(name, "given once"));
        }
    }
    Ok((!pairs.is_empty()).then(|| WebhookQuery {
        limit: limit.unwrap_or(query::LIMIT_DEFAULT),
        after,
    }))
}

/// Parses the parameters of a list of rejected requests: the limit and the outcome.
pub(super) fn rejection_filter(pairs: Pairs) -> Result<(usize, Option<Code>), ApiError> {
    let (outcomes, rest): (Pairs, Pairs) =
        pairs.into_iter().partition(|(name, _)| name == "outcome");
    if let Some((name, _)) = rest.iter().find(|(name, _)| name != "limit") {
        return Err(unknown(name));
    }
    let outcome = match &outcomes[..] {
        [] => None,
        [(_, text)] => Some(outcome(text)?),
        _ => return Err(invalid("outcome", "given once")),
    };
    Ok((delivery_query(rest, false)?.filter.limit, outcome))
}

/// Parses the outcome of a request. Requests that were delivered are not listed, so theirs selects
/// none.
pub(super) fn outcome(text: &str) -> Result<Code, ApiError> {
    Code::ALL
        .into_iter()
        .find(|code| code.as_str() == text)
        .ok_or_else(|| invalid("outcome", "the outcome of a request, such as duplicate"))
}

/// Parses a delivery's `status`.
pub(super) fn state(text: &str) -> Result<DeliveryState, ApiError> {
    DeliveryState::parse(text)
        .ok_or_else(|| invalid("status", "one of success, failed, pending and dead"))
}

/// Parses the time of the parameter `name`.
pub(super) fn time(name: &str, text: &str) -> Result<Timestamp, ApiError> {
    text.parse().map_err(|_| {
        invalid(
            name,
            "an RFC 3339 date and time, such as 2026-06-01T12:00:00Z",
        )
    })
}

fn unknown(name: &str) -> ApiError {
    ApiError::InvalidParameter(format!("There is no parameter `{}`.", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use axum::extract::Query;

    use super::*;
    use crate::store::DeliveryId;

    fn parse(query: &str) -> Result<DeliveryQuery, String> {
        let uri = format!("http://localhost/deliveries?{query}")
            .parse()
            .unwrap();
        let Query(pairs) = Query::<Pairs>::try_from_uri(&uri).unwrap();
        delivery_query(pairs, true).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn page_of_webhooks_has_limit_and_cursor() {
        let parse = |pairs: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
            webhook_query(&pairs.iter().map(owned).collect())
        };
        let page = |limit, after: Option<&str>| {
            let after = after.map(Into::into);
            Ok(Some(WebhookQuery { limit, after }))
        };
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[("limit", "7")]), page(7, None));
        assert_eq!(parse(&[("cursor", "wh_a")]), page(20, Some("a")));
        for wrong in [
            &[("limit", "0")][..],
            &[("limit", "101")],
            &[("limit", "")],
            &[("cursor", "a")],
            &[("cursor", "")],
            &[("page", "1")],
            &[("limit", "1"), ("limit", "1")],
            &[("cursor", "wh_a"), ("cursor", "wh_b")],
        ] {
            let refused = matches!(parse(wrong), Err(ApiError::InvalidParameter(_)));
            assert!(refused, "{wrong:?}");
        }
    }

    #[test]
    fn parameters_become_a_filter() {
        let query = parse(
            "limit=5&cursor=del_9&status=dead&event_type=user.created&event_id=evt%201&\
             webhook_id=wh_a&event_data=false&since=2026-06-01T14:00:00%2B02:00&\
             until=2026-06-01T12:00:00.5Z&search=evt",
        );
        let search = Some(IdPrefix::Event("evt".into()));
        let filter = DeliveryFilter {
            route: Some("a".into()),
            state: Some(DeliveryState::Dead),
            event_type: Some("user.created".into()),
            event_id: Some("evt 1".into()),
            since: Some("2026-06-01T12:00:00Z".parse().unwrap()),
            until: Some("2026-06-01T12:00:00.5Z".parse().unwrap()),
            before: Some(DeliveryId(9)),
            limit: 5,
            with_bodies: false,
            ..DeliveryFilter::default()
        };
        assert_eq!(query, Ok(DeliveryQuery { filter, search }));
        assert_eq!(
            parse(""),
            Ok(DeliveryQuery {
                filter: DeliveryFilter {
                    limit: 20,
                    with_bodies: true,
                    ..DeliveryFilter::default()
                },
                search: None,
            })
        );
    }
}

//! The problems of the gateway, as JSON.

use async_graphql::SimpleObject;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::names;
use crate::admin::webhook_id::webhook_id;
use crate::problems::{self, Evidence};

/// The problems of the gateway and its webhooks, the worst first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problems {
    pub success: bool,
    pub problems: Vec<GatewayProblem>,
}

/// A problem: one incident of one route, or of the gateway as a whole.
#[derive(Debug, Clone, Serialize, Deserialize, SimpleObject, ToSchema)]
#[graphql(name = "Problem")]
pub(crate) struct GatewayProblem {
    /// The route's name; `null` for the gateway as a whole.
    pub route: Option<String>,
    /// `critical`, `warning` or `notice`.
    #[schema(schema_with = names::severity_schema)]
    pub severity: String,
    #[schema(schema_with = names::problem_code_schema)]
    pub code: String,
    /// The time at which it began, as far as it is known.
    pub since: Option<Timestamp>,
    /// The cause and the extent, in one sentence.
    pub summary: String,
    /// The affected share of the last minutes' requests or attempts.
    #[schema(minimum = 0, maximum = 1)]
    pub share: f64,
    pub at_risk: AtRisk,
    /// The action that an operator should take.
    pub advice: String,
    /// The path of the list of the events or requests that it is about, at the admin listener.
    pub link: Option<String>,
}

/// The events that are lost unless somebody acts.
#[derive(Debug, Clone, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct AtRisk {
    pub events: u64,
    /// The time since the oldest one arrived.
    pub oldest_age_seconds: Option<u64>,
    /// The time from which the gateway or the provider no longer tries the first of them.
    pub gives_up_at: Option<Timestamp>,
}

impl GatewayProblem {
    pub(crate) fn new(problem: problems::Problem, now: Timestamp) -> Self {
        let route = problem.route.as_deref();
        let age = |oldest: Timestamp| now.as_second().saturating_sub(oldest.as_second());
        Self {
            severity: problem.severity.as_str().into(),
            code: problem.code.as_str().into(),
            since: problem.since,
            summary: problem.summary,
            share: problem.share,
            at_risk: AtRisk {
                events: problem.at_risk.events,
                oldest_age_seconds: problem
                    .at_risk
                    .oldest
                    .map(|oldest| age(oldest).try_into().unwrap_or_default()),
                gives_up_at: problem.at_risk.gives_up_at,
            },
            advice: problem.advice,
            link: problem
                .evidence
                .and_then(|evidence| evidence_path(evidence, route)),
            route: problem.route.as_deref().map(Into::into),
        }
    }
}

/// Returns the path of the list that shows what a problem of this route is about.
fn evidence_path(evidence: Evidence, route: Option<&str>) -> Option<String> {
    let of_route = |list: &str| Some(format!("/webhooks/{}/{list}", webhook_id(route?)));
    match evidence {
        Evidence::Failed => of_route("deliveries?status=failed"),
        Evidence::Pending => of_route("deliveries?status=pending"),
        Evidence::Dead => of_route("deliveries?status=dead"),
        Evidence::Rejections => of_route("rejections"),
        Evidence::AllRejections => Some("/rejections".into()),
    }
}

impl Problems {
    pub(crate) fn new(problems: Vec<problems::Problem>, now: Timestamp) -> Self {
        Self {
            success: true,
            problems: shapes(problems, now),
        }
    }
}

pub(super) fn shapes(problems: Vec<problems::Problem>, now: Timestamp) -> Vec<GatewayProblem> {
    problems
        .into_iter()
        .map(|problem| GatewayProblem::new(problem, now))
        .collect()
}

//! The problems of the gateway and its routes, as the pages show them.

use super::page::{Moment, Page};
use crate::admin::webhook_id::webhook_id;
use crate::problems::{Evidence, Problem, ProblemCode, Severity};

/// A problem and what to do about it.
pub(super) struct ProblemNotice {
    pub severity: Severity,
    /// `None` for the gateway as a whole.
    pub route: Option<String>,
    pub text: String,
    /// The time at which it began.
    pub since: Option<Moment>,
    /// The action that an operator should take.
    pub advice: String,
    /// The page with the events or requests that it is about.
    pub link: Option<String>,
}

impl Severity {
    /// Returns the CSS class.
    pub(super) const fn class(self) -> &'static str {
        self.as_str()
    }
}

impl ProblemNotice {
    pub(super) fn new(problem: &Problem, page: &Page) -> Self {
        // A route that is no longer configured has no page.
        let (route, text) = match problem.route.as_deref() {
            Some(removed) if problem.code == ProblemCode::RouteRemoved => {
                (None, format!("`{removed}`: {}", problem.summary))
            }
            route => (route, problem.summary.clone()),
        };
        Self {
            severity: problem.severity,
            route: route.map(Into::into),
            text,
            since: problem.since.map(|since| page.moment(&since)),
            advice: problem.advice.clone(),
            link: problem
                .evidence
                .and_then(|evidence| evidence_page(evidence, route)),
        }
    }
}

/// Returns the page that shows what a problem of this route is about.
fn evidence_page(evidence: Evidence, route: Option<&str>) -> Option<String> {
    let events = |status: &str| {
        let id = webhook_id(route?);
        Some(format!("/ui/events?webhook_id={id}&status={status}"))
    };
    match evidence {
        Evidence::Failed => events("failed"),
        Evidence::Pending => events("pending"),
        Evidence::Dead => events("dead"),
        Evidence::Rejections => Some(format!("/ui/rejections?route={}", route?)),
        Evidence::AllRejections => Some("/ui/rejections".into()),
    }
}

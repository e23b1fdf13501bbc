//! The page of rejected requests: the reasons, each with an explanation, and the latest requests.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::page::{Moment, Page, Shared, respond};
use super::words::{self, Explanation};
use crate::activity::{RejectionCount, RejectionKind};
use crate::admin::error::ApiError;
use crate::admin::operations::Operations;
use crate::admin::operations::rejections::RejectedRequest;
use crate::admin::parameters;
use crate::outcome::Code;

/// The requests on the page of all reasons.
const LISTED: usize = 25;
/// The requests on the page of one reason.
const LISTED_OF_REASON: usize = 40;
/// The requests on a page that shows all.
const LISTED_MAX: usize = 200;

/// The beginning of a choice of requests that were let pass.
const LET_PASS: &str = "let_pass:";

#[derive(Template)]
#[template(path = "rejections.html")]
struct Rejections {
    page: Page,
    query: RejectionQuery,
    /// The routes to choose from.
    routes: Vec<String>,
    groups: Vec<RejectionGroup>,
    rejected: Vec<RejectedRow>,
    total: String,
    /// The query of the page that lists more of these requests.
    more: Option<String>,
}

/// The selection as the form shows it. An empty text selects all.
#[derive(Default)]
struct RejectionQuery {
    route: String,
    outcome: String,
    /// The detail of the outcome, as in `mismatch`.
    reason: String,
    /// Set to select the requests that were let pass, where an outcome is chosen.
    let_pass: bool,
    all: bool,
}

/// The count of one kind of rejection, with an explanation.
pub(super) struct RejectionGroup {
    pub code: &'static str,
    pub reason: Option<&'static str>,
    pub let_pass: bool,
    pub count: String,
    /// `false` if `count` is only of the requests that are kept: normal ones, or older ones.
    pub in_last_hour: bool,
    pub last: Moment,
    pub explanation: Explanation,
    /// The query of the page that lists these requests.
    pub query: String,
}

/// A rejected request.
pub(super) struct RejectedRow {
    pub at: Moment,
    pub route: Option<String>,
    pub code: &'static str,
    pub reason: Option<&'static str>,
    pub let_pass: bool,
    pub status: u16,
    /// The method and the path, as far as they could be parsed.
    pub request: String,
    pub peer: String,
    pub bytes: String,
    pub user_agent: Option<String>,
    pub event_id: Option<String>,
    /// The number of later requests of the kind that were not kept.
    pub suppressed: u64,
    /// What the explainer found out about this request.
    pub found: Option<String>,
    /// The ID for `hookstile capture`, if the request was captured.
    pub capture_id: Option<String>,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    RawQuery(query): RawQuery,
) -> Response {
    let query = RejectionQuery::parse(&query.unwrap_or_default());
    respond(Rejections::load(&operations, page, query))
}

impl RejectionQuery {
    fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "route" => query.route = value.into_owned(),
                "outcome" => query.outcome = value.into_owned(),
                "reason" => query.reason = value.into_owned(),
                // A choice of the form: the outcome and its detail.
                "kind" => {
                    let rejected = value.strip_prefix(LET_PASS);
                    let kind = rejected.unwrap_or(&value);
                    let (outcome, reason) = kind.split_once('/').unwrap_or((kind, ""));
                    (query.outcome, query.reason) = (outcome.into(), reason.into());
                    query.let_pass = rejected.is_some();
                }
                "let_pass" => query.let_pass = true,
                "all" => query.all = true,
                _ => {}
            }
        }
        query
    }

    fn selects(&self, kind: RejectionKind) -> bool {
        (self.outcome.is_empty()
            || self.outcome == kind.code.as_str() && self.let_pass == kind.let_pass)
            && (self.reason.is_empty() || Some(self.reason.as_str()) == kind.reason)
    }

    /// Returns whether the form's choice is this group.
    fn is_of(&self, group: &RejectionGroup) -> bool {
        self.outcome == group.code
            && self.reason == group.reason.unwrap_or_default()
            && self.let_pass == group.let_pass
    }

    fn to_text(&self) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [
            ("route", &self.route),
            ("outcome", &self.outcome),
            ("reason", &self.reason),
        ] {
            if !value.is_empty() {
                text.append_pair(name, value);
            }
        }
        if self.let_pass {
            text.append_pair("let_pass", "1");
        }
        if self.all {
            text.append_pair("all", "1");
        }
        text.finish()
    }
}

impl Rejections {
    fn load(operations: &Operations, page: Page, query: RejectionQuery) -> Result<Self, ApiError> {
        let route = Some(query.route.as_str()).filter(|route| !route.is_empty());
        let outcome = Some(query.outcome.as_str()).filter(|outcome| !outcome.is_empty());
        let outcome: Option<Code> = outcome.map(parameters::outcome).transpose()?;
        let counts = operations.rejection_counts(route)?;
        let kept = operations.rejections(route, None, usize::MAX)?.requests;
        let groups = groups(&counts, &kept, route, &page);
        let listed = match (query.all, outcome) {
            (true, _) => LISTED_MAX,
            (false, Some(_)) => LISTED_OF_REASON,
            (false, None) => LISTED,
        };
        let mut selected: Vec<_> = kept
            .iter()
            .filter(|request| query.selects(request.rejection.kind))
            .collect();
        let total = selected.len();
        selected.truncate(listed);
        let more = (total > selected.len() && !query.all).then(|| {
            let all = RejectionQuery {
                all: true,
                route: query.route.clone(),
                outcome: query.outcome.clone(),
                reason: query.reason.clone(),
                let_pass: query.let_pass,
            };
            all.to_text()
        });
        let rejected = selected
            .into_iter()
            .map(|request| RejectedRow::new(request, &page))
            .collect();
        Ok(Self {
            routes: operations.route_names(),
            page,
            query,
            groups,
            rejected,
            total: words::counted(total as u64, "request is kept", "requests are kept"),
            more,
        })
    }

    /// Returns the groups on the page: all, or the chosen one.
    fn shown_groups(&self) -> impl Iterator<Item = &RejectionGroup> {
        self.groups.iter().filter(|group| {
            (self.query.outcome.is_empty()
                || self.query.outcome == group.code && self.query.let_pass == group.let_pass)
                && (self.query.reason.is_empty()
                    || Some(self.query.reason.as_str()) == group.reason)
        })
    }
}

/// Groups the rejections of the last hour by kind, and then the kept requests of other kinds.
fn groups(
    counts: &[RejectionCount],
    kept: &[RejectedRequest],
    route: Option<&str>,
    page: &Page,
) -> Vec<RejectionGroup> {
    let mut others: Vec<RejectionCount> = Vec::new();
    for request in kept {
        let kind = request.rejection.kind;
        if counts.iter().any(|counted| counted.kind == kind) {
            continue;
        }
        let (count, last_at) = (1 + request.left_out, request.rejection.at);
        match others.iter_mut().find(|other| other.kind == kind) {
            Some(other) => other.count += count,
            None => others.push(RejectionCount {
                kind,
                count,
                last_at,
            }),
        }
    }
    let counts = counts.iter().map(|counted| (counted, true));
    let all = counts.chain(others.iter().map(|other| (other, false)));
    all.map(|(counted, in_last_hour)| RejectionGroup::new(counted, in_last_hour, route, page))
        .collect()
}

impl RejectionGroup {
    pub(super) fn new(
        counted: &RejectionCount,
        in_last_hour: bool,
        route: Option<&str>,
        page: &Page,
    ) -> Self {
        let RejectionKind {
            code,
            reason,
            let_pass,
        } = counted.kind;
        let query = RejectionQuery {
            route: route.unwrap_or_default().into(),
            outcome: code.as_str().into(),
            reason: reason.unwrap_or_default().into(),
            let_pass,
            all: false,
        };
        Self {
            code: code.as_str(),
            reason,
            let_pass,
            count: words::count(counted.count),
            in_last_hour,
            last: page.moment(&counted.last_at),
            explanation: words::explain_rejection(code.as_str(), reason),
            query: query.to_text(),
        }
    }

    /// Returns the group's value in the form.
    fn choice(&self) -> String {
        let prefix = if self.let_pass { LET_PASS } else { "" };
        let reason = self.reason.map(|reason| format!("/{reason}"));
        format!("{prefix}{}{}", self.code, reason.unwrap_or_default())
    }
}

impl RejectedRow {
    pub(super) fn new(request: &RejectedRequest, page: &Page) -> Self {
        let rejection = &request.rejection;
        Self {
            at: page.moment(&rejection.at),
            route: request.route.as_deref().map(Into::into),
            code: rejection.kind.code.as_str(),
            reason: rejection.kind.reason,
            let_pass: rejection.kind.let_pass,
            status: rejection.status,
            request: format!("{} {}", rejection.method, rejection.path)
                .trim()
                .to_owned(),
            peer: rejection
                .peer
                .map_or_else(|| "–".into(), |peer| peer.to_string()),
            bytes: rejection
                .body_bytes
                .map_or_else(|| "–".into(), |bytes| words::count(bytes as u64)),
            user_agent: rejection.user_agent.as_deref().map(Into::into),
            event_id: rejection.event_id.as_deref().map(Into::into),
            suppressed: request.left_out,
            found: request.explanation.as_deref().map(Into::into),
            capture_id: rejection.capture_id.as_deref().map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_and_link_select_the_same_kind() {
        let form = RejectionQuery::parse("route=a+b&kind=invalid_signature%2Fmismatch");
        let link = form.to_text();
        assert_eq!(link, "route=a+b&outcome=invalid_signature&reason=mismatch");
        assert_eq!(RejectionQuery::parse(&link).to_text(), link);
        let kind = |reason| RejectionKind {
            code: Code::InvalidSignature,
            reason,
            let_pass: false,
        };
        assert!(form.selects(kind(Some("mismatch"))) && !form.selects(kind(Some("missing"))));
        let passed = RejectionQuery::parse("kind=let_pass:invalid_signature/mismatch");
        let link = passed.to_text();
        assert_eq!(RejectionQuery::parse(&link).to_text(), link);
        assert!(!passed.selects(kind(Some("mismatch"))));
        assert!(passed.selects(RejectionKind {
            let_pass: true,
            ..kind(Some("mismatch"))
        }));
        let any = RejectionQuery::parse("outcome=invalid_signature");
        assert!(any.selects(kind(None)));
    }
}

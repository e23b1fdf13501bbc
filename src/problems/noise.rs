//! Requests that no genuine sender makes: one line for all routes.

use std::sync::Arc;

use super::{Evidence, Problem, ProblemCode, RouteFacts, Severity, words};

/// The requests that no genuine sender makes, as they are collected into one line.
#[derive(Default)]
pub(super) struct Noise {
    rejected: u64,
    routes: Vec<Arc<str>>,
}

/// The requests of an hour that make noise worth a line.
const NOISE_MIN: u64 = 20;

/// The routes that a line of noise names.
const NOISY_ROUTES_NAMED: usize = 3;

impl Noise {
    /// Adds the rejections of a route whose senders have no problem.
    pub(super) fn add(&mut self, route: &RouteFacts) {
        let rejected: u64 = route
            .hour
            .iter()
            .map(|minute| minute.requests.rejected)
            .sum();
        if rejected > 0 {
            self.rejected += rejected;
            self.routes.push(Arc::clone(&route.name));
        }
    }

    pub(super) fn problem(self, unmatched: u64) -> Option<Problem> {
        if unmatched + self.rejected < NOISE_MIN {
            return None;
        }
        let mut parts = Vec::new();
        if unmatched > 0 {
            parts.push(format!("{} matched no route", words::requests(unmatched)));
        }
        if self.rejected > 0 {
            let shown = self.routes.iter().take(NOISY_ROUTES_NAMED);
            let shown: Vec<_> = shown.map(|name| &**name).collect();
            let omitted = match self.routes.len().saturating_sub(NOISY_ROUTES_NAMED) {
                0 => String::new(),
                omitted => format!(" and {omitted} more"),
            };
            let names = format!("{}{omitted}", shown.join(", "));
            parts.push(format!(
                "{} {} rejected on routes that work ({names})",
                words::requests(self.rejected),
                words::was_were(self.rejected),
            ));
        }
        Some(Problem {
            share: 0.0,
            evidence: Some(Evidence::AllRejections),
            ..Problem::new(
                ProblemCode::Noise,
                Severity::Notice,
                format!("{} in the last hour", parts.join("; ")),
                "Scanners do this. If a provider's URL is wrong, its requests are among them.",
            )
        })
    }
}

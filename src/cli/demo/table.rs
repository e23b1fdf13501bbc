//! Prints the result of each step, as a table for people or as JSON lines for scripts.

use std::io;

use serde_json::json;

use super::DemoStep;
use super::receiver::ReceiverCounts;
use super::sender::GatewayResponse;
use crate::cli::terminal;

pub(super) struct Table {
    json: bool,
    steps: usize,
    rows: usize,
    as_expected: usize,
}

impl Table {
    pub(super) fn new(json: bool, steps: usize) -> io::Result<Self> {
        if !json {
            terminal::print(&format!(
                "\n{:>3}  {:12} {:34} {:>6} {:18} {:>8}  {:22} as expected",
                "#", "sent", "event type", "status", "outcome", "time", "received upstream"
            ))?;
        }
        Ok(Self {
            json,
            steps,
            rows: 0,
            as_expected: 0,
        })
    }

    pub(super) fn row(
        &mut self,
        step: &DemoStep,
        response: &GatewayResponse,
        received: ReceiverCounts,
        as_expected: bool,
    ) -> io::Result<()> {
        self.rows += 1;
        self.as_expected += usize::from(as_expected);
        let millis = response.duration.as_secs_f64() * 1e3;
        if self.json {
            let row = json!({
                "sent": step.label,
                "event_type": step.event_type,
                "status": response.status,
                "outcome": response.outcome,
                "duration_ms": (millis * 1e3).round() / 1e3,
                "receiver_requests": received.requests,
                "receiver_verified": received.verified,
                "as_it_should": as_expected,
            });
            return terminal::print(&terminal::json_line(&row));
        }
        let shown = match received {
            ReceiverCounts { requests: 0, .. } => "nothing",
            ReceiverCounts {
                requests: 1,
                verified: 1,
            } => "1 request, verified",
            ReceiverCounts { requests: 1, .. } => "1 request, NOT VERIFIED",
            _ => "several requests",
        };
        terminal::print(&format!(
            "{:>3}  {:12} {:34} {:>6} {:18} {:>6.1}ms  {shown:22} {}",
            self.rows,
            step.label,
            step.event_type,
            response.status,
            response.outcome,
            millis,
            if as_expected { "yes" } else { "NO" },
        ))
    }

    /// Prints the summary and returns whether all steps had the expected result.
    pub(super) fn end(self) -> io::Result<bool> {
        let all = self.as_expected == self.steps;
        if !self.json {
            terminal::print(&format!(
                "\n{} of {} steps had the expected result.",
                self.as_expected, self.steps
            ))?;
        }
        Ok(all)
    }
}

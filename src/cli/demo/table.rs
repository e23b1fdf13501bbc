//! What became of each act, as a table for people or lines for scripts.

use serde_json::json;

use super::Act;
use super::receiver::Seen;
use super::sender::Answer;

pub(super) struct Table {
    json: bool,
    acts: usize,
    rows: usize,
    went_well: usize,
}

impl Table {
    pub(super) fn new(json: bool, acts: usize) -> Self {
        if !json {
            println!();
            println!(
                "{:>3}  {:12} {:34} {:>6} {:18} {:>8}  {:22} as it should",
                "#", "sent", "event type", "answer", "outcome", "after", "the receiver saw"
            );
        }
        Self {
            json,
            acts,
            rows: 0,
            went_well: 0,
        }
    }

    pub(super) fn row(&mut self, act: &Act, answer: &Answer, seen: Seen, went_well: bool) {
        self.rows += 1;
        self.went_well += usize::from(went_well);
        let millis = answer.after.as_secs_f64() * 1e3;
        if self.json {
            let row = json!({
                "sent": act.what, "event_type": act.kind, "status": answer.status, "outcome": answer.outcome,
                "duration_ms": (millis * 1e3).round() / 1e3, "receiver_requests": seen.requests,
                "receiver_verified": seen.verified, "as_it_should": went_well,
            });
            println!("{row}");
            return;
        }
        let saw = match seen {
            Seen { requests: 0, .. } => "nothing",
            Seen {
                requests: 1,
                verified: 1,
            } => "1 request, signed",
            Seen { requests: 1, .. } => "1 request, NOT SIGNED",
            _ => "several requests",
        };
        println!(
            "{:>3}  {:12} {:34} {:>6} {:18} {:>6.1}ms  {saw:22} {}",
            self.rows,
            act.what,
            act.kind,
            answer.status,
            answer.outcome,
            millis,
            if went_well { "yes" } else { "NO" },
        );
    }

    /// Answers whether all acts went well.
    pub(super) fn end(self) -> bool {
        let all = self.went_well == self.acts;
        if !self.json {
            println!("\n{} of {} went as they should.", self.went_well, self.acts);
        }
        all
    }
}

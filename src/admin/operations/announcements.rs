//! Announcements of problems: which gateway notifies of which beginning and end.
//!
//! One gateway alone decides by its own memory. Several gateways with one store agree there: the
//! first one that sees a problem begin enters it and notifies; all that see it go on say so; one of
//! them removes it once none has seen it for long enough, and notifies of the end. While the store
//! is the problem, each gateway goes by its memory.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::admin::shape::problems::GatewayProblem;
use crate::notifications::{self, Notification, NotificationKind, Notifier};
use crate::problems::{Ending, Problem, ProblemChange};
use crate::store::{ProblemAnnouncement, Store};

/// The time between two entries that a problem goes on. Much shorter than `end_after` usually is.
const REFRESH: Duration = Duration::from_secs(10);

/// The announcements of this gateway.
pub(super) struct Announcer {
    notifier: Notifier,
    end_after: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The problems that have begun and not ended here, by their keys.
    open: HashMap<String, OpenProblem>,
    /// Why problems that other gateways know have ended here, by their keys.
    endings: HashMap<String, Ending>,
    refreshed: Option<Instant>,
}

struct OpenProblem {
    /// The ID of the incident in the notifications, if this gateway has notified of its beginning
    /// without the store.
    own: Option<String>,
    /// The problem as it was when it began.
    document: String,
}

impl Announcer {
    /// Creates the announcer, and spawns the task that sends.
    pub(super) fn new(settings: notifications::Settings) -> Self {
        Self {
            end_after: settings.end_after,
            notifier: Notifier::start(settings),
            state: Mutex::default(),
        }
    }

    /// Notifies of what has begun and ended. `present` are the problems that are there now.
    pub(super) async fn announce(
        &self,
        store: &Store,
        changes: &[ProblemChange],
        present: &[Problem],
        now: Instant,
    ) {
        let mut state = self.state.lock().await;
        for change in changes {
            match change {
                ProblemChange::Began(problem) => self.begin(&mut state, store, problem).await,
                ProblemChange::Ended(problem, ending) => self.end(&mut state, problem, *ending),
                ProblemChange::Disappeared(problem, ending) if store.is_shared() => {
                    state.endings.insert(key(problem), *ending);
                }
                ProblemChange::Appeared(problem) => {
                    state.endings.remove(&key(problem));
                }
                ProblemChange::Disappeared(..) => {}
            }
        }
        let pause = REFRESH.min(self.end_after / 4);
        if !store.is_shared() || state.refreshed.is_some_and(|at| now < at + pause) {
            return;
        }
        state.refreshed = Some(now);
        for key in present.iter().map(key) {
            let Some(open) = state.open.get(&key).filter(|open| open.own.is_none()) else {
                continue;
            };
            match store.announce_problem(&key, &open.document).await {
                // Its end was notified: for some time, no gateway could say that it goes on.
                Ok(ProblemAnnouncement::First(id)) => {
                    self.send(NotificationKind::Began, &id, &open.document);
                }
                Ok(_) => {}
                // The others would wait as long.
                Err(_) => break,
            }
        }
        for (id, document) in store
            .withdraw_problems(self.end_after)
            .await
            .unwrap_or_default()
        {
            let ending = state.endings.get(&key_of(&document)).copied();
            self.send(NotificationKind::Ended, &id, &ended(&document, ending));
        }
    }

    async fn begin(&self, state: &mut State, store: &Store, problem: &Problem) {
        let (key, document) = (key(problem), document(problem));
        let announced = if store.is_shared() {
            store.announce_problem(&key, &document).await.ok()
        } else {
            None
        };
        let own = match announced {
            Some(ProblemAnnouncement::First(id)) => {
                self.send(NotificationKind::Began, &id, &document);
                None
            }
            Some(ProblemAnnouncement::Known) => None,
            // There is no other gateway, or the store is the problem.
            None => {
                let id = format!("{:032x}", fastrand::u128(..));
                self.send(NotificationKind::Began, &id, &document);
                Some(id)
            }
        };
        state.open.insert(key, OpenProblem { own, document });
    }

    /// Ends a problem. One that other gateways know ends when none of them has seen it for long
    /// enough.
    fn end(&self, state: &mut State, problem: &Problem, ending: Ending) {
        let open = state.open.remove(&key(problem));
        if let Some(id) = open.and_then(|open| open.own) {
            let document = ended(&document(problem), Some(ending));
            self.send(NotificationKind::Ended, &id, &document);
        }
    }

    fn send(&self, kind: NotificationKind, incident: &str, document: &str) {
        let suffix = match kind {
            NotificationKind::Began => "began",
            NotificationKind::Ended => "ended",
        };
        self.notifier.send(Notification {
            kind,
            id: format!("problem_{incident}_{suffix}"),
            // The document is one that a gateway has written.
            problem: serde_json::from_str(document).unwrap_or_default(),
        });
    }
}

/// Returns the identity of a problem among all gateways.
fn key(problem: &Problem) -> String {
    format!(
        "{} {}",
        problem.code.as_str(),
        problem.route.as_deref().unwrap_or_default()
    )
}

fn document(problem: &Problem) -> String {
    let shape = GatewayProblem::new(problem.clone(), Timestamp::now());
    // Serialising texts and numbers cannot fail.
    serde_json::to_string(&shape).unwrap_or_default()
}

/// Returns the identity of the problem of a document.
fn key_of(document: &str) -> String {
    let problem: Value = serde_json::from_str(document).unwrap_or_default();
    let member = |name: &str| problem[name].as_str().unwrap_or_default();
    format!("{} {}", member("code"), member("route"))
}

/// Adds to the document of a problem why it ended. If this gateway does not know it, no gateway sees
/// the problem any more.
fn ended(document: &str, ending: Option<Ending>) -> String {
    let mut problem: Value = serde_json::from_str(document).unwrap_or_default();
    problem["ended"] = match ending {
        Some(ending) => json!({"reason": ending.reason.as_str(), "summary": ending.summary}),
        None => json!({"reason": "not_seen", "summary": "no gateway sees it any more"}),
    };
    problem.to_string()
}

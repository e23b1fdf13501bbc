//! Announcements of problems: which gateway notifies of which beginning and end.
//!
//! One gateway alone goes by its own memory. Several gateways with one store share a memory there:
//! each enters what it sees, and what is still to be sent follows from it. So a notification that a
//! killed gateway owed is sent by another one. While the store is the problem, each gateway goes by
//! its own memory.
//!
//! Nobody waits for these tasks: neither the store nor the endpoint delays the list of problems.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::incidents::Incidents;
use crate::admin::shape::problems::GatewayProblem;
use crate::notifications::{self, ATTEMPT_TIMEOUT, Endpoint, Notification, NotificationKind};
use crate::problems::{Ending, Problem, SeriousProblem, Severity};
use crate::store::{ClaimedIncident, SeenIncident, Store, Untold, UntoldIncident};

/// The longest time between two entries that a problem goes on. Much shorter than `end_after`
/// usually is.
const REFRESH: Duration = Duration::from_secs(10);

/// The time between two looks for what other gateways have left to send.
const POLL: Duration = Duration::from_secs(2);

/// The time for which another gateway leaves an incident to the one that notifies of it.
const LEASE: Duration = ATTEMPT_TIMEOUT.saturating_add(Duration::from_secs(5));

/// The time for a look into the shared memory. What this gateway has to send itself waits for it.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(3);

/// The time from its end after which an incident is not sent any more.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

/// The way to the task that announces.
pub(super) struct Announcer(watch::Sender<Sight>);

/// The serious problems, as they were seen at one time.
#[derive(Clone)]
struct Sight {
    at: Instant,
    problems: Arc<[SeriousProblem]>,
}

/// What the halves of the task share.
struct Announcements {
    store: Store,
    end_after: Duration,
    own: Mutex<Incidents>,
    endings: Mutex<Endings>,
    /// Notified when there may be something to send.
    changed: Notify,
}

/// Why problems have ended here and when that was seen, by their keys. What other gateways see may
/// go on.
type Endings = HashMap<String, (Ending, Instant)>;

/// What this gateway has entered into the shared memory.
#[derive(Default)]
struct Entered {
    at: Option<Instant>,
    /// The severity that has lasted, by the keys of the problems.
    lasting: HashMap<String, i16>,
}

/// An incident to notify of, and whose memory has it.
enum Due {
    Own(UntoldIncident),
    Shared(ClaimedIncident),
}

impl Announcer {
    /// Spawns the task that announces. It ends when this is dropped.
    pub(super) fn start(settings: notifications::Settings, store: Store) -> Self {
        let sight = Sight {
            at: Instant::now(),
            problems: Arc::default(),
        };
        let (sender, sights) = watch::channel(sight);
        let announcements = Announcements {
            store,
            end_after: settings.end_after,
            own: Mutex::default(),
            endings: Mutex::default(),
            changed: Notify::new(),
        };
        let endpoint = Endpoint::new(settings);
        tokio::spawn(async move {
            tokio::select! {
                () = announcements.follow(sights) => {}
                () = announcements.send_all(endpoint) => {}
            }
        });
        Self(sender)
    }

    /// Announces what has begun, become worse and ended. Never waits.
    pub(super) fn publish(&self, at: Instant, problems: Vec<SeriousProblem>) {
        self.0.send_replace(Sight {
            at,
            problems: problems.into(),
        });
    }
}

impl Announcements {
    async fn follow(&self, mut sights: watch::Receiver<Sight>) {
        let mut entered = Entered::default();
        while sights.changed().await.is_ok() {
            let sight = sights.borrow_and_update().clone();
            self.note_endings(&sight);
            self.enter(&mut entered, &sight).await;
            self.changed.notify_one();
        }
    }

    fn note_endings(&self, sight: &Sight) {
        let mut endings = self.endings();
        endings.retain(|_, (_, seen_at)| sight.at < *seen_at + GIVE_UP_AFTER);
        for seen in &*sight.problems {
            let key = key(&seen.problem);
            match seen.ending {
                Some(ending) => drop(endings.insert(key, (ending, sight.at))),
                None => drop(endings.remove(&key)),
            }
        }
    }

    /// Enters what is seen, in the shared memory if possible.
    async fn enter(&self, entered: &mut Entered, sight: &Sight) {
        let seen: Vec<_> = sight
            .problems
            .iter()
            .map(|problem| (problem.last_seen, seen_incident(problem)))
            .collect();
        let lasts = |key: &str| seen.iter().any(|(_, it)| it.lasting > 0 && it.key == key);
        let mut shared = Vec::new();
        {
            let mut own = self.own();
            own.end_others(lasts, sight.at);
            log_given_up(own.drop_late(GIVE_UP_AFTER, sight.at));
            for (last_seen, incident) in &seen {
                if self.store.is_shared() && !own.contains(&incident.key) {
                    // What was entered before and is not there now ends when no gateway sees it.
                    if entered.at.is_none_or(|at| *last_seen > at) {
                        shared.push(incident.clone());
                    }
                } else if incident.lasting > 0 {
                    own.enter(incident);
                }
            }
        }
        if !self.store.is_shared() {
            return;
        }
        entered.lasting.retain(|key, _| lasts(key));
        let is_new =
            |it: &SeenIncident| it.lasting > entered.lasting.get(&it.key).copied().unwrap_or(0);
        let pause = REFRESH.min(self.end_after / 4);
        let is_due = entered.at.is_none_or(|at| sight.at >= at + pause);
        if !is_due && !shared.iter().any(is_new) {
            return;
        }
        let reported = self
            .store
            .report_incidents(&shared, self.end_after, GIVE_UP_AFTER)
            .await;
        match reported {
            Ok(given_up) => {
                log_given_up(given_up);
                entered.at = Some(sight.at);
                for incident in shared.into_iter().filter(|it| it.lasting > 0) {
                    entered.lasting.insert(incident.key, incident.lasting);
                }
            }
            // The store is the problem. What it knows already, it has, or will have, sent.
            Err(_) => {
                let mut own = self.own();
                for incident in &shared {
                    if incident.lasting > 0 && !entered.lasting.contains_key(&incident.key) {
                        own.enter(incident);
                    }
                }
            }
        }
    }

    /// Sends what is due, one after the other.
    async fn send_all(&self, mut endpoint: Endpoint) {
        let mut shared_first = false;
        loop {
            let _ = timeout(POLL, self.changed.notified()).await;
            while let Some(due) = self.next(shared_first).await {
                match endpoint.send(self.notification(due.incident())).await {
                    Ok(()) => self.mark_told(&due).await,
                    Err(pause) => {
                        // One that the endpoint does not accept holds up no other.
                        shared_first = matches!(due, Due::Own(_));
                        self.release(&due).await;
                        sleep(pause).await;
                    }
                }
            }
        }
    }

    async fn next(&self, shared_first: bool) -> Option<Due> {
        if shared_first && let Some(claimed) = self.claim().await {
            return Some(Due::Shared(claimed));
        }
        let own = self.own().due(Instant::now());
        match own {
            Some(incident) => Some(Due::Own(incident)),
            None if shared_first => None,
            None => self.claim().await.map(Due::Shared),
        }
    }

    async fn claim(&self) -> Option<ClaimedIncident> {
        let claimed = timeout(CLAIM_TIMEOUT, self.store.claim_incident(LEASE)).await;
        claimed.ok()?.ok()?
    }

    async fn mark_told(&self, due: &Due) {
        match due {
            Due::Own(incident) => self.own().mark_told(incident),
            Due::Shared(claimed) => {
                // If it fails, the lease ends, and the notification is sent again with its ID.
                let _ = self.store.mark_incident_told(claimed).await;
            }
        }
    }

    async fn release(&self, due: &Due) {
        if let Due::Shared(claimed) = due {
            // If it fails, the lease ends.
            let _ = self.store.release_incident(claimed).await;
        }
    }

    fn notification(&self, incident: &UntoldIncident) -> Notification {
        let id = &incident.id;
        // The document is one that a gateway has written.
        let mut problem: Value = serde_json::from_str(&incident.document).unwrap_or_default();
        let (kind, id) = match incident.untold {
            Untold::Began(severity) if severity == level(Severity::Critical) => (
                NotificationKind::Began,
                format!("problem_{id}_began_critical"),
            ),
            Untold::Began(_) => (NotificationKind::Began, format!("problem_{id}_began")),
            Untold::Ended => {
                problem["ended"] = match self.endings().get(&key_of(&problem)) {
                    Some((ending, _)) => {
                        json!({"reason": ending.reason.as_str(), "summary": ending.summary})
                    }
                    None => json!({"reason": "not_seen", "summary": "no gateway sees it any more"}),
                };
                (NotificationKind::Ended, format!("problem_{id}_ended"))
            }
        };
        Notification { kind, id, problem }
    }

    fn own(&self) -> MutexGuard<'_, Incidents> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endings(&self) -> MutexGuard<'_, Endings> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Due {
    fn incident(&self) -> &UntoldIncident {
        match self {
            Self::Own(incident) => incident,
            Self::Shared(claimed) => &claimed.incident,
        }
    }
}

fn log_given_up(notifications: u64) {
    if notifications > 0 {
        tracing::error!(
            notifications,
            "notifications given up: an hour after its end, the endpoint knows no such problem"
        );
    }
}

fn seen_incident(seen: &SeriousProblem) -> SeenIncident {
    let problem = &seen.problem;
    SeenIncident {
        key: key(problem),
        document: document(problem),
        severity: level(problem.severity),
        lasting: seen.lasting.map_or(0, level),
    }
}

/// Returns the number of a severity in the memory of incidents.
const fn level(severity: Severity) -> i16 {
    match severity {
        Severity::Notice => 1,
        Severity::Warning => 2,
        Severity::Critical => 3,
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

/// Returns the identity of the problem of a document.
fn key_of(document: &Value) -> String {
    let member = |name: &str| document[name].as_str().unwrap_or_default();
    format!("{} {}", member("code"), member("route"))
}

fn document(problem: &Problem) -> String {
    let shape = GatewayProblem::new(problem.clone(), Timestamp::now());
    // Serialising texts and numbers cannot fail.
    serde_json::to_string(&shape).unwrap_or_default()
}

//! All three ways of handing over under load in one gateway, or in several, for tests that do their worst to them; the
//! history of each is judged at the end.

use std::collections::{BTreeSet, VecDeque};
use std::process::Command;
use std::time::Duration;

use super::fleet::{Fleet, Fronts};
use super::gateway::{Gateway, Route, Setup, Under};
use super::history::{Disturbance, Duplicate, History, Sent};
use super::patience::{eventually, within};
use super::programs::{program, tool};
use super::sender::Event;
use super::upstream::{Received, Reply, Upstream};

/// Senders on each route.
const SENDERS: usize = 2;

/// Events of each route whose IDs must still be known after the last start.
const ASKED_AGAIN: usize = 60;

/// One route with its senders and its receiver.
struct Lane {
    delivery: &'static str,
    duplicate: Duplicate,
    upstream: Upstream,
    fleet: Fleet,
}

impl Lane {
    fn path(delivery: &str) -> String {
        format!("/webhooks/{delivery}")
    }
}

pub struct Trial {
    /// The one that is disturbed.
    pub gateway: Gateway,
    beside: VecDeque<Gateway>,
    fronts: Fronts,
    setup: Setup,
    lanes: Vec<Lane>,
    disturbances: Vec<Disturbance>,
}

impl Trial {
    /// A gateway under load, on the way.
    pub async fn start() -> Self {
        Self::start_with(|setup| setup, |route| route).await
    }

    /// The same with another configuration.
    pub async fn start_with(
        change: impl Fn(Setup) -> Setup,
        change_route: impl Fn(Route) -> Route,
    ) -> Self {
        let upstreams =
            ["proxy", "queue", "spill"].map(|delivery| (delivery, Upstream::deciding(moody)));
        let route = |(delivery, upstream): &(&'static str, Upstream)| {
            let route = change_route(
                Route::to(upstream)
                    .named(delivery)
                    .with("delivery", delivery),
            );
            if *delivery == "proxy" {
                return route;
            }
            route.with(
                "retry",
                "{initial: 20ms, factor: 2, max_interval: 200ms, horizon: 1h}",
            )
        };
        let setup =
            change(Setup::new(upstreams.iter().map(route).collect::<Vec<_>>()).stopping_at_once());
        let gateway = Gateway::start(setup.clone()).await;
        let fronts = Fronts::from(&gateway.front());
        let lane = |(delivery, upstream): (&'static str, Upstream)| {
            let duplicate = if delivery == "proxy" {
                Duplicate::IsDelivered
            } else {
                Duplicate::IsAccepted
            };
            let fleet = Fleet::start_as(delivery, &fronts, &Lane::path(delivery), SENDERS);
            Lane {
                delivery,
                duplicate,
                upstream,
                fleet,
            }
        };
        let lanes = upstreams.into_iter().map(lane).collect();
        let (beside, disturbances) = (VecDeque::new(), Vec::new());
        let trial = Self {
            gateway,
            beside,
            fronts,
            setup,
            lanes,
            disturbances,
        };
        trial.progresses(5).await;
        trial
    }

    /// Another gateway, which the copies of events go to as well from here on.
    pub async fn is_joined_by(&mut self, setup: Setup) {
        let gateway = Gateway::start(setup).await;
        self.fronts.add(gateway.front());
        self.beside.push_back(gateway);
    }

    /// The next in turn is the one that is disturbed.
    pub fn turns_to_the_next(&mut self) {
        if let Some(next) = self.beside.pop_front() {
            self.beside
                .push_back(std::mem::replace(&mut self.gateway, next));
        }
    }

    /// It stops as it is asked to, and is not started again.
    pub async fn is_left(&mut self) {
        assert_eq!(self.gateway.stop().await.code(), Some(0));
        self.gateway = self.beside.pop_front().expect("another");
    }

    pub fn accepted(&self) -> usize {
        self.lanes.iter().map(|lane| lane.fleet.accepted()).sum()
    }

    /// Waits until each route has accepted so many more events.
    pub async fn progresses(&self, by: usize) {
        for lane in &self.lanes {
            lane.fleet.progresses(by).await;
        }
    }

    /// The gateway's configuration, to be started by another command.
    pub fn setup_under(&self, under: Under) -> Setup {
        self.setup.clone().under(under)
    }

    pub async fn restart(&mut self) {
        self.gateway.restart_with(self.setup.clone()).await;
    }

    pub async fn kill(&mut self) {
        let disturbance = self.gateway.kill().await;
        self.disturbed(disturbance);
    }

    pub fn disturbed(&mut self, disturbance: Disturbance) {
        self.disturbances.push(disturbance);
    }

    /// Ends the load, waits until the queues are empty, and holds everything that happened to the promises; then
    /// kills the gateway once more, and asks whether it still knows what it had accepted.
    pub async fn judge(mut self) {
        let mut histories = Vec::new();
        let mut upstreams = Vec::new();
        for lane in std::mem::take(&mut self.lanes) {
            histories.push((lane.delivery, lane.duplicate, lane.fleet.finish().await));
            upstreams.push(lane.upstream);
        }
        self.queues_are_empty().await;
        self.kill().await;
        self.restart().await;
        for ((delivery, _, sent), upstream) in histories.iter_mut().zip(&upstreams) {
            let before = upstream.count();
            self.knows_again(delivery, sent).await;
            assert_eq!(
                upstream.count(),
                before,
                "copies of accepted events reach the upstream of {delivery}"
            );
        }
        self.queues_are_empty().await;
        for gateway in self.beside.iter_mut().chain([&mut self.gateway]) {
            assert_eq!(gateway.stop().await.code(), Some(0));
        }
        if !self.is_shared() {
            assert_store_is_whole(&self.gateway);
        }
        let disturbances = self.disturbances;
        for ((delivery, duplicate, sent), upstream) in histories.into_iter().zip(&upstreams) {
            let (attempts, dead) = (upstream.attempts(), BTreeSet::new());
            let history = History {
                duplicate,
                sent,
                attempts,
                disturbances: disturbances.clone(),
                dead,
            };
            eprintln!(
                "{delivery}: {} copies sent, {} events acknowledged, {} attempts, {} disturbances",
                history.sent.len(),
                history.acknowledged(),
                history.attempts.len(),
                history.disturbances.len()
            );
            history.assert_sound();
        }
    }

    /// A store in PostgreSQL has no file.
    fn is_shared(&self) -> bool {
        !self.gateway.store().exists()
    }

    async fn queues_are_empty(&self) {
        eventually("the queues are empty", async || {
            if self.is_shared() {
                // The gauges are behind, or of one gateway alone.
                let answer = self.gateway.admin_get("/deliveries?status=pending").await;
                return answer.status == 200 && answer.text().contains(r#""total":0"#);
            }
            let metrics = self.gateway.metrics().await;
            let waiting = ["pending", "delivering"]
                .map(|state| metrics.find("queue_events", &[("state", state)]));
            waiting.into_iter().all(|count| count == Some(0.0))
        })
        .await;
    }

    /// Sends copies of some accepted events, early and late ones; all must be duplicates.
    async fn knows_again(&self, delivery: &str, sent: &[Sent]) {
        let accepted: Vec<_> = sent
            .iter()
            .filter(|copy| copy.outcome().is_some_and(is_accepted))
            .collect();
        assert!(!accepted.is_empty(), "nothing was accepted by {delivery}");
        let mut client = self.gateway.connect().await;
        for copy in accepted
            .iter()
            .rev()
            .step_by(accepted.len().div_ceil(ASKED_AGAIN))
        {
            let again = async {
                loop {
                    let answer = client
                        .send(
                            Event::raw(copy.body.to_vec())
                                .post()
                                .at(&Lane::path(delivery)),
                        )
                        .await;
                    // A shared store may be slow; senders ask again.
                    if answer.status != 503 || !self.is_shared() {
                        return answer;
                    }
                }
            };
            let answer = within("an answer of the store", again).await;
            assert_eq!(
                answer.outcome(),
                "duplicate",
                "{} was answered {:?} before",
                copy.id,
                copy.answer
            );
        }
    }
}

fn is_accepted(outcome: &str) -> bool {
    ["delivered", "queued", "duplicate"].contains(&outcome)
}

/// A receiver as they are: mostly well, at times slow, out of order, or gone after the request.
fn moody(request: &Received, attempt: usize) -> Reply {
    let mood: usize = request.body.iter().map(|byte| usize::from(*byte)).sum();
    match (mood % 10, attempt) {
        (1, 1) => Reply::status(500),
        (3, 1 | 2) => Reply::status(503),
        (5, 1) => Reply::cut(),
        (7, _) => Reply::ok().slowly(Duration::from_millis(15)),
        _ => Reply::ok(),
    }
}

/// Has the engine itself look at every database of a gateway that has ended.
pub fn assert_store_is_whole(gateway: &Gateway) {
    let Some(sqlite3) = tool(
        "sqlite3",
        program("HOOKSTILE_SQLITE3", "sqlite3"),
        "the check of the store's files",
    ) else {
        return;
    };
    let databases = gateway.databases();
    assert!(!databases.is_empty(), "there is a database");
    for database in databases {
        let check = Command::new(&sqlite3)
            .arg(&database)
            .arg("PRAGMA integrity_check")
            .output()
            .expect("sqlite3 runs");
        let said = String::from_utf8_lossy(&check.stdout);
        assert_eq!(
            said.trim(),
            "ok",
            "{}: {}",
            database.display(),
            String::from_utf8_lossy(&check.stderr)
        );
    }
}

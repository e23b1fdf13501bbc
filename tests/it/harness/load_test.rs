//! A load test: all three delivery modes under load, with one gateway or several, while the test
//! disturbs them. At the end the history of each route is checked.

use std::collections::{BTreeSet, VecDeque};
use std::process::Command;
use std::time::Duration;

use super::fleet::{Endpoints, Fleet};
use super::gateway::{Gateway, Launcher, Route, Setup};
use super::history::{Disturbance, Duplicate, History, Sent, standing};
use super::programs::{program, tool};
use super::sender::Event;
use super::upstream::{Received, Reply, Upstream};
use super::wait::{eventually, within};

/// The number of senders on each route.
const SENDERS: usize = 2;

/// The number of each route's events whose IDs must still be known after the last start.
const REMEMBERED: usize = 60;

/// A route with its senders and its upstream.
struct LoadedRoute {
    delivery: &'static str,
    duplicate: Duplicate,
    upstream: Upstream,
    fleet: Fleet,
}

impl LoadedRoute {
    fn path(delivery: &str) -> String {
        format!("/webhooks/{delivery}")
    }
}

pub struct LoadTest {
    /// The gateway that the test disturbs.
    pub gateway: Gateway,
    others: VecDeque<Gateway>,
    endpoints: Endpoints,
    setup: Setup,
    routes: Vec<LoadedRoute>,
    disturbances: Vec<Disturbance>,
}

impl LoadTest {
    /// Starts a gateway under load and waits until it has accepted some events.
    pub async fn start() -> Self {
        Self::start_with(|setup| setup, |route| route).await
    }

    /// Starts a load test with a changed configuration.
    pub async fn start_with(
        change: impl Fn(Setup) -> Setup,
        change_route: impl Fn(Route) -> Route,
    ) -> Self {
        let upstreams =
            ["proxy", "queue", "spill"].map(|delivery| (delivery, Upstream::deciding(unreliable)));
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
        let endpoints = Endpoints::from(&gateway.endpoint());
        let routes = upstreams
            .into_iter()
            .map(|(delivery, upstream): (&'static str, Upstream)| {
                let duplicate = if delivery == "proxy" {
                    Duplicate::Delivered
                } else {
                    Duplicate::Accepted
                };
                let fleet =
                    Fleet::start_as(delivery, &endpoints, &LoadedRoute::path(delivery), SENDERS);
                LoadedRoute {
                    delivery,
                    duplicate,
                    upstream,
                    fleet,
                }
            })
            .collect();
        let (others, disturbances) = (VecDeque::new(), Vec::new());
        let load_test = Self {
            gateway,
            others,
            endpoints,
            setup,
            routes,
            disturbances,
        };
        load_test.wait_for_progress(5).await;
        load_test
    }

    /// Starts another gateway, which also receives copies of events from now on.
    pub async fn add_gateway(&mut self, setup: Setup) {
        let gateway = Gateway::start(setup).await;
        self.endpoints.add(gateway.endpoint());
        self.others.push_back(gateway);
    }

    /// Makes the next gateway in turn the one that the test disturbs.
    pub fn select_next_gateway(&mut self) {
        if let Some(next) = self.others.pop_front() {
            self.others
                .push_back(std::mem::replace(&mut self.gateway, next));
        }
    }

    /// Stops the disturbed gateway for good; the next one takes its place.
    pub async fn remove_gateway(&mut self) {
        assert_eq!(self.gateway.stop().await.code(), Some(0));
        self.gateway = self.others.pop_front().expect("another");
    }

    pub fn accepted(&self) -> usize {
        self.routes.iter().map(|route| route.fleet.accepted()).sum()
    }

    /// Waits until each route has accepted this many more events.
    pub async fn wait_for_progress(&self, by: usize) {
        for route in &self.routes {
            route.fleet.wait_for_progress(by).await;
        }
    }

    /// Returns the gateway's configuration, started by this launcher.
    pub fn setup_with_launcher(&self, launcher: Launcher) -> Setup {
        self.setup.clone().launched_by(launcher)
    }

    pub async fn restart(&mut self) {
        self.gateway.restart_with(self.setup.clone()).await;
    }

    pub async fn kill(&mut self) {
        let disturbance = self.gateway.kill().await;
        self.record_disturbance(disturbance);
    }

    pub fn record_disturbance(&mut self, disturbance: Disturbance) {
        self.disturbances.push(disturbance);
    }

    /// Ends the load, and checks the store and the complete history against every promise.
    pub async fn finish(self) {
        let is_shared = self.is_shared();
        let (gateway, histories) = self.end().await;
        if !is_shared {
            assert_store_is_intact(&gateway);
        }
        for history in histories {
            history.assert_sound();
        }
    }

    /// Ends the load, waits until the queues are empty, kills the gateway once more and checks that
    /// it still knows the accepted events. Returns the stopped gateway, and the history of each
    /// route.
    pub async fn end(mut self) -> (Gateway, Vec<History>) {
        let mut routes = Vec::new();
        for route in std::mem::take(&mut self.routes) {
            let sent = route.fleet.finish().await;
            routes.push((route.delivery, route.duplicate, sent, route.upstream));
        }
        self.wait_for_empty_queues().await;
        self.kill().await;
        self.restart().await;
        for (delivery, _, sent, upstream) in &routes {
            let before = upstream.count();
            self.assert_remembers(delivery, &standing(sent, &self.disturbances))
                .await;
            assert_eq!(
                upstream.count(),
                before,
                "copies of accepted events must not reach the upstream of {delivery}"
            );
        }
        self.wait_for_empty_queues().await;
        for gateway in self.others.iter_mut().chain([&mut self.gateway]) {
            assert_eq!(gateway.stop().await.code(), Some(0));
        }
        let mut histories = Vec::new();
        for (delivery, duplicate, sent, upstream) in routes {
            let history = History {
                duplicate,
                stored_first: delivery == "queue",
                sent,
                attempts: upstream.attempts(),
                disturbances: self.disturbances.clone(),
                dead: BTreeSet::new(),
            };
            eprintln!(
                "{delivery}: {} copies sent, {} events acknowledged, {} attempts, {} disturbances",
                history.sent.len(),
                history.acknowledged(),
                history.attempts.len(),
                history.disturbances.len()
            );
            histories.push(history);
        }
        (self.gateway, histories)
    }

    /// Returns whether the store is in PostgreSQL, which has no file.
    fn is_shared(&self) -> bool {
        !self.gateway.store().exists()
    }

    async fn wait_for_empty_queues(&self) {
        eventually("the queues are empty", async || {
            if self.is_shared() {
                // The gauges lag behind, or cover one gateway only.
                let response = self.gateway.admin_get("/deliveries?status=pending").await;
                return response.status == 200 && response.text().contains(r#""total":0"#);
            }
            let metrics = self.gateway.metrics().await;
            let waiting = ["pending", "delivering"]
                .map(|state| metrics.find("queue_events", &[("state", state)]));
            waiting.into_iter().all(|count| count == Some(0.0))
        })
        .await;
    }

    /// Sends copies of some accepted events, early and late ones, and asserts that all are
    /// duplicates.
    async fn assert_remembers(&self, delivery: &str, sent: &[Sent]) {
        let accepted: Vec<_> = sent
            .iter()
            .filter(|copy| copy.outcome().is_some_and(is_accepted))
            .collect();
        assert!(!accepted.is_empty(), "nothing was accepted by {delivery}");
        let mut client = self.gateway.connect().await;
        for copy in accepted
            .iter()
            .rev()
            .step_by(accepted.len().div_ceil(REMEMBERED))
        {
            let again = async {
                loop {
                    let response = client
                        .send(
                            Event::raw(copy.body.to_vec())
                                .post()
                                .at(&LoadedRoute::path(delivery)),
                        )
                        .await;
                    // A shared store may be slow, so the sender retries.
                    if response.status != 503 || !self.is_shared() {
                        return response;
                    }
                }
            };
            let response = within("the store responds", again).await;
            assert_eq!(
                response.outcome(),
                "duplicate",
                "{} was answered {:?} before",
                copy.id,
                copy.response
            );
        }
    }
}

fn is_accepted(outcome: &str) -> bool {
    ["delivered", "queued", "duplicate"].contains(&outcome)
}

/// Replies as a real upstream does: usually at once, at times slowly, out of order, or with a
/// connection that breaks after the request.
fn unreliable(request: &Received, attempt: usize) -> Reply {
    let variant: usize = request.body.iter().map(|byte| usize::from(*byte)).sum();
    match (variant % 10, attempt) {
        (1, 1) => Reply::status(500),
        (3, 1 | 2) => Reply::status(503),
        (5, 1) => Reply::disconnect(),
        (7, _) => Reply::ok().slowly(Duration::from_millis(15)),
        _ => Reply::ok(),
    }
}

/// Runs SQLite's integrity check on every database of a stopped gateway.
pub fn assert_store_is_intact(gateway: &Gateway) {
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
        let output = String::from_utf8_lossy(&check.stdout);
        assert_eq!(
            output.trim(),
            "ok",
            "{}: {}",
            database.display(),
            String::from_utf8_lossy(&check.stderr)
        );
    }
}

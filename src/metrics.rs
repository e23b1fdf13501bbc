//! Every exported metric, with its handles resolved once.
//!
//! Label values are names from the configuration or from closed sets, never from a request, so the
//! configuration bounds the number of series. The counters of what a route can count exist, at 0, from
//! the moment the route exists; everything else of it exists once it has a value. So an idle route has
//! at most 40 series.

mod series;

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::backoff::DeadLetterReason;
use crate::cause::Cause;
use crate::outcome::Code;

use series::{Family, Series};

/// Buckets in seconds. Dense around the usual budget of 10 s, so that exceeding it shows.
const SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 9.0, 9.5, 10.0,
    12.5, 30.0,
];

/// Buckets in bytes, 256 B to 16 MiB, each four times the one before.
const BYTES: [f64; 9] = [
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// The statuses of the gateway itself, and the usual ones of an upstream.
const STATUSES: [&str; 20] = [
    "200", "201", "202", "204", "400", "401", "403", "404", "405", "408", "409", "413", "422",
    "429", "431", "500", "502", "503", "504", "410",
];

/// The `route` label of requests that matched no route.
const NO_ROUTE: &str = "";

/// The `result` label of a signature check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureCheck<'a> {
    /// Verified, with the secret of this name.
    Ok(&'a str),
    Missing,
    Malformed,
    Mismatch,
    Stale,
}

/// The `result` label of a ledger check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum LedgerCheck {
    New,
    Duplicate,
    InFlight,
    PayloadMismatch,
    /// A new event whose body was delivered before as another one, or that nothing identifies.
    PossibleReplay,
    Error,
}

/// The `result` label of a delivery attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum UpstreamResult {
    Success,
    Redirection,
    ClientError,
    ServerError,
    ConnectError,
    Timeout,
    Broken,
}

/// The `result` label of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum TlsHandshake {
    Ok,
    Failed,
    Timeout,
}

/// The `result` label of a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum ProxyHeader {
    Ok,
    Invalid,
    Untrusted,
    Timeout,
}

const SIGNATURE_FAILURES: [&str; 4] = ["missing", "malformed", "mismatch", "stale"];
const LEDGER_CHECKS: [&str; 6] = [
    "new",
    "duplicate",
    "in_flight",
    "payload_mismatch",
    "possible_replay",
    "error",
];
const UPSTREAM_RESULTS: [&str; 7] = [
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "connect_error",
    "timeout",
    "broken",
];
const HANDSHAKES: [&str; 3] = ["ok", "failed", "timeout"];
const PROXY_HEADERS: [&str; 4] = ["ok", "invalid", "untrusted", "timeout"];
const STORE_OPERATIONS: [&str; 7] = [
    "claim",
    "complete",
    "commit",
    "checkpoint",
    "open",
    "read",
    "connect",
];

/// Buckets in seconds: a local disk flushes in 100 µs, a cloud disk in milliseconds, a failing one
/// in seconds.
const COMMIT_SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// The metrics of the store.
#[derive(Clone)]
pub struct StoreMetrics {
    commit_duration: Histogram,
    errors: IntCounterVec,
}

impl StoreMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let commit_duration = HistogramOpts::from(opts(
            "store_commit_duration_seconds",
            "Seconds from the start of a commit, which holds a batch of changes, to the end of its \
             flush.",
        ));
        let errors = register(
            registry,
            counters(
                "store_errors_total",
                "Failed operations of the store, by operation.",
                &["operation"],
            )?,
        )?;
        for operation in STORE_OPERATIONS {
            errors.with_label_values(&[operation]);
        }
        Ok(Self {
            commit_duration: register(
                registry,
                Histogram::with_opts(commit_duration.buckets(COMMIT_SECONDS.to_vec()))?,
            )?,
            errors,
        })
    }

    /// Records the duration of a commit, including its flush.
    pub fn observe_commit(&self, duration: Duration) {
        self.commit_duration.observe(duration.as_secs_f64());
    }

    /// Counts a failed operation; `operation` is one of [`STORE_OPERATIONS`].
    pub fn count_error(&self, operation: &'static str) {
        debug_assert!(STORE_OPERATIONS.contains(&operation));
        self.errors.with_label_values(&[operation]).inc();
    }
}

/// Buckets in seconds from an event's arrival to its delivery: up to three days.
const DELAY_SECONDS: [f64; 13] = [
    0.05, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0,
];

const QUEUE_STATES: [&str; 3] = ["pending", "delivering", "dead"];

/// The metrics of a route's queue.
pub struct QueueMetrics {
    events: [Series<IntGaugeVec>; QUEUE_STATES.len()],
    oldest_age: Series<GaugeVec>,
    attempts: [Series<IntCounterVec>; UPSTREAM_RESULTS.len()],
    dead_lettered: [Series<IntCounterVec>; DeadLetterReason::ALL.len()],
    delivery_delay: Series<HistogramVec>,
    upstream: Arc<UpstreamMetrics>,
}

/// The metrics of a route's delivery attempts, proxied and queued alike.
struct UpstreamMetrics {
    requests: [Series<IntCounterVec>; UPSTREAM_RESULTS.len()],
    failures: [Series<IntCounterVec>; Cause::ALL.len()],
    duration: Series<HistogramVec>,
}

/// The registry, and the metrics that belong to no single route.
pub struct Metrics {
    registry: Registry,
    families: MetricFamilies,
    /// The metrics of requests that matched no route.
    pub unmatched: RequestMetrics,
    pub requests_in_flight: IntGauge,
    pub connections: IntGauge,
    pub body_bytes_in_flight: IntGauge,
    ledger_entries: IntGauge,
    store_bytes: IntGauge,
    store: StoreMetrics,
    proxy_headers: [IntCounter; PROXY_HEADERS.len()],
    tls_handshakes: [IntCounter; HANDSHAKES.len()],
    tls_certificate_expiry: IntGaugeVec,
    route_names: Mutex<RouteNames>,
    pub draining: IntGauge,
    config_last_reload_successful: IntGauge,
    config_last_reload_success_timestamp: IntGauge,
}

/// The routes that have series.
#[derive(Default)]
struct RouteNames {
    configured: HashMap<Arc<str>, Arc<RouteSeries>>,
    /// The routes that are no longer configured and have stored events.
    removed: HashSet<Arc<str>>,
}

/// The stored events of a route that is no longer configured.
#[derive(Debug, Clone)]
pub struct RemovedQueue {
    pub route: Arc<str>,
    pub pending: u64,
    pub dead: u64,
    /// The age in seconds of the oldest pending event, or 0.
    pub oldest_seconds: f64,
}

/// The limit of routes that are no longer configured and have series of their own. The others are
/// counted together, as `route=""`.
const REMOVED_SERIES_MAX: usize = 100;

struct MetricFamilies {
    requests: IntCounterVec,
    responses: IntCounterVec,
    request_duration: HistogramVec,
    request_body_bytes: HistogramVec,
    signature_checks: IntCounterVec,
    last_verified: IntGaugeVec,
    route_silent: IntGaugeVec,
    ledger_checks: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_failures: IntCounterVec,
    upstream_duration: HistogramVec,
    queue_events: IntGaugeVec,
    queue_oldest_age: GaugeVec,
    queue_unconfigured: IntGaugeVec,
    queue_attempts: IntCounterVec,
    queue_dead_lettered: IntCounterVec,
    queue_delivery_delay: HistogramVec,
}

/// The metrics of requests, whether or not they matched a route.
pub struct RequestMetrics {
    route: Arc<str>,
    requests: [Series<IntCounterVec>; Code::ALL.len()],
    responses: [Series<IntCounterVec>; STATUSES.len()],
    responses_family: IntCounterVec,
    duration: Series<HistogramVec>,
}

/// The metrics of one route, with its current secrets.
pub struct RouteMetrics {
    series: Arc<RouteSeries>,
    signature_ok: Vec<(Arc<str>, IntCounter)>,
}

/// The metrics of one route for as long as it is configured.
pub struct RouteSeries {
    pub requests: RequestMetrics,
    body_bytes: Series<HistogramVec>,
    signature_failed: [IntCounter; SIGNATURE_FAILURES.len()],
    last_verified: IntGauge,
    /// 1 while no request was verified for longer than the route's `expect_every`.
    pub silent: IntGauge,
    ledger_checks: [Series<IntCounterVec>; LEDGER_CHECKS.len()],
    upstream: Arc<UpstreamMetrics>,
    pub queue: Arc<QueueMetrics>,
}

/// What a route can count, as its configuration says.
pub struct RouteCounts<C> {
    /// The outcomes that its requests can have.
    pub outcomes: C,
    /// Its events are delivered while the sender waits.
    pub is_proxied: bool,
    /// Its events are stored, all of them or those that cannot be delivered.
    pub is_stored: bool,
}

#[cfg(test)]
impl RouteCounts<fn(Code) -> bool> {
    pub const EVERYTHING: Self = Self {
        outcomes: |_| true,
        is_proxied: true,
        is_stored: true,
    };
}

impl Deref for RouteMetrics {
    type Target = RouteSeries;

    fn deref(&self) -> &RouteSeries {
        &self.series
    }
}

/// The current values of a route's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteCounters {
    /// Requests by outcome, in the order of [`Code::ALL`].
    pub requests: [u64; Code::ALL.len()],
    pub attempts_succeeded: u64,
    pub attempts_failed: u64,
    /// Requests by duration: each up to its bound in [`RouteMetrics::DURATION_BOUNDS`], and above
    /// the bound before it. The last ones are above every bound.
    pub durations: Vec<u64>,
    /// Delivered stored events by the time from their arrival, in the same way: see
    /// [`QueueMetrics::DELAY_BOUNDS`].
    pub delays: Vec<u64>,
    /// Stored events that became dead letters.
    pub dead_lettered: u64,
}

/// A guard that increments a gauge while it lives.
pub struct InFlightGuard<'a>(&'a IntGauge);

impl<'a> InFlightGuard<'a> {
    /// Increments the gauge; dropping the guard decrements it.
    pub fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// If two metrics have the same name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = MetricFamilies::register(&registry)?;
        let gauge = |name, help| register(&registry, IntGauge::with_opts(opts(name, help))?);
        let handshakes = register(
            &registry,
            counters(
                "tls_handshakes_total",
                "TLS handshakes with clients, by result.",
                &["result"],
            )?,
        )?;
        let help = "PROXY protocol headers from load balancers, by result.";
        let proxy_headers = register(
            &registry,
            counters("proxy_headers_total", help, &["result"])?,
        )?;
        let tls_certificate_expiry = register(
            &registry,
            IntGaugeVec::new(
                opts(
                    "tls_certificate_expiry_timestamp_seconds",
                    "Time at which a certificate expires, in Unix seconds.",
                ),
                &["listener", "certificate"],
            )?,
        )?;
        register_build_info(&registry)?;
        // The collector reads /proc.
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let unmatched = families.request_metrics(NO_ROUTE.into());
        // Scanners send requests without a route at any time.
        unmatched.start(|_| true);
        start(&unmatched.responses);
        unmatched.duration.metric();
        Ok(Self {
            unmatched,
            requests_in_flight: gauge("requests_in_flight", "Requests being handled.")?,
            connections: gauge("connections", "Open connections from clients.")?,
            body_bytes_in_flight: gauge(
                "body_bytes_in_flight",
                "Bytes of request bodies held in memory.",
            )?,
            ledger_entries: gauge(
                "ledger_entries",
                "Event IDs that the ledger remembers, of completed events and of failed ones.",
            )?,
            store_bytes: gauge(
                "store_bytes",
                "Size on disk of the ledger, the queue and the records, in bytes.",
            )?,
            store: StoreMetrics::register(&registry)?,
            proxy_headers: PROXY_HEADERS.map(|result| proxy_headers.with_label_values(&[result])),
            tls_handshakes: HANDSHAKES.map(|result| handshakes.with_label_values(&[result])),
            tls_certificate_expiry,
            route_names: Mutex::default(),
            draining: gauge(
                "draining",
                "1 while the gateway drains before it stops, else 0.",
            )?,
            config_last_reload_successful: gauge(
                "config_last_reload_successful",
                "1 if the configuration was valid when it was last read, else 0.",
            )?,
            config_last_reload_success_timestamp: gauge(
                "config_last_reload_success_timestamp_seconds",
                "Time at which a valid configuration was last applied, in Unix seconds.",
            )?,
            families,
            registry,
        })
    }

    /// Returns the metrics of a route that is configured, whether it was before or not. `secrets` are
    /// the names of its secrets. What the route `counts` exists at 0 from now on.
    pub fn register_route<'a>(
        &self,
        name: &Arc<str>,
        secrets: impl Iterator<Item = &'a Arc<str>>,
        counts: &RouteCounts<impl Fn(Code) -> bool>,
    ) -> RouteMetrics {
        let families = &self.families;
        let mut names = self.route_names();
        if names.removed.remove(name) {
            families.forget_queue(name);
        }
        let known = names.configured.entry(Arc::clone(name));
        let series = Arc::clone(known.or_insert_with(|| Arc::new(families.route_series(name))));
        drop(names);
        series.start(counts);
        let checks = &families.signature_checks;
        let verified = |secret: &Arc<str>| {
            let counter = checks.with_label_values(&[&**name, "ok", secret]);
            (Arc::clone(secret), counter)
        };
        RouteMetrics {
            signature_ok: secrets.map(verified).collect(),
            series,
        }
    }

    /// Removes the series of a route that is no longer configured. Its requests that are still in
    /// flight are no longer exported.
    pub fn forget_route(&self, route: &RouteMetrics) {
        let (name, families) = (&*route.requests.route, &self.families);
        self.route_names().configured.remove(name);
        for (secret, _) in &route.signature_ok {
            let _ = families
                .signature_checks
                .remove_label_values(&[name, "ok", secret]);
        }
        for result in SIGNATURE_FAILURES {
            let _ = families
                .signature_checks
                .remove_label_values(&[name, result, ""]);
        }
        let _ = families.last_verified.remove_label_values(&[name]);
        let _ = families.route_silent.remove_label_values(&[name]);
        route.forget();
        for status in 100..1000_u16 {
            let _ = families
                .responses
                .remove_label_values(&[name, &status.to_string()]);
        }
    }

    /// Sets the numbers of stored events of the routes that are no longer configured, in the order
    /// of their importance. The series of the others are removed.
    pub fn set_removed_queues(&self, queues: &[RemovedQueue]) {
        let mut names = self.route_names();
        // A route may have been configured again since the numbers were read.
        let queues: Vec<_> = queues
            .iter()
            .filter(|queue| !names.configured.contains_key(&queue.route))
            .collect();
        let (own, others) = queues.split_at(queues.len().min(REMOVED_SERIES_MAX));
        let now: HashSet<_> = own.iter().map(|queue| Arc::clone(&queue.route)).collect();
        for name in names.removed.difference(&now) {
            self.families.forget_queue(name);
        }
        let families = &self.families;
        let unconfigured = &families.queue_unconfigured;
        for queue in own {
            let route = &*queue.route;
            for (state, count) in QUEUE_STATES.iter().zip([queue.pending, 0, queue.dead]) {
                let gauge = families.queue_events.with_label_values(&[route, state]);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            let age = families.queue_oldest_age.with_label_values(&[route]);
            age.set(queue.oldest_seconds);
            let events = i64::try_from(queue.pending.saturating_add(queue.dead));
            unconfigured
                .with_label_values(&[route])
                .set(events.unwrap_or(i64::MAX));
        }
        let left = others.iter().map(|queue| queue.pending + queue.dead);
        if others.is_empty() {
            let _ = unconfigured.remove_label_values(&[""]);
        } else {
            unconfigured
                .with_label_values(&[""])
                .set(i64::try_from(left.sum::<u64>()).unwrap_or(i64::MAX));
        }
        names.removed = now;
    }

    fn route_names(&self) -> MutexGuard<'_, RouteNames> {
        self.route_names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a valid configuration was applied.
    pub fn config_loaded(&self, at: Timestamp) {
        self.config_last_reload_successful.set(1);
        self.config_last_reload_success_timestamp
            .set(at.as_second());
    }

    pub fn count_proxy_header(&self, result: ProxyHeader) {
        self.proxy_headers[result as usize].inc();
    }

    pub fn count_tls_handshake(&self, result: TlsHandshake) {
        self.tls_handshakes[result as usize].inc();
    }

    /// Sets when the certificate of this file expires, which the listener at this address presents.
    pub fn set_certificate_expiry(&self, listener: &str, file: &str, expires: Timestamp) {
        self.tls_certificate_expiry
            .with_label_values(&[listener, file])
            .set(expires.as_second());
    }

    /// Removes the series of a certificate that is no longer presented.
    pub fn forget_certificate(&self, listener: &str, file: &str) {
        let _ = self
            .tls_certificate_expiry
            .remove_label_values(&[listener, file]);
    }

    /// Records that the configuration was read and is not valid.
    pub fn config_rejected(&self) {
        self.config_last_reload_successful.set(0);
    }

    /// Returns the metrics of the store.
    pub fn store(&self) -> &StoreMetrics {
        &self.store
    }

    /// Writes all series in Prometheus' text format. The sizes of the store are arguments because
    /// they are read only for this.
    ///
    /// # Errors
    /// If a metric is inconsistent, which would be a defect of this program.
    pub fn render(
        &self,
        ledger_entries: usize,
        store_bytes: u64,
    ) -> Result<String, prometheus::Error> {
        self.ledger_entries
            .set(i64::try_from(ledger_entries).unwrap_or(i64::MAX));
        self.store_bytes
            .set(i64::try_from(store_bytes).unwrap_or(i64::MAX));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl RequestMetrics {
    /// Counts a response, by outcome and by status.
    pub fn count_response(&self, code: Code, status: StatusCode) {
        self.requests[code as usize].inc();
        let status = status.as_str();
        match (self.responses.iter()).find(|known| known.label() == Some(status)) {
            Some(counter) => counter.inc(),
            None => self
                .responses_family
                .with_label_values(&[&*self.route, status])
                .inc(),
        }
    }

    /// Makes the counters of these outcomes exist.
    fn start(&self, outcomes: impl Fn(Code) -> bool) {
        for code in Code::ALL.into_iter().filter(|code| outcomes(*code)) {
            self.requests[code as usize].metric();
        }
    }

    fn forget(&self) {
        forget(&self.requests);
        forget(&self.responses);
        self.duration.forget();
    }

    /// Records the duration of a request, including its response.
    pub fn observe_duration(&self, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
    }
}

impl RouteSeries {
    /// Makes what the route counts exist.
    fn start(&self, counts: &RouteCounts<impl Fn(Code) -> bool>) {
        self.requests.start(&counts.outcomes);
        // The rest comes only where events with one body are told apart by what is not signed.
        start(&self.ledger_checks[..LedgerCheck::PossibleReplay as usize]);
        self.ledger_checks[LedgerCheck::Error as usize].metric();
        if counts.is_proxied {
            start(&self.upstream.requests);
        } else {
            start(&self.queue.attempts);
            start(&self.queue.events);
            self.queue.oldest_age.metric();
        }
        if counts.is_stored {
            start(&self.queue.dead_lettered[..DeadLetterReason::Unreadable as usize]);
            // A client that waits for an empty queue needs to see one.
            self.queue.events[0].metric();
        }
    }

    fn forget(&self) {
        self.requests.forget();
        self.body_bytes.forget();
        forget(&self.ledger_checks);
        forget(&self.upstream.requests);
        forget(&self.upstream.failures);
        self.upstream.duration.forget();
        forget(&self.queue.events);
        self.queue.oldest_age.forget();
        forget(&self.queue.attempts);
        forget(&self.queue.dead_lettered);
        self.queue.delivery_delay.forget();
    }
}

fn start<F: Family>(series: &[Series<F>]) {
    for series in series {
        series.metric();
    }
}

fn forget<F: Family>(series: &[Series<F>]) {
    for series in series {
        series.forget();
    }
}

impl RouteMetrics {
    /// The upper bounds of the duration buckets, in seconds.
    pub const DURATION_BOUNDS: &[f64] = &SECONDS;

    /// Returns the current values of the counters.
    pub fn sample(&self) -> RouteCounters {
        let [succeeded, failed @ ..] = &self.upstream.requests;
        RouteCounters {
            requests: std::array::from_fn(|code| self.requests.requests[code].get()),
            attempts_succeeded: succeeded.get(),
            attempts_failed: failed.iter().map(Series::<IntCounterVec>::get).sum(),
            durations: self.requests.duration.buckets(&SECONDS),
            delays: self.queue.delivery_delay.buckets(&DELAY_SECONDS),
            dead_lettered: (self.queue.dead_lettered.iter())
                .map(Series::<IntCounterVec>::get)
                .sum(),
        }
    }

    /// Returns the time of the last verified request.
    pub fn last_verified(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.last_verified.get())
            .ok()
            .filter(|at| *at > Timestamp::UNIX_EPOCH)
    }

    /// Returns the number of requests verified with the secret of this name.
    pub fn verified_with(&self, secret: &str) -> u64 {
        self.ok_counter(secret).map_or(0, IntCounter::get)
    }

    fn ok_counter(&self, secret: &str) -> Option<&IntCounter> {
        self.signature_ok
            .iter()
            .find(|(known, _)| **known == *secret)
            .map(|(_, counter)| counter)
    }

    /// Counts a signature check, and sets the time of the last verified request.
    pub fn count_signature_check(&self, check: SignatureCheck<'_>, now: Timestamp) {
        let failed = match check {
            SignatureCheck::Ok(name) => {
                self.last_verified.set(now.as_second());
                if let Some(counter) = self.ok_counter(name) {
                    counter.inc();
                }
                return;
            }
            SignatureCheck::Missing => 0,
            SignatureCheck::Malformed => 1,
            SignatureCheck::Mismatch => 2,
            SignatureCheck::Stale => 3,
        };
        self.signature_failed[failed].inc();
    }

    #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
    pub fn observe_body(&self, bytes: usize) {
        self.body_bytes.observe(bytes as f64);
    }

    pub fn count_ledger_check(&self, check: LedgerCheck) {
        self.ledger_checks[check as usize].inc();
    }

    /// Records an attempt; `cause` is why it did not succeed.
    pub fn record_attempt(&self, result: UpstreamResult, cause: Option<Cause>, seconds: f64) {
        self.upstream.record_attempt(result, cause, seconds);
    }
}

impl UpstreamMetrics {
    fn record_attempt(&self, result: UpstreamResult, cause: Option<Cause>, seconds: f64) {
        self.requests[result as usize].inc();
        self.duration.observe(seconds);
        if let Some(cause) = cause {
            self.failures[cause as usize].inc();
        }
    }
}

impl QueueMetrics {
    /// The upper bounds of the buckets of delivery delays, in seconds.
    pub const DELAY_BOUNDS: &[f64] = &DELAY_SECONDS;

    /// Records an attempt to deliver a stored event, among the queue's and among all attempts.
    pub fn record_attempt(&self, result: UpstreamResult, cause: Option<Cause>, seconds: f64) {
        self.attempts[result as usize].inc();
        self.upstream.record_attempt(result, cause, seconds);
    }

    pub fn observe_delivery_delay(&self, seconds: f64) {
        self.delivery_delay.observe(seconds);
    }

    pub fn count_dead_letter(&self, reason: DeadLetterReason) {
        self.dead_lettered[reason as usize].inc();
    }

    /// Sets the number of events by state, and the age in seconds of the oldest pending event.
    pub fn set_depth(&self, pending: u64, delivering: u64, dead: u64, oldest_seconds: f64) {
        for (gauge, count) in self.events.iter().zip([pending, delivering, dead]) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.oldest_age.set(oldest_seconds);
    }
}

impl MetricFamilies {
    #[expect(clippy::too_many_lines, reason = "one entry for each metric")]
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter =
            |name, help, labels: &[&str]| register(registry, counters(name, help, labels)?);
        let histogram = |name, help, buckets: &[f64]| {
            let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
            register(registry, HistogramVec::new(opts, &["route"])?)
        };
        Ok(Self {
            requests: counter(
                "requests_total",
                "Requests by outcome.",
                &["route", "outcome"],
            )?,
            responses: counter(
                "responses_total",
                "Responses by status.",
                &["route", "code"],
            )?,
            request_duration: histogram(
                "request_duration_seconds",
                "Seconds from the first byte of a request to the last byte of its response.",
                &SECONDS,
            )?,
            request_body_bytes: histogram(
                "request_body_bytes",
                "Size of a received request body, in bytes.",
                &BYTES,
            )?,
            signature_checks: counter(
                "signature_checks_total",
                "Signature checks by result, and by the name of the secret that matched.",
                &["route", "result", "secret"],
            )?,
            last_verified: register(
                registry,
                IntGaugeVec::new(
                    opts(
                        "last_verified_timestamp_seconds",
                        "Time at which a signature was last verified, in Unix seconds.",
                    ),
                    &["route"],
                )?,
            )?,
            route_silent: register(
                registry,
                IntGaugeVec::new(
                    opts(
                        "route_silent",
                        "1 while no request was verified for longer than the route's \
                         `expect_every`, else 0.",
                    ),
                    &["route"],
                )?,
            )?,
            ledger_checks: counter(
                "ledger_checks_total",
                "Ledger checks by result. possible_replay is a new event whose body was delivered \
                 as another one, or that nothing identifies.",
                &["route", "result"],
            )?,
            upstream_requests: counter(
                "upstream_requests_total",
                "Delivery attempts by result.",
                &["route", "result"],
            )?,
            upstream_failures: counter(
                "upstream_failures_total",
                "Delivery attempts that did not succeed, by cause. A cause has a series from its \
                 first count on.",
                &["route", "cause"],
            )?,
            upstream_duration: histogram(
                "upstream_duration_seconds",
                "Seconds from the start of a delivery attempt to its end.",
                &SECONDS,
            )?,
            queue_events: register(
                registry,
                IntGaugeVec::new(
                    opts(
                        "queue_events",
                        "Stored events by state: pending, delivering and dead (dead letters).",
                    ),
                    &["route", "state"],
                )?,
            )?,
            queue_oldest_age: register(
                registry,
                GaugeVec::new(
                    opts(
                        "queue_oldest_event_age_seconds",
                        "Seconds since the arrival of the oldest pending event, or 0.",
                    ),
                    &["route"],
                )?,
            )?,
            queue_unconfigured: register(
                registry,
                IntGaugeVec::new(
                    opts(
                        "queue_unconfigured_events",
                        "Stored events, waiting and dead, of a route that is no longer configured. \
                         They wait until it is back, or are moved to another route.",
                    ),
                    &["route"],
                )?,
            )?,
            queue_attempts: counter(
                "queue_attempts_total",
                "Delivery attempts for stored events, by result.",
                &["route", "result"],
            )?,
            queue_dead_lettered: counter(
                "queue_dead_lettered_total",
                "Dead-lettered events, by reason.",
                &["route", "reason"],
            )?,
            queue_delivery_delay: histogram(
                "queue_delivery_delay_seconds",
                "Seconds from a stored event's arrival to its delivery, downtime excluded.",
                &DELAY_SECONDS,
            )?,
        })
    }

    /// Removes the gauges of a route's stored events.
    fn forget_queue(&self, route: &str) {
        for state in QUEUE_STATES {
            let _ = self.queue_events.remove_label_values(&[route, state]);
        }
        let _ = self.queue_oldest_age.remove_label_values(&[route]);
        let _ = self.queue_unconfigured.remove_label_values(&[route]);
    }

    fn route_series(&self, route: &Arc<str>) -> RouteSeries {
        let upstream = Arc::new(UpstreamMetrics {
            requests: all(&self.upstream_requests, route, UPSTREAM_RESULTS),
            failures: all(
                &self.upstream_failures,
                route,
                Cause::ALL.map(Cause::as_str),
            ),
            duration: only(&self.upstream_duration, route),
        });
        RouteSeries {
            requests: self.request_metrics(Arc::clone(route)),
            body_bytes: only(&self.request_body_bytes, route),
            signature_failed: SIGNATURE_FAILURES.map(|result| {
                self.signature_checks
                    .with_label_values(&[&**route, result, ""])
            }),
            last_verified: self.last_verified.with_label_values(&[&**route]),
            silent: self.route_silent.with_label_values(&[&**route]),
            ledger_checks: all(&self.ledger_checks, route, LEDGER_CHECKS),
            queue: Arc::new(self.queue_metrics(route, Arc::clone(&upstream))),
            upstream,
        }
    }

    fn queue_metrics(&self, route: &Arc<str>, upstream: Arc<UpstreamMetrics>) -> QueueMetrics {
        let reasons = DeadLetterReason::ALL.map(DeadLetterReason::as_str);
        QueueMetrics {
            events: all(&self.queue_events, route, QUEUE_STATES),
            oldest_age: only(&self.queue_oldest_age, route),
            attempts: all(&self.queue_attempts, route, UPSTREAM_RESULTS),
            dead_lettered: all(&self.queue_dead_lettered, route, reasons),
            delivery_delay: only(&self.queue_delivery_delay, route),
            upstream,
        }
    }

    fn request_metrics(&self, route: Arc<str>) -> RequestMetrics {
        RequestMetrics {
            requests: all(&self.requests, &route, Code::ALL.map(Code::as_str)),
            responses: all(&self.responses, &route, STATUSES),
            responses_family: self.responses.clone(),
            duration: only(&self.request_duration, &route),
            route,
        }
    }
}

/// Returns the series of a route in a family whose second label has these values.
fn all<F: Family + Clone, const N: usize>(
    family: &F,
    route: &Arc<str>,
    labels: [&'static str; N],
) -> [Series<F>; N] {
    labels.map(|label| Series::new(family.clone(), Arc::clone(route), Some(label)))
}

/// Returns the series of a route in a family without another label.
fn only<F: Family + Clone>(family: &F, route: &Arc<str>) -> Series<F> {
    Series::new(family.clone(), Arc::clone(route), None)
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("hookstile")
}

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(opts(name, help), labels)
}

fn register_build_info(registry: &Registry) -> Result<(), prometheus::Error> {
    let help = "Always 1. The labels are the running version, its commit and its target.";
    let labels = ["version", "commit", "target"];
    let build_info = IntGaugeVec::new(opts("build_info", help), &labels)?;
    register(registry, build_info)?
        .with_label_values(&[
            env!("CARGO_PKG_VERSION"),
            env!("HOOKSTILE_BUILD_COMMIT"),
            env!("HOOKSTILE_BUILD_TARGET"),
        ])
        .set(1);
    Ok(())
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(metrics: &Metrics) -> Vec<String> {
        let text = metrics.render(0, 0).unwrap();
        text.lines()
            .filter(|line| line.starts_with("hookstile_"))
            .map(ToOwned::to_owned)
            .collect()
    }

    fn billing(metrics: &Metrics) -> RouteMetrics {
        let secrets = ["current".into(), "old".into()];
        metrics.register_route(&"billing".into(), secrets.iter(), &RouteCounts::EVERYTHING)
    }

    fn removed(route: &str, pending: u64) -> RemovedQueue {
        RemovedQueue {
            route: route.into(),
            pending,
            dead: 2,
            oldest_seconds: 7.5,
        }
    }

    #[test]
    fn removed_queue_has_series_while_it_holds_events() {
        let metrics = Metrics::new().unwrap();
        let before = series(&metrics);
        metrics.set_removed_queues(&[removed("old", 3)]);
        let added: Vec<_> = series(&metrics)
            .into_iter()
            .filter(|line| !before.contains(line))
            .collect();
        let expected = [
            r#"hookstile_queue_events{route="old",state="dead"} 2"#,
            r#"hookstile_queue_events{route="old",state="delivering"} 0"#,
            r#"hookstile_queue_events{route="old",state="pending"} 3"#,
            r#"hookstile_queue_oldest_event_age_seconds{route="old"} 7.5"#,
            r#"hookstile_queue_unconfigured_events{route="old"} 5"#,
        ];
        assert_eq!(added, expected);
        metrics.set_removed_queues(&[]);
        assert_eq!(series(&metrics), before);
    }

    #[test]
    fn returned_route_keeps_its_queue_series() {
        let metrics = Metrics::new().unwrap();
        metrics.set_removed_queues(&[removed("billing", 3)]);
        let route = billing(&metrics);
        route.queue.set_depth(4, 0, 0, 1.0);
        for queues in [vec![removed("billing", 3)], vec![]] {
            metrics.set_removed_queues(&queues);
            let series = series(&metrics);
            let pending = r#"hookstile_queue_events{route="billing",state="pending"} 4"#;
            assert!(series.iter().any(|line| line == pending), "{series:?}");
            let unconfigured = "hookstile_queue_unconfigured_events";
            assert!(!series.iter().any(|line| line.starts_with(unconfigured)));
        }
    }

    #[test]
    fn series_of_removed_queues_are_bounded() {
        let metrics = Metrics::new().unwrap();
        let queues: Vec<_> = (0..REMOVED_SERIES_MAX + 2)
            .map(|number| removed(&format!("old-{number}"), 1))
            .collect();
        metrics.set_removed_queues(&queues);
        let series = series(&metrics);
        let of = |text: &str| series.iter().filter(|line| line.contains(text)).count();
        assert_eq!(of("queue_unconfigured_events"), REMOVED_SERIES_MAX + 1);
        assert_eq!(of(r#"queue_unconfigured_events{route=""} 6"#), 1);
    }

    /// `HOOKSTILE_REGENERATE=1 cargo test --lib metrics` regenerates the page.
    #[test]
    fn reference_lists_every_metric() {
        let metrics = Metrics::new().unwrap();
        let route = billing(&metrics);
        route.record_attempt(UpstreamResult::ConnectError, Some(Cause::Refused), 0.1);
        (route.requests).count_response(Code::Delivered, StatusCode::OK);
        route.requests.observe_duration(Duration::from_secs(1));
        route.observe_body(1);
        (route.queue).record_attempt(UpstreamResult::Success, None, 0.1);
        route.queue.observe_delivery_delay(0.1);
        metrics.set_certificate_expiry("127.0.0.1:8443", "tls.crt", Timestamp::UNIX_EPOCH);
        metrics.set_removed_queues(&[removed("old", 1)]);
        let text = metrics.render(0, 0).unwrap();
        let mut reference = String::from(
            "# Metrics\n\nThe admin listener serves these at `/metrics`, in Prometheus' text \
             format.\nRequests that matched no route have `route=\"\"`. This page is generated \
             from the code.\n\n| name | type | meaning |\n| --- | --- | --- |\n",
        );
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP hookstile_"))
        {
            let (name, help) = line.split_once(' ').unwrap();
            let kind = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("# TYPE hookstile_{name} ")))
                .unwrap();
            reference.extend(["| `hookstile_", name, "` | ", kind, " | ", help, " |\n"]);
        }
        reference += "\nThe `process_*` metrics are those of the Prometheus client library.\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
            std::fs::write(path, &reference).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), reference);
    }

    #[test]
    fn reload_keeps_what_was_counted() {
        let metrics = Metrics::new().unwrap();
        let route = billing(&metrics);
        route.requests.observe_duration(Duration::from_secs(1));
        let sample = billing(&metrics).sample();
        assert_eq!(sample, route.sample());
        assert_eq!(sample.durations.iter().sum::<u64>(), 1);
    }

    #[test]
    fn forgotten_route_leaves_no_series() {
        let metrics = Metrics::new().unwrap();
        let before = series(&metrics).len();
        let route = billing(&metrics);
        route
            .requests
            .count_response(Code::Delivered, StatusCode::IM_A_TEAPOT);
        route.record_attempt(UpstreamResult::ConnectError, Some(Cause::Refused), 0.1);
        metrics.forget_route(&route);
        // By a request that was in flight.
        route.requests.observe_duration(Duration::from_secs(1));
        route.queue.set_depth(1, 0, 0, 1.0);
        assert_eq!(series(&metrics).len(), before);
    }

    #[test]
    fn response_counts_by_outcome_and_by_status() {
        let metrics = Metrics::new().unwrap();
        let route = billing(&metrics);
        route
            .requests
            .count_response(Code::Duplicate, StatusCode::CONFLICT);
        route.requests.observe_duration(Duration::from_millis(200));
        let series = series(&metrics);
        assert!(series.contains(
            &r#"hookstile_requests_total{outcome="duplicate",route="billing"} 1"#.to_owned()
        ));
        assert!(
            series
                .contains(&r#"hookstile_responses_total{code="409",route="billing"} 1"#.to_owned())
        );
        assert!(series.contains(
            &r#"hookstile_request_duration_seconds_count{route="billing"} 1"#.to_owned()
        ));
    }
}

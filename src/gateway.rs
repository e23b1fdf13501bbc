//! The data plane: one request as one straight line, from its head to its answer.
//!
//! Owns the order of the steps (contract §2) and the deadlines. Each step is a file of its own here, or a module below;
//! they return outcomes, and only `answer` words them.

mod announced;
mod answer;
mod body;
mod connection;
mod first_byte;
mod handover;
mod handshake;
mod head;
mod in_process;
mod passing;
mod peer;
mod places;
mod rotation;
mod secure;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderValue, StatusCode};
use ipnet::IpNet;
use jiff::Timestamp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;

use crate::activity::{Activity, Rejection, RejectionKind, RouteActivity, TrackedRoute};
use crate::clock::Clock;
use crate::delivery::{EventLabel, InboundRequest, OutboundRequest, TestMarks};
use crate::event::{EnvelopeError, Event, digest_name};
use crate::ledger::{Claim, ClaimDecision, ClaimOptions, Ledger};
use crate::log::{self, LogSampler};
use crate::metrics::{InFlightGuard, LedgerCheck, Metrics, RouteMetrics, SignatureCheck};
use crate::queue::Queue;
use crate::route::{AdmissionError, DeliveryMode, Replay, Route, RouteTable};
use crate::signature::{SignatureError, Verified};
use crate::store::EventMetadata;
use crate::upstream::{self, Client};
use answer::{Answer, Outcome};
use body::BodyBytes;
use handover::Handing;
use handshake::Asked;
use places::Places;
use rotation::{Rotation, SecretUse};

pub use connection::Frontend;
pub use head::Head;
pub use in_process::InProcessListener;

/// Bounds on what senders can make us hold, whatever they send.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Open connections of one address, or of one IPv6 /64, that is no trusted proxy.
    pub connections_per_address: usize,
    /// Bytes of one head.
    pub header_bytes: usize,
    /// Body bytes of all requests in flight, and the heads of those that come over HTTP/2.
    pub body_bytes_in_flight: usize,
    /// From a head's first byte to its last.
    pub header_timeout: Duration,
    /// Between requests on a kept connection.
    pub idle_timeout: Duration,
    /// Peers that are believed whom they pass on.
    pub trusted_proxies: Vec<IpNet>,
}

/// How long an answer to a request that reached no route may take to write.
const UNROUTED_BUDGET: Duration = Duration::from_secs(10);

/// The gateway: what all its connections share.
pub struct Gateway {
    serving: ArcSwap<Serving>,
    ledger: Arc<Ledger>,
    client: Arc<Client>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    watch: Arc<Activity>,
    tests: TestMarks,
    limits: Limits,
    places: Places,
    body_bytes: BodyBytes,
    clock: Clock,
    thinning: LogSampler,
    rotation: Mutex<Rotation>,
}

/// One configuration's routes with their metric handles. A request keeps the one it began with.
#[derive(Default)]
struct Serving {
    table: RouteTable,
    metrics: Vec<Arc<RouteMetrics>>,
    watched: Vec<Arc<RouteActivity>>,
}

/// A request on its way: what is known of it from the start.
struct Incoming {
    /// Its budget counts from here.
    first_byte: Instant,
    peer: IpAddr,
    /// `http` or `https`.
    scheme: &'static str,
}

impl Gateway {
    /// `client` and `queue` are shared: both hand over on the same connections.
    pub fn new(
        limits: Limits,
        ledger: Arc<Ledger>,
        client: Arc<Client>,
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
        watch: Arc<Activity>,
        clock: Clock,
    ) -> Arc<Self> {
        Arc::new(Self {
            serving: ArcSwap::from_pointee(Serving::default()),
            tests: TestMarks::new(ledger.store().hash_key()),
            ledger,
            client,
            queue,
            places: Places::new(
                limits.connections,
                limits.connections_per_address,
                limits.trusted_proxies.clone(),
            ),
            body_bytes: BodyBytes::new(
                limits.body_bytes_in_flight,
                metrics.body_bytes_in_flight.clone(),
            ),
            metrics,
            watch,
            limits,
            clock,
            thinning: LogSampler::default(),
            rotation: Mutex::default(),
        })
    }

    /// Serves `routes` from now on. Requests that began before end on the routes they began with.
    pub fn update_routes(&self, routes: Vec<Arc<Route>>) {
        let table = RouteTable::new(routes);
        let metrics_of = |route: &Arc<Route>| {
            Arc::new(
                self.metrics
                    .register_route(&route.name, route.verifier.secret_names()),
            )
        };
        let metrics: Vec<_> = table.routes().iter().map(metrics_of).collect();
        self.queue.update_routes(
            table
                .routes()
                .iter()
                .zip(metrics.iter().map(|metrics| &metrics.queue)),
        );
        let sights = table
            .routes()
            .iter()
            .zip(&metrics)
            .map(|(route, metrics)| TrackedRoute {
                route: &route.name,
                expect_every: route.expect_every,
                metrics,
            });
        let watched = self.watch.update_routes(sights, self.clock.now());
        let before = self.serving.swap(Arc::new(Serving {
            table,
            metrics,
            watched,
        }));
        let now = self.serving.load();
        let kept: HashSet<&str> = now
            .table
            .routes()
            .iter()
            .map(|route| &*route.name)
            .collect();
        for (route, metrics) in before.table.routes().iter().zip(&before.metrics) {
            if !kept.contains(&*route.name) {
                self.metrics.forget_route(metrics);
            }
        }
    }

    /// How long a head may take to arrive.
    pub fn header_timeout(&self) -> Duration {
        self.limits.header_timeout
    }

    /// Ends when no connection is open any more. To be called once the listeners are closed.
    pub async fn all_closed(&self) {
        self.places.all_free().await;
    }

    /// Tells which secrets nobody signs with any more, and which are used though they end soon. To be called now and then.
    pub fn log_rotation_hints(&self) {
        let (serving, now) = (self.serving.load_full(), self.clock.wall());
        let mut rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        let served: HashSet<&str> = serving
            .table
            .routes()
            .iter()
            .map(|route| &*route.name)
            .collect();
        rotation.keep(|name| served.contains(name));
        for (route, metrics) in serving.table.routes().iter().zip(&serving.metrics) {
            let used = |(name, expires): (&Arc<str>, _)| {
                let verified = metrics.verified_with(name);
                SecretUse {
                    name: Arc::clone(name),
                    expires,
                    verified,
                }
            };
            let secrets: Vec<_> = route.verifier.secrets().map(used).collect();
            for hint in rotation.look(&route.name, &secrets, now) {
                hint.tell(&route.name);
            }
        }
    }

    /// Tells what the log left out of rejections that have stopped. To be called now and then.
    pub fn log_suppressed_counts(&self) {
        self.thinning.write_suppressed_counts(self.clock.now());
    }

    /// Looks at what the routes were asked for since the last look, and tells which have fallen silent, and which are heard
    /// again. To be called some times a minute.
    pub fn sample_activity(&self) {
        self.watch.sample(self.clock.now());
    }

    /// Serves one request whose head `session` has read. Answers whether the connection can be kept.
    async fn serve(
        &self,
        session: &mut ServerSession,
        incoming: Incoming,
        shutdown: &ShutdownWatch,
    ) -> bool {
        let _in_flight = InFlightGuard::new(&self.metrics.requests_in_flight);
        let serving = self.serving.load_full();
        let mut visit = Visit {
            has_head: true,
            ..Visit::new(incoming)
        };
        let passed = self.pass(session, &serving, &mut visit).await;
        let outcome = passed.unwrap_or_else(|refused| refused);

        let reusable = match &visit.head {
            Some(head) if !outcome.closes_connection() => {
                body::drain_for_reuse(session, head, outcome.code().is_rejection()).await
            }
            _ => false,
        };
        let reusable = reusable && !*shutdown.borrow();
        if !reusable {
            session.set_keepalive(None);
        }
        let answered = self.answer(session, outcome, &mut visit).await;
        if answered && !reusable {
            body::linger(session).await;
        }
        answered && reusable
    }

    /// The straight line. What ends it early is an outcome like any other.
    async fn pass<'s>(
        &self,
        session: &mut ServerSession,
        serving: &'s Serving,
        visit: &mut Visit<'s>,
    ) -> Result<Outcome, Outcome> {
        visit.line.trace_id = head::trace_id(&session.req_header().headers).map(Into::into);
        let head = visit
            .head
            .insert(Head::check(session, self.limits.header_bytes)?)
            .clone();
        let (route, metrics, watched) = serving.find(&head, session.req_header().uri.path())?;
        let deadline = visit.matched(route, metrics, watched);
        let now = self.clock.wall();
        let asked = handshake::by_query(route, session.req_header(), now);
        if asked.is_none() && !route.methods.contains(&session.req_header().method) {
            return Err(Outcome::MethodNotAllowed(route.methods.clone()));
        }

        if !route.active {
            return Err(Outcome::Inactive);
        }

        head::check_route_headers(&session.req_header().headers, route)?;
        let hops = peer::hops(
            visit.incoming.peer,
            &session.req_header().headers,
            &self.limits.trusted_proxies,
        );
        visit.line.peer = Some(hops.client);
        route.admission.admit(hops.client)?;
        if let Some(answer) = asked {
            return answer;
        }

        let mut share = self.body_bytes.share();
        if session.is_http2() {
            // A connection has one head over HTTP/1.1, and a hundred over HTTP/2.
            share.grow(head.bytes)?;
        }
        let mut verification = route.verifier.start(&session.req_header().headers, now);
        let received = body::receive(
            session,
            &head,
            route.max_body,
            deadline,
            &mut verification,
            &mut share,
        )
        .await;
        visit.line.body_bytes = Some(verification.body_bytes());
        received?;
        metrics.observe_body(verification.body_bytes());
        let arrival = InboundRequest {
            head: session.req_header(),
            peer: visit.incoming.peer,
            forwarded_for: hops.forwarded_for.as_deref(),
            scheme: visit.incoming.scheme,
            host: head.host.as_deref(),
            at: now,
        };
        let verified = match &route.unenforced {
            None => verification.finish(),
            Some(shadow) => match verification.finish_unenforced(shadow) {
                Ok(verified) => Ok(verified),
                Err(unverified) => {
                    metrics.count_signature_check(failed(unverified.failure()), now);
                    return Ok(self
                        .pass_on(route, metrics, &unverified, &arrival, deadline, visit)
                        .await);
                }
            },
        };
        metrics.count_signature_check(check_of(&verified), now);
        let verified = verified?;
        visit.line.secret = Some(Arc::clone(verified.secret()));

        match handshake::in_body(route, &verified) {
            Some(Asked::Here(reply)) => return Ok(Outcome::Challenge(reply)),
            Some(Asked::Upstream(kind)) => {
                let delivery = OutboundRequest::handshake(&verified, &route.name, kind, &arrival);
                return Ok(self
                    .forward_once(route, metrics, &delivery, deadline, visit)
                    .await);
            }
            None => {}
        }
        if let Some(heard) = &watched.sender {
            heard.idle.event_seen(self.clock.now());
        }
        let event = route
            .envelope
            .parse(verified.body(), &arrival.head.headers)?;
        let label = self.label(route, &event, &verified, &arrival);
        visit.line.event_id = Some(Arc::clone(&label.event_id));
        visit.line.event_type = Some(Arc::clone(&label.event_type));
        route.envelope.check_fresh(&event, now)?;
        if !route.events.accepts(&event.event_type) {
            return Ok(Outcome::Ignored);
        }

        let claim = self
            .claim(route, metrics, &event, &verified, deadline)
            .await?;
        let delivery = OutboundRequest::new(&verified, &label, &arrival, route.forward_query);
        let handover = Handing {
            route,
            delivery,
            subject: subject(label, now, &verified),
            settle_by: visit.settle_by(deadline),
        };
        Ok(match route.delivery_mode {
            DeliveryMode::Queue => self.store(claim, &handover, None, Duration::ZERO).await,
            DeliveryMode::Proxy => {
                self.forward(claim, &handover, metrics, deadline, visit)
                    .await
            }
            DeliveryMode::Spill => {
                let deadline = handover::spill_by(visit.incoming.first_byte, deadline);
                self.forward(claim, &handover, metrics, deadline, visit)
                    .await
            }
        })
    }

    async fn claim(
        &self,
        route: &Route,
        metrics: &RouteMetrics,
        event: &Event,
        verified: &Verified,
        deadline: Instant,
    ) -> Result<Claim, Outcome> {
        let names = self
            .ledger
            .names(&route.name, &event.id, verified.body_sha256());
        let Replay {
            window,
            in_flight,
            on_duplicate,
        } = route.replay;
        let forwards = route.delivery_mode != DeliveryMode::Queue;
        let how = ClaimOptions {
            window,
            in_flight,
            deadline,
            forwards,
        };
        let (check, decision) = match self.ledger.claim(names, verified.digest(), how).await {
            Ok(ClaimDecision::Claimed(claim)) => (LedgerCheck::New, Ok(claim)),
            Ok(ClaimDecision::Duplicate) => (
                LedgerCheck::Duplicate,
                Err(Outcome::Duplicate(on_duplicate)),
            ),
            Ok(ClaimDecision::PayloadMismatch) => (
                LedgerCheck::PayloadMismatch,
                Err(Outcome::PayloadMismatch(on_duplicate)),
            ),
            Ok(ClaimDecision::InFlight) => (LedgerCheck::InFlight, Err(Outcome::InFlight)),
            Err(error) => {
                self.metrics.store().count_error("claim");
                (LedgerCheck::Error, Err(Outcome::StoreUnavailable(error)))
            }
        };
        metrics.count_ledger_check(check);
        decision
    }

    /// What the event is called from here on.
    fn label(
        &self,
        route: &Route,
        event: &Event,
        verified: &Verified,
        arrival: &InboundRequest<'_>,
    ) -> EventLabel {
        let event_id = match (event.id.as_str(), verified.body_sha256()) {
            (Some(id), _) => id.into(),
            (None, sha256) => digest_name(sha256.unwrap_or(&[0; 32])).into(),
        };
        let is_test = self.tests.verify(&arrival.head.headers, verified.body());
        EventLabel {
            route: Arc::clone(&route.name),
            event_id,
            event_type: (*event.event_type).into(),
            is_test,
        }
    }

    /// Counts, writes and logs the answer. Answers whether it was written whole.
    async fn answer(
        &self,
        session: &mut ServerSession,
        outcome: Outcome,
        visit: &mut Visit<'_>,
    ) -> bool {
        let (code, reason) = (outcome.code(), outcome.reason());
        let answer = Answer::to(outcome, visit.line.event_id.as_deref());
        let status = answer
            .as_ref()
            .map_or(StatusCode::BAD_GATEWAY, Answer::status);
        let requests = visit
            .route
            .map_or(&self.metrics.unmatched, |(_, metrics)| &metrics.requests);
        // Before the answer leaves: whoever has it finds it counted.
        requests.count_response(code, status);
        if code.is_rejection() {
            self.remember(session, RejectionKind { code, reason }, status, visit);
        }
        let written = match answer {
            Ok(answer) => answer.write(session, visit.write_by()).await,
            Err(error) => {
                tracing::error!(%error, "an answer could not be made");
                false
            }
        };
        let duration = visit.incoming.first_byte.elapsed();
        requests.observe_duration(duration);
        let kind = reason.unwrap_or(code.as_str());
        let admitted = if code.is_rejection() {
            self.thinning
                .admit(visit.line.route.as_ref(), kind, Instant::now())
        } else {
            Some(0)
        };
        if let Some(suppressed) = admitted {
            visit
                .line
                .write_line(code, reason, status.as_u16(), duration, suppressed);
        }
        written
    }

    /// Keeps what is told of a request that is turned away.
    fn remember(
        &self,
        session: &ServerSession,
        kind: RejectionKind,
        status: StatusCode,
        visit: &Visit<'_>,
    ) {
        let at = self.clock.wall();
        let describe = || {
            let rejection = Rejection {
                at,
                kind,
                status: status.as_u16(),
                method: Box::default(),
                path: Box::default(),
                peer: visit.line.peer,
                body_bytes: visit.line.body_bytes,
                trace_id: visit.line.trace_id.clone(),
                user_agent: None,
            };
            if !visit.has_head {
                return rejection;
            }
            let head = session.req_header();
            let user_agent = head
                .headers
                .get(http::header::USER_AGENT)
                .map(HeaderValue::as_bytes);
            rejection.of_request(head.method.as_str(), head.uri.path(), user_agent)
        };
        let watched = visit.watched.unwrap_or(self.watch.unmatched());
        watched
            .rejections
            .record(kind, at, self.clock.now(), describe);
    }
}

/// A request on its way, and what must be known of it however it ends.
struct Visit<'s> {
    incoming: Incoming,
    /// Whether the head could be read at all.
    has_head: bool,
    head: Option<Head>,
    route: Option<(&'s Route, &'s RouteMetrics)>,
    watched: Option<&'s RouteActivity>,
    line: log::RequestLine,
}

impl<'s> Visit<'s> {
    fn new(incoming: Incoming) -> Self {
        let line = log::RequestLine {
            peer: Some(incoming.peer),
            ..log::RequestLine::default()
        };
        Self {
            incoming,
            has_head: false,
            head: None,
            route: None,
            watched: None,
            line,
        }
    }

    /// Notes the route and answers when its answer must be on its way.
    fn matched(
        &mut self,
        route: &'s Route,
        metrics: &'s RouteMetrics,
        watched: &'s RouteActivity,
    ) -> Instant {
        self.route = Some((route, metrics));
        self.watched = Some(watched);
        self.line.route = Some(Arc::clone(&route.name));
        route.budget.deadline(self.incoming.first_byte)
    }

    /// When it must be known whether the ledger is settled: half of the margin is left for the answer.
    fn settle_by(&self, deadline: Instant) -> Instant {
        deadline + self.write_by().saturating_duration_since(deadline) / 2
    }

    /// When the answer must be written at the latest: the whole budget, its margin included.
    fn write_by(&self) -> Instant {
        let budget = self
            .route
            .map_or(UNROUTED_BUDGET, |(route, _)| route.budget.total);
        self.incoming.first_byte + budget
    }
}

impl Serving {
    /// # Errors
    /// `unknown_route`.
    fn find(
        &self,
        head: &Head,
        path: &str,
    ) -> Result<(&Route, &RouteMetrics, &RouteActivity), Outcome> {
        let index = self
            .table
            .find(head.host.as_deref(), path)
            .ok_or(Outcome::UnknownRoute)?;
        Ok((
            &self.table.routes()[index],
            &self.metrics[index],
            &self.watched[index],
        ))
    }
}

fn subject(label: EventLabel, received_at: Timestamp, verified: &Verified) -> Arc<EventMetadata> {
    let EventLabel {
        route,
        event_id,
        event_type,
        is_test,
    } = label;
    Arc::new(EventMetadata {
        route,
        event_id,
        event_type,
        received_at,
        secret: Arc::clone(verified.secret()),
        is_test,
    })
}

fn check_of(verified: &Result<Verified, SignatureError>) -> SignatureCheck<'_> {
    match verified {
        Ok(verified) => SignatureCheck::Ok(verified.secret()),
        Err(failure) => failed(*failure),
    }
}

fn failed(failure: SignatureError) -> SignatureCheck<'static> {
    match failure {
        SignatureError::Missing => SignatureCheck::Missing,
        SignatureError::Malformed => SignatureCheck::Malformed,
        SignatureError::Mismatch => SignatureCheck::Mismatch,
        SignatureError::Stale => SignatureCheck::Stale,
    }
}

impl From<AdmissionError> for Outcome {
    fn from(refusal: AdmissionError) -> Self {
        match refusal {
            AdmissionError::ForbiddenAddress => Self::ForbiddenAddress,
            AdmissionError::RateLimited { retry_after } => Self::RateLimited(retry_after),
            AdmissionError::TooManyAtOnce => Self::Overloaded,
        }
    }
}

impl From<SignatureError> for Outcome {
    fn from(failure: SignatureError) -> Self {
        Self::InvalidSignature(failure)
    }
}

impl From<upstream::UpstreamError> for Outcome {
    fn from(failure: upstream::UpstreamError) -> Self {
        match failure {
            upstream::UpstreamError::TimedOut => Self::BudgetExceeded,
            upstream::UpstreamError::Unreachable | upstream::UpstreamError::Broken => {
                Self::UpstreamUnreachable
            }
        }
    }
}

impl From<EnvelopeError> for Outcome {
    fn from(error: EnvelopeError) -> Self {
        Self::InvalidEvent(error)
    }
}

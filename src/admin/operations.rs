//! What an operator can do and see, whatever it is asked through.

mod recovery;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

use super::auth::Operator;
use super::front::Front;
use super::glance::Glance;
use super::reload::{NotReloaded, Reloaded};
use super::{AdminState, test};
use crate::activity::{IdleSender, Rejection, RejectionCount, RouteActivity};
use crate::delivery::{OutboundRequest, TestMarks};
use crate::ledger::{Redelivery, RedeliveryResult};
use crate::route::DeliveryMode;
use crate::store::{DeliveryFilter, DeliveryId, DeliveryRecord, RouteDeliveryStats, StoreError};
use crate::webhooks::{self, ActiveRoute, Definition, NewWebhook, WebhookChange};

pub use recovery::{Pace, Recovered, Recovery};

/// The operations. REST and whatever comes beside it map to these.
pub(super) struct Operations {
    subject: AdminState,
    /// Held by the redelivery of many that is under way.
    recovering: Mutex<()>,
}

/// A route as it is served.
#[derive(Clone)]
pub struct ServedRoute {
    pub name: Arc<str>,
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    pub provider: Option<&'static str>,
    /// The upstream's.
    pub url: String,
    /// Patterns of event types; none take all.
    pub events: Vec<Box<str>>,
    pub handover: DeliveryMode,
    pub active: bool,
    /// What it was made from over the API; `None` for one of the file.
    pub made_from: Option<Arc<Definition>>,
}

/// What became of a test event at the gateway's own front door.
pub struct Tested {
    pub status: u16,
    pub outcome: String,
    pub event_id: String,
    pub event_type: String,
    pub duration: Duration,
}

/// A route, and what is known of its deliveries.
pub struct Standing {
    pub route: ServedRoute,
    pub record: RouteDeliveryStats,
    /// When the oldest event arrived that waits.
    pub oldest_waiting: Option<Timestamp>,
    /// Its stored events wait until an operator says otherwise.
    pub paused: bool,
    /// How often something should be heard.
    pub expect_every: Option<Duration>,
    /// Whether it was not.
    pub silent: bool,
}

/// Deliveries, the newest first.
pub struct Page {
    pub deliveries: Vec<DeliveryRecord>,
    /// How many there are on all pages; `None` when they are more than are counted.
    pub total: Option<usize>,
    /// To be asked for the ones before, if there are any.
    pub next: Option<DeliveryId>,
}

/// The gateway itself.
pub struct Health {
    /// Why no requests should be sent, if so.
    pub not_ready: Option<String>,
    /// No new event is taken.
    pub store_full: bool,
    pub event_ids: usize,
    pub store_bytes: u64,
}

/// The gateway as a whole.
pub struct Overview {
    pub health: Health,
    /// None while the store can't be asked.
    pub routes: Vec<Standing>,
    /// In the last hour, by route; under `None` those that matched none.
    pub rejected: Vec<(Option<Arc<str>>, Vec<RejectionCount>)>,
}

/// Requests that were turned away, the newest first.
pub struct Turned {
    pub away: Vec<TurnedAway>,
    /// How many are known.
    pub total: usize,
}

/// A request that was turned away.
pub struct TurnedAway {
    /// `None` where it matched none.
    pub route: Option<Arc<str>>,
    pub rejection: Arc<Rejection>,
    /// How many like it came after it and were left out.
    pub left_out: u64,
}

/// Why something was not done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("There is no such webhook, nor any delivery of one of this name.")]
    NoSuchWebhook,
    #[error("There is no such delivery; records are kept as long as the route's `retain` says.")]
    NoSuchDelivery,
    #[error("A copy of this event is being handed over now.")]
    InFlight,
    #[error("The payload was not kept, so there is nothing to deliver; see the route's `retain`.")]
    PayloadNotKept,
    #[error(
        "Many are being redelivered already, one such call at a time; ask again when it has been answered."
    )]
    RedeliveryUnderWay,
    #[error(
        "At this pace the last one would be due in more than three days; take a faster one, or fewer."
    )]
    PaceTooSlow,
    #[error(
        "The ledger does not know this event ID on this route. Where IDs come in headers, its body may be known: forget it as `sha256:…`."
    )]
    NoSuchEvent,
    #[error("{0}")]
    Webhook(#[from] webhooks::WebhookError),
    #[error(
        "No test event can be signed: the route's secrets are public keys, or have all expired."
    )]
    CannotSign,
    #[error("No test event can be made for this route's `event` and `signature`.")]
    CannotMakeEvent,
    #[error("This route's event type stands in a header, where there are no control characters.")]
    NotInHeader,
    #[error("The gateway's own listener gave no answer: {0}.")]
    NoAnswer(String),
    #[error("The store can't be asked: {0}.")]
    Store(#[from] StoreError),
    #[error("{0}")]
    NotReloaded(#[from] NotReloaded),
}

/// Days that a count of the last days covers, today included.
const RECENT_DAYS: i64 = 30;
const DAY_SECONDS: i64 = 86_400;

impl ServedRoute {
    pub(super) fn of(served: &ActiveRoute) -> Self {
        let ActiveRoute { route, made_from } = served;
        Self {
            name: Arc::clone(&route.name),
            host: route.host.clone(),
            path: route.path.clone(),
            provider: route.provider,
            url: route.upstream.url(),
            events: route.events.patterns().map(Into::into).collect(),
            handover: route.delivery_mode,
            active: route.active,
            made_from: made_from.clone(),
        }
    }
}

impl Page {
    /// Cuts what was found when one more was looked for than is asked for.
    pub fn cut(mut found: Vec<DeliveryRecord>, limit: usize, total: Option<usize>) -> Self {
        let more = found.len() > limit;
        found.truncate(limit);
        Self {
            next: found.last().filter(|_| more).map(|last| last.id),
            deliveries: found,
            total,
        }
    }
}

impl Operations {
    pub fn new(subject: AdminState) -> Self {
        Self {
            subject,
            recovering: Mutex::default(),
        }
    }

    pub async fn routes(&self) -> Result<Vec<Standing>, Refused> {
        let mut standings = Vec::new();
        for route in self.served() {
            standings.push(self.standing(route).await?);
        }
        Ok(standings)
    }

    pub async fn route(&self, name: &str) -> Result<Standing, Refused> {
        self.standing(ServedRoute::of(&self.find(name)?)).await
    }

    /// Up to `filter.limit` deliveries. Those of a route that is no longer served can be asked for as well.
    pub async fn deliveries(&self, filter: DeliveryFilter) -> Result<Page, Refused> {
        let (limit, store) = (filter.limit, &self.subject.store);
        let total = store.count_deliveries(filter.clone()).await?;
        if total == Some(0) {
            self.check_known(&filter)?;
        }
        let found = store
            .deliveries(DeliveryFilter {
                limit: limit.saturating_add(1),
                ..filter
            })
            .await?;
        Ok(Page::cut(found, limit, total))
    }

    pub async fn delivery(&self, id: DeliveryId) -> Result<DeliveryRecord, Refused> {
        let view = self
            .subject
            .store
            .delivery(id)
            .await?
            .ok_or(Refused::NoSuchDelivery)?;
        Ok(match self.find(&view.route) {
            Ok(ActiveRoute { route, .. }) => {
                let signature = |head: Bytes| {
                    OutboundRequest::masked(&head, |name| route.verifier.reads_header(name))
                };
                DeliveryRecord {
                    head: view.head.map(signature),
                    ..view
                }
            }
            Err(_) => view,
        })
    }

    /// Has an event tried again now. One whose route is no longer served waits until it is.
    pub async fn redeliver(
        &self,
        operator: Operator,
        id: DeliveryId,
    ) -> Result<DeliveryRecord, Refused> {
        let done = async {
            let wanted = Redelivery {
                id,
                expected_state: None,
                due: self.subject.store.now_due(),
            };
            let redelivered = self.subject.queue.redeliver(&[wanted]).await?.pop();
            match redelivered.unwrap_or(RedeliveryResult::Unknown) {
                RedeliveryResult::Queued(_) => self.delivery(id).await,
                RedeliveryResult::InFlight => Err(Refused::InFlight),
                RedeliveryResult::Unknown => Err(Refused::NoSuchDelivery),
                RedeliveryResult::NoPayload => Err(Refused::PayloadNotKept),
            }
        };
        operator.audited("redeliver", &id.to_string(), done.await)
    }

    /// Makes a webhook, which is served from then on. Its secret is in it, to be shown this once.
    pub async fn make(
        &self,
        operator: Operator,
        new: NewWebhook,
    ) -> Result<(Standing, Arc<Definition>), Refused> {
        let made = self
            .subject
            .registry
            .create(new)
            .await
            .map_err(Refused::from);
        let name = made
            .as_ref()
            .map_or_else(|_| "".into(), |served| Arc::clone(&served.route.name));
        let served = operator.audited("make_webhook", &name, made)?;
        let definition = served.made_from.clone().ok_or(Refused::NoSuchWebhook)?;
        Ok((self.standing(ServedRoute::of(&served)).await?, definition))
    }

    pub async fn change(
        &self,
        operator: Operator,
        name: &str,
        change: WebhookChange,
    ) -> Result<Standing, Refused> {
        let changed = self
            .subject
            .registry
            .update(name, change)
            .await
            .map_err(Refused::from);
        let served = operator.audited("change_webhook", name, changed)?;
        self.standing(ServedRoute::of(&served)).await
    }

    pub async fn remove(&self, operator: Operator, name: &str) -> Result<(), Refused> {
        let removed = self
            .subject
            .registry
            .delete(name)
            .await
            .map_err(Refused::from);
        operator.audited("remove_webhook", name, removed)
    }

    /// Lets a route's stored events wait, or has them delivered again.
    pub async fn pause(
        &self,
        operator: Operator,
        name: &str,
        paused: bool,
    ) -> Result<Standing, Refused> {
        let done = async {
            let route = ServedRoute::of(&self.find(name)?);
            self.subject
                .queue
                .set_paused(Arc::clone(&route.name), paused)
                .await?;
            Ok(route)
        };
        let route = operator.audited(if paused { "pause" } else { "resume" }, name, done.await)?;
        self.standing(route).await
    }

    /// Sends a test event through the gateway's own front door, signed with the route's secret.
    pub async fn test(
        &self,
        operator: Operator,
        name: &str,
        kind: &str,
        data: Value,
    ) -> Result<Tested, Refused> {
        let done = async {
            let route = self.find(name)?.route;
            let front = Front::easiest(&self.subject.front)?.clone();
            let kind = kind.to_owned();
            let marks = TestMarks::new(self.subject.store.hash_key());
            let sent = tokio::task::spawn_blocking(move || {
                test::send(&route, &marks, &front, &kind, data)
            });
            sent.await
                .unwrap_or_else(|error| Err(Refused::NoAnswer(error.to_string())))
        };
        operator.audited("test", name, done.await)
    }

    /// Has the configuration read again, as a signal does.
    pub async fn reload(&self, operator: Operator) -> Result<Reloaded, Refused> {
        operator.audited(
            "reload",
            "",
            self.subject.reloads.ask().await.map_err(Refused::from),
        )
    }

    pub fn health(&self) -> Health {
        Health {
            not_ready: self.subject.ready().err(),
            store_full: self.subject.store.check_room() == Err(StoreError::Full),
            event_ids: self.subject.store.remembered_ids(),
            store_bytes: self.subject.store.size_bytes(),
        }
    }

    /// How the routes stand at this moment.
    pub async fn glances(&self) -> Result<Vec<Glance>, Refused> {
        let subject = self.subject.clone();
        let looked = tokio::task::spawn_blocking(move || Glance::at_all(&subject));
        Ok(looked.await.map_err(|_| StoreError::Unavailable)?)
    }

    /// How a route stands at this moment.
    pub async fn glance(&self, name: &str) -> Result<Glance, Refused> {
        let (subject, name) = (self.subject.clone(), name.to_owned());
        let looked = tokio::task::spawn_blocking(move || Glance::at_one(&subject, &name));
        looked
            .await
            .map_err(|_| StoreError::Unavailable)?
            .ok_or(Refused::NoSuchWebhook)
    }

    /// A route as it is served, without what is known of its deliveries.
    pub fn route_alone(&self, name: &str) -> Option<ServedRoute> {
        self.find(name).ok().map(|served| ServedRoute::of(&served))
    }

    /// Requests that matched no route.
    pub fn unmatched_in_last_hour(&self) -> u64 {
        let unmatched = self
            .subject
            .watch
            .unmatched()
            .rejections
            .last_hour(Instant::now());
        unmatched.iter().map(|kind| kind.count).sum()
    }

    /// Also while the store can't be asked: that is when it is wanted most.
    pub async fn overview(&self) -> Overview {
        let (routes, unknown) = match self.routes().await {
            Ok(routes) => (routes, None),
            Err(refused) => (Vec::new(), Some(refused.to_string())),
        };
        let health = self.health();
        Overview {
            health: Health {
                not_ready: health.not_ready.or(unknown),
                ..health
            },
            routes,
            rejected: self
                .subject
                .watch
                .all()
                .iter()
                .map(|watched| in_last_hour(watched))
                .collect(),
        }
    }

    /// The last requests that a route has turned away, or all routes and those that matched none.
    pub fn turned_away(&self, route: Option<&str>, limit: usize) -> Result<Turned, Refused> {
        let watch = &self.subject.watch;
        let parts = match route {
            Some(route) => vec![watch.route(route).ok_or(Refused::NoSuchWebhook)?],
            None => watch.all(),
        };
        let of_part = |part: &Arc<RouteActivity>| {
            let route = part.route.clone();
            let turned = part.rejections.recent().into_iter();
            turned.map(move |(rejection, left_out)| TurnedAway {
                route: route.clone(),
                rejection,
                left_out,
            })
        };
        let mut away: Vec<_> = parts.iter().flat_map(of_part).collect();
        away.sort_by_key(|turned| std::cmp::Reverse(turned.rejection.at));
        let total = away.len();
        away.truncate(limit);
        Ok(Turned { away, total })
    }

    /// To be asked where no delivery was found: whether there is a route that could have one.
    fn check_known(&self, filter: &DeliveryFilter) -> Result<(), Refused> {
        filter
            .route
            .as_ref()
            .map_or(Ok(()), |name| self.find(name).map(drop))
    }

    fn find(&self, name: &str) -> Result<ActiveRoute, Refused> {
        let served = self.subject.registry.active_routes();
        served
            .iter()
            .find(|served| *served.route.name == *name)
            .cloned()
            .ok_or(Refused::NoSuchWebhook)
    }

    fn served(&self) -> Vec<ServedRoute> {
        self.subject
            .registry
            .active_routes()
            .iter()
            .map(ServedRoute::of)
            .collect()
    }

    async fn standing(&self, route: ServedRoute) -> Result<Standing, Refused> {
        let today = Timestamp::now().as_second().div_euclid(DAY_SECONDS);
        let store = &self.subject.store;
        let record = store
            .route_stats(Arc::clone(&route.name), today - RECENT_DAYS + 1)
            .await?;
        let oldest_waiting = if record.pending > 0 {
            let (store, name) = (store.clone(), Arc::clone(&route.name));
            let oldest = tokio::task::spawn_blocking(move || store.oldest_waiting(&name));
            oldest.await.map_err(|_| StoreError::Unavailable)?
        } else {
            None
        };
        let paused = self.subject.queue.is_paused(&route.name);
        let watched = self.subject.watch.route(&route.name);
        let silence = watched
            .as_ref()
            .and_then(|watched| Some(&watched.sender.as_ref()?.idle));
        Ok(Standing {
            route,
            record,
            oldest_waiting,
            paused,
            expect_every: silence.and_then(IdleSender::expected_every),
            silent: silence.is_some_and(|silence| silence.is_idle(Instant::now())),
        })
    }
}

fn in_last_hour(watched: &RouteActivity) -> (Option<Arc<str>>, Vec<RejectionCount>) {
    (
        watched.route.clone(),
        watched.rejections.last_hour(Instant::now()),
    )
}

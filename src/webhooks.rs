//! Webhooks made over the API: routes that are defined in the store and active beside those of the
//! file.
//!
//! Owns the active routes, of which no two may collide: those of the file and those of the store. A
//! change is stored before it becomes active, and active before it is answered.

mod definition;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, watch};

use crate::route::Route;
use crate::store::{Revision, Store, StoreError};
use crate::upstream::{AllowedUpstream, check_url};

pub(crate) use definition::{Definition, NewWebhook, WebhookChange};
pub(crate) use schema::{Schemas, schemas};

/// The number of attempts to store a webhook while operators at other gateways change webhooks,
/// too.
const PUT_ATTEMPTS: u32 = 5;

/// An active route.
#[derive(Clone)]
pub(crate) struct ActiveRoute {
    pub route: Arc<Route>,
    /// The definition of a webhook made over the API; `None` for a route of the file.
    pub made_from: Option<Arc<Definition>>,
    /// The last change of the definition; for a route of the file, the time at which this process
    /// last loaded the file.
    pub updated_at: Timestamp,
}

/// The reason that a webhook is not created, changed or removed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebhookError {
    #[error("There is no such webhook.")]
    Unknown,
    #[error("This webhook is in the configuration file and can only be changed there.")]
    InFile,
    #[error(
        "There are {0} webhooks already, as many as `admin.max_webhooks` allows; remove one first."
    )]
    TooMany(usize),
    #[error("Another route has this {0}.")]
    Taken(&'static str),
    /// The problems of the definition, each a sentence.
    #[error("{}", .0.join(" "))]
    Invalid(Vec<String>),
    #[error("The store is not available: {0}.")]
    Store(#[from] StoreError),
}

/// The receiver of the routes that are served from now on. When `publish` returns, every component
/// uses them.
pub(crate) trait RoutePublisher: Send + Sync {
    fn publish(&self, routes: Vec<Arc<Route>>);
}

/// The limits on webhooks made over the API.
#[derive(Debug, Clone)]
pub(crate) struct WebhookLimits {
    /// The upstreams that they may use; `None` allows any.
    pub allowed_upstreams: Option<Vec<AllowedUpstream>>,
    /// The most webhooks that may exist.
    pub count: usize,
}

/// The active routes, and the only way to change them.
pub(crate) struct Registry {
    publisher: Box<dyn RoutePublisher>,
    store: Store,
    state: Mutex<State>,
    active: watch::Sender<Arc<[ActiveRoute]>>,
}

struct State {
    limits: WebhookLimits,
    file: Vec<Arc<Route>>,
    /// The time at which the file was last loaded.
    file_loaded_at: Timestamp,
    stored: StoredWebhooks,
}

/// The webhooks in the store.
struct StoredWebhooks {
    valid: BTreeMap<Arc<str>, Webhook>,
    /// The names of those that cannot be used: another version made them, or their provider is
    /// gone. They can be removed.
    invalid: BTreeSet<Arc<str>>,
    /// The revision of the operators' changes at which the store was read.
    revision: Revision,
}

struct Webhook {
    definition: Arc<Definition>,
    route: Arc<Route>,
}

impl Registry {
    /// Activates the routes of the file and those in the store. `limits` apply to changes over the
    /// API.
    ///
    /// # Errors
    /// Returns the store's error if the webhooks cannot be read.
    pub(crate) async fn start(
        publisher: Box<dyn RoutePublisher>,
        store: Store,
        file: Vec<Route>,
        limits: WebhookLimits,
    ) -> Result<Self, StoreError> {
        let state = State {
            limits,
            file: file.into_iter().map(Arc::new).collect(),
            file_loaded_at: Timestamp::now(),
            stored: StoredWebhooks::read(&store).await?,
        };
        let registry = Self {
            publisher,
            store,
            state: Mutex::new(state),
            active: watch::Sender::new(Arc::from([])),
        };
        registry.activate(&*registry.state.lock().await);
        Ok(registry)
    }

    /// Reads the store again and activates its webhooks: another gateway may have changed them.
    ///
    /// # Errors
    /// Returns the store's error if the webhooks cannot be read. The active routes stay as they
    /// are.
    pub(crate) async fn reload_stored(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        state.stored = StoredWebhooks::read(&self.store).await?;
        self.activate(&state);
        Ok(())
    }

    /// Returns the active routes.
    pub(crate) fn active_routes(&self) -> Arc<[ActiveRoute]> {
        self.active.borrow().clone()
    }

    /// Replaces the routes of the file, which have precedence over those made over the API, and the
    /// limits on the latter. Calls `prepare` when nothing else can be published any more before
    /// these routes are.
    pub(crate) async fn replace_file(
        &self,
        routes: Vec<Route>,
        limits: WebhookLimits,
        prepare: impl FnOnce(),
    ) {
        let mut state = self.state.lock().await;
        prepare();
        state.limits = limits;
        state.file = routes.into_iter().map(Arc::new).collect();
        state.file_loaded_at = Timestamp::now();
        self.activate(&state);
    }

    /// Creates a webhook.
    ///
    /// # Errors
    /// Returns an error if there are too many webhooks, or if the definition is invalid, collides
    /// with another route, or cannot be stored. The webhook does not exist then.
    pub(crate) async fn create(&self, new: NewWebhook) -> Result<ActiveRoute, WebhookError> {
        let (name, definition) = new.define().map_err(WebhookError::Invalid)?;
        let mut state = self.state.lock().await;
        let most = state.limits.count;
        self.put(&mut state, name.into(), |state| {
            if state.stored.count() >= most {
                return Err(WebhookError::TooMany(most));
            }
            Ok(definition.clone())
        })
        .await
    }

    /// Changes the given keys of a webhook.
    ///
    /// # Errors
    /// Returns an error if there is no such webhook, the result is invalid, collides with another
    /// route, or cannot be stored. The webhook stays as it was then.
    pub(crate) async fn update(
        &self,
        name: &str,
        change: WebhookChange,
    ) -> Result<ActiveRoute, WebhookError> {
        let problems = change.problems();
        if !problems.is_empty() {
            return Err(WebhookError::Invalid(problems));
        }
        let mut state = self.state.lock().await;
        self.put(&mut state, name.into(), |state| {
            Ok(state.find(name)?.definition.changed(change.clone()))
        })
        .await
    }

    /// Removes a webhook. Its queued events wait until there is a webhook with this name again.
    ///
    /// # Errors
    /// Returns an error if there is no such webhook, or the store cannot remove it.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), WebhookError> {
        let mut state = self.state.lock().await;
        if !state.stored.invalid.contains(name) {
            state.find(name)?;
        }
        self.store.remove_webhook(name.into()).await?;
        state.stored.valid.remove(name);
        state.stored.invalid.remove(name);
        self.activate(&state);
        Ok(())
    }

    /// Stores and activates the definition that `define` makes of the state. If another gateway
    /// changed the store meanwhile, reads the store and calls `define` again.
    async fn put(
        &self,
        state: &mut State,
        name: Arc<str>,
        define: impl Fn(&State) -> Result<Definition, WebhookError>,
    ) -> Result<ActiveRoute, WebhookError> {
        for _ in 0..PUT_ATTEMPTS {
            if let Some(active) = self.try_put(state, &name, define(state)?).await? {
                return Ok(active);
            }
            state.stored = StoredWebhooks::read(&self.store).await?;
        }
        Err(WebhookError::Store(StoreError::Unavailable))
    }

    /// Stores and activates a webhook. Returns `None` if the store has changed since it was read.
    async fn try_put(
        &self,
        state: &mut State,
        name: &Arc<str>,
        definition: Definition,
    ) -> Result<Option<ActiveRoute>, WebhookError> {
        let allowed = state.limits.allowed_upstreams.as_deref();
        if let Some(problem) = check_url(&definition.url, allowed) {
            return Err(WebhookError::Invalid(vec![problem]));
        }
        let route = definition.compile(name).map_err(WebhookError::Invalid)?;
        if let Some(taken) = state.collision(name, &route) {
            return Err(WebhookError::Taken(taken));
        }
        let put = self
            .store
            .put_webhook(
                Arc::clone(name),
                definition.to_stored(),
                state.stored.revision,
            )
            .await?;
        let Some(revision) = put else { return Ok(None) };
        state.stored.revision = revision;
        let (definition, route) = (Arc::new(definition), Arc::new(route));
        let active = ActiveRoute {
            route: Arc::clone(&route),
            updated_at: definition.updated_at(),
            made_from: Some(Arc::clone(&definition)),
        };
        tracing::info!(
            webhook = &**name,
            upstream = definition.url,
            "webhook stored"
        );
        let webhook = Webhook { definition, route };
        state.stored.valid.insert(Arc::clone(name), webhook);
        self.activate(state);
        Ok(Some(active))
    }

    /// Makes all routes active that do not collide with one of the file.
    fn activate(&self, state: &State) {
        let mut active: Vec<_> = state
            .file
            .iter()
            .map(|route| ActiveRoute {
                route: Arc::clone(route),
                made_from: None,
                updated_at: state.file_loaded_at,
            })
            .collect();
        for (name, webhook) in &state.stored.valid {
            if let Some(taken) = state.collision_with_file(name, &webhook.route) {
                tracing::error!(
                    webhook = &**name,
                    "webhook not active: a route of the file has the same {taken}"
                );
                continue;
            }
            active.push(ActiveRoute {
                route: Arc::clone(&webhook.route),
                made_from: Some(Arc::clone(&webhook.definition)),
                updated_at: webhook.definition.updated_at(),
            });
        }
        self.publisher.publish(
            active
                .iter()
                .map(|active| Arc::clone(&active.route))
                .collect(),
        );
        self.active.send_replace(active.into());
    }
}

impl StoredWebhooks {
    fn count(&self) -> usize {
        self.valid.len() + self.invalid.len()
    }

    /// Reads all webhooks from the store, and logs those that cannot be used.
    async fn read(store: &Store) -> Result<Self, StoreError> {
        let (revision, webhooks) = store.webhooks().await?;
        let (mut valid, mut invalid) = (BTreeMap::new(), BTreeSet::new());
        for (name, stored) in webhooks {
            let Some(definition) = Definition::from_stored(&stored) else {
                tracing::error!(
                    webhook = name,
                    "a stored webhook cannot be read; it is kept"
                );
                invalid.insert(name.into());
                continue;
            };
            match definition.compile(&name) {
                Ok(route) => {
                    let webhook = Webhook {
                        definition: Arc::new(definition),
                        route: Arc::new(route),
                    };
                    valid.insert(name.into(), webhook);
                }
                Err(problems) => {
                    tracing::error!(
                        webhook = name,
                        problems = problems.join(" "),
                        "a stored webhook is not valid; it is kept, but not active"
                    );
                    invalid.insert(name.into());
                }
            }
        }
        Ok(Self {
            valid,
            invalid,
            revision,
        })
    }
}

impl State {
    fn find(&self, name: &str) -> Result<&Webhook, WebhookError> {
        if self.file.iter().any(|route| *route.name == *name) {
            return Err(WebhookError::InFile);
        }
        self.stored.valid.get(name).ok_or(WebhookError::Unknown)
    }

    /// Returns which of the route's properties another route has already.
    fn collision(&self, name: &str, route: &Route) -> Option<&'static str> {
        let mut others = self.stored.valid.iter();
        self.collision_with_file(name, route).or_else(|| {
            others
                .any(|(other, webhook)| **other != *name && overlaps(&webhook.route, route))
                .then_some("path")
        })
    }

    fn collision_with_file(&self, name: &str, route: &Route) -> Option<&'static str> {
        self.file.iter().find_map(|other| {
            if *other.name == *name {
                Some("name")
            } else {
                overlaps(other, route).then_some("path")
            }
        })
    }
}

/// Returns whether a request could match both routes: one with a host would shadow one for any
/// host.
fn overlaps(one: &Route, other: &Route) -> bool {
    let hosts = one.host.is_none() || other.host.is_none() || one.host == other.host;
    one.path == other.path && hosts
}

//! Webhooks made over the API: routes that are defined in the store and active beside those of the
//! file.
//!
//! Owns the active routes, of which no two may collide: those of the file and those of the store. A
//! change is stored before it becomes active, and active before it is answered.

mod creation_keys;
mod definition;
mod patch;
mod schema;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use crate::route::Route;
use crate::store::{Creation, CreationKey, Revision, Store, StoreError};
use crate::upstream::{AllowedUpstream, check_url};

use creation_keys::KeysInFlight;
pub(crate) use definition::{Definition, NewWebhook, WebhookChange};
pub(crate) use patch::WebhookPatch;
pub(crate) use schema::{Schemas, schemas};
use version::VersionKey;
pub(crate) use version::{Precondition, Version, VersionSet};

/// The number of attempts to change the store while operators at other gateways change it, too.
const WRITE_ATTEMPTS: u32 = 5;

/// An active route.
#[derive(Clone)]
pub(crate) struct ActiveRoute {
    pub route: Arc<Route>,
    /// The definition of a webhook made over the API; `None` for a route of the file.
    pub made_from: Option<Arc<Definition>>,
    /// The last change of the definition; for a route of the file, the time at which this process
    /// last loaded the file.
    pub updated_at: Timestamp,
    /// The version of the definition.
    pub version: Option<Version>,
}

/// A webhook as it was created: by this request, or by an earlier one with the same key.
pub(crate) struct Created {
    pub active: ActiveRoute,
    pub definition: Arc<Definition>,
    /// Set if an earlier request created it.
    pub is_repeated: bool,
}

/// A change of a webhook.
pub(crate) enum Change {
    /// The given keys get these values.
    Keys(WebhookChange),
    /// The document of the keys is patched.
    Merge(WebhookPatch),
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
    #[error(
        "The webhook has been changed since the version that the request expects; read it again."
    )]
    OtherVersion,
    #[error("A request with this `Idempotency-Key` is being answered; repeat it in a moment.")]
    KeyInFlight,
    #[error(
        "Another request was sent with this `Idempotency-Key`; a repetition has the same body. \
         Choose a new key for each webhook."
    )]
    KeyReused,
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
    version_key: VersionKey,
    keys_in_flight: KeysInFlight,
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
    version: Version,
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
        let version_key = VersionKey::new(store.hash_key());
        let state = State {
            limits,
            file: file.into_iter().map(Arc::new).collect(),
            file_loaded_at: Timestamp::now(),
            stored: StoredWebhooks::read(&store, &version_key).await?,
        };
        let registry = Self {
            publisher,
            store,
            version_key,
            keys_in_flight: KeysInFlight::default(),
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
        self.read_stored(&mut *self.state.lock().await).await
    }

    /// Reads the store again if another gateway has changed it since, so that a client may send its
    /// requests to any gateway, one after the other.
    ///
    /// # Errors
    /// Returns the store's error if it cannot be read.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        if self.store.revision().is_none() {
            return Ok(());
        }
        let revision = self.store.read_revision().await?;
        let mut state = self.state.lock().await;
        if revision == state.stored.revision {
            return Ok(());
        }
        self.read_stored(&mut state).await
    }

    async fn refresh_state(&self, state: &mut State) -> Result<(), StoreError> {
        if self.store.read_revision().await? == state.stored.revision {
            return Ok(());
        }
        self.read_stored(state).await
    }

    async fn read_stored(&self, state: &mut State) -> Result<(), StoreError> {
        state.stored = StoredWebhooks::read(&self.store, &self.version_key).await?;
        self.activate(state);
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

    /// Creates a webhook. With a key, it is created once, however often the request is repeated and
    /// whatever gateway of a shared store answers: the key is stored with it.
    ///
    /// # Errors
    /// Returns an error if there are too many webhooks, or if the definition is invalid, collides
    /// with another route, or cannot be stored. The webhook does not exist then. Also returns an
    /// error if the key is that of another request, or of one that is being answered.
    pub(crate) async fn create(
        &self,
        new: NewWebhook,
        key: Option<CreationKey>,
    ) -> Result<Created, WebhookError> {
        let _in_flight = match &key {
            Some(key) => Some(self.keys_in_flight.enter(&key.key)?),
            None => None,
        };
        let defined = new.define();
        let mut state = self.state.lock().await;
        self.refresh_state(&mut state).await?;
        for _ in 0..WRITE_ATTEMPTS {
            if let Some(key) = &key
                && let Some(creation) = self.store.creation(&key.key).await?
            {
                return self.repeat(&mut state, creation, key).await;
            }
            let (name, definition) = match &defined {
                Ok((name, definition)) => (Arc::from(&**name), definition.clone()),
                Err(problems) => return Err(WebhookError::Invalid(problems.clone())),
            };
            if state.stored.count() >= state.limits.count {
                return Err(WebhookError::TooMany(state.limits.count));
            }
            let write = Write::new(&self.version_key, name, definition);
            if let Some(active) = self.try_put(&mut state, &write, key.clone()).await? {
                return Ok(Created {
                    active,
                    definition: write.definition,
                    is_repeated: false,
                });
            }
            self.read_stored(&mut state).await?;
            if let Some(active) = state.stored.written(&write) {
                return Ok(Created {
                    active,
                    definition: write.definition,
                    is_repeated: false,
                });
            }
        }
        Err(WebhookError::Store(StoreError::Unavailable))
    }

    /// Returns the webhook as an earlier request with this key created it.
    async fn repeat(
        &self,
        state: &mut State,
        creation: Creation,
        key: &CreationKey,
    ) -> Result<Created, WebhookError> {
        if creation.request != key.request {
            return Err(WebhookError::KeyReused);
        }
        let name = creation.webhook;
        if !state.stored.valid.contains_key(&*name) {
            // It was removed; or the write that created it seemed to fail, and had not.
            self.read_stored(state).await?;
        }
        let version = self.version_key.version(&name, &creation.definition);
        let definition = Definition::from_stored(&creation.definition).ok_or_else(|| {
            WebhookError::Invalid(vec!["Another version created this webhook.".into()])
        })?;
        let route = definition.compile(&name).map_err(WebhookError::Invalid)?;
        let webhook = Webhook {
            definition: Arc::new(definition),
            route: Arc::new(route),
            version,
        };
        Ok(Created {
            active: webhook.active(),
            definition: webhook.definition,
            is_repeated: true,
        })
    }

    /// Changes a webhook that meets the precondition.
    ///
    /// # Errors
    /// Returns an error if there is no such webhook, it does not meet the precondition, or the
    /// result is invalid, collides with another route, or cannot be stored. The webhook stays as it
    /// was then.
    pub(crate) async fn update(
        &self,
        name: &str,
        change: &Change,
        precondition: &Precondition,
    ) -> Result<ActiveRoute, WebhookError> {
        let problems = change.problems();
        if !problems.is_empty() {
            return Err(WebhookError::Invalid(problems));
        }
        let mut state = self.state.lock().await;
        self.refresh_state(&mut state).await?;
        for _ in 0..WRITE_ATTEMPTS {
            let webhook = state.find(name)?;
            if !precondition.holds(Some(webhook.version)) {
                return Err(WebhookError::OtherVersion);
            }
            let definition = change.apply(name, &webhook.definition);
            let write = Write::new(&self.version_key, name.into(), definition);
            if let Some(active) = self.try_put(&mut state, &write, None).await? {
                return Ok(active);
            }
            self.read_stored(&mut state).await?;
            if let Some(active) = state.stored.written(&write) {
                return Ok(active);
            }
        }
        Err(WebhookError::Store(StoreError::Unavailable))
    }

    /// Removes a webhook that meets the precondition. Its queued events wait until there is a
    /// webhook with this name again.
    ///
    /// # Errors
    /// Returns an error if there is no such webhook, it does not meet the precondition, or the store
    /// cannot remove it.
    pub(crate) async fn delete(
        &self,
        name: &str,
        precondition: &Precondition,
    ) -> Result<(), WebhookError> {
        let mut state = self.state.lock().await;
        self.refresh_state(&mut state).await?;
        let mut is_tried = false;
        for _ in 0..WRITE_ATTEMPTS {
            let version = match state.find(name) {
                Ok(webhook) => Some(webhook.version),
                Err(WebhookError::Unknown) if state.stored.invalid.contains(name) => None,
                // The first try seemed to fail, and had not; or another gateway removed it. Of several
                // clients that name a version, no second one may succeed.
                Err(WebhookError::Unknown) if is_tried && precondition.allows(None) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if !precondition.holds(version) {
                return Err(WebhookError::OtherVersion);
            }
            let expected = state.stored.revision;
            if let Some(revision) = self.store.remove_webhook(name.into(), expected).await? {
                state.stored.revision = revision;
                state.stored.valid.remove(name);
                state.stored.invalid.remove(name);
                self.activate(&state);
                return Ok(());
            }
            is_tried = true;
            self.read_stored(&mut state).await?;
        }
        Err(WebhookError::Store(StoreError::Unavailable))
    }

    /// Stores and activates a webhook. Returns `None` if the store has changed since it was read.
    async fn try_put(
        &self,
        state: &mut State,
        write: &Write,
        key: Option<CreationKey>,
    ) -> Result<Option<ActiveRoute>, WebhookError> {
        let Write {
            name,
            definition,
            stored,
            version,
        } = write;
        let allowed = state.limits.allowed_upstreams.as_deref();
        if let Some(problem) = check_url(&definition.url, allowed) {
            return Err(WebhookError::Invalid(vec![problem]));
        }
        let route = definition.compile(name).map_err(WebhookError::Invalid)?;
        if let Some(taken) = state.collision(name, &route) {
            return Err(WebhookError::Taken(taken));
        }
        let expected = state.stored.revision;
        let put = self
            .store
            .put_webhook(Arc::clone(name), stored.to_string(), expected, key);
        let Some(revision) = put.await? else {
            return Ok(None);
        };
        state.stored.revision = revision;
        tracing::info!(
            webhook = &**name,
            upstream = definition.url,
            "webhook stored"
        );
        let webhook = Webhook {
            definition: Arc::clone(definition),
            route: Arc::new(route),
            version: *version,
        };
        let active = webhook.active();
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
                version: None,
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
            active.push(webhook.active());
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

/// A definition to store.
struct Write {
    name: Arc<str>,
    definition: Arc<Definition>,
    stored: Zeroizing<String>,
    version: Version,
}

impl Write {
    fn new(key: &VersionKey, name: Arc<str>, definition: Definition) -> Self {
        let stored = Zeroizing::new(definition.to_stored());
        Self {
            version: key.version(&name, &stored),
            name,
            definition: Arc::new(definition),
            stored,
        }
    }
}

impl Webhook {
    fn active(&self) -> ActiveRoute {
        ActiveRoute {
            route: Arc::clone(&self.route),
            made_from: Some(Arc::clone(&self.definition)),
            updated_at: self.definition.updated_at(),
            version: Some(self.version),
        }
    }
}

impl Change {
    /// Returns the problems that do not depend on other keys or routes.
    fn problems(&self) -> Vec<String> {
        match self {
            Self::Keys(keys) => keys.problems(),
            Self::Merge(patch) => patch.problems(),
        }
    }

    /// Returns the changed definition of the webhook `name`.
    fn apply(&self, name: &str, definition: &Definition) -> Definition {
        match self {
            Self::Keys(keys) => definition.changed(keys.clone()),
            Self::Merge(patch) => definition.merged(name, patch.clone()),
        }
    }
}

impl StoredWebhooks {
    /// Returns a webhook whose write seemed to be too late and was not: the connection to the store
    /// broke before its answer, and the write was tried again.
    fn written(&self, write: &Write) -> Option<ActiveRoute> {
        let webhook = self.valid.get(&write.name)?;
        (webhook.version == write.version).then(|| webhook.active())
    }

    fn count(&self) -> usize {
        self.valid.len() + self.invalid.len()
    }

    /// Reads all webhooks from the store, and logs those that cannot be used.
    async fn read(store: &Store, version_key: &VersionKey) -> Result<Self, StoreError> {
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
                        version: version_key.version(&name, &stored),
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

//! Webhooks made over the API: routes that are defined in the store, and served beside those of the file.
//!
//! Owns what is served: the file's routes and these, of which none may take the place of another. A change is in the
//! store before it is served, and served before it is answered.

mod definition;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use crate::route::Route;
use crate::store::{Revision, Store, StoreError};
use crate::upstream::{AllowedUpstream, check_url};

pub use definition::{Definition, NewWebhook, WebhookChange};
pub use schema::{Schemas, schemas};

/// How often other gateways' operators may come first.
const PUT_TRIES: u32 = 5;

/// A route as it is served, and what it was made from where that was not the file.
#[derive(Clone)]
pub struct ActiveRoute {
    pub route: Arc<Route>,
    pub made_from: Option<Arc<Definition>>,
}

/// Why a webhook is not made, changed or removed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    #[error("There is no such webhook.")]
    Unknown,
    #[error("This webhook is in the configuration's file, and is changed there.")]
    InFile,
    #[error("Another route has this {0}.")]
    Taken(&'static str),
    /// Each a sentence.
    #[error("{}", .0.join(" "))]
    Invalid(Vec<String>),
    #[error("The store can't be asked: {0}.")]
    Store(#[from] StoreError),
}

/// The receiver of the routes that are served from now on. When `publish` returns, every component
/// uses them.
pub trait RoutePublisher: Send + Sync {
    fn publish(&self, routes: Vec<Arc<Route>>);
}

/// All routes that are served, and the one way to change them.
pub struct Registry {
    publisher: Box<dyn RoutePublisher>,
    store: Store,
    allowed: Option<Vec<AllowedUpstream>>,
    state: Mutex<State>,
    served: watch::Sender<Arc<[ActiveRoute]>>,
}

struct State {
    file: Vec<Arc<Route>>,
    made: BTreeMap<Arc<str>, Made>,
    /// Stored ones that can't be served: another version's, or of a provider that is no more. They can be removed.
    broken: BTreeSet<Arc<str>>,
    /// What operators had said when those were read.
    revision: Revision,
}

struct Made {
    definition: Arc<Definition>,
    route: Arc<Route>,
}

impl Registry {
    /// Serves the file's routes and those in the store. `allowed` bounds what webhooks made over the API may name as their
    /// upstream.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn start(
        publisher: Box<dyn RoutePublisher>,
        store: Store,
        file: Vec<Route>,
        allowed: Option<Vec<AllowedUpstream>>,
    ) -> Result<Self, StoreError> {
        let (made, broken, revision) = stored(&store).await?;
        let state = State {
            file: file.into_iter().map(Arc::new).collect(),
            made,
            broken,
            revision,
        };
        let served = watch::Sender::new(Arc::from([]));
        let registry = Self {
            publisher,
            store,
            allowed,
            state: Mutex::new(state),
            served,
        };
        registry.serve(&*registry.state.lock().await);
        Ok(registry)
    }

    /// Serves what is stored by now: another gateway may have been told of webhooks.
    ///
    /// # Errors
    /// When the store can't be read. What was served before still is.
    pub async fn reload_stored(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        (state.made, state.broken, state.revision) = stored(&self.store).await?;
        self.serve(&state);
        Ok(())
    }

    /// What is served now.
    pub fn active_routes(&self) -> Arc<[ActiveRoute]> {
        self.served.borrow().clone()
    }

    /// Takes the routes of a newly read file over. They go before those made over the API.
    pub async fn replace_file(&self, routes: Vec<Route>) {
        let mut state = self.state.lock().await;
        state.file = routes.into_iter().map(Arc::new).collect();
        self.serve(&state);
    }

    /// Makes a webhook.
    ///
    /// # Errors
    /// When it can't be served, or not be kept.
    pub async fn create(&self, new: NewWebhook) -> Result<ActiveRoute, WebhookError> {
        let (name, definition) = new.define().map_err(WebhookError::Invalid)?;
        let mut state = self.state.lock().await;
        self.put(&mut state, name.into(), |_| Ok(definition.clone()))
            .await
    }

    /// Changes what is given of a webhook.
    ///
    /// # Errors
    /// As [`Registry::make`].
    pub async fn update(
        &self,
        name: &str,
        change: WebhookChange,
    ) -> Result<ActiveRoute, WebhookError> {
        let problems = change.problems();
        if !problems.is_empty() {
            return Err(WebhookError::Invalid(problems));
        }
        let mut state = self.state.lock().await;
        let changed = |state: &State| Ok(state.find(name)?.definition.changed(change.clone()));
        self.put(&mut state, name.into(), changed).await
    }

    /// Removes a webhook. Events of it that are stored wait until one of its name is back.
    ///
    /// # Errors
    /// When there is none, or the store does not forget it.
    pub async fn delete(&self, name: &str) -> Result<(), WebhookError> {
        let mut state = self.state.lock().await;
        if !state.broken.contains(name) {
            state.find(name)?;
        }
        self.store.remove_webhook(name.into()).await?;
        state.made.remove(name);
        state.broken.remove(name);
        self.serve(&state);
        Ok(())
    }

    /// Keeps and serves what `define` makes of what there is, which it is asked for again when that has changed meanwhile.
    async fn put(
        &self,
        state: &mut State,
        name: Arc<str>,
        define: impl Fn(&State) -> Result<Definition, WebhookError>,
    ) -> Result<ActiveRoute, WebhookError> {
        for _ in 0..PUT_TRIES {
            if let Some(served) = self.try_put(state, &name, define(state)?).await? {
                return Ok(served);
            }
            // Another gateway was told something.
            (state.made, state.broken, state.revision) = stored(&self.store).await?;
        }
        Err(WebhookError::Store(StoreError::Unavailable))
    }

    async fn try_put(
        &self,
        state: &mut State,
        name: &Arc<str>,
        definition: Definition,
    ) -> Result<Option<ActiveRoute>, WebhookError> {
        if let Some(problem) = check_url(&definition.url, self.allowed.as_deref()) {
            return Err(WebhookError::Invalid(vec![problem]));
        }
        let route = definition.compile(name).map_err(WebhookError::Invalid)?;
        if let Some(taken) = state.collision(name, &route) {
            return Err(WebhookError::Taken(taken));
        }
        let put = self
            .store
            .put_webhook(Arc::clone(name), definition.to_stored(), state.revision)
            .await?;
        let Some(revision) = put else { return Ok(None) };
        state.revision = revision;
        let (definition, route) = (Arc::new(definition), Arc::new(route));
        let served = ActiveRoute {
            route: Arc::clone(&route),
            made_from: Some(Arc::clone(&definition)),
        };
        tracing::info!(
            webhook = &**name,
            upstream = definition.url,
            "a webhook has an upstream"
        );
        state
            .made
            .insert(Arc::clone(name), Made { definition, route });
        self.serve(state);
        Ok(Some(served))
    }

    fn serve(&self, state: &State) {
        let mut served: Vec<_> = state
            .file
            .iter()
            .map(|route| ActiveRoute {
                route: Arc::clone(route),
                made_from: None,
            })
            .collect();
        for (name, made) in &state.made {
            if let Some(taken) = state.file_has(name, &made.route) {
                tracing::error!(
                    webhook = &**name,
                    "not served: a route of the file has its {taken}"
                );
                continue;
            }
            let made_from = Some(Arc::clone(&made.definition));
            served.push(ActiveRoute {
                route: Arc::clone(&made.route),
                made_from,
            });
        }
        self.publisher.publish(
            served
                .iter()
                .map(|served| Arc::clone(&served.route))
                .collect(),
        );
        self.served.send_replace(served.into());
    }
}

/// What the store has: those that can be served, and those that can't.
async fn stored(
    store: &Store,
) -> Result<(BTreeMap<Arc<str>, Made>, BTreeSet<Arc<str>>, Revision), StoreError> {
    let (mut made, mut broken) = (BTreeMap::new(), BTreeSet::new());
    let (revision, webhooks) = store.webhooks().await?;
    for (name, stored) in webhooks {
        match Definition::from_stored(&stored)
            .map(|definition| (definition.compile(&name), definition))
        {
            Some((Ok(route), definition)) => {
                let made_from = Made {
                    definition: Arc::new(definition),
                    route: Arc::new(route),
                };
                made.insert(name.into(), made_from);
            }
            Some((Err(problems), _)) => {
                tracing::error!(
                    webhook = name,
                    problems = problems.join(" "),
                    "a stored webhook can't be served"
                );
                broken.insert(name.into());
            }
            None => {
                tracing::error!(
                    webhook = name,
                    "a stored webhook can't be read; it was left as it is"
                );
                broken.insert(name.into());
            }
        }
    }
    Ok((made, broken, revision))
}

impl State {
    fn find(&self, name: &str) -> Result<&Made, WebhookError> {
        if self.file.iter().any(|route| *route.name == *name) {
            return Err(WebhookError::InFile);
        }
        self.made.get(name).ok_or(WebhookError::Unknown)
    }

    /// What another route has already.
    fn collision(&self, name: &str, route: &Route) -> Option<&'static str> {
        let others = self
            .made
            .iter()
            .filter(|(other, _)| ***other != *name)
            .map(|(_, made)| &made.route);
        self.file_has(name, route).or_else(|| {
            others
                .filter(|other| meets(other, route))
                .map(|_| "path")
                .next()
        })
    }

    fn file_has(&self, name: &str, route: &Route) -> Option<&'static str> {
        self.file.iter().find_map(|other| {
            if *other.name == *name {
                Some("name")
            } else {
                meets(other, route).then_some("path")
            }
        })
    }
}

/// Whether a request for the one could reach the other. A route for any host would be shadowed by one that names it.
fn meets(one: &Route, other: &Route) -> bool {
    let hosts = one.host.is_none() || other.host.is_none() || one.host == other.host;
    one.path == other.path && hosts
}

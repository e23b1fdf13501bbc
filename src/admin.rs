//! The admin listener: health, readiness and metrics for machines, and the API for operators; apart from the data plane.
//!
//! It has a thread and a runtime of its own, so that it answers when the data plane is busy, and the data plane never
//! serves its paths. `operations` is what can be done, `rest`, `graphql` and `shape` how it is asked for and answered
//! over HTTP, `auth` who may, `problem` how a refusal is worded.

mod auth;
mod graphql;
mod health;
mod operations;
mod problem;
mod reload;
mod rest;
pub mod shape;
mod test;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::signature::NamedSecret;
use crate::store::Store;
use crate::watch::Watch;
use crate::webhooks::Registry;
use auth::{Door, LocalAddress};

pub use operations::{Operations, Pace, Page, ServedRoute};
pub use reload::{AskedReload, NotReloaded, Reloaded, Reloads};

/// What the admin listener tells about.
#[derive(Clone)]
pub struct Subject {
    pub metrics: Arc<Metrics>,
    pub store: Store,
    pub ledger: Arc<Ledger>,
    pub queue: Arc<Queue>,
    /// The routes that are served, and the way to change them.
    pub registry: Arc<Registry>,
    /// Where senders connect to.
    pub front: Vec<SocketAddr>,
    pub watch: Arc<Watch>,
    /// `true` from the signal to stop on.
    pub draining: watch::Receiver<bool>,
    pub reloads: Reloads,
}

/// Serves on `listener` until the process ends. With a `token`, all but health and metrics needs it.
///
/// # Errors
/// When the thread or its runtime can't be started.
pub fn start(listener: std::net::TcpListener, subject: Subject, token: Option<&NamedSecret>) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let router = router(subject, Door::new(token));
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            let served = match TcpListener::from_std(listener) {
                Ok(listener) => {
                    axum::serve(listener, router.into_make_service_with_connect_info::<LocalAddress>()).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(%error, "the admin listener ended");
            }
        });
    })?;
    Ok(address)
}

fn router(subject: Subject, door: Door) -> Router {
    // Open to anybody, under any name: orchestrators and Prometheus ask by addresses of their own.
    let open = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .with_state(subject.clone());
    let operations = Arc::new(Operations::new(subject));
    let guarded = rest::router(Arc::clone(&operations)).merge(graphql::router(operations));
    open.merge(guarded.layer(from_fn_with_state(Arc::new(door), auth::guard)))
}

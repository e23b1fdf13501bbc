//! The admin listener: health, readiness and metrics for machines, and the API for operators; apart from the data plane.
//!
//! It has threads and a runtime of its own, so that it answers when the data plane is busy, and the data plane never
//! serves its paths. `operations` is what can be done, `rest`, `graphql` and `shape` how it is asked for and answered
//! over HTTP, `openapi` what is written of that, `dashboard` the same for a browser, `auth` who may, `problem` how a refusal
//! is worded.

mod auth;
mod dashboard;
mod front;
mod glance;
mod graphql;
mod health;
mod listen;
mod openapi;
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
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::activity::Activity;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::Store;
use crate::webhooks::Registry;
use auth::Door;
use operations::Operations;

pub use auth::Access;
pub use front::{Front, reachable};
pub use operations::{Pace, Page};
pub use reload::{AskedReload, NotReloaded, Reloaded, Reloads};

/// What the admin listener tells about.
#[derive(Clone)]
pub struct AdminState {
    pub metrics: Arc<Metrics>,
    pub store: Store,
    pub ledger: Arc<Ledger>,
    pub queue: Arc<Queue>,
    /// The routes that are served, and the way to change them.
    pub registry: Arc<Registry>,
    /// Where senders connect to. At least one.
    pub front: Vec<Front>,
    pub watch: Arc<Activity>,
    /// `true` from the signal to stop on.
    pub draining: watch::Receiver<bool>,
    pub reloads: Reloads,
}

/// One may be busy with a long page while the other says that we live.
const THREADS: usize = 2;

/// Serves on `listener` until the process ends. With a token, all but health and metrics needs one.
///
/// # Errors
/// When the thread or its runtime can't be started.
pub fn start(
    listener: std::net::TcpListener,
    subject: AdminState,
    access: Access<'_>,
) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("admin")
        .enable_all()
        .build()?;
    let router = router(subject, Door::new(access));
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => listen::serve(listener, router).await,
                Err(error) => tracing::error!(%error, "the admin listener could not begin"),
            }
        });
    })?;
    Ok(address)
}

fn router(subject: AdminState, door: Door) -> Router {
    let open = Router::from(health::routes()).with_state(subject.clone());
    let operations = Arc::new(Operations::new(subject));
    let door = Arc::new(door);
    let pages = dashboard::router(Arc::clone(&operations), Arc::clone(&door));
    let guarded = rest::router(Arc::clone(&operations)).merge(graphql::router(operations));
    open.merge(pages)
        .merge(guarded.layer(from_fn_with_state(door, auth::guard)))
}

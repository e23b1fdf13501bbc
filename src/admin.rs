//! The admin listener: health and metrics for machines, and the API and dashboard for operators.
//!
//! It has threads and a runtime of its own, so that it answers while the data plane is busy, and
//! the data plane serves none of its paths. Imports point down this list only:
//!
//! * `rest`, `graphql`, `openapi` and `dashboard` map requests to operations.
//! * `listen`, `auth` (with `peer_owner`) and `http` accept connections, authenticate callers, and
//!   read and write JSON.
//! * `shape` is the JSON of responses.
//! * `operations` is everything that an operator can do.
//! * `parameters`, `conditions`, `query`, `audit`, `state` and `error` are what all of these share.

mod audit;
mod auth;
mod conditions;
mod dashboard;
mod error;
mod graphql;
mod health;
mod http;
mod listen;
mod openapi;
mod operations;
mod parameters;
mod peer_owner;
mod query;
mod reload;
mod rest;
pub(crate) mod shape;
mod state;
mod webhook_id;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use auth::Authenticator;
use health::MetricsPage;
use operations::Operations;

use crate::notifications;

pub(crate) use auth::Access;
pub(crate) use query::{DeliveryPage, Pace};
pub(crate) use reload::{ConfigurationOnDisk, ReloadError, ReloadHandle, ReloadRequest, Reloaded};
pub(crate) use state::AdminState;

/// The runtime's threads: while one renders a long page, the other answers health checks.
const THREADS: usize = 2;

/// The running admin listener.
pub(crate) struct Running {
    pub address: SocketAddr,
    authenticator: Arc<Authenticator>,
    /// The sockets that it is to accept on instead.
    others: mpsc::Sender<std::net::TcpListener>,
}

impl Running {
    /// Accepts on `listener` from now on. Open connections are kept.
    pub(crate) async fn move_to(&mut self, listener: std::net::TcpListener) -> io::Result<()> {
        self.address = listener.local_addr()?;
        let moved = self.others.send(listener).await;
        moved.map_err(|_| io::Error::other("the admin listener has ended"))
    }

    /// Returns whether it needs a token, or needs none, as `access` says.
    pub(crate) fn is_as_open(&self, access: &Access<'_>) -> bool {
        self.authenticator.is_as_open(access)
    }

    /// Replaces the tokens. Returns `false`, and changes nothing, if that takes a restart: a token
    /// would be needed from now on, or none any more.
    pub(crate) fn replace_tokens(&self, access: Access<'_>) -> bool {
        self.authenticator.replace_tokens(access)
    }
}

/// Serves on `listener` until the process ends.
///
/// # Errors
/// When the thread or its runtime can't be started.
pub(crate) fn start(
    listener: std::net::TcpListener,
    state: AdminState,
    access: Access<'_>,
    notify: Option<notifications::Settings>,
) -> io::Result<Running> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("admin")
        .enable_all()
        .build()?;
    let checks_owner = access.is_open();
    let authenticator = Arc::new(Authenticator::new(access));
    let operations = {
        // The notifier's task runs on this runtime.
        let _entered = runtime.enter();
        Arc::new(Operations::new(state.clone(), notify))
    };
    let router = router(state, Arc::clone(&operations), Arc::clone(&authenticator));
    let (others, moves) = mpsc::channel(1);
    let reporting = Arc::clone(&authenticator);
    runtime.spawn(async move { reporting.report_failed_logins().await });
    let resuming = Arc::clone(&operations);
    runtime.spawn(async move { resuming.continue_redeliveries().await });
    runtime.spawn(async move { operations.follow_problems().await });
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => listen::run(listener, moves, router, checks_owner).await,
                Err(error) => tracing::error!(%error, "admin listener failed to start"),
            }
        });
    })?;
    Ok(Running {
        address,
        authenticator,
        others,
    })
}

/// Returns an address at which this machine reaches a listener that is bound to `address`.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn router(
    state: AdminState,
    operations: Arc<Operations>,
    authenticator: Arc<Authenticator>,
) -> Router {
    let open = Router::from(health::routes())
        .layer(Extension(Arc::new(MetricsPage::default())))
        .with_state(state);
    let pages = dashboard::router(Arc::clone(&operations), Arc::clone(&authenticator));
    let api = rest::router(Arc::clone(&operations))
        .merge(openapi::router(Arc::clone(&operations)))
        .merge(graphql::router(operations));
    open.merge(pages)
        .merge(api.layer(from_fn_with_state(authenticator, auth::guard)))
}

//! The demo that goes on: steady traffic for three routes, and an application that fails and
//! recovers.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval};

use super::sender::Sender;
use super::{CommandError, SECRET, start_gateway, store_folder};
use crate::admin::reachable;
use crate::cli::{input, terminal};
use crate::providers::{self, sample};
use crate::secret::Secret;
use crate::signature::Signed;

/// The usual address of the dashboard, at which `hookstile status` finds it without arguments.
const USUAL_ADMIN: &str = "127.0.0.1:9180";

/// The pause between two requests of the sender.
const REQUEST_INTERVAL: Duration = Duration::from_millis(250);

/// The application of `orders` fails from this moment of each cycle, for [`OUTAGE`].
const OUTAGE_START: Duration = Duration::from_secs(5);
const OUTAGE: Duration = Duration::from_secs(15);
const CYCLE: Duration = Duration::from_secs(60);

/// Of this many requests to a route, one is tampered with and one is a copy of the last.
const ODD_REQUEST_EVERY: u64 = 8;

/// The routes, each with the provider that sends to it.
const ROUTES: [(&str, &str); 3] = [
    ("payments", "stripe"),
    ("orders", "paddle"),
    ("accounts", "vpn-enterprise"),
];

/// The application of `orders`: set while it fails.
type Failing = Arc<AtomicBool>;

pub(super) async fn run(admin: Option<SocketAddr>) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| CommandError::Failed(format!("cannot start: {error}"));
    let (mut interrupted, mut terminated) = (
        signal(SignalKind::interrupt()).map_err(failed)?,
        signal(SignalKind::terminate()).map_err(failed)?,
    );
    let failing = Failing::default();
    let applications = start_applications(Arc::clone(&failing))
        .await
        .map_err(failed)?;
    let store = store_folder()?;
    let admin = admin.unwrap_or_else(admin_address);
    let store_path = store.path().display().to_string();
    let configuration = configuration(&store_path, admin, applications);
    let (app, gateway) = start_gateway(configuration).await?;
    terminal::print(&introduction(gateway, app.admin))?;
    let result = tokio::select! {
        result = send_until_ended(gateway, &failing) => result,
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    };
    app.stop(Duration::ZERO).await;
    result
}

/// Returns the usual address if it is free, or else one with any free port.
fn admin_address() -> SocketAddr {
    let address = StdListener::bind(USUAL_ADMIN).and_then(|free| free.local_addr());
    address.unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn configuration(store: &str, admin: SocketAddr, applications: SocketAddr) -> String {
    format!(
        r#"
store: {{path: "{store}"}}
listen: [{{address: "127.0.0.1:0"}}]
admin: {{address: "{admin}"}}
defaults: {{secrets: [{{env: DEMO_SECRET, name: current}}]}}
routes:
  - {{name: payments, path: /payments, provider: stripe, upstream: "http://{applications}/well"}}
  - name: orders
    path: /orders
    provider: paddle
    upstream: "http://{applications}/failing"
    delivery: queue
    retry: {{initial: 1s, max_interval: 5s, horizon: 1h}}
  - name: accounts
    path: /accounts
    provider: vpn-enterprise
    upstream: "http://{applications}/well"
"#
    )
}

/// Returns the first eight lines of the output. Two more follow when the application fails and
/// recovers for the first time.
fn introduction(gateway: SocketAddr, admin: SocketAddr) -> String {
    let admin = reachable(admin);
    format!(
        "dashboard   http://{admin}/     (in another shell: hookstile status --admin {admin})
webhooks    http://{gateway}/payments, /orders and /accounts
sent        4 signed events a second, some with a wrong signature, some twice
  payments  forwarded at once; wrong signatures get 401, copies are acknowledged and dropped
  orders    stored and delivered afterwards; its application fails for {} s of every {} s
  accounts  forwarded at once
next        hookstile init      writes a configuration for your provider
end         Ctrl-C              nothing is kept",
        OUTAGE.as_secs(),
        CYCLE.as_secs(),
    )
}

async fn start_applications(failing: Failing) -> std::io::Result<SocketAddr> {
    let router = Router::new()
        .route("/well", post(async || StatusCode::OK))
        .route("/failing", post(respond))
        .with_state(failing);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn respond(State(failing): State<Failing>) -> StatusCode {
    if failing.load(Ordering::Relaxed) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

/// Sends events, and lets the application of `orders` fail and recover. Returns only on an error.
async fn send_until_ended(gateway: SocketAddr, failing: &AtomicBool) -> Result<(), CommandError> {
    let secret = Secret::new(SECRET).map_err(|error| CommandError::Failed(error.to_string()))?;
    let sender = Sender::new(gateway);
    let start = Instant::now();
    let mut ticks = interval(REQUEST_INTERVAL);
    let mut last: [Option<(Signed, Vec<u8>)>; ROUTES.len()] = [const { None }; ROUTES.len()];
    for number in 0.. {
        let now = ticks.tick().await;
        let outage = outage(now - start);
        if failing.swap(outage.fails, Ordering::Relaxed) != outage.fails && outage.is_first {
            let at = Timestamp::now().strftime("%H:%M:%S");
            terminal::print(&format!("{at}    {}", outage.description()))?;
        }
        // Every second event is one of `orders`.
        let index = [0, 1, 2, 1][number % 4];
        let (route, provider) = ROUTES[index];
        let round = (number / 4) as u64;
        let copy = last[index]
            .take()
            .filter(|_| round % ODD_REQUEST_EVERY == ODD_REQUEST_EVERY - 1);
        let (signature, mut body) = match copy {
            Some(copy) => copy,
            None => signed_event(provider, &secret)?,
        };
        last[index] = Some((signature.clone(), body.clone()));
        if index == 0 && round % ODD_REQUEST_EVERY == ODD_REQUEST_EVERY / 2 {
            body.push(b' ');
        }
        sender
            .post(&format!("/{route}"), &signature, &body)
            .await
            .map_err(CommandError::Failed)?;
    }
    Ok(())
}

/// The state of the application of `orders`.
#[derive(Debug, PartialEq, Eq)]
struct Outage {
    fails: bool,
    is_first: bool,
}

fn outage(since_start: Duration) -> Outage {
    let seconds = since_start.as_secs();
    let in_cycle = Duration::from_secs(seconds % CYCLE.as_secs());
    Outage {
        fails: (OUTAGE_START..OUTAGE_START + OUTAGE).contains(&in_cycle),
        is_first: since_start < CYCLE,
    }
}

impl Outage {
    fn description(&self) -> &'static str {
        if self.fails {
            "the application of orders fails: its events wait, and none is lost"
        } else {
            "the application of orders is back: the events that waited are delivered"
        }
    }
}

fn signed_event(provider: &str, secret: &Secret) -> Result<(Signed, Vec<u8>), CommandError> {
    let preset = providers::find(provider)
        .ok_or_else(|| CommandError::Failed(format!("there is no provider {provider}")))?;
    let (id, now) = (input::new_id(), Timestamp::now());
    let body = sample(preset, preset.example_type, &id, now).body;
    let signature = (preset.scheme)()
        .sign(secret, &body, now, Some(&id))
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok((signature, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_application_fails_and_recovers() {
        let at = |seconds| outage(Duration::from_secs(seconds));
        let state = |fails, is_first| Outage { fails, is_first };
        assert_eq!([at(0), at(5)], [state(false, true), state(true, true)]);
        assert_eq!([at(19), at(20)], [state(true, true), state(false, true)]);
        assert_eq!([at(65), at(80)], [state(true, false), state(false, false)]);
    }

    #[test]
    fn demo_introduction_has_eight_lines() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(introduction(address, address).lines().count(), 8);
    }
}

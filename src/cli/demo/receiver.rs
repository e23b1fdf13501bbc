//! The demo's receiver: an application behind the gateway that verifies each signature again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use jiff::Timestamp;
use tokio::net::TcpListener;

use crate::secret::Secret;
use crate::signature::{NamedSecret, Scheme, Verifier, presets};

/// The response time of the slow endpoint, longer than any budget in the demo.
const SLOW_RESPONSE: Duration = Duration::from_secs(20);

pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    state: Arc<ReceiverState>,
}

struct ReceiverState {
    verifiers: [Verifier; 2],
    requests: AtomicUsize,
    verified: AtomicUsize,
}

/// The numbers of received and of verified requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReceiverCounts {
    pub(super) requests: usize,
    pub(super) verified: usize,
}

impl Receiver {
    pub(super) async fn start(secret: &str) -> io::Result<Self> {
        let state = Arc::new(ReceiverState {
            verifiers: [
                verifier(presets::vpn_enterprise(), secret)?,
                verifier(presets::orbvpn(), secret)?,
            ],
            requests: AtomicUsize::new(0),
            verified: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/vpn-enterprise", post(receive))
            .route("/orbvpn", post(receive))
            .route("/stripe", post(receive))
            .route("/slow", post(receive_slowly))
            .with_state(Arc::clone(&state));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, state })
    }

    pub(super) fn counts(&self) -> ReceiverCounts {
        ReceiverCounts {
            requests: self.state.requests.load(Ordering::SeqCst),
            verified: self.state.verified.load(Ordering::SeqCst),
        }
    }
}

impl ReceiverCounts {
    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            verified: self.verified - before.verified,
        }
    }
}

fn verifier(scheme: Scheme, secret: &str) -> io::Result<Verifier> {
    let secret = Secret::new(secret).map_err(io::Error::other)?;
    let secret = NamedSecret {
        name: "demo".into(),
        secret,
        expires: None,
    };
    let key = secret.for_scheme(&scheme).map_err(io::Error::other)?;
    Ok(Verifier::new(scheme, vec![key], false))
}

async fn receive(
    State(state): State<Arc<ReceiverState>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    state.requests.fetch_add(1, Ordering::SeqCst);
    let verified = state.verifiers.iter().any(|verifier| {
        let mut verification = verifier.start(&headers, Timestamp::now());
        verification.update(body.clone());
        verification.finish().is_ok()
    });
    if !verified {
        return StatusCode::UNAUTHORIZED;
    }
    state.verified.fetch_add(1, Ordering::SeqCst);
    StatusCode::OK
}

async fn receive_slowly(
    state: State<Arc<ReceiverState>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let status = receive(state, headers, body).await;
    tokio::time::sleep(SLOW_RESPONSE).await;
    status
}

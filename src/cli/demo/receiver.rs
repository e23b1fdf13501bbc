//! The demo's receiver: an application behind the gateway, which trusts nobody and checks each signature itself.

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

/// Longer than any budget in the demo.
const TOO_LONG: Duration = Duration::from_secs(20);

pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    counts: Arc<Counts>,
}

struct Counts {
    verifiers: [Verifier; 2],
    requests: AtomicUsize,
    verified: AtomicUsize,
}

/// What the receiver has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) requests: usize,
    pub(super) verified: usize,
}

impl Receiver {
    pub(super) async fn start(secret: &str) -> io::Result<Self> {
        let counts = Arc::new(Counts {
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
            .with_state(Arc::clone(&counts));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, counts })
    }

    pub(super) fn seen(&self) -> Seen {
        Seen {
            requests: self.counts.requests.load(Ordering::SeqCst),
            verified: self.counts.verified.load(Ordering::SeqCst),
        }
    }
}

impl Seen {
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

async fn receive(State(counts): State<Arc<Counts>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    counts.requests.fetch_add(1, Ordering::SeqCst);
    let verified = counts.verifiers.iter().any(|verifier| {
        let mut verification = verifier.start(&headers, Timestamp::now());
        verification.update(body.clone());
        verification.finish().is_ok()
    });
    if !verified {
        return StatusCode::UNAUTHORIZED;
    }
    counts.verified.fetch_add(1, Ordering::SeqCst);
    StatusCode::OK
}

async fn receive_slowly(counts: State<Arc<Counts>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let status = receive(counts, headers, body).await;
    tokio::time::sleep(TOO_LONG).await;
    status
}

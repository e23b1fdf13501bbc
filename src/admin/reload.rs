//! Reloads that an operator requests over the API. The process reads the configuration; this is
//! the channel to it and back.

use tokio::sync::{mpsc, oneshot};

/// A configuration that was accepted.
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// The number of its routes.
    pub routes: usize,
    /// Warnings for the operator, each on one line.
    pub warnings: Vec<String>,
}

/// The reason why nothing was changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The problems of the configuration, each on one line.
    #[error("The configuration is invalid; the previous one stays active.")]
    Invalid(Vec<String>),
    #[error("The gateway is stopping.")]
    Stopping,
}

/// The reply channel of a requested reload. Dropping it replies [`ReloadError::Stopping`].
pub(crate) type ReloadRequest = oneshot::Sender<Result<Reloaded, ReloadError>>;

/// Requests reloads, one at a time.
#[derive(Clone)]
pub(crate) struct ReloadHandle(mpsc::Sender<ReloadRequest>);

impl ReloadHandle {
    /// Creates a handle and the receiver of its requests.
    pub(crate) fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    pub(super) async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let (reply, replied) = oneshot::channel();
        self.0
            .send(reply)
            .await
            .map_err(|_| ReloadError::Stopping)?;
        replied.await.unwrap_or(Err(ReloadError::Stopping))
    }
}

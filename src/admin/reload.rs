//! Reloading at an operator's word: what the admin listener asks of the process, and what it is told.
//!
//! Reading the configuration is the process's business; here is only the way there and back.

use tokio::sync::{mpsc, oneshot};

/// A configuration that was taken.
#[derive(Debug)]
pub struct Reloaded {
    /// How many routes it has.
    pub routes: usize,
    /// What the operator should know, each in one line.
    pub warnings: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReloaded {
    /// What is wrong with it, each problem in one line.
    #[error("The configuration is not valid; the old one stays.")]
    Invalid(Vec<String>),
    #[error("The gateway is about to stop.")]
    Stopping,
}

/// Somebody who waits for a reload. Dropped unanswered, it hears that the process is about to end.
pub type AskedReload = oneshot::Sender<Result<Reloaded, NotReloaded>>;

/// Asks for reloads, one at a time.
#[derive(Clone)]
pub struct Reloads(mpsc::Sender<AskedReload>);

impl Reloads {
    /// Also returns where the process hears of them.
    pub fn new() -> (Self, mpsc::Receiver<AskedReload>) {
        let (ask, asked) = mpsc::channel(1);
        (Self(ask), asked)
    }

    pub(super) async fn ask(&self) -> Result<Reloaded, NotReloaded> {
        let (answer, answered) = oneshot::channel();
        self.0
            .send(answer)
            .await
            .map_err(|_| NotReloaded::Stopping)?;
        answered.await.unwrap_or(Err(NotReloaded::Stopping))
    }
}

//! Reloads that an operator requests over the API. The process reads the configuration; this is
//! the channel to it and back. Also whether the configuration on disk is one that it would take.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::diagnostic::LocatedDiagnostic;
use crate::problems::RefusedConfiguration;

/// The configuration on disk, as far as the gateway does not use it: with one that it refuses, the
/// next start fails.
#[derive(Default)]
pub(crate) struct ConfigurationOnDisk(Mutex<OnDisk>);

#[derive(Default)]
struct OnDisk {
    /// The content that was read last, if it is not valid.
    invalid: Option<RefusedConfiguration>,
    /// The file, if it cannot be read.
    missing: Option<RefusedConfiguration>,
}

impl ConfigurationOnDisk {
    /// Returns what is wrong with the file, if anything is.
    pub(crate) fn refused(&self) -> Option<RefusedConfiguration> {
        let on_disk = self.locked();
        on_disk
            .missing
            .as_ref()
            .or(on_disk.invalid.as_ref())
            .cloned()
    }

    /// Records that the file was read and is not valid. `problems` are those of it, each on one
    /// line.
    pub(crate) fn refuse(&self, problems: &[String], now: Timestamp) {
        let mut on_disk = self.locked();
        let since = on_disk
            .invalid
            .as_ref()
            .map_or(now, |refused| refused.since);
        on_disk.invalid = Some(RefusedConfiguration {
            since,
            first: problems.first().cloned().unwrap_or_default(),
            count: problems.len(),
        });
    }

    /// Records that the file was read and is in effect.
    pub(crate) fn accept(&self) {
        self.locked().invalid = None;
    }

    /// Records whether the file at `path` can be read.
    pub(crate) fn set_missing(&self, path: &Path, is_missing: bool, now: Timestamp) {
        let mut on_disk = self.locked();
        if !is_missing {
            on_disk.missing = None;
        } else if on_disk.missing.is_none() {
            on_disk.missing = Some(RefusedConfiguration {
                since: now,
                first: format!("{} cannot be read", path.display()),
                count: 1,
            });
        }
    }

    fn locked(&self) -> MutexGuard<'_, OnDisk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A configuration that was accepted.
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// The number of its routes.
    pub routes: usize,
    /// Warnings for the operator.
    pub warnings: Vec<LocatedDiagnostic>,
}

/// The reason why nothing was changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The errors and warnings of the configuration.
    #[error("The configuration is invalid; the previous one stays active.")]
    Invalid(Vec<LocatedDiagnostic>),
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

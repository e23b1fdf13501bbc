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
    /// What is wrong with the content that was read last.
    invalid: Option<Wrong>,
    /// Why the file cannot be read.
    missing: Option<Wrong>,
    /// The beginning of the refusal that goes on, whatever its reasons were.
    since: Option<Timestamp>,
    /// The time at which the reason changed last, since the beginning.
    changed: Option<Timestamp>,
}

/// A reason to refuse the file.
#[derive(Clone, PartialEq, Eq)]
struct Wrong {
    first: String,
    count: usize,
}

impl OnDisk {
    /// Returns the reason why a start would fail now.
    fn wrong(&self) -> Option<&Wrong> {
        self.missing.as_ref().or(self.invalid.as_ref())
    }

    /// Makes a change, and remembers when the refusal began and when its reason changed.
    fn change(&mut self, now: Timestamp, change: impl FnOnce(&mut Self)) {
        let before = self.wrong().cloned();
        change(self);
        match (before, self.wrong()) {
            (_, None) => (self.since, self.changed) = (None, None),
            (None, Some(_)) => self.since = Some(now),
            (Some(before), Some(wrong)) if before != *wrong => self.changed = Some(now),
            _ => {}
        }
    }
}

impl ConfigurationOnDisk {
    /// Returns what is wrong with the file, if anything is.
    pub(crate) fn refused(&self) -> Option<RefusedConfiguration> {
        let on_disk = self.locked();
        let wrong = on_disk.wrong()?;
        Some(RefusedConfiguration {
            since: on_disk.since?,
            changed: on_disk.changed,
            first: wrong.first.clone(),
            count: wrong.count,
        })
    }

    /// Records that the file was read and is not valid. `problems` are those of it, each on one
    /// line.
    pub(crate) fn refuse(&self, problems: &[String], now: Timestamp) {
        let wrong = Wrong {
            first: problems.first().cloned().unwrap_or_default(),
            count: problems.len(),
        };
        self.locked()
            .change(now, |on_disk| on_disk.invalid = Some(wrong));
    }

    /// Records that the file was read and is in effect.
    pub(crate) fn accept(&self, now: Timestamp) {
        self.locked().change(now, |on_disk| on_disk.invalid = None);
    }

    /// Records whether the file at `path` can be read.
    pub(crate) fn set_missing(&self, path: &Path, is_missing: bool, now: Timestamp) {
        let wrong = is_missing.then(|| Wrong {
            first: format!("{} cannot be read", path.display()),
            count: 1,
        });
        self.locked().change(now, |on_disk| on_disk.missing = wrong);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_begins_once_whatever_its_reasons() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let on_disk = ConfigurationOnDisk::default();
        let times = |on_disk: &ConfigurationOnDisk| {
            let refused = on_disk.refused().unwrap();
            (refused.since, refused.changed)
        };
        let refuse = |second, first: &str| on_disk.refuse(&[first.to_owned()], at(second));
        refuse(1, "a");
        refuse(2, "a");
        assert_eq!(times(&on_disk), (at(1), None));
        refuse(3, "b");
        assert_eq!(times(&on_disk), (at(1), Some(at(3))));
        let file = Path::new("hookstile.yaml");
        on_disk.set_missing(file, true, at(4));
        assert_eq!(times(&on_disk), (at(1), Some(at(4))));
        on_disk.set_missing(file, false, at(5));
        assert_eq!(times(&on_disk), (at(1), Some(at(5))), "still invalid");
        on_disk.accept(at(6));
        assert_eq!(on_disk.refused(), None);
        refuse(7, "a");
        assert_eq!(times(&on_disk), (at(7), None));
    }
}

//! When the configuration is read again: on a signal, and when its file or a certificate has changed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{App, supervisor, tls};
use crate::admin::{ReloadError, Reloaded};
use crate::config;

/// Editors and orchestrators write in several steps; the file is read when it has been quiet for this long.
const QUIET_FOR: Duration = Duration::from_millis(200);

/// What was in a file, to tell whether it has changed. No file's content is kept: some hold keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content([u8; 32]);

impl Content {
    /// `None` when the file can't be read.
    pub(super) fn of(path: &Path) -> Option<Self> {
        std::fs::read(path)
            .ok()
            .map(|content| Self(Sha256::digest(Zeroizing::new(content)).into()))
    }
}

/// Watches the configuration's file, and the certificates that it names. Their folders are watched, not the files
/// themselves: files are replaced by renaming, and Kubernetes swaps a symbolic link beside them.
pub(super) struct FileWatch {
    path: PathBuf,
    seen: Option<Content>,
    named: Vec<(PathBuf, Option<Content>)>,
    /// A change was told and not yet looked at. Kept here because waiting for quiet may be given up and begun again.
    pending: bool,
    events: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    /// Folders that are watched.
    folders: HashSet<PathBuf>,
}

impl FileWatch {
    /// `seen` is what the file held before it was first loaded, `named` the other files.
    pub(super) fn new(path: &Path, seen: Option<Content>, named: Vec<PathBuf>) -> Self {
        let (tell, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| tells_of_a_change(event.kind)) {
                // A full channel means that a change is waiting to be seen already.
                let _ = tell.try_send(());
            }
        });
        let watcher = watcher.map_err(|error| unwatched(path, &error)).ok();
        // Looked at once in any case: it may have changed between loading and watching.
        let (path, folders) = (path.to_owned(), HashSet::new());
        let mut watch = Self {
            path,
            seen,
            named: Vec::new(),
            pending: true,
            events,
            watcher,
            folders,
        };
        watch.look_after(named);
        watch
    }

    /// The configuration's own file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Watches these files besides the configuration's own.
    fn look_after(&mut self, named: Vec<PathBuf>) {
        self.named = named
            .into_iter()
            .map(|path| (path.clone(), Content::of(&path)))
            .collect();
        for path in std::iter::once(&self.path).chain(self.named.iter().map(|(path, _)| path)) {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            let Some(watcher) = &mut self.watcher else {
                return;
            };
            if self.folders.insert(folder.to_owned())
                && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
            {
                unwatched(path, &error);
            }
        }
    }

    /// Ends when a file's content differs from what was last loaded. One that is not there may be on its way.
    pub(super) async fn changed(&mut self) {
        loop {
            if !self.pending {
                if self.events.recv().await.is_none() {
                    return std::future::pending().await;
                }
                self.pending = true;
            }
            tokio::time::sleep(QUIET_FOR).await;
            while self.events.try_recv().is_ok() {
                tokio::time::sleep(QUIET_FOR).await;
            }
            self.pending = false;
            let named = self.named.iter().map(|(path, seen)| (path, *seen));
            let mut files = std::iter::once((&self.path, self.seen)).chain(named);
            if files.any(|(path, seen)| Content::of(path).is_some_and(|now| Some(now) != seen)) {
                return;
            }
        }
    }

    /// Reads the configuration again and gives it, or what is wrong with it, to `app`. Both are in the log afterwards,
    /// whoever else is told.
    pub(super) async fn reload(
        &mut self,
        app: &mut App,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Reloaded, ReloadError> {
        supervisor::reloading();
        self.seen = Content::of(&self.path);
        // As they are now: what changes from here on is another change.
        for (path, seen) in &mut self.named {
            *seen = Content::of(path);
        }
        match config::load(&self.path, env) {
            Ok(loaded) => {
                let warnings: Vec<_> = loaded.warnings.summaries().collect();
                for warning in &warnings {
                    tracing::warn!("{warning}");
                }
                let routes = loaded.config.routes.len();
                let named = tls::files(&loaded.config);
                if !named.iter().eq(self.named.iter().map(|(path, _)| path)) {
                    self.look_after(named);
                }
                app.reload(loaded.config).await;
                supervisor::ready(&app.data, app.admin);
                Ok(Reloaded { routes, warnings })
            }
            Err(report) => {
                app.refuse_reload(&report);
                supervisor::reload_refused();
                Err(ReloadError::Invalid(report.summaries().collect()))
            }
        }
    }
}

/// A file that is written to and kept open, as a log is, would keep its folder from ever being quiet: that a file was written counts when
/// it is closed, where the system tells of that.
fn tells_of_a_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_)) => !cfg!(target_os = "linux"),
        _ => true,
    }
}

fn unwatched(path: &Path, error: &notify::Error) {
    tracing::warn!(file = %path.display(), %error, "this file is not watched; send SIGHUP after a change");
}

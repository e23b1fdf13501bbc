//! When the configuration is read again: on a signal, and when its file has changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::{App, supervisor};
use crate::admin::{NotReloaded, Reloaded};
use crate::config;

/// Editors and orchestrators write in several steps; the file is read when it has been quiet for this long.
const QUIET_FOR: Duration = Duration::from_millis(200);

/// Watches the configuration's file. Its folder is watched, not the file itself: files are replaced by renaming, and
/// Kubernetes swaps a symbolic link beside them.
pub(super) struct FileWatch {
    path: PathBuf,
    seen: Option<Vec<u8>>,
    /// A change was told and not yet looked at. Kept here because waiting for quiet may be given up and begun again.
    pending: bool,
    events: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
}

impl FileWatch {
    /// `seen` is what the file held before it was first loaded.
    pub(super) fn new(path: &Path, seen: Option<Vec<u8>>) -> Self {
        let (tell, events) = mpsc::channel(1);
        let watcher = match watch(path, tell) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "the configuration's file is not watched; send SIGHUP after a change");
                None
            }
        };
        // Looked at once in any case: it may have changed between loading and watching.
        Self { path: path.to_owned(), seen, pending: true, events, _watcher: watcher }
    }

    /// Ends when the file's content differs from what was last loaded.
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
            let content = std::fs::read(&self.path).ok();
            if content.is_some() && content != self.seen {
                return;
            }
        }
    }

    /// Reads the configuration again and gives it, or what is wrong with it, to `app`. Both are in the log afterwards,
    /// whoever else is told.
    pub(super) async fn reload(
        &mut self,
        app: &App,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Reloaded, NotReloaded> {
        supervisor::reloading();
        self.seen = std::fs::read(&self.path).ok();
        match config::load(&self.path, env) {
            Ok(loaded) => {
                let warnings: Vec<_> = loaded.warnings.summaries().collect();
                for warning in &warnings {
                    tracing::warn!("{warning}");
                }
                let routes = loaded.config.routes.len();
                app.reload(loaded.config).await;
                supervisor::ready(&app.data, app.admin);
                Ok(Reloaded { routes, warnings })
            }
            Err(report) => {
                app.refuse_reload(&report);
                supervisor::reload_refused();
                Err(NotReloaded::Invalid(report.summaries().collect()))
            }
        }
    }
}

fn watch(path: &Path, tell: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // A full channel means that a change is waiting to be seen already.
            let _ = tell.try_send(());
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

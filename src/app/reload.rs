//! Reads the configuration again: on a signal, on request, and when its file or a certificate has
//! changed.

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

/// The time without a change after which a file is read: editors and orchestrators write in several
/// steps.
const QUIET_TIME: Duration = Duration::from_millis(200);

/// The SHA-256 of a file's content, by which a change is noticed. The content itself is not kept:
/// some files hold keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content([u8; 32]);

impl Content {
    /// Hashes a file. Returns `None` when it cannot be read.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        std::fs::read(path)
            .ok()
            .map(|content| Self(Sha256::digest(Zeroizing::new(content)).into()))
    }
}

/// A watch on the configuration's file and the TLS files that it names. Watches their folders and
/// not the files: files are replaced by renaming, and Kubernetes swaps a symbolic link beside them.
pub(super) struct FileWatch {
    path: PathBuf,
    /// The content of the configuration's file when it was last loaded.
    loaded: Option<Content>,
    /// The files that the configuration names, each with its content when it was last loaded.
    named: Vec<(PathBuf, Option<Content>)>,
    /// Set when a folder has changed and the files were not compared yet. Kept here because
    /// [`FileWatch::changed`] may be cancelled and called again.
    pending: bool,
    events: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    /// The folders that are watched.
    folders: HashSet<PathBuf>,
}

impl FileWatch {
    /// Starts watching. `loaded` is the file's content from before it was loaded, and `named` are
    /// the other files.
    pub(super) fn new(path: &Path, loaded: Option<Content>, named: Vec<PathBuf>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_change(event.kind)) {
                // A full channel means that a change is pending already.
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher.map_err(|error| warn_unwatched(path, &error)).ok();
        let mut watch = Self {
            path: path.to_owned(),
            loaded,
            named: Vec::new(),
            // The files are compared once in any case: one may have changed between loading and
            // watching.
            pending: true,
            events,
            watcher,
            folders: HashSet::new(),
        };
        watch.watch_files(named);
        watch
    }

    /// Returns the path of the configuration's own file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Watches `named` besides the configuration's own file.
    fn watch_files(&mut self, named: Vec<PathBuf>) {
        self.named = named
            .into_iter()
            .map(|path| (path.clone(), Content::of_file(&path)))
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
                warn_unwatched(path, &error);
            }
        }
    }

    /// Waits until a file's content differs from what was last loaded. A missing file counts as
    /// unchanged: it may be about to be replaced.
    pub(super) async fn changed(&mut self) {
        loop {
            if !self.pending {
                if self.events.recv().await.is_none() {
                    return std::future::pending().await;
                }
                self.pending = true;
            }
            tokio::time::sleep(QUIET_TIME).await;
            while self.events.try_recv().is_ok() {
                tokio::time::sleep(QUIET_TIME).await;
            }
            self.pending = false;
            let named = self.named.iter().map(|(path, loaded)| (path, *loaded));
            let mut files = std::iter::once((&self.path, self.loaded)).chain(named);
            if files.any(|(path, loaded)| {
                Content::of_file(path).is_some_and(|content| Some(content) != loaded)
            }) {
                return;
            }
        }
    }

    /// Reads the configuration again and applies it to `app`. Either way the result is logged.
    ///
    /// # Errors
    /// When the configuration is not valid. The old one stays in effect.
    pub(super) async fn reload(
        &mut self,
        app: &mut App,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Reloaded, ReloadError> {
        supervisor::reloading();
        // Hashed before they are loaded, so that a change made meanwhile is noticed.
        self.loaded = Content::of_file(&self.path);
        for (path, loaded) in &mut self.named {
            *loaded = Content::of_file(path);
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
                    self.watch_files(named);
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

/// Returns whether an event can mean a new content. On Linux a written file counts when it is
/// closed: a file that is kept open, such as a log, would never leave its folder quiet.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_)) => !cfg!(target_os = "linux"),
        _ => true,
    }
}

fn warn_unwatched(path: &Path, error: &notify::Error) {
    tracing::warn!(
        file = %path.display(),
        %error,
        "file cannot be watched; send SIGHUP after a change"
    );
}

//! Reads the configuration again: on a signal, on request, and when its file or one that it names
//! has changed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::{App, supervisor};
use crate::admin::{ConfigurationOnDisk, ReloadError, Reloaded};
use crate::config::{self, FileDigest, ReadFiles, RouteFiles, SecretFiles};

/// The time without a change after which a file is read: editors and orchestrators write in several
/// steps.
const QUIET_TIME: Duration = Duration::from_millis(200);

/// The time after which the files are compared without an event. Network file systems send none,
/// nor does a folder that another one has replaced.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// A watch on the configuration's file and the files that it names: routes, certificates, CAs and
/// secrets.
/// Watches their folders and not the files: files are replaced by renaming, and Kubernetes swaps a
/// symbolic link beside them.
pub(super) struct FileWatch {
    /// The configuration's own file.
    own: WatchedFile,
    /// The files that the configuration names.
    named: Vec<WatchedFile>,
    /// The files with routes, for each pattern that the configuration names.
    route_files: Vec<RouteFiles>,
    /// The content of secrets' files, which stays in effect when one cannot be read any more.
    secrets: SecretFiles,
    /// Set when a folder has changed and the files were not compared yet. Kept here because
    /// [`FileWatch::changed`] may be cancelled and called again.
    pending: bool,
    /// The time at which the files are compared next without an event.
    compare_at: Instant,
    events: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
}

/// A file with its content when it was last loaded.
struct WatchedFile {
    path: PathBuf,
    /// `None` if it could not be read.
    loaded: Option<FileDigest>,
    /// It was loaded, and cannot be read any more.
    vanished: bool,
}

impl WatchedFile {
    fn new(path: PathBuf, loaded: Option<FileDigest>) -> Self {
        Self {
            path,
            loaded,
            vanished: false,
        }
    }

    /// Returns whether the content differs from what was loaded. A missing file counts as
    /// unchanged, since it may be about to be replaced; that it is missing is logged once.
    fn is_changed(&mut self) -> bool {
        let now = FileDigest::of_file(&self.path);
        let vanished = now.is_none() && self.loaded.is_some();
        if vanished && !self.vanished {
            tracing::warn!(
                file = %self.path.display(),
                "file cannot be read any more; what was read last stays in effect"
            );
        }
        self.vanished = vanished;
        now.is_some() && now != self.loaded
    }
}

impl FileWatch {
    /// Starts watching. `loaded` is the content of the file at `path` from before it was loaded,
    /// and `files` are those that it names.
    pub(super) fn new(path: &Path, loaded: Option<FileDigest>, files: ReadFiles) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_change(event.kind)) {
                // A full channel means that a change is pending already.
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher.map_err(|error| warn_unwatched(path, &error)).ok();
        let mut watch = Self {
            own: WatchedFile::new(path.to_owned(), loaded),
            named: Vec::new(),
            route_files: Vec::new(),
            secrets: SecretFiles::default(),
            // The files are compared once in any case: one may have changed between loading and
            // watching.
            pending: true,
            compare_at: Instant::now() + COMPARE_EVERY,
            events,
            watcher,
        };
        watch.watch_files(files);
        watch
    }

    /// Returns the path of the configuration's own file.
    pub(super) fn path(&self) -> &Path {
        &self.own.path
    }

    /// Watches `files` besides the configuration's own file. Where a link leads to another folder,
    /// that one is watched, too.
    fn watch_files(&mut self, files: ReadFiles) {
        self.secrets = files.secrets;
        self.route_files = files.route_files;
        self.named = files
            .named
            .into_iter()
            .map(|(path, loaded)| WatchedFile::new(path, loaded))
            .collect();
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        // Each is watched again: one may have been removed and made again.
        let mut folders = HashSet::new();
        for folder in self.route_files.iter().map(RouteFiles::folder) {
            // One that is not there is made in a folder above it.
            let existing = folder.ancestors().find(|folder| folder.is_dir());
            let folder = existing.unwrap_or(Path::new("."));
            if folders.insert(folder.to_owned())
                && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
            {
                warn_unwatched(folder, &error);
            }
        }
        for WatchedFile { path, .. } in std::iter::once(&self.own).chain(&self.named) {
            let resolved = path.canonicalize().ok();
            for path in std::iter::once(path).chain(&resolved) {
                let folder = match path.parent() {
                    Some(folder) if !folder.as_os_str().is_empty() => folder,
                    _ => Path::new("."),
                };
                if folders.insert(folder.to_owned())
                    && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
                {
                    warn_unwatched(path, &error);
                }
            }
        }
    }

    /// Waits until a file's content differs from what was last loaded. Meanwhile records whether
    /// the configuration's own file can be read.
    pub(super) async fn changed(&mut self, configuration: &ConfigurationOnDisk) {
        loop {
            if !self.pending {
                match timeout_at(self.compare_at, self.events.recv()).await {
                    Ok(Some(())) | Err(_) => {}
                    // There is no watcher.
                    Ok(None) => tokio::time::sleep_until(self.compare_at).await,
                }
                self.pending = true;
            }
            sleep(QUIET_TIME).await;
            while self.events.try_recv().is_ok() {
                sleep(QUIET_TIME).await;
            }
            self.pending = false;
            self.compare_at = Instant::now() + COMPARE_EVERY;
            let mut changed = false;
            for file in std::iter::once(&mut self.own).chain(&mut self.named) {
                changed |= file.is_changed();
            }
            changed |= self.route_files.iter().any(RouteFiles::is_changed);
            configuration.set_missing(&self.own.path, self.own.vanished, Timestamp::now());
            if changed {
                return;
            }
        }
    }

    /// Reads the configuration again and applies it to `app`. Either way the result is logged.
    ///
    /// # Errors
    /// When the configuration is not valid, or cannot be applied. The old one stays in effect.
    pub(super) async fn reload(
        &mut self,
        app: &mut App,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Reloaded, ReloadError> {
        supervisor::reloading();
        // Hashed before they are loaded, so that a change made meanwhile is noticed.
        for file in std::iter::once(&mut self.own).chain(&mut self.named) {
            file.loaded = FileDigest::of_file(&file.path).or(file.loaded);
        }
        self.route_files.iter_mut().for_each(RouteFiles::refresh);
        let applied = match config::load_to_serve(&self.own.path, env, &self.secrets) {
            Ok(mut loaded) => {
                let files = std::mem::take(&mut loaded.config.files);
                let routes = loaded.config.routes.len();
                app.reload(loaded).await.map(|warnings| {
                    self.watch_files(files);
                    Reloaded {
                        routes,
                        warnings: warnings.located().collect(),
                    }
                })
            }
            Err(report) => Err(report),
        };
        applied
            .inspect(|_| supervisor::ready(&app.data, app.admin))
            .map_err(|report| {
                app.refuse_reload(&report);
                let (problems, now) = (report.errors().collect::<Vec<_>>(), Timestamp::now());
                if FileDigest::of_file(&self.own.path).is_some() {
                    app.configuration.refuse(&problems, now);
                } else {
                    app.configuration.set_missing(&self.own.path, true, now);
                }
                supervisor::reload_refused();
                ReloadError::Invalid(report.located().collect())
            })
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
        "file cannot be watched; it is compared every 30 s, and on SIGHUP"
    );
}

//! The main loop: runs until a signal stops the gateway or upgrades it, and reloads meanwhile.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::chores::Chores;
use super::{App, Error, Sockets, reload, supervisor, upgrade};
use crate::admin::reachable;
use crate::config::{self, FileDigest, SecretFiles};
use crate::log;

/// The reason to leave the main loop.
enum Leave {
    /// Stop after this drain time.
    Stop(Duration),
    Upgrade,
}

/// The state in which the gateway has ended.
enum Ended {
    Stopped,
    /// Stopped for the new binary, which inherits the sockets.
    ForUpgrade(Sockets),
}

/// The signals that the gateway handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Runs the configuration in the file at `path` until a signal ends the process, or replaces it by
/// the new binary.
///
/// # Errors
/// When the gateway cannot start. The log is open once the configuration is known to be valid.
pub fn run(path: &Path) -> Result<(), Error> {
    match run_until_ended(path)? {
        Ended::Stopped => Ok(()),
        Ended::ForUpgrade(sockets) => Err(Error::Upgrade(upgrade::exec(sockets))),
    }
}

fn run_until_ended(path: &Path) -> Result<Ended, Error> {
    let env = |name: &str| std::env::var(name).ok();
    let sockets = Sockets::inherited();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // Before everything else: a signal without a handler would end the process.
    let signals = runtime.block_on(async { Signals::new() })?;
    let content = FileDigest::of_file(path);
    let mut loaded = config::load_to_serve(path, &env, &SecretFiles::default())
        .map_err(|report| Error::Config(Box::new(report)))?;
    // A second call in one process keeps the settings of the first.
    let _log = log::start(loaded.config.log).ok();
    let warnings = loaded.warnings.located();
    warnings.for_each(|warning| super::log_diagnostic(&warning));
    let ended = runtime.block_on(async {
        let named = std::mem::take(&mut loaded.config.files);
        let files = reload::FileWatch::new(path, content, named);
        let app = App::start(loaded.config, sockets).await?;
        Ok(app.run_until_signalled(signals, files, &env).await)
    });
    // The store is closed; look-ups of names and reads for operators are not waited for.
    runtime.shutdown_background();
    ended
}

impl App {
    async fn run_until_signalled(
        mut self,
        mut signals: Signals,
        mut files: reload::FileWatch,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Ended {
        tracing::info!("the dashboard is at http://{}/", reachable(self.admin));
        supervisor::ready(&self.data, self.admin);
        match self.wait_for_end(&mut signals, &mut files, env).await {
            Leave::Stop(drain) => self.stop_unless_interrupted(drain, &mut signals).await,
            Leave::Upgrade => self.upgrade_unless_stopped(&mut signals).await,
        }
    }

    /// Reloads and does the chores until a signal stops or upgrades the gateway.
    async fn wait_for_end(
        &mut self,
        signals: &mut Signals,
        files: &mut reload::FileWatch,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Leave {
        let mut chores = tokio::time::interval(Chores::INTERVAL);
        let (checks, mut checked) = mpsc::channel(1);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Leave::Stop(self.shutdown.drain),
                // A person at a terminal, and not a load balancer, sends this one.
                _ = signals.interrupt.recv() => return Leave::Stop(Duration::ZERO),
                _ = signals.hangup.recv() => {
                    let _ = files.reload(self, env).await;
                }
                _ = signals.upgrade.recv() => {
                    let (path, checks) = (files.path().to_owned(), checks.clone());
                    tokio::spawn(async move { checks.send(upgrade::check(path).await).await });
                }
                Some(checked) = checked.recv() => match checked {
                    Ok(()) => return Leave::Upgrade,
                    Err(error) => tracing::error!(
                        error,
                        "not upgraded: the new binary would not start; this process goes on"
                    ),
                },
                () = files.changed(&self.configuration) => {
                    let _ = files.reload(self, env).await;
                }
                Some(request) = self.reloads.recv() => {
                    // An error means that the operator has disconnected.
                    let _ = request.send(files.reload(self, env).await);
                }
                _ = chores.tick() => self.chores.run(),
            }
        }
    }

    /// Stops; a second interrupt ends the process without waiting.
    async fn stop_unless_interrupted(self, drain: Duration, signals: &mut Signals) -> Ended {
        supervisor::stopping(drain, self.shutdown.grace);
        tokio::select! {
            () = self.stop(drain) => {}
            _ = signals.interrupt.recv() => warn_interrupted(),
        }
        Ended::Stopped
    }

    /// Stops for the new binary. A signal to stop meanwhile ends the process instead, and a second
    /// interrupt without waiting.
    async fn upgrade_unless_stopped(self, signals: &mut Signals) -> Ended {
        supervisor::upgrading();
        let grace = self.shutdown.grace;
        let mut stopped = pin!(self.stop_for_upgrade());
        let mut stop = false;
        loop {
            tokio::select! {
                biased;
                _ = signals.terminate.recv() => stop = true,
                _ = signals.interrupt.recv() => {
                    if stop {
                        warn_interrupted();
                        return Ended::Stopped;
                    }
                    stop = true;
                }
                sockets = &mut stopped => {
                    return if stop { Ended::Stopped } else { Ended::ForUpgrade(sockets) };
                }
            }
            // The attempts may take their grace period, and then the requests theirs.
            supervisor::stopping(grace, grace);
        }
    }
}

fn warn_interrupted() {
    tracing::warn!("interrupted again: not waiting for requests in flight");
}

//! The listeners of the data plane: accepts connections and passes them to the gateway. A reload
//! opens, changes and closes them.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::accept::{Accepted, AcceptingSocket};
use super::sockets::{Held, Opened};
use super::{Error, OpenFiles, SocketAddress, Sockets, resolve_listen, tls};
use crate::config::{self, ListenAddress, Place};
use crate::cores::Cores;
use crate::gateway::{Gateway, Listener};
use crate::metrics::Metrics;

/// The pause after a system error, which most likely means that no descriptor is left.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two log lines about missing descriptors, which may be missing for long.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The open listeners, in the order of the configuration.
pub(super) struct DataListeners {
    gateway: Arc<Gateway>,
    cores: Arc<Cores>,
    metrics: Arc<Metrics>,
    open_files: OpenFiles,
    stopping: ShutdownWatch,
    open: Vec<OpenListener>,
}

/// A listener that accepts.
struct OpenListener {
    /// The configured address.
    configured: ListenAddress,
    /// Several, if that is a name with several addresses.
    sockets: Vec<OpenSocket>,
    /// The listener of connections that are accepted from now on.
    current: Arc<ArcSwap<Listener>>,
    /// The files of its certificates.
    certificates: Vec<Box<str>>,
    /// Set once a reload has removed it.
    removed: watch::Sender<bool>,
}

/// A socket of a listener.
struct OpenSocket {
    /// The real address: the system may have chosen another port.
    address: SocketAddress,
    /// Accepts connections.
    task: JoinHandle<()>,
}

/// The listeners of a new configuration, with the sockets that they need. Nothing is changed yet.
pub(super) struct Prepared {
    listeners: Vec<PreparedListener>,
    /// The addresses that the reload leaves.
    pub(super) leaving: Vec<SocketAddress>,
}

struct PreparedListener {
    configured: config::Listen,
    /// The sockets, each with a handle for the listener, if no open listener has the address.
    new: Option<Vec<(Held, Opened)>>,
}

/// An address of a new configuration that cannot be listened on.
pub(super) struct ListenError {
    pub place: Place,
    pub error: Error,
}

impl DataListeners {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        cores: Arc<Cores>,
        metrics: Arc<Metrics>,
        open_files: OpenFiles,
        stopping: ShutdownWatch,
    ) -> Self {
        Self {
            gateway,
            cores,
            metrics,
            open_files,
            stopping,
            open: Vec::new(),
        }
    }

    /// Returns the real addresses.
    pub(super) fn addresses(&self) -> Vec<SocketAddress> {
        self.open.iter().flat_map(OpenListener::addresses).collect()
    }

    /// Starts a listener on its sockets.
    ///
    /// # Errors
    /// When the system refuses to wait for connections.
    pub(super) fn start(
        &mut self,
        configured: config::Listen,
        sockets: Vec<Opened>,
    ) -> io::Result<()> {
        let (tls, proxy_protocol) = (configured.tls.is_some(), configured.proxy_protocol);
        let key = configured.address.clone();
        let (listener, certificates) = self.listener(configured, watch::Sender::new(false));
        let mut open = OpenListener {
            configured: key,
            sockets: Vec::with_capacity(sockets.len()),
            current: Arc::new(ArcSwap::from_pointee(listener)),
            certificates,
            removed: watch::Sender::new(false),
        };
        for (address, socket) in sockets {
            let acceptor = Acceptor {
                socket: AcceptingSocket::new(socket)?,
                cores: Arc::clone(&self.cores),
                current: Arc::clone(&open.current),
                open_files: self.open_files,
                warned_at: None,
            };
            let accepting = acceptor.accept_until(self.stopping.clone(), open.removed.subscribe());
            tracing::info!(listener = "data", %address, tls, proxy_protocol, "listening");
            let task = tokio::spawn(accepting);
            open.sockets.push(OpenSocket { address, task });
        }
        self.open.push(open);
        Ok(())
    }

    /// Opens the sockets that `configured` needs and that are not open. `also_leaving` is the address of
    /// another socket that the reload closes.
    ///
    /// # Errors
    /// When one of them cannot be opened. Those that were are closed again.
    pub(super) async fn prepare(
        &self,
        configured: Vec<config::Listen>,
        sockets: &Sockets,
        also_leaving: Option<SocketAddress>,
    ) -> Result<Prepared, ListenError> {
        let mut left: Vec<_> = self.open.iter().collect();
        let is_kept: Vec<_> = configured
            .iter()
            .map(|listen| {
                let mut open = left.iter();
                let index = open.position(|open| open.configured == listen.address);
                index.map(|index| left.remove(index)).is_some()
            })
            .collect();
        let leaving = left.iter().flat_map(|open| open.addresses());
        let leaving: Vec<_> = leaving.chain(also_leaving).collect();
        let mut prepared = Vec::with_capacity(configured.len());
        for (configured, is_kept) in configured.into_iter().zip(is_kept) {
            let new = if is_kept {
                None
            } else {
                let opened = open_listener(&configured, sockets, &leaving).await;
                Some(opened.map_err(|error| ListenError {
                    place: configured.place,
                    error,
                })?)
            };
            prepared.push(PreparedListener { configured, new });
        }
        Ok(Prepared {
            listeners: prepared,
            leaving,
        })
    }

    /// Changes to the listeners of a new configuration: starts new ones, changes the others in
    /// place, and closes those that are gone once they have accepted what waits.
    ///
    /// # Errors
    /// When the system refuses something for one of them. All others are changed.
    pub(super) async fn change(
        &mut self,
        prepared: Prepared,
        sockets: &mut Sockets,
    ) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.open);
        let mut result = Ok(());
        let mut added = Vec::new();
        for PreparedListener { configured, new } in prepared.listeners {
            if let Some(sockets) = new {
                let (held, handles): (Vec<_>, _) = sockets.into_iter().unzip();
                match self.start(configured, handles) {
                    Ok(()) => added.extend(held),
                    Err(error) => result = result.and(Err(error)),
                }
                continue;
            }
            let mut open = before.iter();
            let index = open.position(|open| open.configured == configured.address);
            let Some(index) = index else { continue };
            let open = before.remove(index);
            for address in open.addresses() {
                result = result.and(sockets.set_mode(&address, configured.mode));
            }
            let open = self.changed(open, configured);
            self.open.push(open);
        }
        for open in before {
            tls::forget_expiry(&self.metrics, &open.configured, &open.certificates);
            open.removed.send_replace(true);
            open.current.load().retired.send_replace(true);
            for OpenSocket { address, task } in open.sockets {
                // It accepts what waits, and no more.
                let _ = task.await;
                sockets.close(&address);
                tracing::info!(
                    listener = "data",
                    %address,
                    "listener closed; its connections end after their requests"
                );
            }
        }
        for held in added {
            sockets.add(held);
        }
        result
    }

    /// Changes a listener in place. Connections that were accepted before end if TLS or the PROXY
    /// protocol was turned on or off.
    fn changed(&self, mut open: OpenListener, configured: config::Listen) -> OpenListener {
        let before = open.current.load_full();
        let is_same_kind = before.tls.is_some() == configured.tls.is_some()
            && before.proxy_protocol == configured.proxy_protocol;
        let retired = if is_same_kind {
            before.retired.clone()
        } else {
            watch::Sender::new(false)
        };
        tls::forget_expiry(&self.metrics, &open.configured, &open.certificates);
        let (listener, certificates) = self.listener(configured, retired);
        let (tls, proxy_protocol) = (listener.tls.is_some(), listener.proxy_protocol);
        open.certificates = certificates;
        open.current.store(Arc::new(listener));
        if !is_same_kind {
            before.retired.send_replace(true);
            let address = &open.configured;
            tracing::info!(listener = "data", %address, tls, proxy_protocol, "listener changed");
        }
        open
    }

    /// Returns what serves a listener's connections, and the files of its certificates.
    fn listener(
        &self,
        configured: config::Listen,
        retired: watch::Sender<bool>,
    ) -> (Listener, Vec<Box<str>>) {
        let certificates = configured.tls.as_ref().map(|tls| {
            tls::export_expiry(&self.metrics, &configured.address, tls);
            tls.certificates.clone()
        });
        let listener = Listener {
            gateway: Arc::clone(&self.gateway),
            tls: configured.tls.map(|tls| tls.settings),
            proxy_protocol: configured.proxy_protocol,
            retired,
        };
        (listener, certificates.unwrap_or_default())
    }

    /// Waits until no listener accepts any more, which `stopping` has told them. When this returns,
    /// their own handles of the sockets are closed, and every accepted connection has its permit.
    pub(super) async fn stopped(self) {
        for open in &self.open {
            open.current.load().retired.send_replace(true);
        }
        for socket in self.open.into_iter().flat_map(|open| open.sockets) {
            let _ = socket.task.await;
        }
    }
}

impl OpenListener {
    /// Returns the real addresses.
    fn addresses(&self) -> impl Iterator<Item = SocketAddress> {
        self.sockets.iter().map(|socket| socket.address.clone())
    }
}

/// Opens the sockets of a listener that a reload adds.
async fn open_listener(
    configured: &config::Listen,
    sockets: &Sockets,
    leaving: &[SocketAddress],
) -> Result<Vec<(Held, Opened)>, Error> {
    let wanted = resolve_listen::wanted(std::slice::from_ref(configured)).await?;
    let held = sockets.open_more(&wanted.concat(), leaving)?;
    // Also the handles, for which no descriptor may be left once something has changed.
    let opened = held.into_iter().map(|held| {
        let handle = held.handle()?;
        Ok((held, handle))
    });
    opened.collect::<io::Result<_>>().map_err(Error::Io)
}

/// The socket of a listener.
struct Acceptor {
    socket: AcceptingSocket,
    cores: Arc<Cores>,
    current: Arc<ArcSwap<Listener>>,
    open_files: OpenFiles,
    /// The time of the last line about missing descriptors.
    warned_at: Option<Instant>,
}

impl Acceptor {
    /// Accepts connections until the stop, at which those that wait are left to the next process,
    /// or until the listener is removed and none waits.
    async fn accept_until(mut self, mut stopping: ShutdownWatch, mut removed: ShutdownWatch) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                // An error means that the sender of the signal is gone: the process is ending.
                _ = stopping.wait_for(|stopping| *stopping) => return,
                _ = removed.wait_for(|removed| *removed) => break,
            };
            if !self.pass_on(accepted, &stopping) {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = self.socket.accept() => accepted,
                () = std::future::ready(()) => return,
            };
            if !self.pass_on(accepted, &stopping) {
                return;
            }
        }
    }

    /// Passes a connection to the listener, on the core that has least to do. Returns `false` after an
    /// error of the system.
    fn pass_on(&mut self, accepted: io::Result<Accepted>, stopping: &ShutdownWatch) -> bool {
        let cores = Arc::clone(&self.cores);
        let core = cores.idlest();
        let moved = accepted.and_then(|accepted| accepted.into_stream_on(core));
        let _core = core.enter();
        match moved {
            // The last descriptors are for the store, the admin listener and the upstreams of the
            // requests in flight.
            Ok(stream) if self.open_files.is_last(stream.as_raw_fd()) => {
                self.warn("no descriptor is left for connections; answering 503");
                self.current.load_full().refuse(stream);
            }
            Ok(stream) => self.current.load_full().accept(stream, stopping),
            // The sender disconnected before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                self.warn(&format!("accepting a connection failed: {error}"));
                return false;
            }
        }
        true
    }

    /// Logs that a connection was not accepted, once in [`WARNING_INTERVAL`].
    fn warn(&mut self, message: &str) {
        let now = Instant::now();
        let is_recent = |at| now.duration_since(at) < WARNING_INTERVAL;
        if !self.warned_at.is_some_and(is_recent) {
            self.warned_at = Some(now);
            tracing::warn!("{message}");
        }
    }
}

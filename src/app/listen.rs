//! The listeners of the data plane: accepts connections and passes them to the gateway. A reload
//! opens, changes and closes them.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora_core::protocols::l4::listener::Listener as PingoraListener;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{OpenFiles, Sockets, tls};
use crate::config::{self, Place};
use crate::gateway::{Gateway, Listener};
use crate::metrics::Metrics;

/// The pause after a system error, which most likely means that no descriptor is left.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two log lines about missing descriptors, which may be missing for long.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The open listeners, in the order of the configuration.
pub(super) struct DataListeners {
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    open_files: OpenFiles,
    stopping: ShutdownWatch,
    open: Vec<OpenListener>,
}

/// A listener that accepts.
struct OpenListener {
    /// The configured address.
    configured: SocketAddr,
    /// The real one: the system may have chosen another port.
    address: SocketAddr,
    /// The listener of connections that are accepted from now on.
    current: Arc<ArcSwap<Listener>>,
    /// The files of its certificates.
    certificates: Vec<Box<str>>,
    /// Set once a reload has removed it.
    removed: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// The listeners of a new configuration, with the sockets that they need. Nothing is changed yet.
pub(super) struct Prepared(Vec<PreparedListener>);

struct PreparedListener {
    configured: config::Listen,
    socket: PreparedSocket,
}

enum PreparedSocket {
    /// That of the open listener with this real address.
    Kept(SocketAddr),
    New(std::net::TcpListener),
}

/// An address of a new configuration that cannot be listened on.
pub(super) struct ListenError {
    pub place: Place,
    pub address: SocketAddr,
    pub source: io::Error,
}

impl DataListeners {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        metrics: Arc<Metrics>,
        open_files: OpenFiles,
        stopping: ShutdownWatch,
    ) -> Self {
        Self {
            gateway,
            metrics,
            open_files,
            stopping,
            open: Vec::new(),
        }
    }

    /// Returns the real addresses.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|open| open.address).collect()
    }

    /// Starts a listener on `socket`.
    ///
    /// # Errors
    /// When the system refuses to wait for connections.
    pub(super) fn start(
        &mut self,
        configured: config::Listen,
        socket: std::net::TcpListener,
    ) -> io::Result<()> {
        let (address, socket) = (socket.local_addr()?, TcpListener::from_std(socket)?);
        let (tls, proxy_protocol) = (configured.tls.is_some(), configured.proxy_protocol);
        let key = configured.address;
        let (listener, certificates) = self.listener(configured, watch::Sender::new(false));
        let current = Arc::new(ArcSwap::from_pointee(listener));
        let acceptor = Acceptor {
            socket: PingoraListener::from(socket),
            current: Arc::clone(&current),
            open_files: self.open_files,
            warned_at: None,
        };
        let removed = watch::Sender::new(false);
        let task = acceptor.accept_until(self.stopping.clone(), removed.subscribe());
        tracing::info!(listener = "data", %address, tls, proxy_protocol, "listening");
        self.open.push(OpenListener {
            configured: key,
            address,
            current,
            certificates,
            removed,
            task: tokio::spawn(task),
        });
        Ok(())
    }

    /// Opens the sockets that `configured` needs and that are not open. `also_leaving` is the address of
    /// another socket that the reload closes.
    ///
    /// # Errors
    /// When one of them cannot be opened. Those that were are closed again.
    pub(super) fn prepare(
        &self,
        configured: Vec<config::Listen>,
        sockets: &Sockets,
        also_leaving: Option<SocketAddr>,
    ) -> Result<Prepared, ListenError> {
        let mut left: Vec<_> = self.open.iter().collect();
        let kept: Vec<_> = configured
            .iter()
            .map(|listen| {
                let index = left
                    .iter()
                    .position(|open| open.configured == listen.address)?;
                Some(left.remove(index).address)
            })
            .collect();
        let leaving = left.iter().map(|open| open.address);
        let leaving: Vec<_> = leaving.chain(also_leaving).collect();
        let mut prepared = Vec::with_capacity(configured.len());
        for (configured, kept) in configured.into_iter().zip(kept) {
            let socket = match kept {
                Some(address) => PreparedSocket::Kept(address),
                None => {
                    let opened = sockets.open_another(configured.address, &leaving);
                    PreparedSocket::New(opened.map_err(|source| ListenError {
                        place: configured.place,
                        address: configured.address,
                        source,
                    })?)
                }
            };
            prepared.push(PreparedListener { configured, socket });
        }
        Ok(Prepared(prepared))
    }

    /// Changes to the listeners of a new configuration: starts new ones, changes the others in
    /// place, and closes those that are gone once they have accepted what waits.
    ///
    /// # Errors
    /// When the system refuses to wait for connections on a new socket. All others are changed.
    pub(super) async fn change(
        &mut self,
        prepared: Prepared,
        sockets: &mut Sockets,
    ) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.open);
        let mut result = Ok(());
        for PreparedListener { configured, socket } in prepared.0 {
            match socket {
                PreparedSocket::Kept(address) => {
                    let index = before.iter().position(|open| open.address == address);
                    let Some(index) = index else { continue };
                    let open = self.changed(before.remove(index), configured);
                    self.open.push(open);
                }
                PreparedSocket::New(socket) => {
                    let started = socket.try_clone().and_then(|handle| {
                        self.start(configured, handle)?;
                        sockets.add(socket);
                        Ok(())
                    });
                    result = result.and(started);
                }
            }
        }
        for open in before {
            tls::forget_expiry(&self.metrics, open.configured, &open.certificates);
            open.removed.send_replace(true);
            open.current.load().retired.send_replace(true);
            // It accepts what waits, and no more.
            let _ = open.task.await;
            sockets.close(open.address);
            tracing::info!(
                listener = "data",
                address = %open.address,
                "listener closed; its connections end after their requests"
            );
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
        tls::forget_expiry(&self.metrics, open.configured, &open.certificates);
        let (listener, certificates) = self.listener(configured, retired);
        let (tls, proxy_protocol) = (listener.tls.is_some(), listener.proxy_protocol);
        open.certificates = certificates;
        open.current.store(Arc::new(listener));
        if !is_same_kind {
            before.retired.send_replace(true);
            let address = open.address;
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
            tls::export_expiry(&self.metrics, configured.address, tls);
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
        for open in self.open {
            let _ = open.task.await;
        }
    }
}

/// The socket of a listener.
struct Acceptor {
    socket: PingoraListener,
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

    /// Passes a connection to the listener. Returns `false` after an error of the system.
    fn pass_on(&mut self, accepted: io::Result<Stream>, stopping: &ShutdownWatch) -> bool {
        match accepted {
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

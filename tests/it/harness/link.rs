//! A network link that can be partitioned, severed as if the machine had gone down, or slow.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::upstream::ClosedPort;

/// The time by which a slow link may be ahead of its rate.
const LATENESS: Duration = Duration::from_millis(50);

/// A TCP proxy on a port of its own.
pub struct Link {
    to: SocketAddr,
    port: ClosedPort,
    connected: watch::Sender<bool>,
    /// The bytes that a connection passes in a second, each way; `None` for no limit.
    rate: Option<u64>,
    /// The one task, which accepts and owns all connections; empty while the link is severed.
    accepting: JoinSet<()>,
    listener: Option<Arc<TcpListener>>,
}

impl Link {
    /// Opens a working link to an address.
    pub async fn open(to: SocketAddr) -> Self {
        Self::open_with(to, None).await
    }

    /// Opens a link on which each connection passes so many bytes in a second, each way.
    pub async fn open_slow(to: SocketAddr, rate: u64) -> Self {
        Self::open_with(to, Some(rate)).await
    }

    async fn open_with(to: SocketAddr, rate: Option<u64>) -> Self {
        let (connected, _) = watch::channel(true);
        let mut link = Self {
            to,
            port: ClosedPort::new(),
            connected,
            rate,
            accepting: JoinSet::new(),
            listener: None,
        };
        link.restore().await;
        link
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Partitions the network: no byte passes, no connection succeeds, and neither side is
    /// notified.
    pub fn partition(&self) {
        self.connected.send_replace(false);
    }

    /// Closes all connections and refuses new ones.
    pub async fn sever(&mut self) {
        self.accepting.shutdown().await;
        if let Some(listener) = self.listener.take() {
            // A process that another test is starting has a copy of the socket until it executes its
            // program, so that closing ours ends nothing yet.
            SockRef::from(&*listener)
                .shutdown(Shutdown::Both)
                .expect("a listener");
        }
    }

    /// Restores the link: delayed bytes arrive after a partition; severed connections must
    /// reconnect.
    pub async fn restore(&mut self) {
        self.connected.send_replace(true);
        if self.accepting.is_empty() {
            let listener = TcpListener::bind(self.address())
                .await
                .expect("the reserved port");
            let listener = self.listener.insert(Arc::new(listener)).clone();
            self.accepting.spawn(accept(
                listener,
                self.to,
                Pass {
                    connected: self.connected.subscribe(),
                    rate: self.rate,
                },
            ));
        }
    }
}

/// What a link lets pass.
#[derive(Clone)]
struct Pass {
    connected: watch::Receiver<bool>,
    rate: Option<u64>,
}

async fn accept(listener: Arc<TcpListener>, to: SocketAddr, pass: Pass) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(connect(near, to, pass.clone()));
    }
}

async fn connect(near: TcpStream, to: SocketAddr, mut pass: Pass) {
    let _ = pass.connected.wait_for(|connected| *connected).await;
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::join!(
        forward(near_read, far_write, pass.clone()),
        forward(far_read, near_write, pass)
    );
}

/// Forwards one direction up to and including its end.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut pass: Pass) {
    let mut chunk = vec![0; 8192];
    let mut free_at = Instant::now();
    loop {
        let count = from.read(&mut chunk).await.unwrap_or(0);
        // Bytes that were read during a partition wait here.
        let _ = pass.connected.wait_for(|connected| *connected).await;
        if count == 0 || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
        if let Some(rate) = pass.rate {
            let takes = Duration::from_nanos(count as u64 * 1_000_000_000 / rate);
            // A timer that fires late is made up for.
            free_at = free_at.max(Instant::now() - LATENESS) + takes;
            sleep_until(free_at).await;
        }
    }
}

//! A network link that can be partitioned, or severed as if the machine had gone down.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::upstream::ClosedPort;

/// A TCP proxy on a port of its own.
pub struct Link {
    to: SocketAddr,
    port: ClosedPort,
    connected: watch::Sender<bool>,
    /// The one task, which accepts and owns all connections; empty while the link is severed.
    accepting: JoinSet<()>,
    listener: Option<Arc<TcpListener>>,
}

impl Link {
    /// Opens a working link to an address.
    pub async fn open(to: SocketAddr) -> Self {
        let (connected, _) = watch::channel(true);
        let mut link = Self {
            to,
            port: ClosedPort::new(),
            connected,
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
            self.accepting
                .spawn(accept(listener, self.to, self.connected.subscribe()));
        }
    }
}

async fn accept(listener: Arc<TcpListener>, to: SocketAddr, connected: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(connect(near, to, connected.clone()));
    }
}

async fn connect(near: TcpStream, to: SocketAddr, mut connected: watch::Receiver<bool>) {
    let _ = connected.wait_for(|connected| *connected).await;
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::join!(
        forward(near_read, far_write, connected.clone()),
        forward(far_read, near_write, connected)
    );
}

/// Forwards one direction up to and including its end.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut connected: watch::Receiver<bool>,
) {
    let mut chunk = vec![0; 8192];
    loop {
        let count = from.read(&mut chunk).await.unwrap_or(0);
        // Bytes that were read during a partition wait here.
        let _ = connected.wait_for(|connected| *connected).await;
        if count == 0 || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

//! A line to an address that can be cut, as a network is, or severed, as by a machine that goes down.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::upstream::ClosedPort;

/// A TCP proxy on a port of its own.
pub struct Cut {
    to: SocketAddr,
    port: ClosedPort,
    whole: watch::Sender<bool>,
    /// The one task that accepts, and that holds all connections; none while the line is severed.
    accepting: JoinSet<()>,
}

impl Cut {
    /// A line that is whole.
    pub async fn to(to: SocketAddr) -> Self {
        let (whole, _) = watch::channel(true);
        let mut cut = Self {
            to,
            port: ClosedPort::new(),
            whole,
            accepting: JoinSet::new(),
        };
        cut.mend().await;
        cut
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From here on no byte passes and no connection gets through, and neither side is told: a network partition.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Closes all connections and refuses new ones.
    pub async fn sever(&mut self) {
        self.accepting.shutdown().await;
    }

    /// Makes the line whole: what a cut held back arrives, what was severed has to connect again.
    pub async fn mend(&mut self) {
        self.whole.send_replace(true);
        if self.accepting.is_empty() {
            let listener = TcpListener::bind(self.address())
                .await
                .expect("the port that we hold");
            self.accepting
                .spawn(accept(listener, self.to, self.whole.subscribe()));
        }
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, whole: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(connect(near, to, whole.clone()));
    }
}

async fn connect(near: TcpStream, to: SocketAddr, mut whole: watch::Receiver<bool>) {
    let _ = whole.wait_for(|whole| *whole).await;
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::join!(
        pass(near_read, far_write, whole.clone()),
        pass(far_read, near_write, whole)
    );
}

/// One direction, until its end, which is passed on too.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) {
    let mut chunk = vec![0; 8192];
    loop {
        let count = from.read(&mut chunk).await.unwrap_or(0);
        // What was read while the line is cut waits here.
        let _ = whole.wait_for(|whole| *whole).await;
        if count == 0 || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

//! Listeners for senders, on Pingora's listening service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::listeners::{ListenerConfig, TcpSocketOptions};
use pingora_core::server::ShutdownWatch;
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::Error;
use crate::admin::reachable;
use crate::gateway::{Frontend, Gateway};
use crate::tls;

/// How long Pingora may take to open a port that was free a moment ago.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Listens on `address` until `stopping`. Answers the real address once connections are accepted on it, and the task
/// that ends when the listener is closed.
pub(super) async fn start(
    address: SocketAddr,
    tls: Option<Arc<tls::Listener>>,
    proxy_protocol: bool,
    gateway: &Arc<Gateway>,
    stopping: ShutdownWatch,
) -> Result<(SocketAddr, JoinHandle<()>), Error> {
    let reserved = reserve(address).map_err(|source| Error::Listen { address, source })?;
    let mut config = ListenerConfig::tcp(reserved.address.to_string());
    if reserved.placeholder.is_some() {
        let mut options = TcpSocketOptions::default();
        options.so_reuseport = Some(true);
        config = config.tcp_socket_options(options);
    }
    let frontend = Frontend { gateway: Arc::clone(gateway), tls, proxy_protocol };
    let mut service = Service::new("senders".into(), frontend);
    service.add_listener(config);
    let listener = tokio::spawn(async move { service.start_service(None, stopping, 1).await });
    match tokio::time::timeout(OPEN_WITHIN, accepting(reserved.address)).await {
        Ok(()) => Ok((reserved.address, listener)),
        Err(_) => {
            listener.abort();
            Err(Error::Listen { address, source: io::ErrorKind::TimedOut.into() })
        }
    }
}

/// An address that Pingora can listen on now. It panics where it can't, so that is found out beforehand.
struct Reserved {
    address: SocketAddr,
    /// Holds a port that the system chose (for port 0) until it is listened on.
    placeholder: Option<Socket>,
}

fn reserve(address: SocketAddr) -> io::Result<Reserved> {
    if address.port() != 0 {
        return std::net::TcpListener::bind(address).map(|_| Reserved { address, placeholder: None });
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(Reserved { address, placeholder: Some(socket) })
}

/// Ends when a connection to `address` is taken.
async fn accepting(address: SocketAddr) {
    let reachable = reachable(address);
    while TcpStream::connect(reachable).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

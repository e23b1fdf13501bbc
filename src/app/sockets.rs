//! The sockets to listen on: inherited by this process, or opened by it.
//!
//! A listening socket outlives the process that opened it when another one inherits it; senders
//! that connect in between wait in the system's queue. systemd passes sockets on that way
//! (`sd_listen_fds(3)`), and so does an upgrade in place.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};
use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Error;

/// The first inherited descriptor: `SD_LISTEN_FDS_START`.
const FIRST_FD: RawFd = 3;

/// The connections that may wait to be accepted. The system lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// The listening sockets of the process, which the new binary inherits at an upgrade.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The inherited sockets that no listener uses yet.
    inherited: Vec<TcpListener>,
    /// The errors of inherited descriptors that are not TCP sockets, kept until there is a log.
    unusable: Vec<io::Error>,
    used: Vec<TcpListener>,
}

impl Sockets {
    /// Returns the sockets that this process inherits. Changes the environment, so call it before
    /// there are other threads.
    pub fn inherited() -> Self {
        let mut descriptors = ListenFd::from_env();
        let mut sockets = Self::default();
        for index in 0..descriptors.len() {
            match descriptors.take_tcp_listener(index) {
                Ok(socket) => sockets.inherited.extend(socket),
                Err(error) => sockets.unusable.push(error),
            }
        }
        sockets
    }

    /// Returns a listening socket for each of `addresses`, with its real address. Port 0 means any
    /// inherited socket of that IP address, or else a port that the system chooses. Inherited
    /// sockets that match no address are closed, or connections would wait there for ever.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub(super) fn listen(
        &mut self,
        addresses: &[SocketAddr],
    ) -> Result<Vec<(SocketAddr, TcpListener)>, Error> {
        let mut inherited: Vec<_> = addresses
            .iter()
            .map(|address| self.take_inherited(|bound| bound == *address))
            .collect();
        for (address, socket) in addresses.iter().zip(&mut inherited) {
            if socket.is_none() && address.port() == 0 {
                *socket = self.take_inherited(|bound| bound.ip() == address.ip());
            }
        }
        self.close_unused();
        addresses
            .iter()
            .zip(inherited)
            .map(|(&address, inherited)| {
                self.open(address, inherited)
                    .map_err(|source| Error::Listen { address, source })
            })
            .collect()
    }

    /// Returns a listening socket for `address`, which a reload adds. It becomes one of the process's
    /// sockets by [`Sockets::add`].
    ///
    /// A wildcard address conflicts with each address of its port. If that is one of `leaving`,
    /// which the same reload closes, both are bound until then, and no connection is refused.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(super) fn open_another(
        &self,
        address: SocketAddr,
        leaving: &[SocketAddr],
    ) -> io::Result<TcpListener> {
        let conflicts = |bound: SocketAddr| {
            leaving.contains(&bound)
                && bound.port() == address.port()
                && (bound.ip().is_unspecified() || address.ip().is_unspecified())
        };
        let leaving: Vec<_> = self
            .used
            .iter()
            .filter(|socket| socket.local_addr().is_ok_and(conflicts))
            .map(SockRef::from)
            .collect();
        // Only while binding: with it, others of this user could bind the address as well.
        for socket in &leaving {
            socket.set_reuse_port(true)?;
        }
        let opened = bind(address, !leaving.is_empty());
        for socket in &leaving {
            socket.set_reuse_port(false)?;
        }
        let opened = opened?;
        opened.set_nonblocking(true)?;
        Ok(opened)
    }

    /// Adds a socket of [`Sockets::open_another`].
    pub(super) fn add(&mut self, socket: TcpListener) {
        self.used.push(socket);
    }

    /// Closes the socket that is bound to `address`, once its listener has closed its own handle.
    pub(super) fn close(&mut self, address: SocketAddr) {
        self.used
            .retain(|socket| socket.local_addr().is_ok_and(|bound| bound != address));
    }

    fn close_unused(&mut self) {
        for error in self.unusable.drain(..) {
            tracing::warn!(%error, "an inherited descriptor is not a TCP socket; not used");
        }
        for socket in self.inherited.drain(..) {
            let address = socket
                .local_addr()
                .map_or_else(|error| error.to_string(), |address| address.to_string());
            tracing::warn!(
                %address,
                "an inherited socket matches no listener of the configuration; closed"
            );
        }
    }

    fn open(
        &mut self,
        address: SocketAddr,
        inherited: Option<TcpListener>,
    ) -> io::Result<(SocketAddr, TcpListener)> {
        let socket = inherited.map_or_else(|| bind(address, false), Ok)?;
        socket.set_nonblocking(true)?;
        let opened = (socket.local_addr()?, socket.try_clone()?);
        self.used.push(socket);
        Ok(opened)
    }

    /// Removes and returns the first inherited socket whose address `matches`.
    fn take_inherited(&mut self, matches: impl Fn(SocketAddr) -> bool) -> Option<TcpListener> {
        let index = self
            .inherited
            .iter()
            .position(|socket| socket.local_addr().is_ok_and(&matches))?;
        Some(self.inherited.remove(index))
    }

    /// Passes the sockets to `command`, which must be executed in place of this process: the
    /// receiver checks the process ID.
    pub(super) fn pass_to(self, command: &mut Command) -> io::Result<()> {
        let mappings: Vec<_> = (FIRST_FD..)
            .zip(self.used)
            .map(|(child_fd, socket)| FdMapping {
                parent_fd: OwnedFd::from(socket),
                child_fd,
            })
            .collect();
        command
            .env("LISTEN_FDS", mappings.len().to_string())
            .env("LISTEN_PID", std::process::id().to_string());
        command.env_remove("LISTEN_FDNAMES");
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        Ok(())
    }
}

/// Binds a socket and listens on it. With `beside`, it may be bound beside one that allows it, too.
fn bind(address: SocketAddr, beside: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of a process that has just ended must not block the address.
    socket.set_reuse_address(true)?;
    if beside {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    if beside {
        socket.set_reuse_port(false)?;
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    fn sockets(addresses: &[SocketAddr]) -> Vec<(SocketAddr, TcpListener)> {
        Sockets::default().listen(addresses).unwrap()
    }

    #[test]
    fn hundreds_of_connections_may_wait() {
        let (address, _listener) = sockets(&["127.0.0.1:0".parse().unwrap()]).remove(0);
        let waiting: Vec<_> = (0..300)
            .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap())
            .collect();
        assert_eq!(waiting.len(), 300);
    }

    #[test]
    fn named_port_is_not_used_for_port_zero() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut opened = sockets(&[any, any]);
        let (named, second) = opened.pop().unwrap();
        let (other, first) = opened.pop().unwrap();
        let mut sockets = Sockets {
            inherited: vec![second, first],
            ..Sockets::default()
        };
        let bound: Vec<_> = sockets
            .listen(&[any, named])
            .unwrap()
            .into_iter()
            .map(|(address, _)| address)
            .collect();
        assert_eq!(bound, [other, named]);
    }
}

//! The sockets to listen on: handed over to this process, or opened by it.
//!
//! A listening socket outlives the process that opened it when the next one is given it; whoever connects in between waits
//! in the system's own queue. systemd gives sockets that way (`sd_listen_fds(3)`), and so do we when our program is replaced.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};
use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

use super::Error;

/// `SD_LISTEN_FDS_START`
const FIRST: RawFd = 3;

/// Connections that may wait to be accepted: as many as the system allows (`net.core.somaxconn`).
const BACKLOG: i32 = 65_535;

/// Listening sockets that are, or are to be, given to the next process too.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Handed over, and not asked for yet.
    handed: Vec<TcpListener>,
    /// Why others that were handed over are none. Told when there is a log.
    refused: Vec<io::Error>,
    used: Vec<TcpListener>,
}

impl Sockets {
    /// Those that were handed to this process. To be called before it has threads: the environment is changed.
    pub fn inherited() -> Self {
        let mut given = ListenFd::from_env();
        let mut sockets = Self::default();
        for at in 0..given.len() {
            match given.take_tcp_listener(at) {
                Ok(socket) => sockets.handed.extend(socket),
                Err(error) => sockets.refused.push(error),
            }
        }
        sockets
    }

    /// Sockets that listen on `addresses`, with where they are. Where a port is 0 it is any of that address that was handed over, or
    /// one that the system chooses. What was handed over and is not asked for is closed: connections would wait there for ever.
    pub(super) fn listen(
        &mut self,
        addresses: &[SocketAddr],
    ) -> Result<Vec<(SocketAddr, TcpListener)>, Error> {
        let mut handed: Vec<_> = addresses
            .iter()
            .map(|address| self.take(|bound| bound == *address))
            .collect();
        for (address, socket) in addresses.iter().zip(&mut handed) {
            if socket.is_none() && address.port() == 0 {
                *socket = self.take(|bound| bound.ip() == address.ip());
            }
        }
        for error in self.refused.drain(..) {
            tracing::warn!(%error, "what was handed over besides TCP sockets is not used");
        }
        for socket in self.handed.drain(..) {
            let address = socket
                .local_addr()
                .map_or_else(|error| error.to_string(), |address| address.to_string());
            tracing::warn!(%address, "a socket was handed over that no listener of the configuration is for: closed");
        }
        let open = |(&address, handed)| {
            self.open(address, handed)
                .map_err(|source| Error::Listen { address, source })
        };
        addresses.iter().zip(handed).map(open).collect()
    }

    fn open(
        &mut self,
        address: SocketAddr,
        handed: Option<TcpListener>,
    ) -> io::Result<(SocketAddr, TcpListener)> {
        let socket = handed.map_or_else(|| bind(address), Ok)?;
        socket.set_nonblocking(true)?;
        let opened = (socket.local_addr()?, socket.try_clone()?);
        self.used.push(socket);
        Ok(opened)
    }

    /// Takes the first that was handed over and is bound like this.
    fn take(&mut self, fits: impl Fn(SocketAddr) -> bool) -> Option<TcpListener> {
        let at = self
            .handed
            .iter()
            .position(|socket| socket.local_addr().is_ok_and(&fits))?;
        Some(self.handed.remove(at))
    }

    /// Gives the sockets to the process that `command` becomes with this one's number.
    pub(super) fn pass_on(self, command: &mut Command) -> io::Result<()> {
        let place = |(child_fd, socket)| FdMapping {
            parent_fd: OwnedFd::from(socket),
            child_fd,
        };
        let places: Vec<_> = (FIRST..).zip(self.used).map(place).collect();
        command
            .env("LISTEN_FDS", places.len().to_string())
            .env("LISTEN_PID", std::process::id().to_string());
        command.env_remove("LISTEN_FDNAMES");
        command.fd_mappings(places).map_err(io::Error::other)?;
        Ok(())
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // The connections of a process that has just ended don't keep the next one out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
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
    fn hundreds_may_wait_to_be_accepted() {
        let (address, _listener) = sockets(&["127.0.0.1:0".parse().unwrap()]).remove(0);
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        let waiting: Vec<_> = (0..300).map(connect).collect();
        assert_eq!(waiting.len(), 300);
    }

    #[test]
    fn a_port_that_is_named_is_not_taken_by_a_listener_that_takes_any() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut opened = sockets(&[any, any]);
        let (named, second) = opened.pop().unwrap();
        let (other, first) = opened.pop().unwrap();
        let mut handed = Sockets {
            handed: vec![second, first],
            ..Sockets::default()
        };
        let taken: Vec<_> = handed
            .listen(&[any, named])
            .unwrap()
            .into_iter()
            .map(|(address, _)| address)
            .collect();
        assert_eq!(taken, [other, named]);
    }
}

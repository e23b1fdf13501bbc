//! The sockets to listen on: inherited by this process, or opened by it.
//!
//! A listening socket outlives the process that opened it when another one inherits it; senders
//! that connect in between wait in the system's queue. systemd passes sockets on that way
//! (`sd_listen_fds(3)`), and so does an upgrade in place.

mod unix;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};
use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Error;
use unix::SocketFile;

/// The first inherited descriptor: `SD_LISTEN_FDS_START`.
const FIRST_FD: RawFd = 3;

/// The connections that may wait to be accepted. The system lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// The variable with the names of the inherited descriptors (`sd_listen_fds_with_names(3)`).
const NAMES_VARIABLE: &str = "LISTEN_FDNAMES";

/// The name of a Unix socket whose file is the gateway's own: it opened the socket, and removes the
/// file when it stops. Everything else belongs to systemd, or has no file.
const OWN_FILE: &str = "hookstile-own-file";

/// The name of every other descriptor that is passed on.
const OTHER: &str = "hookstile";

/// The address of a listening socket. Displayed as in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    Inet(SocketAddr),
    Unix(PathBuf),
}

/// A socket that a listener wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub address: SocketAddress,
    /// The permissions of a Unix socket's file.
    pub mode: u32,
}

/// A listening socket.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    Inet(TcpListener),
    Unix(UnixListener),
}

/// A listening socket with its real address: the port may be one that the system chose.
pub(super) type Opened = (SocketAddress, ListeningSocket);

/// The listening sockets of the process, which the new binary inherits at an upgrade.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The inherited sockets that no listener uses yet.
    inherited: Vec<Held>,
    /// The errors of inherited descriptors that are not TCP or Unix stream sockets, kept until
    /// there is a log.
    unusable: Vec<io::Error>,
    used: Vec<Held>,
}

/// A socket that the process holds. The file is removed while the socket is still open, so that
/// nobody takes it for one that was left behind.
#[derive(Debug)]
pub(super) struct Held {
    /// The file of a Unix socket, if it is the gateway's own.
    file: Option<SocketFile>,
    socket: ListeningSocket,
}

impl Sockets {
    /// Returns the sockets that this process inherits. Changes the environment, so call it before
    /// there are other threads.
    pub fn inherited() -> Self {
        let names = std::env::var(NAMES_VARIABLE).unwrap_or_default();
        let mut names = names.split(':');
        let mut descriptors = ListenFd::from_env();
        let mut sockets = Self::default();
        for index in 0..descriptors.len() {
            let is_own = names.next() == Some(OWN_FILE);
            let taken = match descriptors.take_unix_listener(index) {
                Ok(socket) => Ok(socket.map(ListeningSocket::Unix)),
                Err(_) => descriptors
                    .take_tcp_listener(index)
                    .map(|socket| socket.map(ListeningSocket::Inet)),
            };
            match taken {
                Ok(socket) => sockets
                    .inherited
                    .extend(socket.map(|socket| Held::inherited(socket, is_own))),
                Err(error) => sockets.unusable.push(error),
            }
        }
        sockets
    }

    /// Returns the listening sockets for each of `listeners`. Port 0 means any inherited socket of
    /// that IP address, or else a port that the system chooses. Inherited sockets that match no
    /// place are closed, or connections would wait there for ever.
    ///
    /// A listener wants several sockets when a name has several addresses. Those that this machine
    /// does not have are left out, unless none is left: `localhost` often has an IPv6 address where
    /// IPv6 is switched off.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub(super) fn listen(&mut self, listeners: &[Vec<Wanted>]) -> Result<Vec<Vec<Opened>>, Error> {
        let mut inherited: Vec<Vec<_>> = listeners
            .iter()
            .map(|wanted| {
                wanted
                    .iter()
                    .map(|one| self.take_inherited(|bound| *bound == one.address))
                    .collect()
            })
            .collect();
        for (wanted, sockets) in listeners.iter().zip(&mut inherited) {
            for (one, socket) in wanted.iter().zip(sockets) {
                if let (None, SocketAddress::Inet(address)) = (&socket, &one.address)
                    && address.port() == 0
                {
                    *socket = self.take_inherited(|bound| {
                        matches!(bound, SocketAddress::Inet(bound) if bound.ip() == address.ip())
                    });
                }
            }
        }
        self.close_unused();
        listeners
            .iter()
            .zip(inherited)
            .map(|(wanted, inherited)| self.open_all(wanted, inherited))
            .collect()
    }

    /// Opens the sockets that a listener wants and a reload adds. They become the process's by
    /// [`Sockets::add`]; if they are dropped instead, nothing of them is left.
    ///
    /// Two sockets conflict that have one address, or of which one has a wildcard address and both
    /// have the same port. If that is one of `leaving`, which the same reload closes, both are bound
    /// until then. Connections that are half open when the old one closes are reset by the system.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub(super) fn open_more(
        &self,
        wanted: &[Wanted],
        leaving: &[SocketAddress],
    ) -> Result<Vec<Held>, Error> {
        let none = wanted.iter().map(|_| None).collect();
        hold_all(wanted, none, |address| self.bind_beside(address, leaving))
    }

    fn bind_beside(
        &self,
        address: SocketAddr,
        leaving: &[SocketAddress],
    ) -> io::Result<TcpListener> {
        let conflicts = |bound: SocketAddr| {
            leaving.contains(&SocketAddress::Inet(bound))
                && bound.port() == address.port()
                && (bound == address
                    || bound.ip().is_unspecified()
                    || address.ip().is_unspecified())
        };
        let leaving: Vec<_> = self
            .used
            .iter()
            .filter_map(|held| match &held.socket {
                ListeningSocket::Inet(socket) => Some(socket),
                ListeningSocket::Unix(_) => None,
            })
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
        opened
    }

    /// Adds a socket of [`Sockets::open_more`].
    pub(super) fn add(&mut self, socket: Held) {
        self.used.push(socket);
    }

    /// Changes the permissions of a Unix socket's file, if it is the gateway's own.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(super) fn set_mode(&self, address: &SocketAddress, mode: u32) -> io::Result<()> {
        let files = self.used.iter().filter(|held| held.is_bound_to(address));
        files
            .filter_map(|held| held.file.as_ref())
            .try_for_each(|file| file.set_mode(mode))
    }

    /// Closes the first socket that is bound to `address`, once its listener has closed its own
    /// handle. Another one that a reload added has the same address for a moment.
    pub(super) fn close(&mut self, address: &SocketAddress) {
        let mut used = self.used.iter();
        if let Some(index) = used.position(|held| held.is_bound_to(address)) {
            self.used.remove(index);
        }
    }

    fn close_unused(&mut self) {
        for error in self.unusable.drain(..) {
            tracing::warn!(
                %error,
                "an inherited descriptor is not a TCP or Unix stream socket; not used"
            );
        }
        for held in self.inherited.drain(..) {
            let address = held
                .socket
                .address()
                .map_or_else(|error| error.to_string(), |address| address.to_string());
            tracing::warn!(
                %address,
                "an inherited socket matches no listener of the configuration; closed"
            );
        }
    }

    fn open_all(
        &mut self,
        wanted: &[Wanted],
        inherited: Vec<Option<Held>>,
    ) -> Result<Vec<Opened>, Error> {
        let mut opened = Vec::new();
        for held in hold_all(wanted, inherited, |address| bind(address, false))? {
            opened.push(held.handle()?);
            self.used.push(held);
        }
        Ok(opened)
    }

    /// Removes and returns the first inherited socket whose address `matches`.
    fn take_inherited(&mut self, matches: impl Fn(&SocketAddress) -> bool) -> Option<Held> {
        let index = self
            .inherited
            .iter()
            .position(|held| held.socket.address().is_ok_and(|address| matches(&address)))?;
        Some(self.inherited.remove(index))
    }

    /// Passes the sockets to `command`, which must be executed in place of this process: the
    /// receiver checks the process ID. Returns the files of Unix sockets, which are removed when
    /// they are dropped, and so stay if the command is executed.
    pub(super) fn pass_to(self, command: &mut Command) -> io::Result<Vec<SocketFile>> {
        let (mut mappings, mut files, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (child_fd, held) in (FIRST_FD..).zip(self.used) {
            names.push(if held.file.is_some() { OWN_FILE } else { OTHER });
            files.extend(held.file);
            mappings.push(FdMapping {
                parent_fd: held.socket.into(),
                child_fd,
            });
        }
        command
            .env("LISTEN_FDS", mappings.len().to_string())
            .env("LISTEN_PID", std::process::id().to_string())
            .env(NAMES_VARIABLE, names.join(":"));
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        Ok(files)
    }
}

impl Held {
    /// Returns another handle of the socket, for its listener, and its real address.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn handle(&self) -> io::Result<Opened> {
        Ok((self.socket.address()?, self.socket.try_clone()?))
    }

    fn is_bound_to(&self, address: &SocketAddress) -> bool {
        self.socket.address().is_ok_and(|bound| bound == *address)
    }

    fn inherited(socket: ListeningSocket, is_own: bool) -> Self {
        let file = match socket.address() {
            Ok(SocketAddress::Unix(path)) if is_own => SocketFile::existing(path).ok(),
            _ => None,
        };
        Self { file, socket }
    }
}

impl From<SocketAddr> for Wanted {
    fn from(address: SocketAddr) -> Self {
        Self {
            address: SocketAddress::Inet(address),
            mode: 0,
        }
    }
}

impl ListeningSocket {
    fn address(&self) -> io::Result<SocketAddress> {
        match self {
            Self::Inet(socket) => socket.local_addr().map(SocketAddress::Inet),
            Self::Unix(socket) => {
                let address = socket.local_addr()?;
                let path = address.as_pathname().unwrap_or("".as_ref());
                Ok(SocketAddress::Unix(path.into()))
            }
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Inet(socket) => socket.set_nonblocking(true),
            Self::Unix(socket) => socket.set_nonblocking(true),
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Inet(socket) => socket.try_clone().map(Self::Inet),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }
}

impl From<ListeningSocket> for OwnedFd {
    fn from(socket: ListeningSocket) -> Self {
        match socket {
            ListeningSocket::Inet(socket) => socket.into(),
            ListeningSocket::Unix(socket) => socket.into(),
        }
    }
}

impl SocketAddress {
    /// Returns the IP address and the port; `None` for a Unix socket.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Opens each socket that a listener wants, unless it is inherited. Of several, those whose address
/// this machine does not have are left out, unless none is left.
fn hold_all(
    wanted: &[Wanted],
    inherited: Vec<Option<Held>>,
    bind: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> Result<Vec<Held>, Error> {
    let mut held = Vec::new();
    let mut missing = None;
    for (wanted_one, inherited) in wanted.iter().zip(inherited) {
        match hold(wanted_one, inherited, &bind) {
            Ok(socket) => held.push(socket),
            Err(source) => {
                let error = Error::Listen {
                    address: wanted_one.address.clone(),
                    source,
                };
                if wanted.len() == 1 || !error.is_missing_address() {
                    return Err(error);
                }
                tracing::warn!("{error}; it is left out");
                missing = Some(error);
            }
        }
    }
    match missing {
        Some(error) if held.is_empty() => Err(error),
        _ => Ok(held),
    }
}

fn hold(
    wanted: &Wanted,
    inherited: Option<Held>,
    bind: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> io::Result<Held> {
    let held = match (inherited, &wanted.address) {
        (Some(held), _) => held,
        (None, SocketAddress::Inet(address)) => Held {
            file: None,
            socket: ListeningSocket::Inet(bind(*address)?),
        },
        (None, SocketAddress::Unix(path)) => {
            let (socket, file) = unix::bind(path, wanted.mode)?;
            Held {
                file: Some(file),
                socket: ListeningSocket::Unix(socket),
            }
        }
    };
    if let Some(file) = &held.file {
        file.set_mode(wanted.mode)?;
    }
    held.socket.set_nonblocking()?;
    Ok(held)
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

    fn places(addresses: &[SocketAddr]) -> Vec<Vec<Wanted>> {
        addresses
            .iter()
            .map(|&address| vec![address.into()])
            .collect()
    }

    fn opened(listeners: &[Vec<Wanted>]) -> Result<Vec<Opened>, Error> {
        let opened = Sockets::default().listen(listeners)?;
        Ok(opened.into_iter().flatten().collect())
    }

    #[test]
    fn hundreds_of_connections_may_wait() {
        let any = places(&["127.0.0.1:0".parse().unwrap()]);
        let (address, _listener) = opened(&any).unwrap().remove(0);
        let address = address.inet().unwrap();
        let waiting: Vec<_> = (0..300)
            .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap())
            .collect();
        assert_eq!(waiting.len(), 300);
    }

    #[test]
    fn named_port_is_not_used_for_port_zero() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut opened = opened(&places(&[any, any])).unwrap();
        let (named, second) = opened.pop().unwrap();
        let (other, first) = opened.pop().unwrap();
        let held = |socket| Held::inherited(socket, false);
        let mut sockets = Sockets {
            inherited: vec![held(second), held(first)],
            ..Sockets::default()
        };
        let bound: Vec<_> = sockets
            .listen(&places(&[any, named.inet().unwrap()]))
            .unwrap()
            .into_iter()
            .flatten()
            .map(|(address, _)| address)
            .collect();
        assert_eq!(bound, [other, named]);
    }

    #[test]
    fn address_that_the_machine_lacks_is_left_out() {
        let lacking: SocketAddr = "[2001:db8::1]:0".parse().unwrap();
        let both = [lacking, "127.0.0.1:0".parse().unwrap()];
        let named = vec![both.map(Wanted::from).to_vec()];
        let opened_for_name = opened(&named).unwrap();
        assert_eq!(opened_for_name.len(), 1);
        assert!(opened_for_name[0].0.inet().unwrap().is_ipv4());
        let error = opened(&places(&[lacking])).unwrap_err();
        assert!(error.is_missing_address(), "{error}");
    }
}

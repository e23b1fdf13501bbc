//! Unix sockets to listen on: their files, from the bind to the removal.
//!
//! A file that a killed process left behind is replaced. A socket that somebody accepts on is in
//! use, and a file of any other kind is never removed.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::BACKLOG;

/// The file of a Unix socket that this process opened. It is removed on drop, unless another file
/// has taken its place.
#[derive(Debug)]
pub(in crate::app) struct SocketFile {
    path: PathBuf,
    /// The device and the number of the file.
    identity: (u64, u64),
}

/// Opens a socket at `path`, to which those can connect whom `mode` lets write.
///
/// # Errors
/// When somebody listens there already, when something other than a socket is there, or when the
/// folder does not let this process make a file.
pub(super) fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_left_behind(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::existing(path.to_owned())?;
    // Nobody can connect before `listen`, so nobody gets in by the permissions of the umask.
    file.set_mode(mode)?;
    socket.listen(BACKLOG)?;
    Ok((OwnedFd::from(socket).into(), file))
}

/// Removes the file of a socket that nobody accepts on.
fn remove_left_behind(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            ErrorKind::AlreadyExists,
            "there is a file that is not a socket, which is not removed",
        ));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue would block, and means that the socket is in use.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => Err(ErrorKind::AddrInUse.into()),
    }
}

impl SocketFile {
    /// Returns the file that is at `path` now.
    pub(super) fn existing(path: PathBuf) -> io::Result<Self> {
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }

    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // A file that stays is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const MODE: u32 = 0o620;

    #[test]
    fn file_has_its_mode_and_goes_with_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_socket, file) = bind(&path, MODE).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, MODE);
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn socket_that_was_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (_socket, _file) = bind(&path, MODE).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn socket_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _other = UnixListener::bind(&path).unwrap();
        assert_eq!(bind(&path, MODE).unwrap_err().kind(), ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn other_files_are_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["f", "l"].map(|name| folder.path().join(name));
        fs::write(&file, "kept").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [folder.path(), &file, &link] {
            let error = bind(path, MODE).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{path:?}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }

    #[test]
    fn file_of_a_successor_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_first, file) = bind(&path, MODE).unwrap();
        fs::remove_file(&path).unwrap();
        let (_second, _kept) = bind(&path, MODE).unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
    }
}

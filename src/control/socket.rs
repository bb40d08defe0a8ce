//! The unix socket of the admin interface: made for its owner alone, and gone with the process.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there is no admin socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another process answers there.
    #[error(
        "{} is in use by another synwall: stop that one, or give each its own [admin] socket",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{} is there and no socket: remove it, or change [admin] socket", .0.display())]
    NoSocket(PathBuf),
    /// The system refused.
    #[error(
        "{} cannot be made: {error}: make its directory writable for the user that runs synwall, change [admin] socket, or \
         set it to \"off\"",
        path.display()
    )]
    System {
        /// The socket.
        path: PathBuf,
        /// What the system answered.
        error: io::Error,
    },
}

/// A socket that listens; its file goes with the value, and the directory if it was made for it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: somebody else's socket of the same name stays.
    identity: (u64, u64),
    made_directory: bool,
}

impl Socket {
    /// Listens at `path`, in place of a socket whose process is dead. A directory that is missing is made, if its parent is
    /// there.
    ///
    /// # Errors
    /// Somebody answers there, or nothing can be made there.
    pub fn bind(path: &Path) -> Result<Socket, SocketError> {
        let failed = |error| SocketError::System { path: path.to_owned(), error };
        let directory = path.parent().unwrap_or(Path::new("/"));
        let made_directory = match DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(error)),
        };
        // Of two that find the same dead socket, the second must find the first one's.
        let lock = File::open(directory).map_err(failed)?;
        lock.lock().map_err(failed)?;
        if is_taken(path)? {
            return Err(SocketError::InUse(path.to_owned()));
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Whoever came before this is turned away by its user number.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        let identity = identity(path).map_err(failed)?;
        Ok(Socket { listener, path: path.to_owned(), identity, made_directory })
    }

    /// The socket, to be accepted from.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(directory) = self.path.parent().filter(|_| self.made_directory) {
            // Refused if somebody has put something there.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Whether a process answers at `path`; a socket where none does is removed.
fn is_taken(path: &Path) -> Result<bool, SocketError> {
    let failed = |error| SocketError::System { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)?;
            Ok(false)
        }
        Ok(_) => Ok(true),
        Err(error) => Err(failed(error)),
    }
}

/// What `synwall doctor` asks: whether a start would find the place free. Changes nothing.
///
/// # Errors
/// As [`Socket::bind`], as far as looking tells.
pub fn examine(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(SocketError::InUse(path.to_owned())),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

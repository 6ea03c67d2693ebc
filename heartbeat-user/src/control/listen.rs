//! Opens the control socket: checks its directory, clears away what a dead daemon left, sets owner and mode before
//! anybody can connect. It never removes a socket that somebody listens on.

use super::{Caller, Owner};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::unistd::{Group, geteuid};
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Connections that the kernel keeps waiting while none is accepted.
const BACKLOG: i32 = 64;
/// Most supplementary groups asked for: the kernel's own limit (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("{0}: another heartbeatd listens there")]
    AnotherInstance(PathBuf),
    /// Its directory could be written by others, who could put a socket of their own there.
    #[error("{path}: the directory of the control socket {fault} (mode {mode:04o}, owner uid {uid})")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        fault: &'static str,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
    },
    /// Something that is no socket is there.
    #[error("{0}: is there and is no socket; remove it")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("{path}: cannot {what}")]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// An open control socket; its file is removed with it.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    pub(super) owner: Owner,
    path: PathBuf,
    inode: (u64, u64),
    warning: Option<String>,
}

impl Listener {
    /// Opens the socket at `path` with mode 0660 for members of `group`, or 0600 if there is no such group or it
    /// cannot be given to it; [`Listener::warning`] then says so.
    ///
    /// # Errors
    /// [`ListenError`]; nothing was changed then but a dead daemon's socket removed.
    pub fn bind(path: &Path, group: &str) -> Result<Self, ListenError> {
        let io = |what| move |source| ListenError::Io { path: path.to_owned(), what, source };
        check_directory(path)?;
        clear_stale(path)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(io::Error::from)
            .map_err(io("make the control socket"))?;
        let bound = UnixAddr::new(path).and_then(|address| nix::sys::socket::bind(socket.as_raw_fd(), &address));
        bound.map_err(io::Error::from).map_err(io("bind the control socket"))?;
        // Bound but not listening, the socket refuses everybody: time to give it its owner and mode.
        match open_to_group(path, group).and_then(|opened| listen(socket, path, opened)) {
            Ok(listener) => Ok(listener),
            Err(source) => {
                let _ = std::fs::remove_file(path);
                Err(io("open the control socket")(source))
            }
        }
    }

    /// Returns why the socket is not open to its group, if it is not.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Returns where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A successor may have put its own socket there.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| inode(&found) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Group opened to, and a warning if none was.
type Opened = (Option<u32>, Option<String>);

fn open_to_group(path: &Path, group: &str) -> io::Result<Opened> {
    let set_mode = |mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    let alone = "only root and heartbeatd's own user can use heartbeatctl";
    if group.is_empty() {
        // None is wanted: nothing to warn of.
        set_mode(0o600)?;
        return Ok((None, None));
    }
    let Some(found) = Group::from_name(group).map_err(io::Error::from)? else {
        set_mode(0o600)?;
        return Ok((None, Some(format!("there is no group {group}: {alone}"))));
    };
    if let Err(error) = std::os::unix::fs::chown(path, None, Some(found.gid.as_raw())) {
        set_mode(0o600)?;
        return Ok((None, Some(format!("the control socket cannot be given to group {group} ({error}): {alone}"))));
    }
    set_mode(0o660)?;
    Ok((Some(found.gid.as_raw()), None))
}

fn listen(socket: OwnedFd, path: &Path, (group, warning): Opened) -> io::Result<Listener> {
    let inode = inode(&std::fs::symlink_metadata(path)?);
    nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    let owner = Owner { uid: geteuid().as_raw(), group };
    Ok(Listener { socket: socket.into(), owner, path: path.to_owned(), inode, warning })
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn check_directory(path: &Path) -> Result<(), ListenError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = std::fs::symlink_metadata(directory).map_err(|source| ListenError::Io {
        path: directory.to_owned(),
        what: "look at the directory of the control socket",
        source,
    })?;
    let fault = if !found.is_dir() {
        "is no directory"
    } else if found.uid() != 0 && found.uid() != geteuid().as_raw() {
        "belongs to another user"
    } else if found.mode() & 0o022 != 0 {
        "can be written by others"
    } else {
        return Ok(());
    };
    Err(ListenError::Directory { path: directory.to_owned(), fault, mode: found.mode() & 0o7777, uid: found.uid() })
}

fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let io = |what| move |source| ListenError::Io { path: path.to_owned(), what, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at the control socket")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io("remove the control socket of a dead heartbeatd"))
        }
        // A full backlog also means that somebody listens.
        Ok(_) => Err(ListenError::AnotherInstance(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ListenError::AnotherInstance(path.to_owned())),
        Err(error) => Err(io("find out whether somebody listens on the control socket")(error)),
    }
}

/// Asks the kernel who is at the other end of `stream`.
pub(super) fn caller(stream: &impl AsFd) -> io::Result<Caller> {
    let peer = nix::sys::socket::getsockopt(&stream.as_fd(), nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(Caller { uid: peer.uid(), gid: peer.gid(), groups: peer_groups(stream.as_fd())? })
}

fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = (groups.len() * 4) as libc::socklen_t;
        // SAFETY: `groups` is writable for `bytes` bytes, both outlive the call, and any bytes are a `u32`.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / 4;
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too small a buffer: the kernel has said how much it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }

    fn own_group() -> String {
        Group::from_gid(nix::unistd::getegid()).unwrap().expect("the test's own group has a name").name
    }

    #[test]
    fn mode_owner_and_removal() {
        let directory = directory();
        let path = directory.path().join("control.sock");
        let listener = Listener::bind(&path, &own_group()).unwrap();
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o660);
        assert_eq!(found.gid(), nix::unistd::getegid().as_raw());
        assert_eq!(listener.warning(), None);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn closed_without_a_warning_where_no_group_is_wanted() {
        let directory = directory();
        let path = directory.path().join("control.sock");
        let listener = Listener::bind(&path, "").unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(listener.warning(), None);
    }

    #[test]
    fn closed_without_its_group() {
        let directory = directory();
        let path = directory.path().join("control.sock");
        let listener = Listener::bind(&path, "no-such-group-here").unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(listener.warning().unwrap().contains("no group no-such-group-here"));
        assert_eq!(listener.owner.group, None);
    }

    #[test]
    fn second_instance_is_refused_and_a_stale_socket_replaced() {
        let directory = directory();
        let path = directory.path().join("control.sock");
        let first = Listener::bind(&path, &own_group()).unwrap();
        assert!(matches!(Listener::bind(&path, &own_group()), Err(ListenError::AnotherInstance(_))));
        assert!(path.exists(), "the refused one leaves the socket alone");
        // As after a kill: the socket is closed, its file stays.
        let forgotten = std::mem::ManuallyDrop::new(first);
        // SAFETY: the descriptor is owned by a value that is never dropped nor used again.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(forgotten.socket.as_raw_fd()) });
        assert!(path.exists());
        let second = Listener::bind(&path, &own_group()).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
    }

    #[test]
    fn only_its_own_socket_is_removed() {
        let directory = directory();
        let path = directory.path().join("control.sock");
        let first = Listener::bind(&path, &own_group()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Listener::bind(&path, &own_group()).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn unsafe_places_are_refused() {
        let directory = directory();
        let path = directory.path().join("control.sock");
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(Listener::bind(&path, "root"), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
        std::fs::remove_file(&path).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o775)).unwrap();
        let error = Listener::bind(&path, "root").unwrap_err();
        assert!(error.to_string().contains("can be written by others (mode 0775"), "{error}");
        assert!(matches!(Listener::bind(&directory.path().join("none/s"), "root"), Err(ListenError::Io { .. })));
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let long = directory.path().join("x".repeat(200));
        assert!(matches!(Listener::bind(&long, "root"), Err(ListenError::Io { .. })));
    }

    #[test]
    fn caller_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let caller = caller(&one).unwrap();
        assert_eq!(caller.uid, geteuid().as_raw());
        let mut groups: Vec<u32> =
            nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        let mut told = caller.groups;
        groups.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, groups);
    }
}

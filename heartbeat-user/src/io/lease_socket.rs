//! Hands the page of the lease to whoever asks: a descriptor that can only read, by SCM_RIGHTS, and nothing else. It
//! reads nothing that a client sends, keeps no connection, and decides nothing.
//!
//! ```text
//! client --connect--> accept --one byte and one descriptor--> client; closed
//! ```
//!
//! The socket is open to every user: what it hands out tells whether this node may act, under which token and who
//! voted lately, and holds no secret.

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, sendmsg, socket,
};
use nix::sys::stat::{SFlag, fstat};
use std::fs::{self, Permissions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Connections that wait while none is accepted.
const BACKLOG: i32 = 64;
/// So many are served at a stretch; then whoever else works on this thread has its turn.
const STRETCH: u32 = 32;
/// Pause after a stretch: some 3 000 connections a second, and no flood takes the thread.
const REST: Duration = Duration::from_millis(10);

/// A descriptor of a page that cannot write.
#[derive(Clone, Debug)]
pub struct Readable(Arc<OwnedFd>);

impl Readable {
    /// Takes a descriptor that was opened for reading alone; memory without a map has to be sealed too.
    ///
    /// # Errors
    /// If it can write, or be opened anew for writing by its name in /proc: whoever was handed it could grant this node
    /// its lease.
    pub fn try_new(fd: OwnedFd) -> anyhow::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).context("ask how the page was opened")?);
        if flags & OFlag::O_ACCMODE != OFlag::O_RDONLY || flags.contains(OFlag::O_PATH) {
            bail!("the descriptor of the lease page is not for reading alone, so it is handed to nobody");
        }
        // A map cannot be opened by such a name; memory can, by everybody.
        let found = fstat(&fd).context("look at the lease page")?;
        if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() {
            let wanted = SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
            let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).context("ask how the lease page is sealed")?;
            if !SealFlag::from_bits_retain(seals).contains(wanted) {
                bail!("the memory of the lease page is not sealed, so it is handed to nobody");
            }
        }
        Ok(Self(Arc::new(fd)))
    }
}

/// What is handed out just now; a later page replaces it.
#[derive(Clone, Debug, Default)]
pub struct Shown(Arc<Mutex<Option<Readable>>>);

impl Shown {
    /// Hands out this page from now on; `None`: there is none, and whoever connects is told so by being handed nothing.
    pub fn set(&self, page: Option<Readable>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = page;
    }

    fn get(&self) -> Option<Readable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A socket of the run directory that is open to every user; its file goes with it.
#[derive(Debug)]
pub(super) struct OpenSocket {
    socket: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl OpenSocket {
    /// Opens the socket at `path`. Whoever calls holds the lock of this controller and has checked the directory, which is
    /// the control socket's: a socket that is there is a dead controller's.
    ///
    /// # Errors
    /// If something that is no socket is there, or the system refuses; nothing was changed then but a dead one's socket
    /// removed.
    pub fn bind_at(path: &Path) -> anyhow::Result<Self> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).context("remove a dead one's")?,
            Ok(_) => bail!("what is there is no socket; remove it"),
            Err(error) => return Err(error).context("look at what is there"),
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        // Whoever finds it may use it: it gets its name last.
        let unready = path.with_extension("new");
        let _ = fs::remove_file(&unready);
        bind(socket.as_raw_fd(), &UnixAddr::new(&unready)?)?;
        let opened = || -> anyhow::Result<(u64, u64)> {
            // Connecting takes the right to write.
            fs::set_permissions(&unready, Permissions::from_mode(0o666))?;
            let found = fs::symlink_metadata(&unready)?;
            listen(&socket, Backlog::new(BACKLOG)?)?;
            fs::rename(&unready, path)?;
            Ok((found.dev(), found.ino()))
        };
        match opened() {
            Ok(inode) => Ok(Self { socket: socket.into(), path: path.to_owned(), inode }),
            Err(error) => {
                let _ = fs::remove_file(&unready);
                Err(error)
            }
        }
    }

    /// Returns what accepts its connections, on the runtime of this thread.
    ///
    /// # Errors
    /// If the socket cannot be waited on.
    pub fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.socket.try_clone()?)
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        // A successor may have put its own socket there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The socket that hands out the page.
#[derive(Debug)]
pub struct LeaseSocket(OpenSocket);

impl LeaseSocket {
    /// Opens the socket at `path`, open to every user. Whoever calls holds the lock of this controller and has checked
    /// the directory.
    ///
    /// # Errors
    /// If something that is no socket is there, or the system refuses.
    pub fn bind_at(path: &Path) -> anyhow::Result<Self> {
        OpenSocket::bind_at(path).map(Self).with_context(|| format!("open the lease socket {}", path.display()))
    }

    /// Serves whoever connects, until it is dropped. To be run on the runtime's thread, never on one that must be on
    /// time.
    ///
    /// # Errors
    /// If the socket cannot be waited on.
    pub async fn serve(self, shown: Shown) -> anyhow::Result<()> {
        let listener = self.0.listener().context("watch the lease socket")?;
        let (mut served, mut failing) = (0, false);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    failing = false;
                    let page = shown.get();
                    if let Err(error) = hand(&stream, page.as_ref()) {
                        log::debug!("the lease page could not be handed out: {error}");
                    }
                }
                // Out of descriptors, most likely: it passes, and no client of ours holds one.
                Err(error) => {
                    if !failing {
                        log::warn!("the lease socket cannot accept: {error}");
                    }
                    (served, failing) = (STRETCH, true);
                }
            }
            served += 1;
            if served >= STRETCH {
                served = 0;
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Sends the page. The buffer of a new connection is empty, so this waits for nobody; a client that is gone is no fault.
fn hand(stream: &impl AsFd, page: Option<&Readable>) -> nix::Result<()> {
    let Some(Readable(fd)) = page else { return Ok(()) };
    let descriptors = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(stream.as_fd().as_raw_fd(), &[IoSlice::new(&[0])], &rights, flags, None).map(drop)
}

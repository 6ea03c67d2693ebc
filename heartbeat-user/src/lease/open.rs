//! Opens the page: asks heartbeatd's socket for it, or opens its pin, and refuses what is not heartbeatd's, what could
//! be written, and a process whose clock would judge it wrongly. It waits for nobody longer than a second.

use super::{Lease, PIN, Page, SOCKET};
use crate::io::sys;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{User, geteuid};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The user that the service runs as.
pub const SERVICE_USER: &str = "heartbeatd";
/// How long heartbeatd may take to hand out the page.
const PATIENCE_S: i64 = 1;
/// `SCM_MAX_FD`, from net/scm.h: descriptors that one message can carry.
const DESCRIPTORS_MAX: usize = 253;
const CONNECT: &str = "connect to the lease socket";

/// Whose page is believed, besides root's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Owner {
    /// The service's user, and the user who asks: nobody deceives another by a page of his own.
    #[default]
    Service,
    /// This user id.
    Uid(u32),
}

/// Where to look for the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// heartbeatd's lease socket.
    pub socket: PathBuf,
    /// The pin that is tried where nobody listens there, or nobody answers in time; `None`: none is.
    pub pin: Option<PathBuf>,
    /// Whose page is believed.
    pub owner: Owner,
}

impl Default for Places {
    fn default() -> Self {
        Self { socket: SOCKET.into(), pin: Some(PIN.into()), owner: Owner::default() }
    }
}

/// Why there is no page to judge. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither is there a page.
    #[error("{socket}: nobody listens there, and {pin}: there is no page pinned either")]
    Nowhere {
        /// The socket that was tried.
        socket: PathBuf,
        /// The pin that was tried.
        pin: PathBuf,
    },
    /// Nobody listens, and no pin was to be tried.
    #[error("{0}: nobody listens there")]
    NobodyListens(PathBuf),
    /// heartbeatd listens, and has no page yet.
    #[error("{0}: heartbeatd has no page to hand out yet")]
    NotYet(PathBuf),
    /// It is another user's.
    #[error("{path}: belongs to uid {uid}, which is neither root nor heartbeatd's user: not believed")]
    Foreign {
        /// What was looked at.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Others than its owner can put a page there.
    #[error("{path}: can be written by others (mode {mode:04o}): not believed")]
    Writable {
        /// What was looked at.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// This process reads a shifted clock.
    #[error(
        "this process is in a time namespace that shifts its clocks, or cannot tell ({0}): it would take an outdated \
         lease for a valid one"
    )]
    ShiftedClock(String),
    /// What was handed out is no page.
    #[error("{path}: hands out no page: {source}")]
    NoPage {
        /// Where it came from.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The system refused.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// What was looked at.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl OpenError {
    /// Says that a page may be there a moment later: heartbeatd starts, or is about to.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Nowhere { .. } | Self::NobodyListens(_) | Self::NotYet(_) | Self::Io { .. })
    }

    /// Says that heartbeatd listens and does not answer in time.
    fn is_late(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }

    /// Says that somebody listens, or could, where this user may not connect: waiting does not change that. A pin that may
    /// not be opened is another matter: the socket may be had a moment later.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { what: CONNECT, source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

pub(super) fn open(places: &Places) -> Result<Lease, OpenError> {
    refuse_shifted(Path::new("/proc/self"))?;
    let (fd, from) = match (by_socket(places), &places.pin) {
        (Err(OpenError::NobodyListens(socket)), Some(pin)) => (by_pin(pin, &socket, places.owner)?, pin),
        // One that stands still hands nothing out, and its kernel goes on.
        (Err(error), Some(pin)) if error.is_late() => match by_pin(pin, &places.socket, places.owner) {
            Err(OpenError::Nowhere { .. }) => return Err(error),
            pinned => (pinned?, pin),
        },
        (asked, _) => (asked?, &places.socket),
    };
    let page = Page::open(fd.as_fd()).map_err(|source| OpenError::NoPage { path: from.clone(), source })?;
    Ok(Lease::of(page))
}

/// A clock that is set back against the kernel's would prolong the lease: a time namespace is refused.
pub(super) fn refuse_shifted(process: &Path) -> Result<(), OpenError> {
    let path = process.join("timens_offsets");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        // A kernel without time namespaces. Without /proc nobody can tell.
        Err(error) if error.kind() == io::ErrorKind::NotFound && process.join("stat").exists() => return Ok(()),
        Err(error) => return Err(OpenError::ShiftedClock(format!("{}: {error}", path.display()))),
    };
    let shifted = |line: &&str| line.split_whitespace().skip(1).any(|number| number != "0");
    match text.lines().find(shifted) {
        Some(line) => Err(OpenError::ShiftedClock(format!("{}: {line}", path.display()))),
        None => Ok(()),
    }
}

pub(super) fn believed(uid: u32, owner: Owner) -> bool {
    let service = || User::from_name(SERVICE_USER).ok().flatten().is_some_and(|user| user.uid.as_raw() == uid);
    match owner {
        _ if uid == 0 => true,
        Owner::Uid(wanted) => uid == wanted,
        Owner::Service => uid == geteuid().as_raw() || service(),
    }
}

fn by_socket(places: &Places) -> Result<OwnedFd, OpenError> {
    let path = &places.socket;
    let io = |what| move |error: nix::Error| OpenError::Io { path: path.clone(), what, source: error.into() };
    let stream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(io("make a socket for the page"))?;
    // It bounds the connection to a full backlog too.
    for bounded in [
        setsockopt(&stream, sockopt::SendTimeout, &TimeVal::seconds(PATIENCE_S)),
        setsockopt(&stream, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_S)),
    ] {
        bounded.map_err(io("bound the wait for the page"))?;
    }
    let address = UnixAddr::new(path).map_err(io("name the socket"))?;
    match connect(stream.as_raw_fd(), &address) {
        Err(nix::Error::ENOENT | nix::Error::ECONNREFUSED) => return Err(OpenError::NobodyListens(path.clone())),
        connected => connected.map_err(io(CONNECT))?,
    }
    let peer = getsockopt(&stream, sockopt::PeerCredentials).map_err(io("ask who listens"))?;
    if !believed(peer.uid(), places.owner) {
        return Err(OpenError::Foreign { path: path.clone(), uid: peer.uid() });
    }
    let received = receive(&stream).map_err(io("receive the page"))?;
    let source = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    match received {
        Received::Page(fd) => Ok(fd),
        Received::Nothing => Err(OpenError::NotYet(path.clone())),
        Received::More => Err(OpenError::NoPage { path: path.clone(), source: source("more than one descriptor") }),
    }
}

enum Received {
    Page(OwnedFd),
    Nothing,
    More,
}

fn receive(stream: &OwnedFd) -> nix::Result<Received> {
    let mut byte = [0_u8; 1];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    // Room for all that a message can carry: of a message that is cut off, what did come could not be closed.
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut bytes, Some(&mut space), flags)?;
    let mut found = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just given these descriptors to this process, and to nobody else in it.
            found.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(match found.pop() {
        None => Received::Nothing,
        Some(fd) if found.is_empty() => Received::Page(fd),
        Some(_) => Received::More,
    })
}

fn by_pin(pin: &Path, socket: &Path, owner: Owner) -> Result<OwnedFd, OpenError> {
    let io = |what| move |source| OpenError::Io { path: pin.to_owned(), what, source };
    let directory = pin.parent().unwrap_or(Path::new("/"));
    for path in [directory, pin] {
        let found = match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Nowhere { socket: socket.to_owned(), pin: pin.to_owned() });
            }
            found => found.map_err(io("look at the pinned page"))?,
        };
        if !believed(found.uid(), owner) {
            return Err(OpenError::Foreign { path: path.to_owned(), uid: found.uid() });
        }
        if found.mode() & 0o022 != 0 || found.is_symlink() {
            return Err(OpenError::Writable { path: path.to_owned(), mode: found.mode() & 0o7777 });
        }
    }
    sys::object_get_to_read(pin).map_err(io("open the pinned page"))
}

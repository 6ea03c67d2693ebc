//! Finds a hook's program without trusting its path: each directory, each symbolic link and the program itself has to
//! be root's, and to be written by nobody else. What comes of it is a descriptor of the very file that was looked at, so
//! that nothing can be put in its place between the look and the start.

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Symbolic links on the way, at most; the kernel's own limit.
const LINKS_MAX: u32 = 40;

/// Why a program is not run. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The path is not absolute, or goes up.
    #[error("{0}: a hook is an absolute path without `..`")]
    Path(PathBuf),
    /// Part of the way is another user's.
    #[error("{path}: belongs to uid {uid}, not to uid {owner}")]
    Foreign {
        /// Which part.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Whose it has to be.
        owner: u32,
    },
    /// Part of the way can be changed by others.
    #[error("{path}: can be written by others (mode {mode:04o})")]
    Writable {
        /// Which part.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no file, or nobody may run it.
    #[error("{0}: is no file that can be run")]
    NoProgram(PathBuf),
    /// Symbolic links lead round.
    #[error("{0}: more than {LINKS_MAX} symbolic links")]
    Links(PathBuf),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which part.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Opens `path` below `root`, where every part has to be `owner`'s; in earnest the root directory's and root's.
///
/// # Errors
/// [`ChainError`], which names the part that is at fault.
pub fn walk(root: BorrowedFd<'_>, path: &Path, owner: u32) -> Result<OwnedFd, ChainError> {
    let mut parts = Walk { root, owner, waiting: VecDeque::new(), shown: PathBuf::from("/"), links: 0 };
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(ChainError::Path(path.to_owned()));
    }
    parts.prepend(path);
    parts.run()
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    owner: u32,
    /// What is still to be walked.
    waiting: VecDeque<OsString>,
    /// What was walked, for people.
    shown: PathBuf,
    links: u32,
}

impl Walk<'_> {
    fn prepend(&mut self, path: &Path) {
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        for (index, name) in names.enumerate() {
            self.waiting.insert(index, name);
        }
    }

    fn run(mut self) -> Result<OwnedFd, ChainError> {
        let mut at = self.root()?;
        while let Some(name) = self.waiting.pop_front() {
            let from = self.shown.clone();
            match name == ".." {
                true => _ = self.shown.pop(),
                false => self.shown.push(&name),
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = openat(&at, name.as_os_str(), flags, Mode::empty()).map_err(|errno| self.io(errno))?;
            let found = fstat(&fd).map_err(|errno| self.io(errno))?;
            match kind(&found) {
                SFlag::S_IFLNK => {
                    self.owned(&found)?;
                    at = self.follow(at, &fd, from)?;
                }
                SFlag::S_IFDIR => {
                    self.closed(&found)?;
                    at = fd;
                }
                SFlag::S_IFREG if self.waiting.is_empty() && found.st_mode & 0o111 != 0 => {
                    self.closed(&found)?;
                    return Ok(fd);
                }
                _ => break,
            }
        }
        Err(ChainError::NoProgram(self.shown))
    }

    /// Opens the root anew, and looks at it as at each directory.
    fn root(&mut self) -> Result<OwnedFd, ChainError> {
        self.shown = PathBuf::from("/");
        let fd = self.root.try_clone_to_owned().map_err(|source| ChainError::Io { path: "/".into(), source })?;
        let found = fstat(&fd).map_err(|errno| self.io(errno))?;
        self.closed(&found)?;
        Ok(fd)
    }

    /// Puts a link's target before what is still to be walked, and returns where that begins.
    fn follow(&mut self, at: OwnedFd, link: &OwnedFd, from: PathBuf) -> Result<OwnedFd, ChainError> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(ChainError::Links(self.shown.clone()));
        }
        // The empty name: of the link that was looked at, not of one that is there by now.
        let target = PathBuf::from(readlinkat(link.as_fd(), "").map_err(|errno| self.io(errno))?);
        self.prepend(&target);
        if target.is_absolute() {
            return self.root();
        }
        self.shown = from;
        Ok(at)
    }

    fn owned(&self, found: &FileStat) -> Result<(), ChainError> {
        if found.st_uid == self.owner {
            return Ok(());
        }
        Err(ChainError::Foreign { path: self.shown.clone(), uid: found.st_uid, owner: self.owner })
    }

    /// Refuses what others own or may write. An access list that lets somebody write shows in the group's bits.
    fn closed(&self, found: &FileStat) -> Result<(), ChainError> {
        self.owned(found)?;
        if found.st_mode & 0o022 == 0 {
            return Ok(());
        }
        Err(ChainError::Writable { path: self.shown.clone(), mode: found.st_mode & 0o7777 })
    }

    fn io(&self, errno: Errno) -> ChainError {
        ChainError::Io { path: self.shown.clone(), source: errno.into() }
    }
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

//! The agreement on disk: the file `agreement` in the state directory, which holds what this vote has promised,
//! accepted and installed. It reads and writes that file whole, says why one is not to be believed, and decides
//! nothing.
//!
//! ```text
//! start:  take_up --> whole: written anew, then believed | lost: set aside | absent
//! later:  Writer::write(state) --> hb-disk: new file, flush, rename, flush of the directory --> Written | Failed
//! ```
//!
//! After a write that failed it is not known what the disk holds: a later flush may succeed though the bytes are gone.
//! So nothing is written again by whoever saw it fail, and the next start flushes what it reads before it believes it.

pub mod exits;
mod first;
mod form;
mod writer;

pub use first::{First, InitFault, first_state};
pub use form::{Lost, Owner, admitted, decode, encode};
pub use writer::{Report, Writer};

use crate::config::{FileError, open_regular, read_limited};
use crate::core::agreement::voter::State;
use crate::io::state::random;
use heartbeat_common::lease::Remembered;
use heartbeat_common::view::VoteId;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

const FILE: &str = "agreement";
/// Files set aside at most. Then the last one is replaced: the first show how it began, the last how it goes on.
const LOST_KEPT: u32 = 16;

/// What a write consists of, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Make the new file, once what an earlier write left in its place is gone.
    Create,
    /// Fill it.
    Write,
    /// Flush it.
    Flush,
    /// Put it in the place of the old one.
    Rename,
    /// Flush the directory.
    FlushDirectory,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Create => "be made anew",
            Self::Write => "be written",
            Self::Flush => "be flushed",
            Self::Rename => "be put in its place",
            Self::FlushDirectory => "be flushed with its directory",
        })
    }
}

/// What is to be written is not on disk for certain.
#[derive(Debug, Error)]
#[error("{path}: cannot {step}: {error}", path = .path.display())]
pub struct WriteFault {
    /// The file.
    pub path: PathBuf,
    /// Where it ended.
    pub step: Step,
    /// What the system said.
    pub error: io::Error,
}

impl WriteFault {
    /// Returns what the system said as its number; EIO where it wrote less than it was given and said nothing.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(libc::EIO)
    }
}

/// What was found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: this node was never in a view, or lost all that it knew of it.
    Absent,
    /// A state that may be believed as far as its bytes go.
    Whole(Box<State>),
    /// Something, or the trace of it, that is no vote any more.
    Lost(Lost),
}

/// What a start goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakenUp {
    /// Nothing was there.
    Absent,
    /// This state, which is on disk for certain.
    Resumed(Box<State>),
    /// The vote is lost; a new one has to be named by a view.
    Lost {
        /// Why.
        why: Lost,
        /// Where the file was put, if there was one.
        aside: Option<PathBuf>,
    },
}

/// Why a start may not go on: what it would go on with would be a guess.
#[derive(Debug, Error)]
pub enum Refused {
    /// The file is there and cannot be read.
    #[error(transparent)]
    Unreadable(#[from] FileError),
    /// It could be read and not be written again.
    #[error(transparent)]
    Unwritable(#[from] WriteFault),
}

/// Why no first state was written.
#[derive(Debug, Error)]
pub enum CreateFault {
    /// There is one: this node is in a cluster.
    #[error("{path} exists: this node is in a cluster already", path = .0.display())]
    Exists(PathBuf),
    /// It is not on disk for certain.
    #[error(transparent)]
    Write(#[from] WriteFault),
}

/// The file.
#[derive(Clone, Debug)]
pub struct AgreementFile {
    directory: PathBuf,
    owner: Owner,
    #[cfg(test)]
    seam: tests::Seam,
}

impl AgreementFile {
    /// Names the file in the state directory. Nothing is opened.
    #[must_use]
    pub fn new(directory: &Path, owner: Owner) -> Self {
        Self {
            directory: directory.to_owned(),
            owner,
            #[cfg(test)]
            seam: tests::Seam::default(),
        }
    }

    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Reads what is there, and holds it against what is remembered to have been on disk.
    ///
    /// # Errors
    /// If it is there and cannot be read, or is something else than a file of root or of this user.
    pub fn read(&self, remembered: Remembered) -> Result<Found, FileError> {
        let path = self.path();
        let (file, _) = match open_regular(&path, false) {
            Err(FileError::Open { error, .. }) if error.kind() == ErrorKind::NotFound => {
                let lost = |sequence| Found::Lost(Lost::Gone(sequence));
                return Ok(if remembered.sequence == 0 { Found::Absent } else { lost(remembered.sequence) });
            }
            opened => opened?,
        };
        let bytes = read_limited(file, &path, form::LEN_MAX as u64)?;
        Ok(match decode(self.owner, remembered, &bytes) {
            Ok(state) => Found::Whole(Box::new(state)),
            Err(lost) => Found::Lost(lost),
        })
    }

    /// Reads the newest incarnation of this node that a view in the file admitted; 0: none did, or there is no whole
    /// file. It is true also of a file that is no vote any more.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn admitted(&self) -> Result<u64, FileError> {
        let path = self.path();
        let (file, _) = match open_regular(&path, false) {
            Err(FileError::Open { error, .. }) if error.kind() == ErrorKind::NotFound => return Ok(0),
            opened => opened?,
        };
        Ok(form::admitted(self.owner.node, &read_limited(file, &path, form::LEN_MAX as u64)?))
    }

    /// Reads what is there and makes it certain. A whole state is written anew: what the system shows need not be on
    /// disk, if the flush of an earlier run failed. A lost one is set aside.
    ///
    /// # Errors
    /// If nothing can be said of the disk: the start has to be refused.
    pub fn take_up(&self, remembered: Remembered) -> Result<TakenUp, Refused> {
        match self.read(remembered)? {
            Found::Absent => Ok(TakenUp::Absent),
            Found::Whole(state) => {
                self.write(&state)?;
                Ok(TakenUp::Resumed(state))
            }
            Found::Lost(why) => Ok(TakenUp::Lost { why, aside: self.set_aside()? }),
        }
    }

    /// Puts a state on disk, so that a crash leaves the old or the new one.
    ///
    /// # Errors
    /// If it is not there for certain. The caller must not write through this disk again: see the head of this file.
    pub fn write(&self, state: &State) -> Result<(), WriteFault> {
        replace(&self.directory, FILE, &encode(self.owner, state), &|step| self.before(step))
    }

    /// Puts the first state of a cluster on disk.
    ///
    /// # Errors
    /// If anything lies in its place, or it is not on disk for certain.
    pub fn create(&self, state: &State) -> Result<(), CreateFault> {
        let path = self.path();
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(self.write(state)?),
            Err(error) => Err(WriteFault { path, step: Step::Create, error }.into()),
            Ok(_) => Err(CreateFault::Exists(path)),
        }
    }

    /// Renames a file that is no vote any more to `agreement.lost.N`, N from 1. Returns its new name; `None` if there
    /// is no file.
    ///
    /// # Errors
    /// If that is not on disk for certain.
    pub fn set_aside(&self) -> Result<Option<PathBuf>, WriteFault> {
        let free = |to: &PathBuf| fs::symlink_metadata(to).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let numbered = |number: u32| self.directory.join(format!("{FILE}.lost.{number}"));
        let to = (1..LOST_KEPT).map(numbered).find(free).unwrap_or_else(|| numbered(LOST_KEPT));
        let fault = |step, error| WriteFault { path: self.path(), step, error };
        match self.before(Step::Rename).and_then(|()| fs::rename(self.path(), &to)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            renamed => renamed.map_err(|error| fault(Step::Rename, error))?,
        }
        self.before(Step::FlushDirectory)
            .and_then(|()| File::open(&self.directory)?.sync_all())
            .map_err(|error| fault(Step::FlushDirectory, error))?;
        Ok(Some(to))
    }

    /// Stands before each step; tests let it fail there.
    #[cfg(test)]
    fn before(&self, step: Step) -> io::Result<()> {
        self.seam.before(step)
    }

    #[cfg(not(test))]
    const fn before(&self, _: Step) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the id of a new vote.
///
/// # Errors
/// If the kernel gives no random number.
pub fn new_vote() -> anyhow::Result<VoteId> {
    Ok(VoteId([random()?.max(1), random()?]))
}

/// Puts `bytes` in the place of a file, so that a crash leaves the old or the new one: into a file beside it, flushed,
/// renamed, and the directory flushed. `before` stands before each step.
fn replace(
    directory: &Path,
    name: &str,
    bytes: &[u8],
    before: &dyn Fn(Step) -> io::Result<()>,
) -> Result<(), WriteFault> {
    let (path, beside) = (directory.join(name), directory.join(format!("{name}.new")));
    let mut reached = Step::Create;
    let mut write = || -> io::Result<()> {
        let mut reach = |step| {
            reached = step;
            before(step)
        };
        reach(Step::Create)?;
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&beside)?;
        reach(Step::Write)?;
        file.write_all(bytes)?;
        reach(Step::Flush)?;
        file.sync_all()?;
        reach(Step::Rename)?;
        fs::rename(&beside, &path)?;
        reach(Step::FlushDirectory)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| {
        if reached < Step::FlushDirectory {
            // It is no one's; on a full disk it would take the room that the next start needs.
            let _ = fs::remove_file(&beside);
        }
        WriteFault { path, step: reached, error }
    })
}

#[cfg(test)]
pub(in crate::io) mod tests;

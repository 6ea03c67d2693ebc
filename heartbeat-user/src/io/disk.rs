//! The agreement on disk: the file `agreement` in the state directory, which holds what this vote has promised,
//! accepted and installed. It reads and writes that file whole, says why one is not to be believed, and decides
//! nothing.
//!
//! ```text
//! start:  take_up --> whole: written anew, then believed | lost: set aside | absent
//! later:  Writer::write(state) --> hb-disk: spare file, flush, exchange, flush of the directory --> Written | Failed
//! ```
//!
//! After a write that failed it is not known what the disk holds: a later flush may succeed though the bytes are gone.
//! So nothing is written again by whoever saw it fail, and the next start flushes what it reads before it believes it.

pub mod exits;
mod first;
mod form;
mod put;
mod writer;

pub use first::{First, InitFault, first_state};
pub use form::{Lost, Owner, admitted, decode, encode};
pub use put::{Step, WriteFault};
pub use writer::{Report, Writer};

use crate::config::{FileError, open_regular, read_limited};
use crate::core::agreement::voter::State;
use crate::io::state::random;
use heartbeat_common::lease::Remembered;
use heartbeat_common::view::VoteId;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use thiserror::Error;

const FILE: &str = "agreement";
/// Files set aside at most. Then the last one is replaced: the first show how it began, the last how it goes on.
const LOST_KEPT: u32 = 16;

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

    /// Reads what is there and makes it certain. A whole state is written anew, into a new file: what the system shows need
    /// not be on disk, if the flush of an earlier run failed. A lost one is set aside.
    ///
    /// # Errors
    /// If nothing can be said of the disk: the start has to be refused.
    pub fn take_up(&self, remembered: Remembered) -> Result<TakenUp, Refused> {
        let found = self.read(remembered)?;
        put::drop_spare(&self.directory, FILE)?;
        match found {
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
        let bytes = encode(self.owner, state);
        let room = form::room(bytes.len());
        put::swap(&self.directory, FILE, bytes, (room, form::LEN_MAX), &|step| self.before(step))
    }

    /// Makes ready what the next write uses, so that it needs no room on the disk and no time for that. Where it cannot be
    /// done, that write does it or fails.
    pub fn prepare(&self) {
        if let Err(error) = put::prepare(&self.directory, FILE, form::LEN_MAX) {
            log::warn!("{}: the next write makes its spare file: {error}", self.path().display());
        }
    }

    /// Puts the first state of a cluster on disk.
    ///
    /// # Errors
    /// If anything lies in its place, or it is not on disk for certain.
    pub fn create(&self, state: &State) -> Result<(), CreateFault> {
        let path = self.path();
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                put::drop_spare(&self.directory, FILE)?;
                Ok(self.write(state)?)
            }
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

#[cfg(test)]
pub(in crate::io) mod tests;

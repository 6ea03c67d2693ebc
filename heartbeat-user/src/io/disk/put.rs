//! How bytes get on disk in the place of others, so that a crash leaves the old ones or the new ones whole: into a file
//! beside theirs, flushed, put in their place, and the directory flushed. It knows nothing of what the bytes say.
//!
//! ```text
//! replace: NAME.new, made anew --> flush --> rename over NAME --> flush of the directory
//! swap:    NAME.spare, as it lies there --> flush --> exchanged with NAME --> flush of the directory
//! ```
//!
//! A swap makes, lengthens and frees nothing: all that the file system's journal takes is the two names, and a full disk
//! does not matter. It overwrites what bears the spare's name, so that name has to be on disk as the system shows it: a
//! start takes away the spare that an earlier run left, whose last flush may have failed.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Files that are swapped are of whole blocks of so many bytes.
pub(super) const BLOCK: usize = 4096;

/// What a write consists of, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Make the new file, once what an earlier write left in its place is gone. Left out where a spare one serves.
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

/// Stands before each step, and may let it fail.
pub(super) type Before<'a> = &'a dyn Fn(Step) -> io::Result<()>;

/// The spare file of the file `name`.
pub(super) fn spare_of(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.spare"))
}

/// Puts `bytes` in the place of the file `name`, by way of a new file.
pub(super) fn replace(directory: &Path, name: &str, bytes: &[u8], before: Before<'_>) -> Result<(), WriteFault> {
    let (path, beside) = (directory.join(name), directory.join(format!("{name}.new")));
    put(directory, &path, &beside, before, |reach| {
        let file = made(&beside, reach)?;
        reach(Step::Write)?;
        file.write_all_at(bytes, 0)?;
        reach(Step::Flush)?;
        file.sync_all()?;
        reach(Step::Rename)?;
        fs::rename(&beside, &path)
    })
}

/// Puts `bytes`, whole blocks of them, in the place of the file `name`, by way of the spare file: filled up with zeros to
/// the length of that, which is at most `most`. One that has to be made gets `room` bytes. What lay there before is the
/// next spare.
pub(super) fn swap(
    directory: &Path,
    name: &str,
    mut bytes: Vec<u8>,
    (room, most): (usize, usize),
    before: Before<'_>,
) -> Result<(), WriteFault> {
    let (path, spare) = (directory.join(name), spare_of(directory, name));
    put(directory, &path, &spare, before, |reach| {
        let (file, length, kept) = match fitting(&spare, bytes.len(), most) {
            Some((file, length)) => (file, length, true),
            None => (made(&spare, reach)?, room.max(bytes.len()), false),
        };
        // Room is filled, not only set aside: a block that was never written costs a record of the journal later.
        bytes.resize(length, 0);
        reach(Step::Write)?;
        file.write_all_at(&bytes, 0)?;
        reach(Step::Flush)?;
        // Of a file whose blocks and length stay as they are, the bytes are all there is to flush.
        if kept { file.sync_data() } else { file.sync_all() }?;
        reach(Step::Rename)?;
        exchange(&spare, &path)
    })
}

/// Makes the spare file of the file `name`, as long as that is, unless there is one already. Nothing depends on it: a write
/// that finds none makes it.
pub(super) fn prepare(directory: &Path, name: &str, most: usize) -> io::Result<()> {
    let spare = spare_of(directory, name);
    let length = match fs::symlink_metadata(directory.join(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => usize::try_from(found?.len()).unwrap_or(usize::MAX),
    };
    if length > most || !length.is_multiple_of(BLOCK) || fitting(&spare, length, most).is_some() {
        return Ok(());
    }
    let filled = made(&spare, &mut |_| Ok(())).and_then(|file| {
        file.write_all_at(&vec![0; length], 0)?;
        file.sync_all()
    });
    filled.inspect_err(|_| {
        let _ = fs::remove_file(&spare);
    })
}

/// Takes away a spare that an earlier run left. By what the names were then, it may be the file itself.
pub(super) fn drop_spare(directory: &Path, name: &str) -> Result<(), WriteFault> {
    let spare = spare_of(directory, name);
    let removed = match fs::symlink_metadata(&spare) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        _ => fs::remove_file(&spare),
    };
    removed.map_err(|error| WriteFault { path: spare, step: Step::Create, error })
}

/// Runs `write` and flushes the directory. Where it ends before the file is in its place, what lies beside is removed: it
/// is no one's, and on a full disk it would take the room that the next start needs.
fn put(
    directory: &Path,
    path: &Path,
    beside: &Path,
    before: Before<'_>,
    write: impl FnOnce(&mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<()>,
) -> Result<(), WriteFault> {
    let mut reached = Step::Create;
    let mut reach = |step| {
        reached = step;
        before(step)
    };
    let written = write(&mut reach);
    let flushed = written.and_then(|()| reach(Step::FlushDirectory)).and_then(|()| File::open(directory)?.sync_all());
    flushed.map_err(|error| {
        if reached < Step::FlushDirectory {
            let _ = fs::remove_file(beside);
        }
        WriteFault { path: path.to_owned(), step: reached, error }
    })
}

/// Makes a file that nobody else reads, in the place of whatever lies there.
fn made(path: &Path, reach: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<File> {
    reach(Step::Create)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Opens a spare file with room for `least` bytes, and returns it with its length. `None`: it is another kind of thing,
/// somebody else reads it or has it under another name, or it cannot be opened; making it anew will say why.
fn fitting(path: &Path, least: usize, most: usize) -> Option<(File, usize)> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
    let found = file.metadata().ok()?;
    let own = found.is_file()
        && found.nlink() == 1
        && found.mode() & 0o7777 == 0o600
        && found.uid() == nix::unistd::geteuid().as_raw();
    let length = usize::try_from(found.len()).ok()?;
    (own && (least..=most).contains(&length) && length.is_multiple_of(BLOCK)).then_some((file, length))
}

/// Puts the spare in the place of the file and the file in the place of the spare. Where there is no file yet, and on a
/// file system that knows no exchange, the spare becomes the file and there is none afterwards.
fn exchange(spare: &Path, path: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, spare, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE) {
        Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOSYS) => fs::rename(spare, path),
        exchanged => Ok(exchanged?),
    }
}

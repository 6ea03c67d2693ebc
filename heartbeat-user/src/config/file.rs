//! Opens the files that the daemon trusts, and refuses those that somebody else could have written.
//! It judges the file that it has open, never a name.

use super::{Config, ConfigErrors, SIZE_MAX, parse};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened.
    #[error("{path}: cannot be opened: {error}", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It cannot be read.
    #[error("{path}: cannot be read: {error}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is a directory, a device, a pipe or a socket.
    #[error("{path}: must be a regular file", path = .0.display())]
    NotRegular(PathBuf),
    /// It is a symbolic link, where none is followed.
    #[error("{path}: must not be a symbolic link", path = .0.display())]
    SymbolicLink(PathBuf),
    /// It belongs to somebody else.
    #[error("{path}: must be owned by root or by user {own}, who reads it (owner is user {owner})", path = .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// The user id of this process.
        own: u32,
    },
    /// Its mode lets others do what they must not.
    #[error("{path}: {rule} (mode is {mode:04o}); fix it with: {fix}", path = .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
        /// The rule broken.
        rule: &'static str,
        /// The command that puts it right.
        fix: String,
    },
}

/// Why a configuration was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not to be trusted, or not to be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its text breaks rules.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

/// Loads a configuration. The file is opened once: what was checked is what is read. A symbolic link is followed.
///
/// # Errors
/// The file cannot be read, is no regular file, is not owned by root or this user, may be written by group or others,
/// or breaks rules.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let (file, metadata) = open_regular(path, true)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        let rule = "must not be writable by group or others";
        return Err(
            FileError::Mode { path: path.into(), mode, rule, fix: format!("chmod go-w {}", path.display()) }.into()
        );
    }
    let bytes = read_limited(file, path, SIZE_MAX)?;
    Ok(parse(&path.display().to_string(), &bytes)?)
}

/// Opens a regular file of root or of this user.
pub(crate) fn open_regular(path: &Path, follow: bool) -> Result<(File, Metadata), FileError> {
    // NONBLOCK: a pipe without a writer must not hang the start. It means nothing to a regular file.
    let link = if follow { 0 } else { libc::O_NOFOLLOW };
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | link;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        if !follow && error.raw_os_error() == Some(libc::ELOOP) {
            return FileError::SymbolicLink(path.into());
        }
        FileError::Open { path: path.into(), error }
    })?;
    let metadata = file.metadata().map_err(|error| FileError::Read { path: path.into(), error })?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular(path.into()));
    }
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(FileError::Owner { path: path.into(), owner: metadata.uid(), own });
    }
    Ok((file, metadata))
}

/// Reads at most `limit` bytes and one more, by which a reader sees that there are too many.
pub(crate) fn read_limited(file: File, path: &Path, limit: u64) -> Result<zeroize::Zeroizing<Vec<u8>>, FileError> {
    // Room for everything at once: a vector that grows leaves copies of secrets behind.
    let room = file.metadata().map_or(0, |metadata| metadata.len()).min(limit) + 2;
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(room as usize));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| FileError::Read { path: path.into(), error })?;
    Ok(bytes)
}

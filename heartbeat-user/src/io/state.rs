//! This node's state on disk: its incarnation, and what the next start must know. Written whole, flushed, renamed;
//! read once. It decides nothing: `core::identity` does.

use crate::config::{FileError, open_regular, read_limited};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "state.json";
const PINS_NOTE: &str = "pin_dir";
/// Longest note that is believed, in bytes.
const NOTE_MAX: u64 = 4096;
const SCHEMA: u32 = 1;

/// What is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Layout of this file.
    pub schema: u32,
    /// Random, made with the state: a state directory that was lost or replaced shows another one.
    pub state_id: u64,
    /// This node's incarnation.
    pub incarnation: u64,
    /// Generation of the controller that wrote this.
    pub generation: u64,
    /// Machine start that it was written in.
    pub boot: [u64; 2],
    /// The node left on its own accord: the next start is a new incarnation.
    pub left: bool,
}

/// The state directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    used: bool,
}

impl StateDir {
    /// Opens the directory, making it (0700) if need be.
    ///
    /// # Errors
    /// If it cannot be made or is no directory.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(path)
                .with_context(|| format!("make the state directory {}", path.display()))?;
        }
        let mut entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
        let used = entries.next().is_some();
        Ok(Self { path: path.to_owned(), used })
    }

    /// Says whether anything was in the directory when it was opened: a node that was here before leaves more than its
    /// state.
    #[must_use]
    pub const fn was_used(&self) -> bool {
        self.used
    }

    /// Reads the state; `None` if there is none or it is not whole, which is the same: lost. The reason comes with it.
    ///
    /// # Errors
    /// If the file is there and cannot be read: then nothing can be said, and guessing would be unsafe.
    pub fn read(&self) -> anyhow::Result<Result<State, String>> {
        let path = self.path.join(FILE);
        let mut text = String::new();
        match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(mut file) => {
                if let Err(error) = file.read_to_string(&mut text) {
                    if error.kind() == ErrorKind::InvalidData {
                        return Ok(Err(format!("{}: not text", path.display())));
                    }
                    return Err(error).with_context(|| format!("read {}", path.display()));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err("no state on disk".to_owned())),
            Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
        }
        Ok(match serde_json::from_str::<State>(&text) {
            Ok(state) if state.schema == SCHEMA => Ok(state),
            Ok(state) => Err(format!("{}: schema {}, this build reads {SCHEMA}", path.display(), state.schema)),
            Err(error) => Err(format!("{}: not whole: {error}", path.display())),
        })
    }

    /// Writes the state so that a crash leaves the old or the new one: to a file beside it, flushed, renamed, and the
    /// directory flushed. A flush that fails is a failure, never tried again as if it had not.
    ///
    /// # Errors
    /// If it is not on disk for certain.
    pub fn write(&self, state: &State) -> anyhow::Result<()> {
        let (path, beside) = (self.path.join(FILE), self.path.join("state.json.new"));
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => bail!("remove {}: {error}", beside.display()),
            _ => {}
        }
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&beside)?;
            file.write_all(serde_json::to_string_pretty(state)?.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("write {}: no new incarnation without it", path.display()))
    }

    /// Notes where the pins are, for `mark-left`, which may be called because the configuration cannot be read.
    ///
    /// # Errors
    /// If the note cannot be written.
    pub fn note_pins(&self, pin_dir: &Path) -> anyhow::Result<()> {
        let path = self.path.join(PINS_NOTE);
        let text = format!("{}\n", pin_dir.display());
        if read_note(&path).is_ok_and(|found| *found == *text.as_bytes()) {
            return Ok(());
        }
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("write {}", path.display()))?;
        file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }

    /// Reads the note back; `None` if there is none, or none that names a directory.
    ///
    /// # Errors
    /// If something else than a file of root or of this user lies in its place.
    pub fn noted_pins(state_dir: &Path) -> anyhow::Result<Option<PathBuf>> {
        let bytes = match read_note(&state_dir.join(PINS_NOTE)) {
            Err(FileError::Open { error, .. })
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
            {
                return Ok(None);
            }
            read => read?,
        };
        let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() as u64 <= NOTE_MAX);
        Ok(text.map(|text| PathBuf::from(text.trim_end())).filter(|path| path.is_absolute()))
    }

    /// Makes a state for a directory that holds none.
    ///
    /// # Errors
    /// If the kernel gives no random number.
    pub fn fresh(incarnation: u64, generation: u64, boot: [u64; 2]) -> anyhow::Result<State> {
        Ok(State { schema: SCHEMA, state_id: random()?.max(1), incarnation, generation, boot, left: false })
    }
}

/// Reads a note with little trust in who has written it: no link is followed, no pipe waited for, and of what has no
/// end only the beginning is read.
fn read_note(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, FileError> {
    let (file, _) = open_regular(path, false)?;
    read_limited(file, path, NOTE_MAX)
}

/// Returns a random number.
///
/// # Errors
/// If the kernel gives none.
pub fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: the buffer is eight bytes and lives through the call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != 8 {
        bail!("getrandom gave {got} of 8 bytes");
    }
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(incarnation: u64) -> State {
        State { schema: SCHEMA, state_id: 7, incarnation, generation: 3, boot: [1, 2], left: false }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&directory.path().join("state")).unwrap();
        assert!(dir.read().unwrap().is_err(), "nothing is there yet");
        dir.write(&state(4)).unwrap();
        dir.write(&state(5)).unwrap();
        assert_eq!(dir.read().unwrap(), Ok(state(5)));
    }

    #[test]
    fn a_directory_that_lost_its_state_is_no_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let dir = StateDir::open(&path).unwrap();
        assert!(!dir.was_used());
        dir.note_pins(Path::new("/pins")).unwrap();
        dir.write(&state(4)).unwrap();
        assert!(!dir.was_used(), "as it was when it was opened");
        fs::remove_file(path.join(FILE)).unwrap();
        assert!(StateDir::open(&path).unwrap().was_used());
    }

    #[test]
    fn a_note_is_a_small_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (path, dir) = (directory.path().join(PINS_NOTE), StateDir::open(directory.path()).unwrap());
        let noted = || StateDir::noted_pins(directory.path());
        assert_eq!(noted().unwrap(), None, "nothing is noted yet");
        dir.note_pins(Path::new("/pins")).unwrap();
        assert_eq!(noted().unwrap(), Some(PathBuf::from("/pins")));
        for bytes in [&b""[..], b"pins\n", b"/\xff\n", &[b'/'; NOTE_MAX as usize + 1]] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(noted().unwrap(), None, "{} bytes were taken for a directory", bytes.len());
        }
        // One that has no end is not read to it, and one that has no writer not waited for.
        type Plant = fn(&Path);
        let plants: [(Plant, &str); 3] = [
            (|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(), "must not be a symbolic link"),
            (|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(), "must be a regular file"),
            (|path| fs::create_dir(path).unwrap(), "must be a regular file"),
        ];
        for (plant, fault) in plants {
            fs::remove_file(&path).unwrap();
            plant(&path);
            let error = format!("{:#}", noted().unwrap_err());
            assert!(error.contains(fault), "{error}");
        }
        fs::remove_dir(&path).unwrap();
        // The daemon itself puts its own file in the place of such a thing.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        dir.note_pins(Path::new("/pins")).unwrap();
        assert_eq!(noted().unwrap(), Some(PathBuf::from("/pins")));
    }

    #[test]
    fn every_truncation_is_a_lost_state_never_a_wrong_one() {
        let directory = tempfile::tempdir().unwrap();
        let dir = StateDir::open(directory.path()).unwrap();
        dir.write(&state(5)).unwrap();
        let path = directory.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        // The last byte is the newline after the document.
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(dir.read().unwrap().is_err(), "{length} bytes were taken for a state");
        }
    }

    #[test]
    fn a_planted_symlink_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let dir = StateDir::open(directory.path()).unwrap();
        let target = directory.path().join("target");
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, directory.path().join("state.json.new")).unwrap();
        dir.write(&state(5)).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        std::os::unix::fs::symlink(&target, directory.path().join("other")).unwrap();
        fs::remove_file(directory.path().join(FILE)).unwrap();
        std::os::unix::fs::symlink(&target, directory.path().join(FILE)).unwrap();
        assert!(dir.read().is_err(), "a symlink in the place of the state is refused");
    }
}

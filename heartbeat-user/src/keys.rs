//! The cluster's keys: the key file, what is derived from it, and what the packet path and the pacing thread get of it.
//! It shows no secret: neither errors nor `Debug` repeat one.
//!
//! # The key file
//! One line of 64 hex digits is the key of slot 0. For a rotation the file names both slots, and which of them signs:
//!
//! ```text
//! active = 0
//! 0:<64 hex digits>
//! 1:<64 hex digits>
//! ```
//!
//! `#` begins a comment line. A frame is taken under either slot; own probes are signed under the active one, and an
//! echo under the slot of its probe. So a key is rotated without a gap by three changes, each on every node before the
//! next: add the new key in the free slot; make that slot active; take the old one out.

mod derive;
mod path;

pub use derive::KeyRing;
pub use path::{FenceSigner, PathSpec, ProbeSigner, address_words, path_conf, route_key};

use crate::config::{FileError, open_regular, read_limited};
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Key slots.
pub const SLOTS: usize = 2;
/// Bytes of a secret.
pub const SECRET_LEN: usize = 32;
/// Largest key file, bytes.
const SIZE_MAX: u64 = 4096;

/// A secret of the cluster. Wiped when dropped.
struct Secret(Zeroizing<[u8; SECRET_LEN]>);

/// The secrets of a key file.
pub struct Keys {
    slots: [Option<Secret>; SLOTS],
    active: usize,
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filled = self.slots.each_ref().map(Option::is_some);
        formatter.debug_struct("Keys").field("filled", &filled).field("active", &self.active).finish_non_exhaustive()
    }
}

/// Why keys were not taken or not made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is not to be trusted, or not to be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its text breaks a rule.
    #[error("{path}:{line}: {rule}", path = .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The rule.
        rule: &'static str,
    },
    /// A new key file cannot be written.
    #[error("{path}: cannot be written: {error}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is a file already, and keys are never overwritten.
    #[error("{path}: exists; a key file is never overwritten", path = .0.display())]
    Exists(PathBuf),
    /// The kernel gave no randomness.
    #[error("no random bytes from the kernel: {0}")]
    Random(io::Error),
}

impl Keys {
    /// Loads a key file. No symbolic link is followed, so that nobody else chooses the file.
    ///
    /// # Errors
    /// The file cannot be read, is not owned by root or this user, lets anybody else read or write it (but for the
    /// daemon's group reading a file of root), or its text breaks a rule.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let (file, metadata) = open_regular(path, false)?;
        let mode = metadata.mode() & 0o7777;
        let group_reads = metadata.uid() == 0 && metadata.gid() == nix::unistd::getegid().as_raw();
        let allowed = if group_reads { 0o740 } else { 0o700 };
        if mode & !allowed != 0 {
            let rule = "must be readable by its owner alone (or by root and the daemon's own group, mode 0640)";
            let fix = format!("chmod 0600 {}", path.display());
            return Err(FileError::Mode { path: path.into(), mode, rule, fix }.into());
        }
        let bytes = read_limited(file, path, SIZE_MAX)?;
        Self::parse(&bytes).map_err(|(line, rule)| KeyError::Text { path: path.into(), line, rule })
    }

    /// Reads the text of a key file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, (usize, &'static str)> {
        if bytes.len() as u64 > SIZE_MAX {
            return Err((1, "the file must not be larger than 4096 bytes"));
        }
        let mut keys = Self { slots: [None, None], active: 0 };
        let mut active = None;
        let mut last = 1;
        for (index, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = raw.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            last = index + 1;
            let fail = |rule| (last, rule);
            if let Some(value) = line.strip_prefix(b"active") {
                let slot = match value.trim_ascii_start().strip_prefix(b"=").map(<[u8]>::trim_ascii) {
                    Some(b"0") => 0,
                    Some(b"1") => 1,
                    _ => return Err(fail("must be \"active = 0\" or \"active = 1\"")),
                };
                if active.replace(slot).is_some() {
                    return Err(fail("the active slot is given twice"));
                }
                continue;
            }
            let (slot, hex) = match line {
                [b'0', b':', hex @ ..] => (0, hex),
                [b'1', b':', hex @ ..] => (1, hex),
                hex => (0, hex),
            };
            let secret = secret(hex.trim_ascii()).map_err(fail)?;
            if keys.slots[slot].replace(secret).is_some() {
                return Err(fail("this slot has a key already; write 0:KEY and 1:KEY for two"));
            }
        }
        keys.active = match (&keys.slots, active) {
            ([Some(a), Some(b)], _) if *a.0 == *b.0 => return Err((last, "both slots hold the same key")),
            ([Some(_), Some(_)], None) => {
                return Err((last, "with two keys, \"active = 0\" or \"active = 1\" is required"));
            }
            ([None, None], _) => return Err((last, "the file holds no key; make one with: heartbeatd genkey FILE")),
            (slots, Some(active)) if slots[active].is_none() => return Err((last, "the active slot holds no key")),
            (_, Some(active)) => active,
            ([Some(_), None], None) => 0,
            ([None, Some(_)], None) => 1,
        };
        Ok(keys)
    }

    /// Returns the slot that own probes are signed under.
    #[must_use]
    pub const fn active(&self) -> usize {
        self.active
    }

    /// Returns what the keys of cluster `id` are derived from.
    #[must_use]
    pub fn ring(&self, id: u64) -> KeyRing {
        let secrets = self.slots.each_ref().map(|slot| slot.as_ref().map(|secret| &*secret.0));
        KeyRing::new(id, secrets, self.active)
    }
}

/// Reads 64 hex digits.
fn secret(hex: &[u8]) -> Result<Secret, &'static str> {
    let form = "must be 64 hex digits, after 0: or 1: where there are two keys";
    let (pairs, []) = hex.as_chunks::<2>() else { return Err(form) };
    if pairs.len() != SECRET_LEN {
        return Err(form);
    }
    let mut bytes = Zeroizing::new([0; SECRET_LEN]);
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(form);
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
    }
    if bytes.windows(2).all(|pair| pair[0] == pair[1]) {
        return Err("the key is one byte repeated; make one with: heartbeatd genkey FILE");
    }
    Ok(Secret(bytes))
}

/// Writes a new key file for one slot: mode 0600, owned by the caller.
///
/// # Errors
/// There is something of that name already, it cannot be written, or the kernel has no randomness. What was begun is
/// then taken away again.
pub fn generate(path: &Path) -> Result<(), KeyError> {
    let text = key_text()?;
    // CREATE_NEW is O_EXCL: neither a file nor a link, not even a dangling one, is written through.
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(path.into()),
        _ => KeyError::Write { path: path.into(), error },
    })?;
    let written = file.write_all(&text).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a key is worth nothing; that it cannot be removed either is less than what is reported already.
        let _ = std::fs::remove_file(path);
        KeyError::Write { path: path.into(), error }
    })
}

fn key_text() -> Result<Zeroizing<Vec<u8>>, KeyError> {
    const HEAD: &[u8] = b"# heartbeatd cluster key: secret, the same on every node.\nactive = 0\n0:";
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    random(secret.as_mut()).map_err(KeyError::Random)?;
    let mut text = Zeroizing::new(Vec::with_capacity(HEAD.len() + 2 * SECRET_LEN + 1));
    text.extend_from_slice(HEAD);
    for byte in secret.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(b"0123456789abcdef"[usize::from(digit)]);
        }
    }
    text.push(b'\n');
    Ok(text)
}

/// Fills `bytes` with randomness, waiting until the kernel has gathered some.
fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is writable for its whole length, and the kernel writes no further.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(count) => filled += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! One controller on a node: a lock on a file, and on the pin directory itself, which two configurations with different
//! lock directories would still share. Held as long as the value lives.

use crate::io::clock;
use crate::io::pins::PinDir;
use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// How often a pin directory that another holds is tried for.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a lock was not had.
#[derive(Debug)]
pub enum LockError {
    /// Another controller holds it.
    Held(String),
    /// It cannot be tried.
    Failed(anyhow::Error),
}

/// The locks of a running controller.
#[derive(Debug)]
pub struct Locks {
    _file: Flock<File>,
    pins: Option<PinDir>,
}

impl Locks {
    /// Takes the lock file in `directory`.
    ///
    /// # Errors
    /// If another controller holds it, or it cannot be made.
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        let failed = |error: anyhow::Error| LockError::Failed(error);
        if !directory.is_dir() {
            DirBuilder::new()
                .mode(0o755)
                .recursive(true)
                .create(directory)
                .with_context(|| format!("make the lock directory {}", directory.display()))
                .map_err(failed)?;
        }
        let path = directory.join("heartbeatd.lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("open the lock file {}", path.display()))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                let _ = held.set_len(0);
                let _ = writeln!(held, "{}", std::process::id());
                Ok(Self { _file: held, pins: None })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                Err(LockError::Held(format!("{}: held by the heartbeatd with pid {}", path.display(), pid.trim())))
            }
            Err((_, error)) => Err(failed(anyhow::Error::from(error).context(format!("lock {}", path.display())))),
        }
    }

    /// Takes the pin directory as well, within `patience`: `heartbeatctl detach` holds it no longer, and is no reason not
    /// to start.
    ///
    /// # Errors
    /// If another controller holds it.
    pub fn take_pins(&mut self, pins: &PinDir, patience: Duration) -> Result<(), LockError> {
        in_time(pins.path(), patience, || Ok(pins.hold()?.then_some(())))?;
        self.pins = Some(pins.clone());
        Ok(())
    }

    /// Takes the pin directory that an earlier controller left, where there is one, within `patience`, and returns it.
    /// Nothing is made: this start goes without the kernel.
    ///
    /// # Errors
    /// If another controller holds it, or it is not ours alone.
    pub fn take_left_pins(&mut self, root: &Path, patience: Duration) -> Result<Option<PinDir>, LockError> {
        // What this start took before it gave the kernel up is not to be had a second time.
        if self.pins.is_none() {
            self.pins = take_former_pins(root, patience)?;
        }
        Ok(self.pins.clone())
    }
}

/// Takes a pin directory that this node used before and does not use any more, where there is one, within `patience`. It is
/// held as long as any copy of what is returned lives. Nothing is made.
///
/// # Errors
/// If another controller holds it, or it is not ours alone.
pub fn take_former_pins(root: &Path, patience: Duration) -> Result<Option<PinDir>, LockError> {
    in_time(root, patience, || match PinDir::open_left(root)? {
        Some(pins) => Ok(pins.hold_left()?.then_some(Some(pins))),
        None => Ok(Some(None)),
    })
}

/// Tries until the pin directory is had or `patience` has passed. `attempt` gives nothing while another has it.
fn in_time<T>(
    root: &Path,
    patience: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<Option<T>>,
) -> Result<T, LockError> {
    let until = clock::now() + patience;
    let (mut told, mut failed) = (false, false);
    loop {
        let outcome = attempt();
        match outcome {
            Ok(Some(taken)) => return Ok(taken),
            // While another takes the directory away, what was there a moment ago may be missing.
            _ if told && clock::now() < until => {}
            Err(_) if !failed => failed = true,
            Err(error) => return Err(LockError::Failed(error)),
            Ok(None) if told => {
                return Err(LockError::Held(format!("pin_dir {}: another heartbeatd uses it", root.display())));
            }
            Ok(None) => {
                let seconds = patience.as_secs_f64();
                log::warn!("pin_dir {}: somebody uses it; tried again for {seconds:.1} s", root.display());
                told = true;
            }
        }
        std::thread::sleep(PAUSE);
    }
}

//! The second pin of the lease's page, for those who act on it: in a directory that everybody may enter and only this
//! user may change, readable by all and writable by none. The directory of the other pins stays closed.

use crate::io::{pins, sys};
use anyhow::{Context, bail};
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Mode of the directory.
const DIRECTORY: u32 = 0o755;
/// Mode of the pin: `BPF_OBJ_GET` for writing is refused by it.
const PIN: u32 = 0o444;

/// Pins the page at `path`, unless it is there already, in place of whatever is there.
///
/// # Errors
/// If the directory is not on a bpffs, is not this user's, or can be changed by others; or if the kernel refuses.
pub fn place(page: BorrowedFd<'_>, path: &Path) -> anyhow::Result<()> {
    let directory = path.parent().with_context(|| format!("lease_pin {}: not below a directory", path.display()))?;
    if !directory.exists() {
        fs::DirBuilder::new()
            .mode(DIRECTORY)
            .create(directory)
            .with_context(|| format!("make {}", directory.display()))?;
        // The mask of this process is not asked.
        fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY))
            .with_context(|| format!("open {} to others", directory.display()))?;
    }
    check(directory)?;
    if !sys::is_bpffs(directory)? {
        bail!("lease_pin {}: {} is not on a bpffs", path.display(), directory.display());
    }
    if !sys::is_pinned_at(page, path) {
        pins::remove(path)?;
        sys::object_pin(page, path).with_context(|| format!("pin {}", path.display()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(PIN)).with_context(|| format!("guard {}", path.display()))
}

/// Removes the pin; a missing one is fine. The directory goes too, unless it is the package's own or holds more.
///
/// # Errors
/// If there is one that cannot be removed.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    pins::remove(path)?;
    if let Some(directory) = path.parent() {
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

/// A pin is only as good as its directory: whoever may change that can put another map in its place.
fn check(directory: &Path) -> anyhow::Result<()> {
    let found = fs::symlink_metadata(directory).with_context(|| format!("look at {}", directory.display()))?;
    let own = nix::unistd::geteuid().as_raw();
    if !found.is_dir() {
        bail!("{}: not a directory", directory.display());
    }
    if found.uid() != own {
        bail!(
            "{}: belongs to uid {}, not to {own}: somebody else made it; remove it",
            directory.display(),
            found.uid()
        );
    }
    if found.mode() & 0o022 != 0 {
        bail!(
            "{}: mode {:04o} lets others change what is in it; it must be 0755 or less",
            directory.display(),
            found.mode() & 0o7777
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_change_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = |mode| {
            fs::set_permissions(root.path(), fs::Permissions::from_mode(mode)).unwrap();
            check(root.path())
        };
        for mode in [0o700, 0o750, 0o755] {
            at(mode).unwrap();
        }
        for mode in [0o775, 0o757, 0o777, 0o722] {
            assert!(at(mode).unwrap_err().to_string().contains("lets others change"), "{mode:o}");
        }
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check(&file).unwrap_err().to_string().contains("not a directory"));
    }
}

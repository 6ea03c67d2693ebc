//! The pin directory: ours alone, on a bpffs, checked before anything in it is believed. It removes what cannot be
//! used and names why; it loads nothing.
//!
//! File modes are the only guard of a pin, and a plain bpffs is writable by everybody: the directory is made 0700
//! before the first pin, and refused if it is anybody else's.

use crate::io::{page, sys};
use anyhow::{Context, bail};
use aya::maps::{MapInfo, MapType};
use heartbeat_common::counter::Counter;
use heartbeat_common::lease;
use heartbeat_common::maps::{self, Histogram, Own};
use heartbeat_common::tick::Tick;
use nix::fcntl::{Flock, FlockArg};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A pin directory that was checked.
#[derive(Clone, Debug)]
pub struct PinDir {
    root: PathBuf,
    versioned: PathBuf,
    /// The lock on the root, once it was taken.
    held: Arc<Mutex<Option<Flock<File>>>>,
}

/// Says that this process may not even look for `root`, and what opens the way.
#[must_use]
pub fn closed(root: &Path) -> Option<String> {
    let denied = fs::symlink_metadata(root).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    denied.then(|| {
        format!(
            "pin_dir {}: a directory above it is closed to this user (service managers mount /sys/fs/bpf 0700 for root; \
             `systemd-tmpfiles --create heartbeatd.conf` opens the way through it)",
            root.display()
        )
    })
}

/// Returns what should be on a bpffs and is not: `root` itself or, where that is not there, the directory above it.
///
/// # Errors
/// If its file system cannot be asked.
pub fn off_bpffs(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    let looked = if fs::symlink_metadata(root).is_ok() { root } else { root.parent().unwrap_or(root) };
    Ok((!looked.exists() || !sys::is_bpffs(looked)?).then(|| looked.to_owned()))
}

impl PinDir {
    /// Opens `root`, making it if need be, and the directory of this map layout in it.
    ///
    /// # Errors
    /// If it lies on no bpffs, belongs to somebody else, or is open to others.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        if let Some(closed) = closed(root) {
            bail!(closed);
        }
        if let Some(looked) = off_bpffs(root)? {
            bail!(
                "pin_dir {}: {} is not on a bpffs, so nothing can be pinned there (mount one with `mount -t bpf bpf \
                 /sys/fs/bpf`; inside `ip netns exec` the host's is hidden: enter the network namespace alone)",
                root.display(),
                looked.display()
            );
        }
        if !root.exists() {
            fs::DirBuilder::new().mode(0o700).create(root).with_context(|| format!("make {}", root.display()))?;
        }
        check_owned(root)?;
        let pins = Self { root: root.to_owned(), versioned: versioned(root), held: Arc::default() };
        pins.make()?;
        Ok(pins)
    }

    /// Makes the directories where they are missing, and checks them.
    ///
    /// # Errors
    /// If one cannot be made or is not ours alone.
    pub fn make(&self) -> anyhow::Result<()> {
        for directory in [&self.root, &self.versioned] {
            if !directory.exists() {
                fs::DirBuilder::new()
                    .mode(0o700)
                    .create(directory)
                    .with_context(|| format!("make {}", directory.display()))?;
            }
            check_owned(directory)?;
        }
        Ok(())
    }

    /// Returns the directory that the configuration names.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Takes the directory for this process alone, for as long as any copy of this value lives. False if another has
    /// it. Called again, it looks whether the directory is still the one that was taken: with a directory that somebody
    /// removed its lock is gone too, and the one in its place is anybody's. It is then made anew and taken.
    ///
    /// # Errors
    /// If the directory cannot be made or opened.
    pub fn hold(&self) -> anyhow::Result<bool> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|lock| self.is_root(lock)) {
            return Ok(true);
        }
        *held = None;
        self.make()?;
        let taken = self.lock(&mut held)?;
        if taken {
            // Who had it until now may have removed what was made in it.
            self.make()?;
        }
        Ok(taken)
    }

    /// Takes the directory as [`Self::hold`] does, once, and makes nothing.
    ///
    /// # Errors
    /// If the directory cannot be opened.
    pub fn hold_left(&self) -> anyhow::Result<bool> {
        self.lock(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self, held: &mut Option<Flock<File>>) -> anyhow::Result<bool> {
        let directory = File::open(&self.root).with_context(|| format!("open {}", self.root.display()))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            // Another may have removed it since it was opened, and taken the next: then this lock is worth nothing.
            Ok(lock) if !self.is_root(&lock) => bail!("{}: removed while it was taken", self.root.display()),
            Ok(lock) => {
                *held = Some(lock);
                Ok(true)
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(false),
            Err((_, error)) => Err(error).with_context(|| format!("lock {}", self.root.display())),
        }
    }

    /// Says whether an open directory is the one that the path leads to.
    fn is_root(&self, directory: &File) -> bool {
        let (Ok(open), Ok(named)) = (directory.metadata(), fs::symlink_metadata(&self.root)) else { return false };
        (open.dev(), open.ino()) == (named.dev(), named.ino())
    }

    /// Opens `root` only if it is there, and makes nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(root: &Path) -> anyhow::Result<Option<Self>> {
        let versioned = versioned(root);
        if !versioned.is_dir() || !sys::is_bpffs(root)? {
            return Ok(None);
        }
        check_owned(root)?;
        check_owned(&versioned)?;
        Ok(Some(Self { root: root.to_owned(), versioned, held: Arc::default() }))
    }

    /// Opens `root` only if it is there, whatever map layouts lie in it, and makes nothing: for those who only take
    /// away. What this process may not look into is as if it were not there.
    ///
    /// # Errors
    /// As [`Self::open`], but no directory on a bpffs is no error.
    pub fn open_left(root: &Path) -> anyhow::Result<Option<Self>> {
        match fs::symlink_metadata(root) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("look at {}", root.display())),
            Ok(_) => check_owned(root)?,
        }
        if !sys::is_bpffs(root)? {
            return Ok(None);
        }
        let pins = Self { root: root.to_owned(), versioned: versioned(root), held: Arc::default() };
        for directory in pins.versions()? {
            check_owned(&directory)?;
        }
        Ok(Some(pins))
    }

    /// Lists the directories of all map layouts. A symbolic link leads elsewhere, and is none; and what is not named as
    /// one was made by others.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn versions(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut directories = Vec::new();
        for entry in fs::read_dir(&self.root).with_context(|| format!("read {}", self.root.display()))? {
            let entry = entry?;
            let is_directory =
                entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?.is_dir();
            if is_directory && is_version(&entry.file_name()) {
                directories.push(entry.path());
            }
        }
        directories.sort();
        Ok(directories)
    }

    /// Removes every pinned XDP link, whatever the map layout: for a start that goes without the kernel, which must not
    /// leave an older controller's program answering. Needs no capability: the last pin of a link holds it.
    ///
    /// # Errors
    /// If a pin is there and cannot be removed.
    pub fn remove_links(&self) -> anyhow::Result<()> {
        for directory in self.versions()? {
            for link in listed(&directory)?.iter().filter(|path| is_link(path)) {
                remove(link)?;
            }
        }
        Ok(())
    }

    /// Path of a map's pin.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.versioned.join(name)
    }

    /// Path of the pin of the XDP link of a device, which names the mode: the kernel does not say it of a link.
    #[must_use]
    pub fn link(&self, mode: &str, ifindex: u32) -> PathBuf {
        self.versioned.join(format!("xdp-{mode}-{ifindex}"))
    }

    /// Lists the pinned XDP links: (mode, interface index, path).
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn links(&self) -> anyhow::Result<Vec<(String, u32, PathBuf)>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(&self.versioned).with_context(|| format!("read {}", self.versioned.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let mut parts = name.splitn(3, '-');
            if let (Some("xdp"), Some(mode), Some(index)) = (parts.next(), parts.next(), parts.next())
                && let Ok(index) = index.parse()
            {
                links.push((mode.to_owned(), index, path.clone()));
            }
        }
        links.sort();
        Ok(links)
    }

    /// Says whether a program that is pinned beside the maps of this layout is still attached to a device, as far as
    /// that can be seen: one that may not be looked at counts as attached.
    #[must_use]
    pub fn answers(&self) -> bool {
        let Ok(links) = self.links() else { return true };
        links.iter().any(|(_, _, pin)| {
            let info = sys::object_get(pin).and_then(|link| sys::xdp_link_info(link.as_fd()));
            info.map_or(true, |info| info.ifindex != 0)
        })
    }

    /// Checks every pinned map against the layout of this build. Returns the names of those that are missing; an
    /// unfit one is an error that says what differs. aya reuses pins unchecked, and a wrong size would let the kernel
    /// write past a buffer.
    ///
    /// # Errors
    /// If a pin is unfit or unreadable.
    pub fn check_maps(&self) -> anyhow::Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        for expected in layout() {
            let path = self.map(expected.name);
            if !path.exists() {
                missing.push(expected.name);
                continue;
            }
            let info = MapInfo::from_pin(&path).with_context(|| format!("open the pinned map {}", path.display()))?;
            let kind = info.map_type().with_context(|| format!("type of {}", path.display()))?;
            let found = (kind, info.key_size(), info.value_size(), info.max_entries(), info.map_flags());
            let wanted = (expected.kind, expected.key, expected.value, expected.entries, expected.flags);
            if found != wanted {
                bail!(
                    "{}: made by another build: (type, key, value, entries, flags) {found:?}, not {wanted:?}",
                    path.display()
                );
            }
        }
        Ok(missing)
    }

    /// Removes every pin, links first, and keeps the directories.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn clear(&self) -> anyhow::Result<()> {
        for (_, _, path) in self.links()? {
            remove(&path)?;
        }
        end_lease(&self.versioned);
        remove_tree(&self.versioned)?;
        self.make()
    }

    /// Removes every pin and the directories: links first, so that no program outlives its maps' names.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove_all(&self) -> anyhow::Result<()> {
        if matches!(fs::symlink_metadata(&self.versioned), Err(error) if error.kind() == ErrorKind::NotFound) {
            let _ = fs::remove_dir(&self.root);
            return Ok(());
        }
        for (_, _, path) in self.links()? {
            remove(&path)?;
        }
        remove_tree(&self.versioned)?;
        // The root may be the package's own directory, and not ours to remove: then it stays, empty.
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }

    /// Removes the pins of other map layouts, which this build cannot use, and returns their names.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove_foreign_versions(&self) -> anyhow::Result<Vec<String>> {
        let mut removed = Vec::new();
        for path in self.versions()? {
            if path != self.versioned {
                end_lease(&path);
                remove_tree(&path)?;
                removed.push(path.display().to_string());
            }
        }
        Ok(removed)
    }
}

/// Removes one pin; a missing one is fine.
///
/// # Errors
/// Any other failure.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The directory of this map layout.
fn versioned(root: &Path) -> PathBuf {
    root.join(format!("v{}", maps::ABI))
}

/// Says whether a directory is named as one of a map layout: `v` and its number.
fn is_version(name: &OsStr) -> bool {
    let number = name.to_str().and_then(|name| name.strip_prefix('v')).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Lists what lies in a directory, by name.
///
/// # Errors
/// If it cannot be read.
pub(super) fn listed(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Says whether a pin is named as one of an XDP link.
pub(super) fn is_link(pin: &Path) -> bool {
    pin.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("xdp-"))
}

/// Ends the lease whose page is pinned in a directory that is about to go, and whose controller is gone: who still has
/// that page mapped must not go on acting by it. One that cannot be opened is renewed by nobody any more, and ends by
/// itself.
pub(super) fn end_lease(directory: &Path) {
    if let Err(error) = page::close_pinned(&directory.join(maps::LEASE)) {
        log::warn!("the lease of the maps that are replaced was not ended, and runs out: {error:#}");
    }
}

/// Removes a directory and every pin in it.
///
/// # Errors
/// If something cannot be removed.
pub(super) fn remove_tree(directory: &Path) -> anyhow::Result<()> {
    for pin in listed(directory)? {
        remove(&pin)?;
    }
    fs::remove_dir(directory).with_context(|| format!("remove {}", directory.display()))
}

fn check_owned(directory: &Path) -> anyhow::Result<()> {
    let metadata = fs::symlink_metadata(directory).with_context(|| format!("look at {}", directory.display()))?;
    let mode = metadata.permissions().mode() & 0o7777;
    let uid = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() {
        bail!("{}: not a directory", directory.display());
    }
    if metadata.uid() != uid {
        bail!(
            "{}: belongs to uid {}, not to {uid}: somebody else made it; remove it",
            directory.display(),
            metadata.uid()
        );
    }
    if mode & 0o077 != 0 {
        bail!(
            "{}: mode {mode:04o} lets others in: pins are guarded by nothing else; it must be 0700",
            directory.display()
        );
    }
    Ok(())
}

/// A map as this build lays it out.
struct MapLayout {
    name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// The maps that are pinned: facts that outlive a controller. `ROUTES` and `CONFS` are not among them: they hold keys,
/// live as long as the program that uses them, and are made anew with each program.
fn layout() -> [MapLayout; 5] {
    const MMAPABLE: u32 = 1 << 10;
    let array = |name, value: usize, entries, flags| MapLayout {
        name,
        kind: MapType::Array,
        key: 4,
        value: value as u32,
        entries,
        flags,
    };
    [
        array(maps::TICKS, size_of::<Tick<u64>>(), maps::PATHS_MAX, MMAPABLE),
        array(maps::HISTOGRAMS, size_of::<Histogram>(), maps::PATHS_MAX, MMAPABLE),
        array(maps::OWN, size_of::<Own>(), 1, MMAPABLE),
        MapLayout { kind: MapType::PerCpuArray, ..array(maps::COUNTERS, 8, Counter::ALL.len() as u32, 0) },
        array(maps::LEASE, lease::LEN, 1, MMAPABLE),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_as_a_map_layout_is_one() {
        let root = tempfile::tempdir().unwrap();
        for name in ["v0", "v1", "v12", "v", "v1x", "vx", "V1", "1", "xdp", "tc", "v-1", "v1.old"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("v1", root.path().join("v2")).unwrap();
        let pins = PinDir { root: root.path().to_owned(), versioned: versioned(root.path()), held: Arc::default() };
        let found = pins.versions().unwrap();
        assert_eq!(found, ["v0", "v1", "v12"].map(|name| root.path().join(name)));
        // At a start the others' stay as they are.
        pins.remove_foreign_versions().unwrap();
        assert!(root.path().join("xdp").exists() && !root.path().join("v0").exists());
    }
}

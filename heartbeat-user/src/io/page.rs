//! The lease's page as this process has it: mapped from the kernel's map, or sealed memory of the same layout where there
//! is none. It gives access to the words, and to others who may read them; what they mean and in which order they are
//! written, `heartbeat_common::lease` says.

pub mod pin;
#[cfg(test)]
mod tests;

use crate::io::memory::Region;
use crate::io::sys;
use anyhow::{Context, bail};
use heartbeat_common::lease::{self, Words, bank, word};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

/// What nobody may do with the memory any more: change its size, map it anew for writing, or lift this.
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;

/// The page.
pub struct Page {
    region: Region,
    /// The map, or the sealed memory.
    fd: OwnedFd,
    in_kernel: bool,
}

impl Page {
    /// Maps the kernel's page.
    ///
    /// # Errors
    /// If mmap fails.
    pub fn of_map(fd: BorrowedFd<'_>) -> anyhow::Result<Self> {
        let region = Region::new(Some(fd), lease::LEN).context("map LEASE")?;
        let fd = fd.try_clone_to_owned().context("keep LEASE")?;
        Ok(Self { region, fd, in_kernel: true })
    }

    /// Makes a page without a kernel's: memory that this process alone writes, for as long as it lives.
    ///
    /// # Errors
    /// If the kernel gives no such memory (before 5.1).
    pub fn private() -> anyhow::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(c"heartbeat lease", flags).context("memory for the lease")?;
        nix::unistd::ftruncate(&fd, lease::LEN as i64).context("memory for the lease")?;
        let region = Region::new(Some(fd.as_fd()), lease::LEN).context("map the lease")?;
        // SAFETY: a live descriptor, and a command that takes an integer.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } < 0 {
            return Err(io::Error::last_os_error()).context("seal the lease's memory");
        }
        Ok(Self { region, fd, in_kernel: false })
    }

    /// The descriptor of the map or memory. Of a map it may write: not for others, who get [`Self::reader`].
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Says whether the kernel renews this page by itself.
    #[must_use]
    pub const fn in_kernel(&self) -> bool {
        self.in_kernel
    }

    /// Returns a descriptor that others may have: it can be read and no more. The memory of this process is mapped; the
    /// kernel's map cannot be, and is read by [`sys::map_value`]. `pinned` is where the map is pinned; the kernel gives
    /// no lesser descriptor of a map otherwise.
    ///
    /// # Errors
    /// If the pin is gone or another map's, or descriptors have run out.
    pub fn reader(&self, pinned: &Path) -> anyhow::Result<OwnedFd> {
        if !self.in_kernel {
            let name = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
            return Ok(File::open(name).context("open the lease's memory for reading")?.into());
        }
        if !sys::is_pinned_at(self.fd(), pinned) {
            bail!("{}: this node's lease is not pinned there", pinned.display());
        }
        sys::object_get_to_read(pinned).with_context(|| format!("open {}", pinned.display()))
    }

    /// Makes the page this incarnation's. It is kept only if it was that before, in the same machine start, and `adopt`
    /// says that nothing was lost; else it begins anew, empty. True: kept.
    pub fn take_on(&self, incarnation: u64, boot: [u64; 2], adopt: bool) -> bool {
        let kept = adopt && lease::is_of(self, incarnation, boot);
        if !kept {
            lease::begin(self, incarnation, boot);
        }
        kept
    }

    /// Ends the page for good: whoever reads it acts on it no more, and has to open another one.
    pub fn close(&self) {
        self.raise(word::CLOSED, 1);
        self.clear(word::GRANTING);
    }

    /// Ends the page as that of an earlier incarnation, if it is one. True: whatever that incarnation ran acts no more by
    /// any page. False: it had another one, in its own memory or in maps whose pins are gone, which nobody can end; that is
    /// over when its lease is.
    pub fn end_earlier(&self, incarnation: u64) -> bool {
        if self.get(word::MAGIC) != lease::MAGIC {
            return false;
        }
        self.close();
        self.get(word::INCARNATION) == incarnation
    }

    /// Clears all grants of the own vote. When this returns, none is given any more by anybody, and bytes that are
    /// written afterwards were written after that. `now` is CLOCK_MONOTONIC ns, read before.
    pub fn clear_grants(&self, now: u64) {
        lease::clear_grants(self, now);
        fence(Ordering::SeqCst);
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < lease::WORDS, "word {index} of the page");
        // SAFETY: an aligned word of the region, which is that long; all access to it is atomic.
        unsafe { self.region.start.cast::<AtomicU64>().add(index).as_ref() }
    }
}

impl Words for Page {
    fn get(&self, index: usize) -> u64 {
        self.at(index).load(Ordering::Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        self.at(index).store(value, Ordering::Release);
    }

    fn raise(&self, index: usize, value: u64) {
        self.at(index).fetch_max(value, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn clear(&self, index: usize) {
        self.at(index).swap(0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// Ends the page that is pinned at `path`, as far as it is one of this layout: for those who replace or remove maps whose
/// controller is gone. Services that still have it mapped find out. A missing pin is fine. Returns how long what ran under
/// it may take to stop, as far as it says.
///
/// # Errors
/// If there is a pin that cannot be opened or mapped.
pub fn close_pinned(path: &Path) -> anyhow::Result<Duration> {
    let fd = match sys::object_get(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Duration::ZERO),
        found => found.with_context(|| format!("open {}", path.display()))?,
    };
    let page = Page::of_map(fd.as_fd()).with_context(|| format!("{}", path.display()))?;
    if page.get(word::MAGIC) != lease::MAGIC {
        return Ok(Duration::ZERO);
    }
    page.close();
    let at = lease::active_bank(&page);
    Ok(Duration::from_nanos(page.get(at + bank::LEASE_NS).saturating_sub(page.get(at + bank::ACT_NS))))
}

//! A mmapped array map, read and written word by word. It knows no layout but the stride.

use anyhow::{Context as _, Result, bail};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The memory of an array map.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u64,
    words: usize,
    stride: usize,
}

// SAFETY: the memory is shared with the kernel anyhow; every access is one volatile word.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `entries` values of `size` bytes, a multiple of eight.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(fd: BorrowedFd<'_>, size: usize, entries: usize) -> Result<Self> {
        let bytes = (size * entries).next_multiple_of(4096);
        // SAFETY: a new mapping; the kernel checks the rest.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            bail!(std::io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), words: bytes / 8, stride: size / 8 })
    }

    fn word(&self, entry: usize, word: usize) -> *mut u64 {
        let index = entry * self.stride + word;
        assert!(word < self.stride && index < self.words);
        // SAFETY: within the mapping, as just checked.
        unsafe { self.start.add(index) }
    }

    /// Reads one word.
    #[must_use]
    pub fn get(&self, entry: usize, word: usize) -> u64 {
        // SAFETY: a live, aligned word.
        unsafe { self.word(entry, word).read_volatile() }
    }

    /// Writes one word.
    pub fn set(&self, entry: usize, word: usize, value: u64) {
        // SAFETY: a live, aligned word.
        unsafe { self.word(entry, word).write_volatile(value) }
    }

    /// Copies an entry as a `T` without heeding any lock.
    #[must_use]
    pub fn copy<T: bytemuck::Pod>(&self, entry: usize) -> T {
        let mut value = T::zeroed();
        assert_eq!(size_of::<T>(), self.stride * 8);
        let first = self.word(entry, 0);
        for (index, word) in
            bytemuck::cast_slice_mut::<u8, u64>(bytemuck::bytes_of_mut(&mut value)).iter_mut().enumerate()
        {
            // SAFETY: an entry has `stride` words, as many as `T`.
            *word = unsafe { first.add(index).read_volatile() };
        }
        value
    }

    /// Replaces an entry.
    pub fn put<T: bytemuck::Pod>(&self, entry: usize, value: &T) {
        assert_eq!(size_of::<T>(), self.stride * 8);
        for (index, word) in bytemuck::cast_slice::<u8, u64>(bytemuck::bytes_of(value)).iter().enumerate() {
            self.set(entry, index, *word);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        let failed = unsafe { libc::munmap(self.start.cast(), self.words * 8) };
        assert_eq!(failed, 0, "a mapping is unmapped whole");
    }
}

/// Maps an array map of `bpf` by name.
///
/// # Errors
/// If there is no such array, or the kernel refuses.
pub fn of(bpf: &aya::Ebpf, name: &str, size: usize, entries: usize) -> Result<Mapping> {
    use std::os::fd::AsFd as _;
    let Some(aya::maps::Map::Array(data)) = bpf.map(name) else { bail!("no array {name}") };
    Mapping::new(data.fd().as_fd(), size, entries).with_context(|| format!("mapping {name}"))
}

//! The page, mapped for reading from a descriptor that cannot write. It copies words and judges nothing.

use heartbeat_common::lease::{LEN, MAGIC, WORDS, Words, word};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::{SFlag, fstat};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const _: () = assert!(LEN == 4096, "one page: what is mapped is what is read");

/// One page of words that others write.
#[derive(Debug)]
pub struct Page {
    start: NonNull<AtomicU64>,
}

// SAFETY: the words are only read, and read atomically.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Maps the page behind `fd`, which stays open or not, as its owner likes.
    ///
    /// # Errors
    /// `PermissionDenied` if the descriptor can write, `InvalidData` if no page of this layout is behind it or its
    /// memory could be taken away, else as mmap(2).
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        check(fd)?;
        let length = NonZeroUsize::new(LEN).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice, unmapped with the value.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, fd, 0) }?;
        let page = Self { start: start.cast() };
        if page.get(word::MAGIC) != MAGIC {
            return Err(invalid("it holds no page of the layout that this program knows"));
        }
        Ok(page)
    }
}

/// A reader must neither be able to write nor be killed by reading.
fn check(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags & OFlag::O_ACCMODE != OFlag::O_RDONLY || flags.contains(OFlag::O_PATH) {
        let text = "the descriptor is not for reading alone";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let found = fstat(fd)?;
    // A map has no size to look at: the kernel compares what is mapped with it.
    if found.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Ok(());
    }
    if found.st_size < LEN as i64 {
        return Err(invalid("the file is shorter than a page"));
    }
    // A page that is cut off under its reader kills the reader.
    let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(SealFlag::F_SEAL_SHRINK) {
        return Err(invalid("the file is not sealed against being cut off"));
    }
    Ok(())
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Words for Page {
    fn get(&self, index: usize) -> u64 {
        assert!(index < WORDS, "word {index} of a page of {WORDS}");
        // SAFETY: the index is within the page, which is mapped as long as the value lives, cannot be cut off (`check`) and
        // is aligned to its size.
        let word = unsafe { self.start.add(index).as_ref() };
        let value = word.load(Ordering::Relaxed);
        // Memory that cannot be written takes no acquire load, says the language: a plain one and a fence are the same.
        fence(Ordering::Acquire);
        value
    }

    fn set(&self, index: usize, _: u64) {
        unreachable!("word {index} of a page that is mapped for reading: only judging is done with it");
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the page any more: every read holds `&self`.
        let _ = unsafe { munmap(self.start.cast(), LEN) };
    }
}

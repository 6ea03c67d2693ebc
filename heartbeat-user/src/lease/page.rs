//! The page, read through a descriptor that cannot write: mapped where it is memory, copied by a system call where it is
//! the kernel's map, which cannot be mapped by a reader. It reads words; judging them is the library's.

use super::end;
use crate::io::sys;
use heartbeat_common::lease::{LEN, MAGIC, Refused, Token, WORDS, Words, acting, word};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::{SFlag, fstat};
use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const _: () = assert!(LEN == 4096, "one page: what is mapped is what is read");

/// How often a map that changes under its reader is copied again. Each change is a whole installation of a view.
const ATTEMPTS: usize = 4;

/// One page of words that others write.
#[derive(Debug)]
pub struct Page {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Memory(Mapped),
    Map(OwnedFd),
}

impl Page {
    /// Opens the page behind `fd`, which stays open or not, as its owner likes.
    ///
    /// # Errors
    /// `PermissionDenied` if the descriptor can write, `InvalidData` if no page of this layout is behind it or its
    /// memory could be taken away, else as mmap(2) or bpf(2).
    pub fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let source = if check(fd)? { Source::Memory(Mapped::new(fd)?) } else { Source::Map(fd.try_clone_to_owned()?) };
        let page = Self { source };
        let magic = match &page.source {
            Source::Memory(mapped) => mapped.get(word::MAGIC),
            Source::Map(fd) => copy(fd)?.get(word::MAGIC),
        };
        if magic == MAGIC { Ok(page) } else { Err(invalid("it holds no page of the layout that this program knows")) }
    }

    /// Judges it, at the moment that `now` returns: CLOCK_BOOTTIME ns.
    ///
    /// # Errors
    /// Why not to act. It allocates nothing and takes no lock.
    pub(super) fn acting(&self, now: fn() -> u64) -> Result<Token, Refused> {
        match &self.source {
            Source::Memory(mapped) => acting(mapped, now()),
            // The clock last: a copy is of a moment before.
            Source::Map(fd) => {
                let whole = whole(fd)?;
                acting(&whole, now())
            }
        }
    }

    /// Returns until when its dates hold, CLOCK_BOOTTIME ns; 0 where it cannot be read just now.
    pub(super) fn end(&self) -> u64 {
        match &self.source {
            Source::Memory(mapped) => end(mapped),
            Source::Map(fd) => whole(fd).map_or(0, |copy| end(&copy)),
        }
    }
}

/// Copies a map so that the copy is of one bank, whole. A bank is written before it is made active, and is written again
/// only after the other one was: if the word that says which one is active is the same in the copies before and after
/// this one, so was the bank while it was copied. The incarnation is compared alike, for a page that is begun anew.
fn whole(fd: &OwnedFd) -> Result<[Cell<u64>; WORDS], Refused> {
    let copied = || copy(fd).map_err(|_| Refused::NoPage);
    let names = |page: &[Cell<u64>; WORDS]| (page.get(word::ACTIVE), page.get(word::INCARNATION));
    let mut before = names(&copied()?);
    let mut between = copied()?;
    for _ in 0..ATTEMPTS {
        let after = copied()?;
        if before == names(&after) && before == names(&between) {
            return Ok(between);
        }
        (before, between) = (names(&between), after);
    }
    Err(Refused::Unsteady)
}

fn copy(fd: &OwnedFd) -> io::Result<[Cell<u64>; WORDS]> {
    let mut words = [0; WORDS];
    sys::map_value(fd.as_fd(), 0, &mut words)?;
    Ok(words.map(Cell::new))
}

/// A reader must neither be able to write nor be killed by reading. Says whether it is memory, which can be mapped.
fn check(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags & OFlag::O_ACCMODE != OFlag::O_RDONLY || flags.contains(OFlag::O_PATH) {
        let text = "the descriptor is not for reading alone";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let found = fstat(fd)?;
    // A map has no size to look at: the kernel says how long its values are.
    if found.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Ok(false);
    }
    if found.st_size < LEN as i64 {
        return Err(invalid("the file is shorter than a page"));
    }
    // A page that is cut off under its reader kills the reader.
    let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(SealFlag::F_SEAL_SHRINK) {
        return Err(invalid("the file is not sealed against being cut off"));
    }
    Ok(true)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A page of memory, mapped.
#[derive(Debug)]
struct Mapped {
    start: NonNull<AtomicU64>,
}

// SAFETY: the words are only read, and read atomically.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let length = NonZeroUsize::new(LEN).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice, unmapped with the value.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { start: start.cast() })
    }
}

impl Words for Mapped {
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

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the page any more: every read holds `&self`.
        let _ = unsafe { munmap(self.start.cast(), LEN) };
    }
}

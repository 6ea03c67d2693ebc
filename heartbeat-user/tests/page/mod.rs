//! A page that a test writes, in memory that others are given for reading: what heartbeatd makes where it has no map.
#![allow(dead_code, reason = "each test takes what it needs")]

use heartbeat_common::lease::{LEN, MAGIC, WORDS, Words, active_bank, bank, word};
use heartbeat_user::io::lease_socket::{LeaseSocket, Shown};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// The incarnation that acts under a fresh page.
pub const INCARNATION: u64 = 12;
/// The token of a fresh page, as text: force 1, number 7.
pub const TOKEN: &str = "1.7.12";
const MARK: u64 = 77;

/// A page whose writer is the test.
pub struct Written {
    file: File,
    start: NonNull<AtomicU64>,
}

// SAFETY: every access is an atomic one of a whole word.
unsafe impl Send for Written {}
// SAFETY: as above.
unsafe impl Sync for Written {}

impl Written {
    /// Makes a page of zeroes.
    pub fn zeroed() -> Self {
        let file = File::from(memfd_create("page", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
        file.set_len(LEN as u64).unwrap();
        let length = NonZeroUsize::new(LEN).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping, unmapped with the value.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        Self { file, start: start.cast() }
    }

    /// Makes the page of a node with one vote, its own, that does not act yet: its carried lease is over.
    pub fn new() -> Self {
        let page = Self::zeroed();
        for (index, value) in [
            (word::MAGIC, MAGIC),
            (word::INCARNATION, INCARNATION),
            (word::FENCED, INCARNATION - 1),
            (word::ACTIVE, 4),
            (word::IN_FORCE, 1 << 48 | 7),
        ] {
            page.set(index, value);
        }
        let at = active_bank(&page);
        for (index, value) in [
            (bank::ACT_NS, 400_000_000),
            (bank::OWN_MARK, MARK),
            (bank::TOTAL_WEIGHT, 1),
            (bank::OWN_WEIGHT, 1),
            (bank::MEMBER, 1),
        ] {
            page.set(at + index, value);
        }
        page
    }

    /// Gives or takes the own vote's grant, which is a lease without end.
    pub fn grant(&self, given: bool) {
        self.set(word::GRANTING, if given { MARK } else { 0 });
    }

    /// Lets the lease end then, CLOCK_BOOTTIME ns.
    pub fn until(&self, end: u64) {
        self.set(active_bank(self) + bank::CARRY_UNTIL_NS, end);
    }

    /// Opens it for reading, as others get it.
    pub fn readable(&self) -> OwnedFd {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())).unwrap().into()
    }

    /// The descriptor that can write.
    pub fn writable(&self) -> OwnedFd {
        self.file.try_clone().unwrap().into()
    }
}

impl Words for Written {
    fn get(&self, index: usize) -> u64 {
        assert!(index < WORDS);
        // SAFETY: within the mapped page.
        unsafe { self.start.add(index).as_ref() }.load(Ordering::Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        assert!(index < WORDS);
        // SAFETY: within the mapped page.
        unsafe { self.start.add(index).as_ref() }.store(value, Ordering::Release);
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone.
        unsafe { munmap(self.start.cast(), LEN) }.unwrap();
    }
}

/// A lease socket that is served on a thread of its own, until it is stopped or dropped.
pub struct Server {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Server {
    pub fn start(socket: LeaseSocket, shown: Shown) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    served = socket.serve(shown) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { stop, thread }
    }

    /// Ends it, and its file with it.
    pub fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}
